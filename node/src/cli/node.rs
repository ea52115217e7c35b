//! `cairn node run`, `leave`, `health`, `pause`, `resume`

use std::path::PathBuf;

use cairn_proto::{ByteSize, Domain, Region, message::Roles};
use clap::{Args, Subcommand};
use libp2p::Multiaddr;

use super::{Context, execute, render::Renderer};
use crate::{
    api::client::DaemonClient,
    config::Setting,
    courtesy::{self, Pause},
    daemon::{self, NodeSettings, folder, service::pause_summary},
    data_dir::DataDir,
    failure::{ExitCode, Failure},
    ops::{Event, LeaveArgs, PauseArgs, Verb},
    timers::Timers,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a node in the foreground; prints `listening MULTIADDR/p2p/PEERID` once ready, ends on SIGTERM
    #[command(after_help = "Examples:\n  cairn node run --network network.toml --give 500GB --region EU/DE/FSN\n  \
        cairn node run --roles storage,relay,bootstrap --listen /ip4/0.0.0.0/tcp/4001 --domain acme\n  \
        cairn node run --network club.toml --invitation @invitation.txt\n\n\
        For trials, CAIRN_TIMERS_SCALE or `scale` in the settings' section [timers] shortens by one factor how long a silent peer \
        is waited for and everything that follows from it (0.001: a week becomes ten minutes); the section may also name \
        single timers in seconds, as `home_gone = 3600`.")]
    Run(Run),
    /// Have what this node holds taken over by others before it goes for good; Ctrl-C ends the view only, the plan stands
    #[command(
        after_help = "Examples:\n  cairn node leave --in 24h\n  cairn node leave                 how far it is\n  \
        cairn node leave --cancel        stay after all\n  cairn node leave --now --yes     at once, the others rebuild\n\n\
        From now on the node takes no new shards. The stewards of what it holds have it copied; the node asks them how far they \
        are, also after a restart, and serves until it is stopped. Ends with 0 when nothing is lost by going, with 4 when the \
        time came before that."
    )]
    Leave(Leave),
    /// How this node does as a holder: disk, reachability, clock, stewards, losses
    #[command(
        after_help = "Examples:\n  cairn node health\n  cairn node health --json\n\nEnds with 0 when all is fine; with 1 \
        when the clock is wrong, 5 when shards are damaged, 13 when nobody is reached, 14 when the disk is full (the gravest first)."
    )]
    Health,
    /// Serve nobody and take no part in background work for a while; own backups and restores go on
    #[command(
        after_help = "Examples:\n  cairn node pause --for 2h\n  cairn node pause          until `cairn node resume`\n\n\
        Peers that ask are told to come again, new shards go elsewhere, and what stewards ask is answered, so that nobody takes this \
        node for dead. A pause outlives a restart; `cairn status` shows it."
    )]
    Pause(Pausing),
    /// End a pause
    #[command(after_help = "Examples:\n  cairn node resume\n  cairn node resume --data-dir /srv/cairn")]
    Resume,
}

#[derive(Debug, Args)]
pub(super) struct Leave {
    /// When: a number with s, m, h or d, at most 30d [default: 24h]
    #[arg(long = "in", value_name = "TIME", value_parser = parse_ahead, conflicts_with_all = ["now", "cancel"])]
    within: Option<u64>,
    /// At once: says what it costs the others, and asks for --yes
    #[arg(long, conflicts_with = "cancel")]
    now: bool,
    /// Stay after all
    #[arg(long)]
    cancel: bool,
    /// Do what --now says
    #[arg(long)]
    yes: bool,
}

/// A time to leave in, in milliseconds.
fn parse_ahead(text: &str) -> Result<u64, String> {
    let ms = parse_time(text)?;
    if ms > cairn_core::steward::LEAVE_AHEAD_MS { Err("it is at most 30d".to_owned()) } else { Ok(ms) }
}

#[derive(Debug, Args)]
pub(super) struct Pausing {
    /// How long: 90s, 30m, 2h, 3d [default: until `cairn node resume`]
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
    for_ms: Option<u64>,
}

/// A number with its unit, in milliseconds: a second to a year.
pub(super) fn parse_time(text: &str) -> Result<u64, String> {
    const SECOND: u64 = 1000;
    const YEAR: u64 = 365 * 24 * 3600 * SECOND;
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit.trim() {
        "s" => SECOND,
        "m" | "min" => 60 * SECOND,
        "h" => 3600 * SECOND,
        "d" => 24 * 3600 * SECOND,
        _ => return Err("write it as 90s, 30m, 2h or 3d".to_owned()),
    };
    let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    ms.filter(|ms| (SECOND..=YEAR).contains(ms)).ok_or_else(|| "from a second to a year".to_owned())
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// What the node does: storage, relay, bootstrap [default: storage]
    #[arg(long, env = "CAIRN_ROLES", value_delimiter = ',', value_name = "ROLE")]
    roles: Vec<String>,
    /// Address to listen on; may be given several times [default: TCP and QUIC, any port]
    #[arg(long, env = "CAIRN_LISTEN", value_delimiter = ',', value_name = "MULTIADDR")]
    listen: Vec<Multiaddr>,
    /// Address that leads here from outside, as through a published port; may be given several times
    #[arg(long, env = "CAIRN_EXTERNAL", value_delimiter = ',', value_name = "MULTIADDR")]
    external: Vec<Multiaddr>,
    /// Where the node is: CONTINENT/COUNTRY/ZONE
    #[arg(long, env = "CAIRN_REGION")]
    region: Option<String>,
    /// File that tells which country an address is in (MaxMind's format): for the node's own region, and other peers'
    #[arg(long, env = "CAIRN_GEOIP", value_name = "FILE")]
    geoip: Option<PathBuf>,
    /// The same for autonomous systems
    #[arg(long, env = "CAIRN_GEOIP_ASN", value_name = "FILE")]
    geoip_asn: Option<PathBuf>,
    /// Who runs it; all nodes of one operator say the same. Pinned at first start
    #[arg(long, env = "CAIRN_DOMAIN", value_name = "NAME")]
    domain: Option<String>,
    /// Space given to others [default: a fifth of what is free on the disk]
    #[arg(long, env = "CAIRN_GIVE", value_name = "SIZE")]
    give: Option<ByteSize>,
    /// Space on the disk that is never touched [default: a twentieth of the disk, at most 10 GiB]
    #[arg(long, env = "CAIRN_KEEP_FREE", value_name = "SIZE")]
    keep_free: Option<ByteSize>,
    /// Do not look for peers on the local network
    #[arg(long)]
    no_mdns: bool,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<ExitCode, Failure> {
    let run = match command {
        Command::Run(run) => run,
        Command::Health => return execute::verb(context, Verb::Health).await,
        Command::Leave(Leave { within, now, cancel, yes }) => {
            return execute::verb(context, Verb::Leave(LeaveArgs { in_ms: within, now, cancel, yes })).await;
        }
        Command::Pause(pausing) => return pause(context, Some(PauseArgs { for_ms: pausing.for_ms })).await,
        Command::Resume => return pause(context, None).await,
    };
    let file = &context.config.node;
    let usage = |what: &str, e: &(dyn std::error::Error + 'static)| {
        Failure::new(ExitCode::Usage, "USAGE", format!("cannot use this {what}")).caused_by(e)
    };
    let named = (!run.roles.is_empty()).then_some(run.roles);
    let roles = parse_roles(&Setting::flag(named).or(file.roles.clone()).or_default(vec!["storage".to_owned()]))?;
    let parsed = |texts: &Option<Vec<String>>, what: &str| {
        let parse = |texts: &Vec<String>| texts.iter().map(|t| t.parse()).collect::<Result<Vec<Multiaddr>, _>>();
        texts.as_ref().map(parse).transpose().map_err(|e| usage(what, &e))
    };
    let listen = Setting::flag((!run.listen.is_empty()).then_some(run.listen)).or(parsed(&file.listen, "listen")?);
    let external =
        Setting::flag((!run.external.is_empty()).then_some(run.external)).or(parsed(&file.external, "external")?);
    let region = Setting::flag(run.region).or(file.region.clone()).get();
    let domain = Setting::flag(run.domain).or(file.domain.clone()).get();
    let settings = NodeSettings {
        roles,
        listen: listen.or_default(daemon::default_listen()),
        external: external.or_default(Vec::new()),
        region: region.map_or(Ok(Region::unknown()), Region::new).map_err(|e| usage("region", &e))?,
        geoip: Setting::flag(run.geoip).or(file.geoip.clone()).get(),
        geoip_asn: Setting::flag(run.geoip_asn).or(file.geoip_asn.clone()).get(),
        domain: domain.map(|name| Domain::operator(&name)).transpose().map_err(|e| usage("domain", &e))?,
        give: Setting::flag(run.give).or(file.give).get(),
        keep_free: Setting::flag(run.keep_free).or(file.keep_free).get(),
        mdns: !run.no_mdns && file.mdns.unwrap_or(true),
        inbound_per_subnet: file.inbound_per_subnet,
        timers: timers(context)?,
        timetable: context.timetable()?,
        fallback: context.fallback()?,
        invitation: context.invitation()?,
        needs_pass: true,
    };
    let dir = DataDir::open(&context.data_dir()?)?;
    let network = dir.network(context.network())?;
    daemon::run(dir, network, settings, context.cancel.clone(), |address| {
        super::render::line(&format!("listening {address}"));
    })
    .await?;
    Ok(ExitCode::Success)
}

/// By the node that runs, or in the folder of one that does not: it will be paused when it runs.
async fn pause(context: &Context, args: Option<PauseArgs>) -> Result<ExitCode, Failure> {
    let root = context.data_dir()?;
    let dir = DataDir::find(&root)?.ok_or_else(|| folder::no_store(&root))?;
    if DaemonClient::find(&dir.socket()).await.is_some() {
        return execute::verb(context, args.map_or(Verb::Resume, Verb::Pause)).await;
    }
    let _lock = dir.lock("node pause")?;
    let pause = args.map(|args| Pause::lasting(args.for_ms, crate::vault::now()));
    courtesy::write_pause(dir.root(), pause)?;
    let mut renderer = Renderer::new(context.output(), false);
    renderer.show(&Event::Summary { verb: "pause".into(), summary: pause_summary(pause, false) });
    renderer.finish();
    Ok(ExitCode::Success)
}

/// `[timers]` of the settings, under the environment's factor.
fn timers(context: &Context) -> Result<Timers, Failure> {
    let wrong = |e: &(dyn std::error::Error + 'static)| {
        Failure::new(ExitCode::Usage, "USAGE", "cannot use these timers").caused_by(e)
    };
    let factor = std::env::var("CAIRN_TIMERS_SCALE").ok().map(|text| text.trim().parse::<f64>()).transpose();
    let factor = factor.map_err(|e| wrong(&e).with_hint("CAIRN_TIMERS_SCALE is a factor, as 0.001"))?;
    Timers::new(&context.config.timers, factor).map_err(|e| wrong(&e))
}

fn parse_roles(names: &[String]) -> Result<Roles, Failure> {
    names.iter().try_fold(Roles::NONE, |roles, name| match name.trim() {
        "storage" => Ok(roles.with(Roles::STORAGE)),
        "relay" => Ok(roles.with(Roles::RELAY)),
        "bootstrap" => Ok(roles.with(Roles::BOOTSTRAP)),
        other => Err(Failure::new(ExitCode::Usage, "USAGE", format!("there is no role `{other}`"))
            .with_hint("roles are storage, relay and bootstrap")),
    })
}
