//! Documents, ids and bans agree with the tree. Run it alone with `cargo tidy`.
//!
//! What a reader is told must be findable: each path and each invariant id of ARCHITECTURE.md exists, each invariant
//! says where it is enforced and attacked, each test that a document names is a function somewhere.

#![allow(clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Families of invariant ids, from the design of record.
const FAMILIES: [&str; 6] = ["SEP", "SEC", "DUR", "REP", "TRUST", "LOG"];
/// Longest source file that is not a test: past this there is a second concept in it.
const LINES_MAX: usize = 700;
/// Largest file in the tree: test data is generated, not kept.
const FILE_MAX: u64 = 1 << 20;
/// Folders that are not ours or are made by builds.
const SKIPPED: [&str; 3] = [".git", "target", ".bench"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("node/ lies in the workspace").to_owned()
}

/// Every file of the tree, relative to the root.
fn files() -> Vec<PathBuf> {
    let root = root();
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("readable").map(|e| e.expect("readable")) {
            let kind = entry.file_type().expect("known");
            if kind.is_dir() && !SKIPPED.contains(&entry.file_name().to_string_lossy().as_ref()) {
                folders.push(entry.path());
            } else if kind.is_file() && entry.file_name() != ".git" {
                found.push(entry.path().strip_prefix(&root).expect("below").to_owned());
            }
        }
    }
    found.sort();
    found
}

fn read(path: impl AsRef<Path>) -> String {
    let full = root().join(&path);
    fs::read_to_string(&full).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

fn sources() -> Vec<(PathBuf, String)> {
    let rust = files().into_iter().filter(|p| p.extension().is_some_and(|e| e == "rs"));
    rust.map(|p| (p.clone(), read(&p))).collect()
}

fn is_test(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n == "tests.rs")
        || path.components().any(|c| ["tests", "benches", "examples"].iter().any(|t| c.as_os_str() == *t))
}

/// Fails with all findings at once.
fn none(what: &str, findings: impl IntoIterator<Item = String>) {
    let findings: Vec<_> = findings.into_iter().collect();
    assert!(findings.is_empty(), "{what}:\n  {}", findings.join("\n  "));
}

/// Texts between single backticks, outside fenced blocks.
fn quoted(markdown: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

fn looks_like_path(text: &str) -> bool {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let ending = [".rs", ".md", ".toml"].iter().any(|e| text.ends_with(e));
    plain && !text.starts_with(['/', '.']) && (ending || (text.contains('/') && !text.contains("//")))
}

/// Ids such as `SEP-1` in a text.
fn ids(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for family in FAMILIES {
        for (at, _) in text.match_indices(&format!("{family}-")) {
            let before = text[..at].chars().next_back();
            let number: String = text[at + family.len() + 1..].chars().take_while(char::is_ascii_digit).collect();
            if !number.is_empty() && !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '-') {
                found.insert(format!("{family}-{number}"));
            }
        }
    }
    found
}

/// The invariants table of ARCHITECTURE.md: id -> (sentence, enforced, attacked).
fn invariants() -> BTreeMap<String, [String; 3]> {
    let text = read("ARCHITECTURE.md");
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix('|')?.trim_end().strip_suffix('|')?.split('|').map(str::trim).collect();
        let id = ids(cells[0]).pop_first()?;
        assert_eq!(cells.len(), 4, "the row of {id} has not four columns");
        Some((id, [cells[1], cells[2], cells[3]].map(str::to_owned)))
    });
    rows.collect()
}

#[test]
fn paths_in_architecture_exist() {
    for document in ["ARCHITECTURE.md", "README.md"] {
        let missing = quoted(&read(document)).into_iter().filter(|t| looks_like_path(t) && !root().join(t).exists());
        none(&format!("{document} names what is not there"), missing);
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut dead = Vec::new();
    for path in files().into_iter().filter(|p| p.extension().is_some_and(|e| e == "md")) {
        for link in read(&path).split("](").skip(1).filter_map(|rest| rest.split(')').next().map(str::to_owned)) {
            let target = link.split('#').next().unwrap_or_default();
            let here = root().join(&path);
            if !target.is_empty() && !link.contains("://") && !here.parent().expect("a file").join(target).exists() {
                dead.push(format!("{}: {link}", path.display()));
            }
        }
    }
    none("dead links", dead);
}

#[test]
fn every_invariant_has_its_sentence_its_enforcement_and_its_attack() {
    let table = invariants();
    assert!(table.len() >= 12, "the invariants table has lost rows: {:?}", table.keys());
    let sources = sources();
    let code: String = sources.iter().map(|(_, text)| text.as_str()).collect();
    let mut findings = Vec::new();
    for (id, [sentence, enforced, attacked]) in &table {
        if sentence.len() < 20 {
            findings.push(format!("{id} has no sentence"));
        }
        for (column, cell) in [("enforced", enforced), ("attacked", attacked)] {
            let later = cell.starts_with("not yet");
            if !later && quoted(cell).is_empty() {
                findings.push(format!("{id} does not say where it is {column}"));
            }
            if !later && !ids(&code).contains(id) {
                findings.push(format!("{id} stands in no source file"));
            }
            for name in quoted(cell).iter().filter(|t| !looks_like_path(t)) {
                let last = name.rsplit("::").next().unwrap_or(name).trim_end_matches("()");
                if !["fn ", "struct ", "enum ", "trait "].iter().any(|k| code.contains(&format!("{k}{last}"))) {
                    findings.push(format!("{id} names `{name}`, which no source file defines"));
                }
            }
        }
    }
    for (path, text) in &sources {
        let unknown = ids(text).into_iter().filter(|id| !table.contains_key(id));
        findings.extend(unknown.map(|id| format!("{} uses {id}, which the table does not have", path.display())));
    }
    none("invariants", findings);
}

#[test]
fn every_end_to_end_file_is_run() {
    let unlisted = files().into_iter().filter_map(|p| {
        let name = p.strip_prefix("tests/e2e").ok()?.to_str()?.strip_suffix(".rs")?.to_owned();
        // A file of a folder is listed by the file of the folder's name.
        let (parent, module) = name.rsplit_once('/').unwrap_or(("main", &name));
        let parent = read(format!("tests/e2e/{parent}.rs"));
        (name != "main" && !parent.contains(&format!("mod {module};"))).then_some(name)
    });
    none("no file of tests/e2e lists", unlisted);
    let manifest = read("node/Cargo.toml");
    for target in ["../tests/e2e/main.rs", "../tests/tidy.rs"] {
        assert!(manifest.contains(target), "node/Cargo.toml does not register {target}");
    }
}

#[test]
fn no_file_names_a_place_on_somebodys_machine() {
    let places = ["work", "root", "farm", "tmp/bash_jobs"].map(|p| format!("/{p}/"));
    let mut findings = Vec::new();
    for path in files() {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in text.lines().enumerate() {
            let standing_alone = |place: &String| {
                let before = line.find(place.as_str()).map(|at| line[..at].chars().next_back());
                before.is_some_and(|c| !c.is_some_and(|c| c.is_ascii_alphanumeric() || "._-".contains(c)))
            };
            if places.iter().any(standing_alone) {
                findings.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    none("paths of one machine", findings);
}

#[test]
fn nothing_is_left_undone_in_the_code() {
    let needles = ["todo", "unimplemented", "dbg"].map(|m| format!("{m}!("));
    let marks = ["FIX", "XX"].map(|m| format!("{m}{}", if m == "XX" { "X" } else { "ME" }));
    let bare_ignore = format!("#[ignore{}", "]");
    let mut findings = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let words = needles.iter().chain(&marks).chain([&bare_ignore]);
            if words.into_iter().any(|w| line.contains(w.as_str())) {
                findings.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    none("left undone (an ignored test needs its reason)", findings);
}

#[test]
fn every_module_says_at_its_head_what_it_decides() {
    let undocumented = sources().into_iter().filter(|(path, text)| {
        let head = text.lines().take(12).any(|line| line.starts_with("//!"));
        !head && !is_test(path)
    });
    none("no module documentation", undocumented.map(|(path, _)| path.display().to_string()));
}

#[test]
fn files_stay_readable() {
    let long = sources().into_iter().filter(|(path, text)| !is_test(path) && text.lines().count() > LINES_MAX);
    none(&format!("more than {LINES_MAX} lines"), long.map(|(path, _)| path.display().to_string()));
    let big = files().into_iter().filter(|p| fs::metadata(root().join(p)).is_ok_and(|m| m.len() > FILE_MAX));
    none("large files", big.map(|p| p.display().to_string()));
}

/// `node/core/clippy.toml` bans types; this also sees what clippy does not (dependencies, re-exports, `cfg`).
#[test]
fn the_core_has_no_clock_no_sockets_no_files() {
    let banned =
        ["tokio", "Instant", "SystemTime", "HashMap", "HashSet", "std::fs", "std::net::Tcp", "getrandom", "OsRng"];
    let mut findings = Vec::new();
    for (path, text) in sources().into_iter().filter(|(p, _)| p.starts_with("node/core/src") && !is_test(p)) {
        for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
            let word = banned.iter().find(|word| line.contains(**word));
            findings.extend(word.map(|word| format!("{}:{}: {word}", path.display(), number + 1)));
        }
    }
    for dependency in ["tokio", "libp2p", "sled", "getrandom", "rustix"] {
        if read("node/core/Cargo.toml").lines().any(|l| l.starts_with(dependency)) {
            findings.push(format!("node/core/Cargo.toml depends on {dependency}"));
        }
    }
    none("the core is pure", findings);
}

#[test]
fn the_changelog_keeps_its_form() {
    let text = read("CHANGELOG.md");
    let unreleased = text.split("## [Unreleased]").nth(1).expect("CHANGELOG.md has an Unreleased section");
    let section = unreleased.split("\n## ").next().expect("one part at least");
    let groups: Vec<_> = section.lines().filter_map(|l| l.strip_prefix("### ")).collect();
    assert_eq!(groups.first(), Some(&"Safety"), "safety comes first: {groups:?}");
    assert!(groups.contains(&"Formats"), "format changes are always listed: {groups:?}");
}

#[test]
fn decision_records_are_numbered_once() {
    let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
    for path in files().into_iter().filter(|p| p.starts_with("node/docs/adr")) {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let number: String = name.chars().take_while(char::is_ascii_digit).collect();
        assert_eq!(number.len(), 4, "{name} does not begin with four digits");
        assert!(read(&path).starts_with("# "), "{name} has no title");
        if let Some(other) = seen.insert(number, path.clone()) {
            panic!("{} and {} have one number", path.display(), other.display());
        }
    }
}

#[test]
fn commands_can_be_run() {
    for script in ["scripts/test", "scripts/fuzz", ".ci/run"] {
        let mode = fs::metadata(root().join(script)).unwrap_or_else(|e| panic!("{script}: {e}")).permissions().mode();
        assert!(mode & 0o111 != 0, "{script} is not executable");
        assert!(read(script).contains("set -eu") || script == ".ci/run", "{script} goes on after errors");
    }
    assert!(read(".ci/run").contains("scripts/test"), "CI is exactly what people run");
}
