"""CPU time by stage: perf's samples of owner and holders, sorted by what the innermost function is."""

import re
import subprocess
from collections import Counter

from .process import Failed, Run, cpu_of
from .programs import install

HERTZ = 997
# First match wins. Names of symbols, of the binary or of the kernel.
KERNEL = [
    ("kernel: network", r"tcp|skb|inet|^ip_|ip6?_|sock|loopback|net_|netif|napi|sk_|dev_|qdisc|udp|nf_|csum|__copy_skb|release_sock"),
    ("kernel: copies", r"copy_(to|from|user|page|folio)|rep_movs|copyin|copyout|_copy_|copy_mc|^memcpy|^memset|__get_user"),
    ("kernel: files", r"shmem|vfs|ext4|file|folio|xas_|xa_|inode|dentry|iov_iter|generic_perform|fdget|splice|writeback|jbd2|blk|bio|virtblk|virtqueue"),
    ("kernel: memory", r"page|fault|zap|mmap|munmap|vma|mm_|memcg|rmqueue|alloc|__list_(del|add)|smp_call|pfnblock|^expand$|rstat|free|tlb|pte|clear|lru|slab"),
    ("kernel: scheduling", r"sched|futex|switch|wake|idle|epoll|ep_|eventfd|pick_next|enqueue|dequeue|update_|ttwu|rcu|timer|do_syscall|entry_|clock|ktime|spin|mutex|ipi|eevdf|entity|fpregs|rb_erase|cpuacct|plist|msr|rseq"),
]
PROGRAM = [
    ("compress", r"^(ZSTD|HUF|FSE|XXH|HIST|COVER)_|^zstd|ZSTD_|HUF_|FSE_"),
    ("cut", r"fastcdc|gear|chunking|chunker"),
    ("hash", r"blake3"),
    ("code", r"erasure|reed_solomon|galois"),
    # Of shards and of connections: both are ring's, and cannot be told apart by name.
    ("encryption", r"aesni_|aes_gcm|vaes|aes_hw|gcm_(init|gmult)|chacha|poly1305|ChaCha|rustls|snow::|noise|x25519|\bring\b|rol64|ptr_to_le32|nistz256|ecp_|bn_mul|cairn_core::seal|polyval|ghash|\baes::|\bctr::"),
    ("key derivation (argon2)", r"argon2|blake2"),
    ("signatures", r"ed25519|curve25519|sha2::|sha512|sha256"),
    ("allocator", r"^_?mi_|mimalloc|^malloc|^free$|^realloc|_int_malloc|_int_free|alloc::alloc|RawVec|raw_vec"),
    ("memory copies", r"memcpy|memmove|memset|memcmp|bcmp"),
    ("checksums", r"crc32"),
    ("index", r"\bsled\b|sled::|cairn::vault::catalogue"),
    ("store", r"cairn::store"),
    ("transfer", r"cairn::network::transfer|cairn::network::streams|cairn_proto::wire"),
    ("multiplexing and libp2p", r"yamux|libp2p|multistream|quinn|asynchronous_codec|cairn::network"),
    ("vault and files", r"cairn::vault|cairn::files|cairn_core|cairn_proto|cairn::"),
    ("runtime", r"tokio|futures|mio::|parking_lot|crossbeam|std::|core::|alloc::|<.* as core|pthread|bytes::|hashbrown|tracing|syscall|vdso|epoll|xoshiro|clock_gettime|either::"),
]


def stage(symbol, dso):
    kernel = dso.startswith("[") and "vdso" not in dso
    for name, pattern in KERNEL if kernel else PROGRAM:
        if re.search(pattern, symbol):
            return name
    return "kernel: other" if kernel else "other"


def available():
    """Whether perf samples here: an empty string, or why not."""
    try:
        install(["linux-perf"], "perf")
    except (OSError, subprocess.SubprocessError):
        return "perf is not installed (linux-perf)"
    done = subprocess.run(["perf", "record", "-q", "-a", "-o", "/dev/null", "true"], capture_output=True, text=True)
    return "" if done.returncode == 0 else "perf may not record here: " + done.stderr.strip().splitlines()[-1]


def by_stage(cairn, command, size, place, stdin=None):
    """CPU seconds per GB of user data, for each role and stage, in one run under perf, and what each role used by /proc.

    perf takes the whole machine, which is the only way to have all processes; samples of others are left out.
    """
    data, owner_pid = place / "perf.data", place / "owner.pid"
    holders = set(cairn.pids().values())
    before = cpu_of(holders)
    # The shell writes its number and becomes the owner.
    inner = ["sh", "-c", f'echo $$ > "{owner_pid}"; exec "$@"', "sh", cairn.binary, *command]
    run = Run(["perf", "record", "-q", "-a", "-F", HERTZ, "-o", data, "--", *inner], cairn.env, stdin=stdin)
    used = {"holders": cpu_of(holders) - before}
    owner = int(owner_pid.read_text())
    samples = {"owner": Counter(), "holders": Counter()}
    unknown = Counter()
    text = Run(["perf", "script", "-i", data, "-F", "pid,ip,sym,dso", "--no-inline"]).text
    for line in text.splitlines():
        match = re.match(r"\s*(\d+)\s+[0-9a-f]+ (.*) \(([^()]*)\)$", line)
        if not match:
            continue
        pid, symbol, dso = int(match[1]), match[2], match[3]
        role = "owner" if pid == owner else "holders" if pid in holders else None
        if role:
            name = stage(symbol, dso)
            samples[role][name] += 1
            if name in ("other", "kernel: other"):
                unknown[symbol] += 1
    data.unlink()
    total = {role: sum(counts.values()) for role, counts in samples.items()}
    if not total["owner"] or not total["holders"]:
        raise Failed("perf saw no samples of the owner or of the holders")
    gb = size / 1e9
    # The holders' CPU time is known from /proc; one sample of the owner is worth what one of theirs is.
    worth = used["holders"] / total["holders"]
    return {
        "seconds": run.seconds,
        "samples": total,
        "cpu_s_per_gb": {role: {name: n * worth / gb for name, n in counts.most_common()} for role, counts in samples.items()},
        "not_named": unknown.most_common(10),
    }
