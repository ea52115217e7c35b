"""The sections of a run. Each takes the bench, leaves its figures in it, and removes what it made."""

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from . import ceilings, corpora, idle, profile
from .process import MIB, Failed, is_ram, memory_available, room, say, size_of, status_of, warm
from .programs import Cairn, Restic, Rustic, Tahoe, same

PROGRAMS = (Cairn, Restic, Rustic)


class Bench:
    """Options, the working folder, corpora made so far, and figures."""

    def __init__(self, options, place):
        self.options, self.place, self.figures = options, place, {}

    def corpus(self, name):
        path = self.place / "corpora" / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            say(f"generating {name}")
            if name == "random":
                corpora.random_file(path, self.options.mib)
            elif name == "dump.sql":
                corpora.dump(path, self.options.mib)
            else:
                corpora.tree(path, self.options.files)
        return path

    def drop(self, name):
        path = self.place / "corpora" / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def cairn(self, place=None, stored=0):
        return Cairn(place or self.place, self.options.nodes, stored or 2 * self.options.mib * MIB)


def started(tool):
    """The program, ready; ended when the block is left, whatever happened."""
    from contextlib import contextmanager

    @contextmanager
    def block():
        try:
            tool.start()
            yield tool
        finally:
            tool.end()

    return block()


def keep_best(kept, result, size):
    """The fastest run's figures; the most memory and every rate of all runs."""
    new = result.figures(size)
    rates = [*kept.get("all_mbs", []), new["mbs"]]
    best = dict(new if new["mbs"] >= kept.get("mbs", 0) else kept)
    return {**best, "rss": max(new["rss"], kept.get("rss", 0)), "all_mbs": rates}


def compared(bench, name):
    """Backup and restore of a corpus by all programs, in turns; the order is turned around each time."""
    source = bench.corpus(name)
    size = size_of(source)
    out = {"size": size}
    for turn in range(bench.options.runs):
        for program in PROGRAMS if turn % 2 == 0 else PROGRAMS[::-1]:
            say(f"{name}: {program.key}, run {turn + 1}")
            got = out.setdefault(program.key, {"backup": {}, "restore": {}})
            tool = bench.cairn() if program is Cairn else program(bench.place)
            with started(tool):
                warm(3 * size)
                got["backup"] = keep_best(got["backup"], tool.backup(source), size)
                target = bench.place / "target"
                warm(2 * size)
                got["restore"] = keep_best(got["restore"], tool.restore(source, target), size)
                same(source, target)
                if program is Cairn:
                    got["holders_peak_rss"] = max([got.get("holders_peak_rss", 0), *tool.holders_rss()])
    return out


def random(bench):
    return compared(bench, "random")


def sql(bench):
    return compared(bench, "dump.sql")


def tree(bench):
    return compared(bench, "tree")


def second(bench):
    """What each program stores for the dump after updates; a repository with the first dump for each kind of update."""
    first, mib = bench.corpus("dump.sql"), bench.options.mib
    kept = bench.place / "first.sql"
    out = {}
    for kind in ("skewed", "uniform"):
        say(f"second dump, {kind}")
        changed = bench.place / "later.sql"
        corpora.later(first, changed, mib, kind)
        for program in PROGRAMS:
            tool = bench.cairn() if program is Cairn else program(bench.place)
            with started(tool):
                full = tool.backup(first)
                first.rename(kept)
                changed.rename(first)
                try:
                    result = tool.backup(first)
                finally:
                    first.rename(changed)
                    kept.rename(first)
            out.setdefault(kind, {})[program.key] = {
                "stored": result.stored,
                "part_of_full": result.stored / full.stored,
                "mbs": changed.stat().st_size / 1e6 / result.seconds,
            }
        changed.unlink()
    return out


def degraded(bench):
    """Restore with three of eight slots dead, against the undamaged one of the same network."""
    source = bench.corpus("random")
    size = size_of(source)
    out = {"whole": {}, "three_dead": {}}
    with started(bench.cairn()) as tool:
        tool.backup(source)
        for state in ("whole", "three_dead"):
            if state == "three_dead":
                tool.lose(3)
            for _ in range(bench.options.runs):
                say(f"restore, {state.replace('_', ' ')}")
                target = bench.place / "target"
                warm(2 * size)
                out[state] = keep_best(out[state], tool.restore(source, target), size)
                same(source, target)
    return out


def stages(bench):
    """CPU seconds per GB by stage and role, under perf: apart from the runs that are timed."""
    why_not = profile.available()
    if why_not:
        return {"not_measured": why_not}
    out = {}
    for name in ("random", "dump.sql"):
        source = bench.corpus(name)
        stream = name == "dump.sql"
        command = ["backup", "--json", *(["--stdin", "--stdin-filename", "dump.sql"] if stream else [source])]
        with started(bench.cairn()) as tool:
            for verb, what, stdin in (
                ("backup", command, source if stream else None),
                ("restore", ["restore", "latest", "--target", bench.place / "target"], None),
            ):
                say(f"CPU by stage: {verb} of {name}")
                out[f"{verb} {name}"] = profile.by_stage(tool, what, size_of(source), bench.place, stdin)
            shutil.rmtree(bench.place / "target")
    return out


def memory(bench):
    """The owner's peak memory for streams that are generated on the fly, and what an index costs."""
    mib = bench.options.stream_mib
    sizes = [mib // 4, mib, *([4 * mib] if bench.options.long else [])]
    out = {"streams": [], "skipped": []}
    for kind, stored in (("random", 1.7), ("sql", 0.4)):
        for size in sizes:
            need = int(size * MIB * stored)
            place = next((p for p in (bench.place, bench.disk) if room(p) > need), None)
            if place is None:
                out["skipped"].append(f"{size} MiB of {kind}: no room for {need / 1e9:.0f} GB")
                continue
            say(f"stream of {size} MiB, {kind}, stores {'in RAM' if place == bench.place else 'on disk'}")
            with started(bench.cairn(place, need)) as tool:
                generator = subprocess.Popen([sys.executable, corpora.__file__, kind, str(size)], stdout=subprocess.PIPE)
                try:
                    backup = tool.stream(generator.stdout)
                finally:
                    generator.stdout.close()
                    generator.terminate()
                    generator.wait()
                summary = tool.summary
                read, _ = tool.run(["dump", "latest", "dump.sql"], discard=True)
                under_load = tool.holders_rss()
                status = tool.status()
                shards = sum(size_of(Path(node["data_dir"]) / "store/segments") for node in status) // MIB
                index = sum(size_of(Path(node["data_dir"]) / "store/index") for node in status)
                out["streams"].append(
                    {
                        "kind": kind,
                        "mib": size,
                        "only_for_growth": size == sizes[0],
                        "where": "RAM" if is_ram(place) else "disk",
                        "backup_rss": backup.rss,
                        "read_rss": read.rss,
                        "holders_peak_rss": max(under_load),
                        "chunks": summary["data_blobs"],
                        "catalogue_bytes": size_of(tool.owner / "vault/catalogue"),
                        "holders_index_bytes": index,
                        "holders_shards": shards,
                    }
                )
    whole = [s for s in out["streams"] if s["mib"] == sizes[1]]
    for stream in whole:
        small = next(s for s in out["streams"] if s["kind"] == stream["kind"] and s["mib"] == sizes[0])
        user = stream["mib"] * MIB
        tb = 1e12 / user
        stream["index"] = {
            "chunk_bytes_mean": user / stream["chunks"],
            "catalogue_bytes_per_chunk": stream["catalogue_bytes"] / stream["chunks"],
            "catalogue_gb_per_tb": stream["catalogue_bytes"] * tb / 1e9,
            "owner_rss_growth_mib_per_tb": (stream["backup_rss"] - small["backup_rss"]) / MIB * 1e12 / ((stream["mib"] - small["mib"]) * MIB),
            "holder_index_bytes_per_shard": stream["holders_index_bytes"] / max(1, stream["holders_shards"]),
            "holder_index_gb_per_tb_held": stream["holders_index_bytes"] / max(1, stream["holders_shards"]) * 1e12 / MIB / 1e9,
        }
    wanted = bench.options.connections
    nodes = min(wanted + 1, max(2, int((memory_available() - (3 << 30)) // (100 * MIB))))
    say(f"idle memory of {nodes} nodes, each connected to the others")
    quiet = idle.measure(Cairn.binary, nodes, 0.5, 20, bench.place)
    # Those that have as many connections as was asked for, else the one that has most.
    each = sorted(zip(quiet["tcp_connections"], quiet["memory"]), key=lambda pair: pair[0])
    enough = [pair for pair in each if pair[0] >= wanted] or each[-1:]
    out["idle"] = {
        "nodes": nodes,
        "all_knew_all": quiet["all_knew_all"],
        "up_seconds": quiet["up_seconds"],
        "measured_nodes": len(enough),
        "tcp_connections": [enough[0][0], enough[-1][0]],
        "tcp_connections_of_all": sorted(quiet["tcp_connections"]),
        "rss_median": statistics.median(m["VmRSS"] for _, m in enough),
        "rss_max": max(m["VmRSS"] for _, m in enough),
        "rss_anon_median": statistics.median(m["RssAnon"] for _, m in enough),
        "rss_file_median": statistics.median(m["RssFile"] for _, m in enough),
    }
    return out


def idle_network(bench):
    minutes = bench.options.idle_minutes
    say(f"idle network of {bench.options.idle_nodes} nodes, {minutes:g} minutes")
    got = idle.measure(Cairn.binary, bench.options.idle_nodes, minutes, bench.options.idle_settle, bench.place, bench.options.idle_stored)
    return {**got, "stored_mib": bench.options.idle_stored}


def disk(bench):
    """A durable backup of random data on a disk, against what the disk writes durably before and after it."""
    if is_ram(bench.disk):
        return {"not_measured": f"{bench.disk} is a RAM file system: name another with --disk-dir"}
    source = bench.corpus("random")
    size, mib = size_of(source), max(256, bench.options.mib)
    if room(bench.disk) < size * 3:
        return {"not_measured": f"{bench.disk} has no room for {size * 3 / 1e9:.0f} GB"}
    out = {"writes": [], "backup": {}}
    for turn in range(bench.options.runs):
        say(f"durable on disk, run {turn + 1}")
        out["writes"].append(ceilings.durable_write(bench.disk, mib))
        with started(bench.cairn(bench.disk)) as tool:
            out["backup"] = keep_best(out["backup"], tool.backup(source), size)
        out["writes"].append(ceilings.durable_write(bench.disk, mib))
    out["write_mbs"] = statistics.mean(out["writes"])
    out["write_mbs_best"] = max(out["writes"])
    return out


def tahoe(bench):
    """Put and get of a file by Tahoe-LAFS on 8 nodes, and by Cairn on its own, both in this run."""
    Tahoe.prepare()
    mib = bench.options.tahoe_mib
    source, size = bench.place / "file", mib * MIB
    corpora.random_file(source, mib)
    out = {"size": size, "tahoe": {"put": {}, "get": {}}, "cairn": {"put": {}, "get": {}}}
    for turn in range(bench.options.runs):
        say(f"Tahoe-LAFS and Cairn, run {turn + 1}")
        back = bench.place / "back"
        with started(Tahoe(bench.place)) as grid:
            run, result = grid.cost("put", source)
            out["tahoe"]["put"] = keep_best(out["tahoe"]["put"], result, size)
            _, result = grid.cost("get", run.text.split()[-1], back)
            out["tahoe"]["get"] = keep_best(out["tahoe"]["get"], result, size)
            out["tahoe"]["grid_rss"] = max(out["tahoe"].get("grid_rss", 0), grid.rss())
            out["tahoe"]["grid_pss"] = max(out["tahoe"].get("grid_pss", 0), grid.pss())
        if subprocess.run(["cmp", "-s", source, back]).returncode != 0:
            raise Failed("Tahoe's file came back different")
        back.unlink()
        with started(bench.cairn()) as tool:
            ours = out["cairn"]
            ours["put"] = keep_best(ours["put"], tool.backup(source), size)
            ours["get"] = keep_best(ours["get"], tool.restore(source, bench.place / "target"), size)
            ours["grid_rss"] = max(ours.get("grid_rss", 0), sum(tool.holders_rss()))
            ours["grid_pss"] = max(ours.get("grid_pss", 0), tool.holders_pss())
            same(source, bench.place / "target")
    source.unlink()
    return out


def tcp(bench):
    return {"mbs": max(ceilings.raw_tcp(bench.options.mib) for _ in range(bench.options.runs))}


def pipeline(_):
    return ceilings.pipeline()


# In the order of a run: name, function, corpora that it takes, room that it takes as a multiple of the corpora's size.
SECTIONS = {
    "tcp": (tcp, (), 0),
    "random": (random, ("random",), 4),
    "degraded": (degraded, ("random",), 4),
    "disk": (disk, ("random",), 2),
    "stages": (stages, ("random", "dump.sql"), 5),
    "sql": (sql, ("dump.sql",), 3),
    "second": (second, ("dump.sql",), 4),
    "tree": (tree, ("tree",), 4),
    "memory": (memory, (), 0),
    "tahoe": (tahoe, (), 2),
    "idle": (idle_network, (), 0),
    "pipeline": (pipeline, (), 0),
}


def run(bench, names):
    """All sections that were named. One that fails says so in the figures and in the report, and the others go on."""
    for number, name in enumerate(names):
        function, uses, times = SECTIONS[name]
        need = times * bench.options.mib * MIB
        begun = time.monotonic()
        if room(bench.place) < need:
            bench.figures[name] = {"not_measured": f"{bench.place.parent} has no room for {need / 1e9:.1f} GB"}
            say(f"{name}: {bench.figures[name]['not_measured']}")
        else:
            try:
                bench.figures[name] = function(bench)
            except (Failed, idle.Failed, OSError, subprocess.SubprocessError) as failure:
                say(f"{name} failed: {failure}")
                bench.figures[name] = {"failed": str(failure)}
        bench.figures[name]["took_seconds"] = round(time.monotonic() - begun)
        later = {corpus for other in names[number + 1 :] for corpus in SECTIONS[other][1]}
        for corpus in set(uses) - later:
            bench.drop(corpus)
        shutil.rmtree(bench.place / "target", ignore_errors=True)
        if bench.options.json:
            bench.options.json.write_text(json.dumps(bench.figures, indent=1))
