"""An idle network in a network namespace of its own: what each node costs in CPU and traffic, and where the bytes go.

Run as a program inside of the namespace: every packet on its loopback is then a node's. Causes are read from packets, whose
payload is encrypted: transport, set-up of new connections, bare acknowledgements, and the rest by size.
"""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

# Bytes of a connection that was opened while we watched which still count as its set-up: certificates, identify, the
# first adverts.
SETUP = 12 << 10
# Of linux/socket.h and linux/if_packet.h; Python has no names for them.
SOL_PACKET, PACKET_STATISTICS = 263, 6


class Failed(Exception):
    """The network in its namespace did not do what it should."""


class Watch:
    """Counts packets on loopback by cause."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind(("lo", 0))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 20)
        self.causes, self.packets, self.sizes, self.young = Counter(), Counter(), Counter(), {}
        self.opened = 0

    def dropped(self):
        """Packets for which the buffer had no room, since this was asked last."""
        return struct.unpack("II", self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]

    def until(self, end):
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                packet, address = self.socket.recvfrom(1 << 17)
            except TimeoutError:
                return
            # On loopback each packet is seen going out and coming in.
            if address[2] != socket.PACKET_OUTGOING:
                self.count(packet[14:])

    def count(self, packet):
        if len(packet) < 20 or packet[0] >> 4 != 4:
            cause = "not IPv4"
        else:
            head = (packet[0] & 15) * 4
            length, protocol = struct.unpack_from("!H", packet, 2)[0], packet[9]
            inner = packet[head:length]
            cause = self.tcp(inner) if protocol == 6 else self.udp(inner) if protocol == 17 else "other"
        self.causes[cause] += len(packet)
        self.packets[cause] += 1

    def tcp(self, segment):
        flow, flags = segment[:4], segment[13]
        payload = len(segment) - (segment[12] >> 4) * 4
        name = min(flow, flow[2:] + flow[:2])
        if flags & 2:
            self.opened += not flags & 16
            self.young[name] = SETUP
        if flags & 7:
            return "TCP: opening and closing"
        if self.young.get(name, 0) > 0:
            self.young[name] -= payload
            return "TCP: first 12 KiB of new connections"
        if payload == 0:
            return "TCP: bare acknowledgements"
        self.sizes[payload] += 1
        return f"TCP: payload {bucket(payload)}"

    def udp(self, datagram):
        payload = len(datagram) - 8
        if payload > 0 and datagram[8] & 0x80:
            return "QUIC: handshakes"
        return f"QUIC: payload {bucket(payload)}"


def bucket(size):
    for bound in (64, 128, 256, 512, 1024):
        if size <= bound:
            return f"up to {bound} B"
    return "over 1 KiB"


def cpu(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid):
    rows = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {field: int(rows[field].split()[0]) * 1024 for field in ("VmRSS", "RssAnon", "RssFile")}


def connections(pid, established):
    """TCP connections of a process: its sockets that are established."""
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += os.readlink(link)[8:-1] in established
        except OSError:
            pass
    return count


def backup(binary, mib, place, env):
    """An owner stores so much random data and is not seen again."""
    env = {**env, "CAIRN_NETWORK": str(place / "lab/network.toml")}
    source = place / "source"
    with open(source, "wb") as file:
        for _ in range(mib):
            file.write(os.urandom(1 << 20))
    for command in (["init", "--phrase-file", str(place / "phrase")], ["backup", str(source)]):
        subprocess.run([binary, *command], check=True, env=env, stdout=subprocess.DEVNULL)
    source.unlink()


def inside(binary, nodes, minutes, settle, stored, folder):
    """The lab, watched; prints figures as JSON."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    place = Path(tempfile.mkdtemp(prefix="idle-", dir=folder))
    lab = ["--dir", str(place / "lab")]
    env = {**os.environ, "CAIRN_DATA_DIR": str(place / "owner")}
    try:
        begun = time.monotonic()
        # A lab that waits in vain for all to know all leaves its nodes up: a large one on few cores may be watched all the same.
        started = subprocess.run([binary, "lab", "up", "--nodes", str(nodes), *lab], env=env, stdout=subprocess.DEVNULL)
        up = time.monotonic() - begun
        if stored:
            backup(binary, stored, place, env)
        time.sleep(settle)
        status = json.loads(subprocess.run([binary, "lab", "status", "--json", *lab], check=True, env=env, capture_output=True).stdout)
        pids = [node["pid"] for node in status if node["state"] == "up"]
        if len(pids) < nodes:
            raise Failed(f"only {len(pids)} of {nodes} nodes are up")
        before = {pid: cpu(pid) for pid in pids}
        watch = Watch()
        begun = time.monotonic()
        watch.until(begun + minutes * 60)
        seconds = time.monotonic() - begun
        dropped = watch.dropped()
        after = {pid: cpu(pid) for pid in pids}
        table = Path("/proc/net/tcp").read_text().splitlines()[1:]
        established = {row.split()[9] for row in table if row.split()[3] == "01"}
        json.dump(
            {
                "nodes": len(pids),
                "all_knew_all": started.returncode == 0,
                "up_seconds": up,
                "seconds": seconds,
                "cpu": [after[pid] - before[pid] for pid in pids],
                "bytes": dict(watch.causes),
                "packets": dict(watch.packets),
                "sizes": watch.sizes.most_common(12),
                "opened": watch.opened,
                "dropped": dropped,
                "memory": [memory(pid) for pid in pids],
                "tcp_connections": [connections(pid, established) for pid in pids],
            },
            sys.stdout,
        )
    finally:
        subprocess.run([binary, "lab", "down", *lab], env=env, stdout=subprocess.DEVNULL)
        shutil.rmtree(place, ignore_errors=True)


def measure(binary, nodes, minutes, settle, folder, stored=0):
    """Runs `inside` in a namespace of its own and makes figures a day of it."""
    unshare = ["unshare", "-n"] if os.getuid() == 0 else ["unshare", "-rn"]
    command = [*unshare, sys.executable, __file__, str(binary), str(nodes), str(minutes), str(settle), str(stored), str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        text, _ = child.communicate()
    except BaseException:
        # It takes its lab down before it ends.
        child.terminate()
        child.wait()
        raise
    if child.returncode != 0:
        raise Failed(f"the idle network ended with {child.returncode}")
    raw = json.loads(text)
    # A byte on loopback is sent by one node and received by another: two nodes pay for it.
    day = 86400 / raw["seconds"] * 2 / raw["nodes"]
    share = sorted(100 * used / raw["seconds"] for used in raw["cpu"])
    return {
        **raw,
        "core_percent_mean": sum(share) / len(share),
        "core_percent_max": share[-1],
        "mb_a_day": sum(raw["bytes"].values()) * day / 1e6,
        "mb_a_day_by_cause": {k: v * day / 1e6 for k, v in sorted(raw["bytes"].items(), key=lambda kv: -kv[1])},
        "packets_a_day_by_cause": {k: v * day for k, v in raw["packets"].items()},
    }


if __name__ == "__main__":
    inside(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
