//! A network by invitation: founder, members, whom they invite, an owner; and who is not let in.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Stdio};

use crate::{
    harness::{Output, Owner, Permit, Running, below, cairn, until},
    tree,
};

/// Enough for an owner in low-peer mode.
const NODES: usize = 7;

struct Club {
    home: tempfile::TempDir,
    nodes: Vec<Running>,
    _permit: Permit,
}

impl Club {
    fn new() -> Self {
        let permit = Permit::take();
        let home = tempfile::Builder::new().prefix("cairn-club-").tempdir().expect("temp dir");
        Self { home, nodes: Vec::new(), _permit: permit }
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = cairn(self.home.path());
        command.args(args);
        Running::spawn(command, Stdio::null()).finish()
    }

    fn file(&self) -> std::path::PathBuf {
        self.home.path().join("club.toml")
    }

    #[track_caller]
    fn invite(&self, args: &[&str]) -> String {
        let made = self.run(&[&["network", "invite"], args].concat()).ok();
        let text = made.text().trim().to_owned();
        assert!(text.starts_with("cairn-") && text.lines().count() == 1, "{text}");
        text
    }

    #[track_caller]
    fn founder_invites(&self, uses: &str) -> String {
        self.invite(&["--network", "club.toml", "--founder-key", "club.founder.key", "--uses", uses])
    }

    /// Its address.
    #[track_caller]
    fn join(&mut self, invitation: Option<&str>) -> String {
        let number = self.nodes.len();
        let mut command = cairn(self.home.path());
        command.args(["node", "run", "--network", "club.toml", "--no-mdns", "--give", "1GiB", "--listen"]).args([
            "/ip4/127.0.0.1/tcp/0",
            "--domain",
            &format!("op{number}"),
            "--data-dir",
            &format!("n{number}"),
        ]);
        if let Some(invitation) = invitation {
            command.env("CAIRN_INVITATION", invitation);
        }
        let node = Running::spawn(command, Stdio::null());
        let said = node.wait_for("/p2p/");
        self.nodes.push(node);
        said.lines().next().and_then(|line| line.strip_prefix("listening ")).expect("an address").to_owned()
    }
}

fn known(owner: &Owner) -> Vec<String> {
    let peers = owner.run(["peers", "--json"]).ok();
    peers.rows("peer").iter().filter_map(|row| row["peer"].as_str().map(str::to_owned)).collect()
}

#[track_caller]
fn refused(output: Output, id: &str) {
    let error = output.expect(15).exit_error();
    assert_eq!(error["id"], id, "{error}");
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("network invite")), "what to do: {error}");
}

#[test]
fn a_club_lets_in_whom_it_invited_and_nobody_else() {
    let mut club = Club::new();
    let made = club.run(&["network", "new", "--name", "club", "--admission", "invitation", "--puzzle-bits", "4"]).ok();
    let key = club.home.path().join("club.founder.key");
    assert!(made.stderr.contains("club.founder.key"), "where the key is: {}", made.stderr);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    club.run(&["network", "new", "--name", "club", "--admission", "invitation"]).expect(15);
    fs::write(club.file(), &made.stdout).unwrap();

    // The founder's own node, then three by its invitation, then three by a text of the founder's.
    let text = club.founder_invites("1");
    let door = club.join(Some(&text));
    let with_door = made.text().replace("bootstrap = []", &format!("bootstrap = [\"{door}\"]"));
    assert!(with_door.contains(&door), "{with_door}");
    fs::write(club.file(), with_door).unwrap();
    let texts = [club.invite(&["--data-dir", "n0", "--uses", "3"]), club.founder_invites("3")];
    for text in &texts {
        for _ in 0..3 {
            club.join(Some(text));
        }
    }
    assert_eq!(club.nodes.len(), NODES);

    let owner = Owner::blank(&club.file());
    let mut init = owner.command(["init", "--phrase-file", "phrase"]);
    init.env("CAIRN_INVITATION", club.founder_invites("1"));
    Running::spawn(init, Stdio::null()).finish().ok();
    // From now on nothing is said of it.
    until("the owner knows all nodes", || (known(&owner).len() == NODES).then_some(()));
    let source = owner.place("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), tree::noise("club", 3_000_000)).unwrap();
    owner.backup(&source).stored();
    let target = owner.place("back");
    owner.restore("latest", &target).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));

    let told: Vec<String> = known(&owner).iter().map(|id| owner.run(["peers", "--explain", id]).ok().text()).collect();
    let by_founder = told.iter().filter(|text| text.contains("invited by the founder")).count();
    let by_member = told.iter().filter(|text| text.contains("invited: the founder let in")).count();
    assert_eq!((by_founder, by_member), (4, 3), "{told:#?}");

    strangers(&club, &owner);

    // A member that was away comes back with what it kept.
    club.nodes.truncate(1);
    let back = club.join(None);
    assert!(back.contains("/p2p/"));
}

fn strangers(club: &Club, member: &Owner) {
    let stranger = Owner::blank(&club.file());
    stranger.run(["init", "--phrase-file", "phrase"]).ok();
    fs::write(stranger.place("file"), b"x").unwrap();
    refused(stranger.backup(&stranger.place("file")), "NOT_INVITED");
    refused(stranger.run(["peers", "--json"]), "NOT_INVITED");

    // Somebody else's pass.
    let pass = |owner: &Owner| owner.data_dir().join("pass");
    fs::copy(pass(member), pass(&stranger)).unwrap();
    refused(stranger.backup(&stranger.place("file")), "NOT_INVITED");
    fs::remove_file(pass(&stranger)).unwrap();

    // A text that was used up lets in nobody: the peers say so.
    let text = club.founder_invites("1");
    let with = |owner: &Owner, args: &[&str], text: &str| {
        let mut command = owner.command(args);
        command.env("CAIRN_INVITATION", text);
        Running::spawn(command, Stdio::null()).finish()
    };
    with(&stranger, &["peers", "--json"], &text).ok();
    let second = Owner::blank(&club.file());
    second.run(["init", "--phrase-file", "phrase"]).ok();
    let away = with(&second, &["peers", "--json"], &text).expect(15);
    assert_eq!(away.exit_error()["id"], "TURNED_AWAY", "{}", away.stderr);

    let slip = text.replace("cairn-invite-a", "cairn-invite-b");
    let slip = if slip == text { format!("cairn-invite-a{}", &text["cairn-invite-a".len()..]) } else { slip };
    let wrong = with(&second, &["peers", "--json"], &slip).expect(15);
    assert_eq!(wrong.exit_error()["id"], "INVITATION", "{}", wrong.stderr);
    assert!(!wrong.stderr.contains(&text[20..60]), "the text is not repeated");
}
