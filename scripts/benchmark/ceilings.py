"""What the machine itself gives: loopback TCP, durable writes, and the in-memory pipeline with each of its steps alone."""

import json
import os
import socket
import subprocess
import time

from .process import MIB, ROOT, Failed, say


def raw_tcp(mib):
    """What loopback gives to one stream, MB/s."""
    server = socket.create_server(("127.0.0.1", 0))
    block = bytes(MIB)
    child = os.fork()
    if child == 0:
        with socket.create_connection(server.getsockname()) as out:
            for _ in range(mib):
                out.sendall(block)
        os._exit(0)
    begun, taken = time.monotonic(), 0
    with server.accept()[0] as incoming:
        buffer = bytearray(MIB)
        while count := incoming.recv_into(buffer):
            taken += count
    os.waitpid(child, 0)
    return taken / 1e6 / (time.monotonic() - begun)


def durable_write(folder, mib):
    """Sequential bytes and one fdatasync behind them, MB/s. Random bytes: some disks compress or drop zeros."""
    block = os.urandom(8 * MIB)
    path = folder / "sequential"
    begun = time.monotonic()
    with open(path, "wb", buffering=0) as out:
        for _ in range(mib // 8):
            out.write(block)
        os.fdatasync(out.fileno())
    seconds = time.monotonic() - begun
    path.unlink()
    return mib // 8 * 8 * MIB / 1e6 / seconds


# What node/core/benches/pipeline.rs calls the steps of a kind of data, in the order of the way.
STEPS = ("cut", "name", "compress", "pack", "seal", "code", "hash")
KINDS = ("random", "mixed", "text")


def pipeline():
    """Criterion's figures: GB/s of user data on one and two threads, and the steps alone.

    The sum of the parts is the rate at which the steps one behind the other would go, computed from this run.
    """
    say("the in-memory pipeline (cargo bench)")
    home = ROOT / "target/bench-criterion"
    command = ["cargo", "bench", "--locked", "-p", "cairn-core", "--bench", "pipeline", "--", "--noplot", "pipeline|step"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "CRITERION_HOME": str(home)}, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"cargo bench ended with {done.returncode}:\n{done.stderr[-3000:]}")
    out = {}
    for kind in KINDS:
        steps = {step: rate(home / f"step {kind}" / step) for step in STEPS}
        one, two = (rate(home / f"pipeline {kind}" / f"{threads} threads") for threads in (1, 2))
        parts = 1 / sum(1 / step for step in steps.values())
        out[kind] = {"one": one, "two": two, "steps": steps, "sum_of_parts": parts, "ratio": one / parts}
    return out


def rate(bench):
    """GB/s of user data from criterion's files: bytes over the median time."""
    median = json.loads((bench / "new/estimates.json").read_text())["median"]["point_estimate"]
    throughput = json.loads((bench / "new/benchmark.json").read_text())["throughput"]["Bytes"]
    return throughput / median
