"""The programs that are measured: how each is installed, started, told to back up and to restore."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from .process import ROOT, TOOLS, Failed, Run, cpu_of, pss_of, say, size_of, status_of

# Built with the pinned toolchain; a newer one may need a newer Rust.
RUSTIC = "0.11.4"


def install(packages, command):
    """Debian packages, when the command is missing."""
    if shutil.which(command):
        return
    say(f"installing {' '.join(packages)}")
    root = [] if os.getuid() == 0 else ["sudo"]
    subprocess.run([*root, "apt-get", "update", "-qq"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*root, "apt-get", "install", "-y", "-qq", *packages], check=True, stdout=subprocess.DEVNULL)


class Result:
    """What a backup or a restore cost."""

    def __init__(self, run, stored=0, holders=0.0):
        self.seconds, self.cpu, self.rss = run.seconds, run.cpu, run.rss
        self.stored, self.holders = stored, holders

    def figures(self, size):
        gb = size / 1e9
        return {
            "mbs": size / 1e6 / self.seconds,
            "owner_cpu_s_per_gb": self.cpu / gb,
            "holders_cpu_s_per_gb": self.holders / gb,
            "rss": self.rss,
            "stored": self.stored,
        }


class Local:
    """A program with a repository in a local folder and its password in a file."""

    def __init__(self, place):
        self.place = place / self.key
        self.repository = self.place / "repository"
        password = self.place / "password"
        prefix = self.key.upper()
        self.env = {
            f"{prefix}_REPOSITORY": str(self.repository),
            f"{prefix}_PASSWORD_FILE": str(password),
            f"{prefix}_CACHE_DIR": str(self.place / "cache"),
        }
        self.password = password

    def start(self):
        self.place.mkdir()
        self.password.write_text("bench\n")
        Run([*self.command, "init"], self.env)

    def backup(self, path):
        before = size_of(self.repository)
        run = Run([*self.command, "backup", path], self.env)
        return Result(run, size_of(self.repository) - before)

    def end(self):
        shutil.rmtree(self.place, ignore_errors=True)


class Restic(Local):
    key = "restic"
    command = ("restic", "--quiet")

    @staticmethod
    def prepare():
        install(["restic"], "restic")
        return Run(["restic", "version"]).text.split()[1]

    def restore(self, path, target):
        return Result(Run([*self.command, "restore", "latest", "--path", path, "--target", target], self.env))


class Rustic(Local):
    key = "rustic"
    command = (TOOLS / "rustic/bin/rustic", "--no-progress", "--log-level", "error")

    @classmethod
    def prepare(cls):
        if not cls.command[0].exists():
            say(f"building rustic {RUSTIC}: takes minutes, once")
            build = {**os.environ, "CARGO_TARGET_DIR": str(TOOLS / "rustic-build")}
            what = ["cargo", "install", "--locked", f"rustic-rs@{RUSTIC}", "--root", TOOLS / "rustic"]
            subprocess.run(["nice", "-n", "10", *map(str, what)], check=True, env=build)
            shutil.rmtree(TOOLS / "rustic-build", ignore_errors=True)
        return Run([cls.command[0], "--version"]).text.split()[1]

    def restore(self, path, target):
        return Result(Run([*self.command, "restore", "latest", target], self.env))


class Cairn:
    """An owner and node processes of a lab, on loopback."""

    key = "cairn"
    binary = ROOT / "target/release/cairn"

    def __init__(self, place, nodes, stored):
        self.place, self.nodes = place / "cairn", nodes
        # A node may hold a slot of every group: an eighth of what is stored, and fills to 70 %. What it gives is no more than it
        # needs, since a file system that has less than was given counts as nearly full.
        self.give = max(2 << 30, stored // 4)
        self.lab, self.owner, self.phrase = self.place / "lab", self.place / "owner", self.place / "phrase"
        self.env = {"CAIRN_NETWORK": str(self.lab / "network.toml"), "CAIRN_DATA_DIR": str(self.owner)}

    @classmethod
    def prepare(cls, binary):
        if binary:
            cls.binary = binary.resolve()
        else:
            say("building the release binary")
            subprocess.run(["cargo", "build", "--release", "--locked"], cwd=ROOT, check=True)
        return Run([cls.binary, "--version"]).text.split()[1]

    def start(self):
        self.up()
        Run([self.binary, "init", "--phrase-file", self.phrase], self.env)
        self.rest()

    def rest(self, seconds=30):
        """Waits until the nodes have found each other, which is no part of any figure: they use next to no CPU time then."""
        pids, end = self.pids().values(), time.monotonic() + seconds
        used, quiet = cpu_of(pids), 0
        while quiet < 2 and time.monotonic() < end:
            time.sleep(0.5)
            now = cpu_of(pids)
            quiet = quiet + 1 if now - used < 0.03 else 0
            used = now

    def up(self):
        self.place.mkdir()
        lab = ["lab", "up", "--nodes", self.nodes, "--give", self.give, "--dir", self.lab]
        Run([self.binary, *lab], {"CAIRN_DATA_DIR": str(self.owner)})

    def status(self):
        rows = json.loads(Run([self.binary, "lab", "status", "--dir", self.lab, "--json"]).text)
        return [row for row in rows if row["state"] == "up"]

    def pids(self):
        return {node["index"]: node["pid"] for node in self.status()}

    def holders_rss(self, field="VmHWM"):
        return [status_of(pid, field) for pid in self.pids().values()]

    def holders_pss(self):
        return pss_of(self.pids().values())

    def run(self, command, **how):
        """A verb of the owner, and the CPU time that the holders spent on it."""
        pids = self.pids().values()
        before = cpu_of(pids)
        run = Run([self.binary, *command], self.env, **how)
        return run, cpu_of(pids) - before

    def backed_up(self, command, **how):
        run, holders = self.run(command, **how)
        self.summary = summary(run.text)
        return Result(run, self.summary["bytes_sent"], holders)

    def backup(self, path):
        if path.suffix == ".sql":
            return self.stream(path)
        return self.backed_up(["backup", "--json", path])

    def stream(self, source):
        return self.backed_up(["backup", "--json", "--stdin", "--stdin-filename", "dump.sql"], stdin=source)

    def restore(self, path, target):
        run, holders = self.run(["restore", "latest", "--target", target])
        return Result(run, holders=holders)

    def lose(self, count):
        """Kills the holders of `count` slots of the group that has most of them."""
        slots = {}
        for index in self.pids():
            env = {"CAIRN_DATA_DIR": str(self.lab / f"node-{index:02d}")}
            for line in Run([self.binary, "debug", "store", "--json"], env).text.splitlines():
                shard = json.loads(line)
                if shard.get("message_type") == "shard":
                    slots.setdefault(shard["group"], {}).setdefault(shard["slot"], index)
        group = max(slots.values(), key=len)
        Run([self.binary, "lab", "kill", "--dir", self.lab, *sorted(group.values())[:count]])

    def end(self):
        if self.lab.exists():
            Run([self.binary, "lab", "down", "--dir", self.lab], accept=(0, 1, 10))
        shutil.rmtree(self.place, ignore_errors=True)


def summary(text):
    for line in reversed(text.splitlines()):
        row = json.loads(line)
        if row.get("message_type") == "summary":
            return row
    raise Failed(f"no summary in {text}")


def same(source, target):
    """Byte for byte, wherever below the target the program put it; removes the target."""
    name = str(source).lstrip("/")
    restored = next((p for p in (target / name, target / source.name, target / "dump.sql") if p.exists()), target)
    if subprocess.run(["diff", "-rq", source, restored], stdout=subprocess.DEVNULL).returncode != 0:
        raise Failed(f"{source} came back different")
    shutil.rmtree(target)


class Tahoe:
    """Tahoe-LAFS: an introducer, storage nodes and a client, all on loopback; 5 of 8."""

    VERSION, NODES = "1.20.0", 8

    def __init__(self, place):
        self.place, self.running = place / "tahoe", []
        self.env = {"TAHOE_NO_UPDATE_CHECK": "1"}

    @classmethod
    def prepare(cls):
        home = TOOLS / "tahoe"
        cls.binary = home / "bin/tahoe"
        if not cls.binary.exists():
            say(f"installing Tahoe-LAFS {cls.VERSION}")
            subprocess.run(["python3", "-m", "venv", home], check=True)
            subprocess.run([home / "bin/pip", "install", "-q", f"tahoe-lafs=={cls.VERSION}"], check=True)
        return first_word(Run([cls.binary, "--version"]).text)

    def launch(self, name, *arguments):
        folder = self.place / name
        port = free_port()
        where = ["--port", f"tcp:{port}:interface=127.0.0.1", "--location", f"tcp:127.0.0.1:{port}"]
        if arguments[0] == "create-client":
            where = []
        Run([self.binary, *arguments, *where, folder])
        log = open(self.place / f"{name}.log", "wb")
        self.running.append(subprocess.Popen([self.binary, "-d", folder, "run", "--allow-stdin-close"], stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        return folder

    def start(self):
        self.place.mkdir()
        furl = self.launch("introducer", "create-introducer") / "private/introducer.furl"
        wait("the introducer", furl.exists)
        shares = ["--shares-needed", 5, "--shares-happy", 8, "--shares-total", 8, "--introducer", furl.read_text().strip()]
        for number in range(self.NODES):
            self.launch(f"node-{number}", "create-node", "--webport", "none", *shares)
        web = free_port()
        self.client = self.launch("client", "create-client", "--webport", f"tcp:{web}:interface=127.0.0.1", *shares)
        wait("the grid", lambda: connected(web) == self.NODES)

    def cost(self, *command):
        pids = [process.pid for process in self.running]
        before = cpu_of(pids)
        run = Run([self.binary, "-d", self.client, *command])
        result = Result(run, holders=cpu_of(pids) - before)
        return run, result

    def rss(self):
        return sum(status_of(process.pid, "VmHWM") for process in self.running)

    def pss(self):
        return pss_of(process.pid for process in self.running)

    def end(self):
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.wait()
        shutil.rmtree(self.place, ignore_errors=True)


def first_word(text):
    return text.split()[0].rsplit("/", 1)[-1].rstrip(":,")


def free_port():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def connected(port):
    """Storage servers that a Tahoe client sees."""
    import urllib.request

    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/?t=json", timeout=5) as answer:
            servers = json.load(answer)["servers"]
    except OSError:
        return 0
    return sum("connected" in str(s["connection_status"]).lower() and "not" not in str(s["connection_status"]).lower() for s in servers)


def wait(what, done, seconds=120):
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise Failed(f"{what} did not come up in {seconds} s")
        time.sleep(0.2)
