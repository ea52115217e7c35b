"""Processes and what they cost: wall time, CPU time, peak memory."""

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / "target/tools"
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


def say(text):
    print(text, file=sys.stderr, flush=True)


class Failed(Exception):
    """A program that ended otherwise than it should have."""


class Run:
    """One process, waited for. `stdin` is a path, or a file that is open; `discard` its output."""

    def __init__(self, command, env=None, stdin=None, accept=(0,), discard=False):
        command = [str(part) for part in command]
        source = open(stdin, "rb") if isinstance(stdin, (str, Path)) else stdin or subprocess.DEVNULL
        begun = time.monotonic()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(command, env={**os.environ, **(env or {})}, stdin=source, stdout=subprocess.DEVNULL if discard else out, stderr=err)
            try:
                _, status, used = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                process.wait()
                raise
            self.seconds = time.monotonic() - begun
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            err.seek(0)
            self.text, said = (file.read().decode(errors="replace") for file in (out, err))
        if isinstance(stdin, (str, Path)):
            source.close()
        if process.returncode not in accept:
            raise Failed(f"{' '.join(command)} ended with {process.returncode}:\n{self.text[-2000:]}\n{said[-2000:]}")
        self.cpu = used.ru_utime + used.ru_stime
        self.rss = used.ru_maxrss * 1024


def status_of(pid, field):
    """A size in bytes from /proc/PID/status, such as VmRSS or VmHWM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def pss_of(pids):
    """Bytes that these processes take together, pages that they share counted once."""
    lines = (line for pid in pids for line in open(f"/proc/{pid}/smaps_rollup"))
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def cpu_of(pids):
    """CPU seconds that these processes used so far."""
    used = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        used += int(fields[11]) + int(fields[12])
    return used / TICKS


def size_of(path):
    """Bytes of a file, or of all files below a folder."""
    if path.is_dir():
        return sum(f.stat().st_size for f in path.rglob("*") if f.is_file() and not f.is_symlink())
    return path.stat().st_size


def memory_available():
    for line in open("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


TOUCH = "import mmap, sys\nmemory, block = mmap.mmap(-1, int(sys.argv[1]) << 20), bytes(1 << 20)\nfor _ in range(int(sys.argv[1])): memory.write(block)"


def warm(size):
    """Touches so much memory and gives it back. The host of a virtual machine takes away what lies idle, and whoever needs memory
    next pays three times as much for it: without this, the order of the runs would decide."""
    mebibytes = min(size, memory_available() - (4 << 30)) // MIB
    if mebibytes > 0:
        # A process of its own: what it had at most would count for those that this one starts.
        subprocess.run([sys.executable, "-c", TOUCH, str(mebibytes)], check=True)


def is_ram(path):
    return Run(["stat", "-f", "-c", "%T", path]).text.strip() in ("tmpfs", "ramfs")


def room(path):
    """Bytes that fit below a folder; a RAM file system shares them with processes, which keep 3 GiB."""
    stat = os.statvfs(path)
    free = stat.f_bavail * stat.f_frsize
    return min(free, memory_available() - (3 << 30)) if is_ram(path) else free


def first_line(command):
    try:
        return Run(command).text.strip().splitlines()[0]
    except (OSError, Failed, IndexError):
        return "?"


def machine():
    """What the figures depend on."""
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / (1 << 20)),
        "kernel": platform.release(),
        "rustc": first_line(["rustc", "--version"]).removeprefix("rustc "),
        "commit": first_line(["git", "-C", ROOT, "describe", "--always", "--dirty"]),
        "date": time.strftime("%Y-%m-%d"),
        "load_before": os.getloadavg()[0],
    }
