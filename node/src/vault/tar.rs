//! A folder of a snapshot as a tar stream: what `cairn dump SNAP FOLDER` writes. POSIX ustar headers, with a pax header
//! before those that need one (long or odd names, large numbers, fractions of seconds, extended attributes), so that
//! every tar of today reads it. Names that are no UTF-8 go into pax headers as they are: the keyword that would announce them
//! is one that GNU tar complains about, and it takes them without. Hard links come as files of their own; sockets have no form in tar and are left out.

use cairn_proto::tree::{Node, NodeKind};

/// Everything in a tar comes in blocks of this size.
pub(super) const BLOCK: usize = 512;

/// What a header's fields can hold; above it, or beyond ASCII, the pax header speaks.
const NAME_MAX: usize = 100;
const ID_MAX: u64 = 0o7_777_777;
const SIZE_MAX: u64 = 0o77_777_777_777;

/// The blocks before an entry's content; `None` for what tar does not know. `path` is absolute, as in the snapshot.
pub(super) fn head(node: &Node, path: &[u8]) -> Option<Vec<u8>> {
    let kind = match node.kind {
        NodeKind::File => b'0',
        NodeKind::Symlink => b'2',
        NodeKind::CharDevice => b'3',
        NodeKind::BlockDevice => b'4',
        NodeKind::Dir => b'5',
        NodeKind::Fifo => b'6',
        NodeKind::Socket => return None,
    };
    let mut name = path.strip_prefix(b"/").unwrap_or(path).to_vec();
    if node.kind == NodeKind::Dir {
        name.push(b'/');
    }
    let size = if node.kind == NodeKind::File { node.size } else { 0 };
    let mut out = Vec::new();
    let records = records(node, &name, size);
    if !records.is_empty() {
        out.extend(block(&Block {
            kind: b'x',
            name: b"pax",
            mode: 0o600,
            size: records.len() as u64,
            ..Block::default()
        }));
        out.extend_from_slice(&records);
        pad(&mut out);
    }
    let owner = |text: &Option<String>| text.clone().unwrap_or_default().into_bytes();
    out.extend(block(&Block {
        kind,
        name: &name,
        link: &node.link_target,
        mode: u64::from(node.mode & 0o7777),
        uid: node.uid.into(),
        gid: node.gid.into(),
        size,
        mtime: u64::try_from(node.mtime.secs).unwrap_or(0),
        user: &owner(&node.user),
        group: &owner(&node.group),
        device: node.rdev,
    }));
    Some(out)
}

/// So many zeros after `size` bytes of content.
pub(super) const fn padding(size: u64) -> usize {
    ((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64) as usize
}

/// The end of the stream.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// One pax record: its length, which counts itself, the key, the value.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

fn records(node: &Node, name: &[u8], size: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut text = |key: &str, value: &[u8], max: usize| {
        if value.len() > max || !value.is_ascii() {
            out.extend(record(key, value));
        }
    };
    text("path", name, NAME_MAX);
    text("linkpath", &node.link_target, NAME_MAX);
    let mut number = |key: &str, value: u64, max: u64| {
        if value > max {
            out.extend(record(key, value.to_string().as_bytes()));
        }
    };
    number("uid", node.uid.into(), ID_MAX);
    number("gid", node.gid.into(), ID_MAX);
    number("size", size, SIZE_MAX);
    let (secs, nanos) = (node.mtime.secs, node.mtime.nanos);
    if nanos != 0 || u64::try_from(secs).map_or(true, |secs| secs > SIZE_MAX) {
        // Before 1970 the fraction counts backwards in pax, forwards in ours.
        let time = match (secs, nanos) {
            (..0, 1..) => format!("-{}.{:09}", -(i128::from(secs) + 1), 1_000_000_000 - nanos),
            _ => format!("{secs}.{nanos:09}"),
        };
        out.extend(record("mtime", time.as_bytes()));
    }
    for (name, value) in &node.xattrs {
        if let Ok(name) = std::str::from_utf8(name) {
            out.extend(record(&format!("SCHILY.xattr.{name}"), value));
        }
    }
    out
}

#[derive(Default)]
struct Block<'a> {
    kind: u8,
    name: &'a [u8],
    link: &'a [u8],
    mode: u64,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
    user: &'a [u8],
    group: &'a [u8],
    device: u64,
}

fn block(entry: &Block<'_>) -> [u8; BLOCK] {
    let mut out = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8], max: usize| {
        let take = bytes.len().min(max);
        out[at..at + take].copy_from_slice(&bytes[..take]);
    };
    // Octal with one closing NUL; what does not fit stands in the pax header and is 0 here.
    let octal = |value: u64, digits: usize| match format!("{value:0digits$o}") {
        text if text.len() <= digits => text,
        _ => "0".repeat(digits),
    };
    put(0, entry.name, NAME_MAX);
    put(100, octal(entry.mode, 7).as_bytes(), 7);
    put(108, octal(entry.uid, 7).as_bytes(), 7);
    put(116, octal(entry.gid, 7).as_bytes(), 7);
    put(124, octal(entry.size, 11).as_bytes(), 11);
    put(136, octal(entry.mtime, 11).as_bytes(), 11);
    put(148, b"        ", 8);
    put(156, &[entry.kind], 1);
    put(157, entry.link, NAME_MAX);
    put(257, b"ustar\x0000", 8);
    put(265, entry.user, 31);
    put(297, entry.group, 31);
    put(329, octal(rustix::fs::major(entry.device).into(), 7).as_bytes(), 7);
    put(337, octal(rustix::fs::minor(entry.device).into(), 7).as_bytes(), 7);
    let sum: u64 = out.iter().map(|b| u64::from(*b)).sum();
    out[148..154].copy_from_slice(octal(sum, 6).as_bytes());
    out[154] = 0;
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        assert_eq!(record("path", b"abc"), b"12 path=abc\n");
        for length in 0..1200 {
            let made = record("k", &vec![b'v'; length]);
            let said: usize =
                String::from_utf8_lossy(made.split(|b| *b == b' ').next().expect("a length")).parse().expect("digits");
            assert_eq!(said, made.len());
        }
    }

    #[test]
    fn heads_come_in_whole_blocks() {
        let mut node = Node::new(b"f".to_vec(), NodeKind::File);
        node.size = 5;
        assert_eq!(head(&node, b"/a/f").expect("a file").len(), BLOCK);
        node.mtime.nanos = 7;
        assert_eq!(head(&node, b"/a/f").expect("a file").len(), 3 * BLOCK);
        assert_eq!(head(&Node::new(b"s".to_vec(), NodeKind::Socket), b"/s"), None);
        assert_eq!((padding(0), padding(1), padding(512), padding(513)), (0, 511, 0, 511));
    }
}
