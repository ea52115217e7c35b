"""What is backed up, from fixed seeds: random bytes, an SQL dump and its later states, small files, endless streams."""

import hashlib
import random
import sys

MIB = 1 << 20
NAMES = [f"{a}{b}" for a in ("Ar", "Be", "Ca", "Do", "El", "Fi", "Ga", "Ho", "Is", "Jo") for b in ("na", "ro", "lia", "mir", "ton", "vik")]
WORDS = "the of order sent paid late again parcel green house river small large blue note call back north open".split()

# Rows for each MiB of dump: almost half of the bytes are accounts, a third events.
ROWS = {"account": 4500, "customer": 2300, "event": 2300}
# What happens in a skewed day: of the newest 2 % of customers and events so many are touched, so many old accounts too, and
# events are appended; and what happens in a uniform one: rows of accounts and customers anywhere, so that restic stores
# about 60 % of a full backup again.
TOUCHED, OLD, APPENDED, UNIFORM = 4600, 100, 20_000, 5000


def random_file(path, mib):
    chance = random.Random(1)
    with open(path, "wb") as out:
        for _ in range(mib):
            out.write(chance.randbytes(MIB))


def row(table, number, version):
    """One row: text that compresses as such dumps do, with some bytes in it that do not."""
    chance = hashlib.blake2b(b"%s:%d:%d" % (table.encode(), number, version), digest_size=24).digest()
    if table == "account":
        balance = int.from_bytes(chance[:2], "big") - 32768
        return f"({number},{number // 100_000 + 1},{balance},'{'':84}')"
    first, last = NAMES[chance[0] % len(NAMES)], NAMES[chance[1] % len(NAMES)]
    if table == "customer":
        note = " ".join(WORDS[byte % len(WORDS)] for byte in chance[2:8] + chance[13:17])
        mail = f"{first}.{last}@example.org".lower()
        return f"({number},'{first} {last}','{mail}','{chance[8:12].hex()}',{chance[12]},'{note}')"
    when = f"2026-{1 + number // 90_000 % 12:02d}-{1 + number // 3000 % 28:02d} {chance[2] % 24:02d}:{chance[3] % 60:02d}:00+00"
    return f"({number},'{chance[4:20].hex()}','{when}','{WORDS[chance[20] % len(WORDS)]}','Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0')"


def statements(out, table, begin, end):
    for first in range(begin, end, 100):
        values = ",\n".join(row(table, n, 0) for n in range(first, min(end, first + 100)))
        out.write(f"INSERT INTO {table} VALUES\n{values};\n")


def dump(path, mib):
    with open(path, "w", encoding="utf-8") as out:
        out.write("-- a dump: a hundred rows a statement, one a line\n")
        for table, rows in ROWS.items():
            statements(out, table, 0, rows * mib)


def later(source, target, mib, kind):
    """The same dump after a day of updates: `skewed` or `uniform`."""
    chance = random.Random(5 if kind == "skewed" else 6)
    rows = {table: count * mib for table, count in ROWS.items()}
    changed = {table: set() for table in ROWS}
    if kind == "uniform":
        accounts = rows["account"]
        for number in chance.sample(range(accounts + rows["customer"]), UNIFORM):
            table, number = ("account", number) if number < accounts else ("customer", number - accounts)
            changed[table].add(number)
    else:
        for table in ("customer", "event"):
            newest = range(rows[table] * 98 // 100, rows[table])
            changed[table].update(chance.sample(newest, min(TOUCHED // 2, len(newest))))
        changed["account"].update(chance.sample(range(rows["account"]), min(OLD, rows["account"])))
    table = None
    with open(source, encoding="utf-8") as old, open(target, "w", encoding="utf-8") as new:
        for line in old:
            if line[0] == "(":
                number = int(line[1 : line.index(",")])
                if number in changed[table]:
                    line = row(table, number, 1) + line[line.rindex(")") + 1 :]
            elif line.startswith("INSERT"):
                table = line.split()[2]
            new.write(line)
        if kind == "skewed":
            statements(new, "event", rows["event"], rows["event"] + APPENDED)


def tree(path, files):
    """Files of 1 to 52 KiB, half text, half random, in 1,261 folders."""
    chance = random.Random(3)
    for number in range(files):
        folder = path / f"{number % 97:02d}" / f"{number % 13:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        size = chance.randrange(1 << 10, 52 << 10)
        if number % 2:
            content = chance.randbytes(size)
        else:
            content = " ".join(chance.choices(WORDS, k=size // 5 + 1)).encode()[:size]
        (folder / f"file-{number}").write_bytes(content)


def stream(kind, mib, out):
    """Writes an endless stream's first bytes: nothing is stored, nothing repeats.

    `sql` repeats a piece of a dump with its letters and digits exchanged each time, so that it compresses as the dump does
    and no chunk comes twice.
    """
    chance = random.Random(4)
    if kind == "random":
        for _ in range(mib):
            out.write(chance.randbytes(MIB))
        return
    count = 16
    piece = b"".join(f"{row(table, n, 0)},\n".encode() for table, rows in ROWS.items() for n in range(rows * count))
    left = mib * MIB
    alphabets = [b"abcdefghijklmnopqrstuvwxyz", b"0123456789", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    while left > 0:
        mixed = b"".join(bytes(chance.sample(alphabet, len(alphabet))) for alphabet in alphabets)
        out.write(piece.translate(bytes.maketrans(b"".join(alphabets), mixed))[:left])
        left -= len(piece)


if __name__ == "__main__":
    stream(sys.argv[1], int(sys.argv[2]), sys.stdout.buffer)
