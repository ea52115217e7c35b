//! Targets over what reaches a node from its own side: the control API's frames, lines and verbs, the settings, patterns.

use std::path::Path;

use cairn::{
    api::{
        FinalLine, Line, NewVault, VerbRequest,
        frames::{FRAME_MAX, Frame, FrameReader, LINE_MAX, LineReader},
    },
    config::FileConfig,
    failure::{ExitCode, Failure},
    files::filter::Filter,
    ops::{BackupArgs, Event, ItemError, Progress, RestoreArgs, Verb},
};

use super::Target;

pub(super) fn all() -> Vec<Target> {
    vec![
        Target { name: "api-frames", seeds: frame_seeds, run: frames },
        Target { name: "api-lines", seeds: line_seeds, run: lines },
        Target { name: "api-request", seeds: request_seeds, run: request },
        Target { name: "settings", seeds: settings_seeds, run: settings },
        Target { name: "patterns", seeds: pattern_seeds, run: patterns },
    ]
}

fn frame_seeds() -> Vec<Vec<u8>> {
    let frames = [
        Frame::Request(request_seeds().remove(0).into()),
        Frame::Data(vec![7; 300].into()),
        Frame::Data(Vec::new().into()),
        Frame::Event(line_seeds().remove(0).into()),
        Frame::Outcome(b"{}".to_vec().into()),
        Frame::Failed("the command ended with 1".into()),
        Frame::End,
    ];
    let whole = frames.iter().flat_map(|f| f.encode().to_vec()).collect();
    std::iter::once(whole).chain(frames.iter().map(|f| f.encode().to_vec())).collect()
}

/// However a body is cut, it holds the same frames, and they encode to what was read.
fn frames(bytes: &[u8]) {
    let read = |cut: usize| {
        let mut reader = FrameReader::default();
        let (mut out, mut wrong) = (Vec::new(), None);
        for piece in bytes.chunks(cut.max(1)) {
            reader.push(piece);
            loop {
                match reader.next_frame() {
                    Ok(Some(frame)) => out.push(frame),
                    Ok(None) => break,
                    Err(e) => {
                        wrong = Some(e);
                        break;
                    }
                }
            }
            if wrong.is_some() {
                break;
            }
        }
        (out, wrong)
    };
    let whole = read(bytes.len());
    let cut = bytes.first().map_or(1, |b| usize::from(*b));
    assert_eq!(read(cut), whole);
    let mut at = 0;
    for frame in &whole.0 {
        let length = bytes.get(at + 1..at + 5).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
        assert!(length <= FRAME_MAX);
        // An end carries nothing, and why it failed is text: what is no text is replaced.
        if !matches!(frame, Frame::Failed(_) | Frame::End) {
            assert_eq!(frame.encode(), bytes[at..at + 5 + length]);
        }
        at += 5 + length;
    }
}

fn line_seeds() -> Vec<Vec<u8>> {
    let events = [
        Event::Status(Progress { phase: "backup".into(), percent_done: Some(0.5), ..Progress::default() }),
        Event::Error(ItemError { item: "/a\u{fffd}".into(), during: "read".into(), message: "denied".into() }),
        Event::Notice { id: "LOW_PEER_MODE".into(), text: "few".into() },
        Event::Row { kind: "node".into(), row: vec![1, 2, 3].into() },
        Event::Summary { verb: "ls".into(), summary: "x".into() },
    ];
    let mut lines: Vec<Vec<u8>> = events.iter().map(|e| serde_json::to_vec(e).expect("serialises")).collect();
    let failure = Failure::new(ExitCode::TooFewPeers, "TOO_FEW_PEERS", "3 more are needed").with_hint("run more");
    lines.push(serde_json::to_vec(&FinalLine::ExitError(failure)).expect("serialises"));
    lines.push(serde_json::to_vec(&FinalLine::Outcome { code: ExitCode::Partial }).expect("serialises"));
    let all = lines.join(&b'\n');
    lines.push([b"\n\n".as_slice(), &all, b"\n"].concat());
    lines
}

/// However a body is cut, it holds the same lines; what is a line of the API stays one.
fn lines(bytes: &[u8]) {
    let read = |cut: usize| {
        let mut reader = LineReader::default();
        let mut out = Vec::new();
        for piece in bytes.chunks(cut.max(1)) {
            reader.push(piece);
            while let Some(line) = reader.next_line().expect("below the limit") {
                out.push(line);
            }
        }
        out
    };
    assert!(bytes.len() < LINE_MAX, "the harness makes none so long");
    let whole = read(bytes.len());
    assert_eq!(read(bytes.first().map_or(1, |b| usize::from(*b))), whole);
    let ended = bytes.iter().rposition(|b| *b == b'\n').map_or(&[][..], |end| &bytes[..end]);
    let expected: Vec<&[u8]> = ended.split(|b| *b == b'\n').filter(|l| !l.is_empty()).collect();
    assert_eq!(whole, expected);
    for line in whole {
        if let Ok(line) = serde_json::from_slice::<Line>(&line) {
            let again = serde_json::to_string(&line).expect("serialises");
            let twice = serde_json::from_str::<Line>(&again).expect("reads back");
            assert_eq!(serde_json::to_string(&twice).expect("serialises"), again);
        }
    }
}

fn request_seeds() -> Vec<Vec<u8>> {
    let backup = BackupArgs { paths: vec!["/home/%FF".into()], tags: vec!["t".into()], ..BackupArgs::default() };
    let restore = RestoreArgs { snapshot: "latest:/a".into(), target: "/t".into(), ..RestoreArgs::default() };
    [Verb::Backup(backup), Verb::Restore(restore), Verb::Stats, Verb::DebugPlacement]
        .into_iter()
        .map(|request| serde_json::to_vec(&VerbRequest { request, passphrase: None }).expect("serialises"))
        .chain([b"{\"passphrase\":\"p\"}".to_vec()])
        .collect()
}

fn request(bytes: &[u8]) {
    let _ = serde_json::from_slice::<NewVault>(bytes);
    if let Ok(request) = serde_json::from_slice::<VerbRequest>(bytes) {
        let again = serde_json::to_vec(&request).expect("serialises");
        let twice: VerbRequest = serde_json::from_slice(&again).expect("reads back");
        assert_eq!(serde_json::to_vec(&twice).expect("serialises"), again);
    }
}

fn settings_seeds() -> Vec<Vec<u8>> {
    let text = "version = 1\nnetwork = \"n.toml\"\n[node]\nroles = [\"storage\"]\ngive = \"500GB\"\nmdns = false\n\
                [owner]\nexclude = [\"*.o\"]\nhost = \"h\"\n";
    vec![text.into(), b"[nod]\nx = 1".to_vec(), b"[owner]\nexclude = 1".to_vec()]
}

fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(e) = FileConfig::parse(text) {
        assert!(!e.message.is_empty() && !e.message.contains('\n'), "an error is one sentence: {:?}", e.message);
    }
}

fn pattern_seeds() -> Vec<Vec<u8>> {
    ["*.o\n/home/u/x", "docs/*.pdf\n/docs/a.pdf", "[a-z]{b,c}?\nab", "**/x/**\n/a/x/b", "\\[\n["]
        .map(|t| t.as_bytes().to_vec())
        .to_vec()
}

/// The first line is a pattern, the rest a path.
fn patterns(bytes: &[u8]) {
    use std::os::unix::ffi::OsStrExt;
    let (pattern, path) = bytes.split_at(bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len()));
    let Ok(pattern) = std::str::from_utf8(pattern) else { return };
    // Patterns of the harness's length make automata of megabytes, which is the user's own memory.
    if pattern.len() > 512 {
        return;
    }
    if let Ok(filter) = Filter::new(&[pattern]) {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        assert_eq!(filter.matches(path), filter.matches(path));
    }
}
