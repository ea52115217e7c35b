"""Markdown for the README: ratios with their targets, and where the time goes."""

from .process import MIB


class Table:
    """Rows of a Markdown table; the verdict is computed."""

    def __init__(self):
        self.rows, self.missed = [], 0

    def add(self, what, ours, theirs, ratio, target, met):
        verdict = "" if met is None else "met" if met else "**missed**"
        self.missed += met is False
        self.rows.append(f"| {what} | {ours} | {theirs} | {ratio} | {target} | {verdict} |")

    def at_least(self, what, ours, theirs, wanted, unit="MB/s", name=""):
        ratio = ours / theirs if theirs else 0
        self.add(what, f"{ours:.0f} {unit}", f"{theirs:.0f} {unit} {name}".strip(), f"{ratio:.2f}", f"≥ {wanted:g}", ratio >= wanted)

    def bound(self, what, value, unit, bound, below=True, digits=0):
        met = value <= bound if below else value >= bound
        self.add(what, f"{value:.{digits}f} {unit}", "", "", f"{'≤' if below else '≥'} {bound:g} {unit}", met)

    def text(self):
        head = "| measure | Cairn | compared with | ratio | target | |\n|---|---|---|---|---|---|"
        return "\n".join([head, *self.rows])


def ran(figures, name):
    got = figures.get(name)
    return got if got and "failed" not in got and "not_measured" not in got else None


def best(got, verb):
    """The faster of restic and rustic: its name and rate."""
    return max(((key, got[key][verb]["mbs"]) for key in ("restic", "rustic")), key=lambda pair: pair[1])


def speed(table, figures):
    wanted = {"random": ("rustic", 1.3), "sql": ("rustic", 2.0), "tree": ("restic", 1.5)}
    for name, (peer, times) in wanted.items():
        if got := ran(figures, name):
            ours = got["cairn"]
            table.at_least(f"backup, {name}, {got['size'] / 1e6:.0f} MB", ours["backup"]["mbs"], got[peer]["backup"]["mbs"], times, name=peer)
            other = "restic" if peer == "rustic" else "rustic"
            ratio = ours["backup"]["mbs"] / got[other]["backup"]["mbs"]
            table.add("", "", f"{got[other]['backup']['mbs']:.0f} MB/s {other}", f"{ratio:.2f}", "", None)
            peer, rate = best(got, "restore")
            table.at_least(f"restore, {name}", ours["restore"]["mbs"], rate, 1.1, name=peer)
    if got := ran(figures, "degraded"):
        table.at_least("restore, three of eight slots dead", got["three_dead"]["mbs"], got["whole"]["mbs"], 0.7, name="undamaged")
    if got := ran(figures, "disk"):
        table.at_least("backup on disk, durable, random", got["backup"]["mbs"], got["write_mbs"] / 1.6, 0.8, name=f"(disk writes {got['write_mbs']:.0f}, / 1.6)")


def stored(table, figures):
    if got := ran(figures, "sql"):
        ours, theirs = (got[key]["backup"]["stored"] / got["size"] for key in ("cairn", "restic"))
        ratio = ours / 1.6 / theirs
        table.add("first dump: bytes sent a byte, / 1.6", f"{ours / 1.6:.3f}", f"{theirs:.3f} restic stores", f"{ratio:.2f}", "≤ 1.1", ratio <= 1.1)
    if got := ran(figures, "second"):
        for kind, bound in (("skewed", 1.2), ("uniform", 0.5)):
            ours, theirs = (got[kind][key]["stored"] / 1e6 for key in ("cairn", "restic"))
            peer = f"{theirs:.1f} MB restic stores ({got[kind]['restic']['part_of_full']:.0%} of a full one)"
            table.add(f"second dump, {kind}: sent", f"{ours:.1f} MB", peer, f"{ours / theirs:.2f}", f"≤ {bound:g}", ours / theirs <= bound)


def memory(table, figures):
    peaks = {}
    for name in ("random", "sql", "tree"):
        if got := ran(figures, name):
            peaks[name] = got["cairn"]["holders_peak_rss"]
            table.bound(f"owner's peak memory, restore of {name}", got["cairn"]["restore"]["rss"] / MIB, "MiB", 256)
    if got := ran(figures, "memory"):
        for stream in got["streams"]:
            if stream["only_for_growth"]:
                continue
            what = f"{stream['mib'] / 1024:.3g} GiB stream, {stream['kind']}, stores {'in RAM' if stream['where'] == 'RAM' else 'on disk'}"
            table.bound(f"owner's peak memory, backup of a {what}", stream["backup_rss"] / MIB, "MiB", 256)
            table.bound("the same, read back", stream["read_rss"] / MIB, "MiB", 256)
            peaks[what] = stream["holders_peak_rss"]
        quiet = got["idle"]
        low, high = quiet["tcp_connections"]
        count = f"{low} to {high}" if low < high else low
        table.bound(f"storage node idle, {count} TCP connections, median of {quiet['measured_nodes']}", quiet["rss_median"] / MIB, "MiB", 96)
    if peaks:
        table.bound("storage node under load, largest", max(peaks.values()) / MIB, "MiB", 200)


def quiet(table, figures):
    if got := ran(figures, "idle"):
        what = f"idle node of {got['nodes']}, {got['seconds'] / 60:.3g} minutes"
        if got.get("stored_mib"):
            what += f", {got['stored_mib']} MiB stored by an owner who is away"
        table.bound(f"{what}: CPU, mean (most {got['core_percent_max']:.2f})", got["core_percent_mean"], "% of a core", 1, digits=2)
        table.bound(f"{what}: sent and received", got["mb_a_day"], "MB a day", 50)


def tahoe(table, figures):
    if got := ran(figures, "tahoe"):
        ours, theirs = got["cairn"], got["tahoe"]
        for verb in ("put", "get"):
            table.at_least(f"{got['size'] / 1e6:.0f} MB {verb}", ours[verb]["mbs"], theirs[verb]["mbs"], 8, name="Tahoe-LAFS")
        for verb in ("put", "get"):
            a, b = (side[verb]["owner_cpu_s_per_gb"] + side[verb]["holders_cpu_s_per_gb"] for side in (ours, theirs))
            table.add(f"the same, {verb}: CPU", f"{a:.1f} s/GB", f"{b:.1f} s/GB Tahoe-LAFS", f"{b / a:.1f}", "≥ 8", b / a >= 8)
        a = ours["grid_rss"] + max(ours[verb]["rss"] for verb in ("put", "get"))
        b = theirs["grid_rss"] + max(theirs[verb]["rss"] for verb in ("put", "get"))
        table.add("the same: peaks of memory of all processes, added up", f"{a / MIB:.0f} MiB", f"{b / MIB:.0f} MiB Tahoe-LAFS", f"{b / a:.1f}", "≥ 8", b / a >= 8)
        a, b = ours["grid_pss"], theirs["grid_pss"]
        table.add("the same: what the nodes take afterwards, shared pages counted once", f"{a / MIB:.0f} MiB", f"{b / MIB:.0f} MiB Tahoe-LAFS", f"{b / a:.1f}", "", None)


def pipeline(table, figures):
    if got := ran(figures, "pipeline"):
        for kind, one, two in (("random", 0.75, 1.2), ("mixed", 0.42, 0.75)):
            for threads, key, bound in ((1, "one", one), (2, "two", two)):
                table.bound(f"in-memory pipeline, {kind}, {threads} thread{'s' * (threads > 1)}", got[kind][key], "GB/s", bound, below=False, digits=2)


def costs(figures):
    """CPU by role of the timed runs."""
    lines = ["| CPU seconds per GB | backup: owner | backup: holders | restore: owner | restore: holders | restic backup / restore | rustic backup / restore |", "|---|---|---|---|---|---|---|"]
    for name in ("random", "sql", "tree"):
        if got := ran(figures, name):
            ours = got["cairn"]
            cells = [f"{ours[verb][f'{role}_cpu_s_per_gb']:.1f}" for verb in ("backup", "restore") for role in ("owner", "holders")]
            peers = [" / ".join(f"{got[key][verb]['owner_cpu_s_per_gb']:.1f}" for verb in ("backup", "restore")) for key in ("restic", "rustic")]
            lines.append(f"| {name} | {' | '.join(cells + peers)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def by_stage(figures):
    got = ran(figures, "stages")
    if not got:
        return ""
    runs = {name: run["cpu_s_per_gb"] for name, run in got.items() if isinstance(run, dict)}
    columns = [(name, role) for name in runs for role in ("owner", "holders")]
    stages = {stage for name, role in columns for stage in runs[name][role]}
    total = {stage: sum(runs[name][role].get(stage, 0) for name, role in columns) for stage in stages}
    lines = ["| CPU s/GB by stage (perf) | " + " | ".join(f"{name}: {role}" for name, role in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for stage in sorted(stages, key=lambda s: -total[s]):
        lines.append(f"| {stage} | " + " | ".join(f"{runs[name][role].get(stage, 0):.2f}" for name, role in columns) + " |")
    lines.append("| all | " + " | ".join(f"{sum(runs[name][role].values()):.2f}" for name, role in columns) + " |")
    return "\n".join(lines)


def ceilings(figures):
    lines = []
    if got := ran(figures, "tcp"):
        lines.append(f"Raw loopback TCP, one stream: {got['mbs']:.0f} MB/s.")
    if got := ran(figures, "pipeline"):
        steps = list(next(iter(got.values()))["steps"])
        lines += ["", "| in-memory pipeline, GB/s | 1 thread | 2 threads | sum of the parts | ratio | " + " | ".join(steps) + " |", "|---" * (len(steps) + 5) + "|"]
        for kind, row in got.items():
            if isinstance(row, dict):
                cells = [f"{row[key]:.2f}" for key in ("one", "two", "sum_of_parts", "ratio")] + [f"{row['steps'][step]:.2f}" for step in steps]
                lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


# What TCP payloads of some sizes are when TLS 1.3 adds its 22 bytes: yamux often writes header and body one after the other.
# With the 22 bytes of a TLS record; a yamux header and its body go in one (node/src/network/gather.rs).
SIZES = {34: " (as a yamux header alone)", 66: " (as a ping with its yamux header)"}


def details(figures):
    lines = []
    if got := ran(figures, "memory"):
        for stream in got["streams"]:
            if index := stream.get("index"):
                # Of a small stream, what grows is noise.
                grows = f"; its memory grows by {index['owner_rss_growth_mib_per_tb']:.0f} MiB a TB" if stream["mib"] >= 1024 else ""
                lines.append(
                    f"- index, {stream['kind']} stream (chunks of {index['chunk_bytes_mean'] / 1024:.0f} KiB): the owner's catalogue on disk "
                    f"{index['catalogue_bytes_per_chunk']:.0f} B a chunk, {index['catalogue_gb_per_tb']:.1f} GB a TB{grows}; "
                    f"a holder's index on disk {index['holder_index_gb_per_tb_held']:.2f} GB a TB held"
                )
        quiet = got["idle"]
        lines.append(f"- memory of an idle node: {quiet['rss_anon_median'] / MIB:.0f} MiB its own, {quiet['rss_file_median'] / MIB:.0f} MiB of its program file, which all share")
        lines += [f"- not measured: {text}" for text in got["skipped"]]
    if got := ran(figures, "idle"):
        causes = ", ".join(f"{cause} {mb:.1f}" for cause, mb in got["mb_a_day_by_cause"].items() if mb >= 0.05)
        lines.append(f"- idle traffic, MB a day and node: {causes}; {got['opened']} connections opened while watched")
        if got.get("dropped"):
            lines.append(f"- idle: {got['dropped']} packets came too fast to be counted, so the traffic is higher")
        sizes = ", ".join(f"{size} B{SIZES.get(size, '')} x {count}" for size, count in got["sizes"][:6])
        lines.append(f"- idle, most frequent sizes of TCP payload: {sizes}")
    for name, got in figures.items():
        if isinstance(got, dict):
            lines += [f"- {name} not measured: {got[key].strip().splitlines()[-1][:300]}" for key in ("not_measured", "failed") if key in got]
    return "\n".join(lines)


def markdown(figures):
    m, v = figures["machine"], figures["versions"]
    head = (
        f"{m['cores']} cores {m['cpu']}, {m['memory_gib']} GiB, Linux {m['kernel']}, rustc {m['rustc'].split()[0]}; "
        + ", ".join([f"Cairn {m['commit']}", *(f"{name} {version}" for name, version in v.items() if name != "cairn")])
        + f"; {figures['options']['nodes']} nodes, best of {figures['options']['runs']}; {m['date']}; load before the run {m['load_before']:.1f}"
    )
    table = Table()
    for part in (speed, stored, memory, quiet, tahoe, pipeline):
        part(table, figures)
    parts = [head, table.text() if table.rows else "", costs(figures), by_stage(figures), ceilings(figures), details(figures)]
    return "\n\n".join(part for part in parts if part) + "\n", table.missed
