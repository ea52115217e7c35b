//! `cairn network new`, `invite`

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use cairn_proto::{
    PeerKey,
    network_file::{Admission, NetworkFile},
    pass::{DEPTH_MAX, USES_MAX},
};
use clap::{Args, Subcommand, ValueEnum};
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use super::{Context, node::parse_time, render};
use crate::{
    data_dir::DataDir,
    failure::{ExitCode, Failure},
    identity::Identity,
    invitation::{self, Inviter, Made, Terms},
};

/// An invitation's text is good for a week when nobody says otherwise.
const USE_WITHIN_MS: u64 = 7 * 24 * 3600 * 1000;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a new network and print its network file
    #[command(after_help = "Examples:\n  cairn network new --name home > network.toml\n  \
        cairn network new --name club --admission invitation > club.toml\n  \
        cairn network new --name club --puzzle-bits 20 --founder-key-file founder.key \\\n      \
        --bootstrap /dns/boot.example.org/tcp/4001/p2p/12D3.. > network.toml\n\n\
        Into a network by invitation comes whoever was invited by its founder, or by somebody who was. The founder's key is written to \
        a file then: keep it, nobody can make it again.")]
    New(New),
    /// Invite somebody into a network by invitation, as its founder or as a member; prints one line of text
    #[command(after_help = "Examples:\n  cairn network invite --network club.toml --founder-key club.founder.key\n  \
        cairn network invite --data-dir /srv/cairn --uses 3 --expires 2d\n  \
        cairn network invite --for 1a2b3c...              no secret: it lets in this peer and nobody else\n\n\
        Whoever has the text may use it, so hand it over as you would a key. Who got it gives it once, with --invitation TEXT or @FILE, \
        to `cairn node run`, or to `cairn init` for an owner.")]
    Invite(Invite),
}

/// Who may take part.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Door {
    /// Everybody with the network file
    Open,
    /// Whoever the founder or a member invited
    Invitation,
}

#[derive(Debug, Args)]
pub(super) struct New {
    /// What people call it: letters, digits, . _ -
    #[arg(long)]
    name: String,
    /// Who may take part
    #[arg(long, value_enum, default_value_t = Door::Open)]
    admission: Door,
    /// Leading zero bits that a peer's key must have: the price of joining (2^B key pairs)
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u8).range(0..=24))]
    puzzle_bits: u8,
    /// Address with /p2p/PEERID that newcomers dial first; may be given several times, and edited later
    #[arg(long, value_name = "MULTIADDR")]
    bootstrap: Vec<libp2p::Multiaddr>,
    /// Write the founder's secret key to this new file (0600) [default: NAME.founder.key for a network by invitation; without it, the key
    /// of an open one is forgotten and the file can never be re-issued]
    #[arg(long, value_name = "FILE")]
    founder_key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Invite {
    /// File with the founder's key [default: this node invites, with its own key and pass]
    #[arg(long, value_name = "FILE")]
    founder_key: Option<PathBuf>,
    /// Only this peer (64 hex digits, as `cairn status` shows them): the text is a pass and no secret
    #[arg(long = "for", value_name = "PEER", conflicts_with_all = ["uses", "expires"])]
    peer: Option<PeerKey>,
    /// By when the text is to be used, as 2h or 7d [default: 7d]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    expires: Option<u64>,
    /// How many peers it lets in
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(USES_MAX)))]
    uses: u8,
    /// For how long whoever comes by it may stay, and everybody that it invites [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    lasts: Option<u64>,
    /// How often it may be passed on: 0 lets nobody else in [default: 3, or one less than our own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=i64::from(DEPTH_MAX)))]
    depth: Option<u8>,
}

pub(super) fn run(context: &Context, command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::New(new) => self::new(context, new),
        Command::Invite(invite) => self::invite(context, invite),
    }
}

fn new(context: &Context, new: &New) -> Result<ExitCode, Failure> {
    let founder = founder_key()?;
    let admission = match new.admission {
        Door::Open => Admission::Open,
        Door::Invitation => Admission::Invitation,
    };
    let bootstrap = new.bootstrap.iter().map(ToString::to_string).collect();
    let network = make_with(&new.name, new.puzzle_bits, admission, &founder, bootstrap)?;
    // Without its founder's key nobody is ever let into a network by invitation.
    let usual = (admission == Admission::Invitation).then(|| PathBuf::from(format!("{}.founder.key", new.name)));
    if let Some(path) = new.founder_key_file.clone().or(usual) {
        write_founder_key(&path, &founder)?;
        if !context.global.quiet {
            render::note(&format!("the founder's key is in {}: keep it, nobody can make it again", path.display()));
        }
    }
    let text = if context.global.json {
        serde_json::to_string(&network).unwrap_or_default() + "\n"
    } else {
        network.to_toml()
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|e| Failure::new(ExitCode::Failed, "OUTPUT", "cannot write the network file").caused_by(&e))?;
    Ok(ExitCode::Success)
}

/// To a new file: whoever writes over a founder's key has lost a network.
fn write_founder_key(path: &Path, founder: &SigningKey) -> Result<(), Failure> {
    if path.symlink_metadata().is_ok() {
        return Err(Failure::new(ExitCode::Refused, "EXISTS", format!("{} is there already", path.display()))
            .with_hint("name another with --founder-key-file; it may be the key of another network"));
    }
    let hex: Zeroizing<String> = Zeroizing::new(founder.to_bytes().iter().map(|b| format!("{b:02x}")).collect());
    crate::data_dir::write_private(path, hex.as_bytes())
}

fn read_founder_key(path: &Path) -> Result<SigningKey, Failure> {
    let wrong = || {
        Failure::new(
            ExitCode::WrongSecret,
            "FOUNDER_KEY",
            format!("cannot use the founder's key in {}", path.display()),
        )
        .with_hint("`cairn network new` wrote it: 64 hexadecimal digits")
    };
    // No founder's key has a kilobyte.
    let mut text = Zeroizing::new(String::with_capacity(1024));
    let file = std::fs::File::open(path).map_err(|e| wrong().caused_by(&e))?;
    std::io::Read::read_to_string(&mut std::io::Read::take(file, 1024), &mut text)
        .map_err(|e| wrong().caused_by(&e))?;
    let seed = crate::identity::parse_seed(text.trim()).ok_or_else(wrong)?;
    Ok(SigningKey::from_bytes(&seed))
}

fn invite(context: &Context, invite: &Invite) -> Result<ExitCode, Failure> {
    let root = context.data_dir();
    let dir = || DataDir::find(&root.clone()?);
    let network = match context.network() {
        Some(path) => crate::data_dir::read_network(path)?,
        None => dir()?.ok_or_else(crate::data_dir::no_network)?.network(None)?,
    };
    let inviter = match &invite.founder_key {
        Some(path) => Inviter::Founder(read_founder_key(path)?),
        None => {
            let none = || {
                Failure::new(
                    ExitCode::NotFound,
                    "NO_PASS",
                    "no founder's key is named, and this folder has no pass to invite with",
                )
                .with_hint("name the key with --founder-key FILE, or the data folder of a member with --data-dir")
            };
            let dir = dir()?.ok_or_else(none)?;
            let pass = invitation::kept(dir.root())?.ok_or_else(none)?;
            let identity = Identity::load(dir.root(), &network).map_err(|e| none().caused_by(&e))?;
            Inviter::Member(identity.signing_key().clone(), Box::new(pass))
        }
    };
    let terms = Terms {
        peer: invite.peer,
        depth: invite.depth,
        uses: invite.uses,
        use_within: Some(invite.expires.unwrap_or(USE_WITHIN_MS)),
        lasts: invite.lasts,
    };
    let mut secret = Zeroizing::new([0u8; 32]);
    getrandom::fill(secret.as_mut()).map_err(|e| no_entropy(&e))?;
    let now = crate::vault::now();
    let made = invitation::invite(&network, &inviter, &terms, secret, now)?;
    let text = made.to_text();
    let shown = if context.global.json {
        let chain = match &made {
            Made::Invitation(invitation) => invitation.chain(),
            Made::Pass(pass) => pass,
        };
        let bearer = matches!(made, Made::Invitation(_));
        let summary = serde_json::json!({
            "network": network.id,
            "invitation": text.as_str(),
            "for": invite.peer,
            "uses": bearer.then_some(invite.uses),
            "use_by_ms": terms.use_within.filter(|_| bearer).map(|ms| now.plus_ms(ms).0),
            "expires_ms": terms.lasts.map(|ms| now.plus_ms(ms).0),
            "depth": chain.depth(),
        });
        render::try_line(&render::json_summary("network invite", &summary))
    } else {
        render::try_line(&text)
    };
    shown.map_err(|e| Failure::new(ExitCode::Failed, "OUTPUT", "cannot print the invitation").caused_by(&e))?;
    Ok(ExitCode::Success)
}

fn no_entropy(error: &getrandom::Error) -> Failure {
    Failure::new(ExitCode::Failed, "ENTROPY", "the system gives no random bytes").caused_by(error)
}

/// A fresh founder key.
pub(crate) fn founder_key() -> Result<SigningKey, Failure> {
    let mut seed = Zeroizing::new([0u8; 32]);
    getrandom::fill(seed.as_mut()).map_err(|e| no_entropy(&e))?;
    Ok(SigningKey::from_bytes(&seed))
}

/// A signed network file, of a network that is open.
pub(crate) fn make(
    name: &str,
    puzzle_bits: u8,
    founder: &SigningKey,
    bootstrap: Vec<String>,
) -> Result<NetworkFile, Failure> {
    make_with(name, puzzle_bits, Admission::Open, founder, bootstrap)
}

fn make_with(
    name: &str,
    puzzle_bits: u8,
    admission: Admission,
    founder: &SigningKey,
    bootstrap: Vec<String>,
) -> Result<NetworkFile, Failure> {
    let mut network = NetworkFile::create_with(name, puzzle_bits, admission, founder)
        .map_err(|e| Failure::new(ExitCode::Usage, "NETWORK_FILE", "cannot make this network").caused_by(&e))?;
    network.bootstrap = bootstrap;
    Ok(network)
}
