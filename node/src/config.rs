//! Settings from `config.toml`. Flags stand over the environment, the environment over this file, the file over
//! built-in defaults; the merging itself is [`Setting::or`] and stays in one place.
//!
//! An unknown key is an error that names the nearest known one: a setting that is silently ignored is a backup
//! that silently does not happen.

use std::path::{Path, PathBuf};

use cairn_proto::ByteSize;
use serde::Deserialize;

use crate::{
    courtesy::limits::{self, LimitsSection},
    failure::{ExitCode, Failure},
    fallback::{self, FallbackSection},
    timers::{self, TimersSection},
};

#[cfg(test)]
mod tests;

/// Most bytes of a settings file: far above any real one.
const CONFIG_MAX: u64 = 1024 * 1024;

/// Everything that the file may hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FileConfig {
    /// Version of the file's own shape; 1.
    pub version: Option<u32>,
    /// Network file.
    pub network: Option<PathBuf>,
    /// `[node]`: what this machine gives.
    pub node: NodeSection,
    /// `[owner]`: what this machine backs up.
    pub owner: OwnerSection,
    /// `[timers]`: how long everything takes to be noticed and done, for trials.
    pub timers: TimersSection,
    /// `[limits]`: how fast the line may be used, by day and hour.
    pub limits: LimitsSection,
    /// `[[fallback]]`: storage for what the network has nobody for.
    pub fallback: Vec<FallbackSection>,
}

/// The section `[node]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSection {
    /// `storage`, `relay`, `bootstrap`.
    pub roles: Option<Vec<String>>,
    /// Multiaddrs to listen on.
    pub listen: Option<Vec<String>>,
    /// Multiaddrs that lead here from outside, for example through a published port.
    pub external: Option<Vec<String>>,
    /// `CONTINENT/COUNTRY/ZONE`.
    pub region: Option<String>,
    /// File that tells which country an address is in (MaxMind's format).
    pub geoip: Option<PathBuf>,
    /// File that tells which autonomous system it is of.
    pub geoip_asn: Option<PathBuf>,
    /// Operator name; pinned at first start.
    pub domain: Option<String>,
    /// Space given to others.
    pub give: Option<ByteSize>,
    /// Space on the disk that is never used.
    pub keep_free: Option<ByteSize>,
    /// Whether peers on the local network are looked for.
    pub mdns: Option<bool>,
    /// Inbound connections that one /24 or /48 may have here.
    pub inbound_per_subnet: Option<u16>,
}

/// The section `[owner]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OwnerSection {
    /// File with the vault's passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// Patterns that every backup leaves out.
    pub exclude: Option<Vec<String>>,
    /// Host name for snapshots.
    pub host: Option<String>,
    /// What the vault promises: bronze, silver, gold, platinum, or none.
    pub sla: Option<String>,
}

const KEYS: [&str; 17] = [
    "version",
    "network",
    "node.roles",
    "node.listen",
    "node.external",
    "node.region",
    "node.geoip",
    "node.geoip_asn",
    "node.domain",
    "node.give",
    "node.keep_free",
    "node.mdns",
    "node.inbound_per_subnet",
    "owner.passphrase_file",
    "owner.exclude",
    "owner.host",
    "owner.sla",
];

const SECTIONS: [&str; 5] = ["node", "owner", "timers", "limits", "fallback"];

fn known_keys() -> impl Iterator<Item = &'static str> {
    KEYS.iter().chain(timers::KEYS).chain(&limits::KEYS).chain(&fallback::KEYS).copied()
}

impl FileConfig {
    /// Reads the file that was named, or `config.toml` of the data folder when there is one.
    ///
    /// # Errors
    /// A named file is missing, or the text is wrong.
    pub fn load(named: Option<&Path>, data_dir: Option<&Path>) -> Result<Self, Failure> {
        let own = data_dir.map(|dir| dir.join("config.toml")).filter(|path| path.exists());
        let Some(path) = named.or(own.as_deref()) else { return Ok(Self::default()) };
        let wrong = || {
            Failure::new(ExitCode::Usage, "CONFIG", format!("cannot use the settings in {}", path.display()))
                .with_hint("the file is named by --config, CAIRN_CONFIG, or config.toml in the data folder")
        };
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|f| std::io::Read::read_to_string(&mut std::io::Read::take(f, CONFIG_MAX), &mut text))
            .map_err(|e| wrong().caused_by(&e))?;
        Self::parse(&text).map_err(|why| {
            let mut failure = wrong();
            failure.causes.push(why.message);
            if why.hint.is_empty() { failure } else { failure.with_hint(why.hint) }
        })
    }

    /// Reads TOML text.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let table: toml::Table =
            toml::from_str(text).map_err(|e| ConfigError { message: located(text, &e), hint: String::new() })?;
        check_keys(&table, "")?;
        let config: Self = table
            .try_into()
            .map_err(|e: toml::de::Error| ConfigError { message: located(text, &e), hint: String::new() })?;
        match config.version {
            None | Some(1) => Ok(config),
            Some(other) => Err(ConfigError {
                message: format!("version {other} is not known"),
                hint: "this cairn knows version = 1".into(),
            }),
        }
    }
}

/// What TOML says, with the line that it says it of.
fn located(text: &str, error: &toml::de::Error) -> String {
    let message = error.to_string();
    // The first form draws the line with an arrow, the second has no span: both are too much or too little alone.
    let message = if message.starts_with("TOML parse error") { error.message() } else { message.trim() };
    let message = message.replace('\n', " ");
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {}: {message}", before.matches('\n').count() + 1),
        None => message,
    }
}

/// What is wrong with a settings text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// One sentence.
    pub message: String,
    /// What to do; empty when there is nothing to add.
    pub hint: String,
}

fn check_keys(table: &toml::Table, prefix: &str) -> Result<(), ConfigError> {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        if known_keys().any(|known| known == path) {
            continue;
        }
        let section = known_keys().any(|k| k.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('.')));
        match value {
            toml::Value::Table(inner) if section => check_keys(inner, &path)?,
            // What a list of tables should look like is told when it is read.
            toml::Value::Array(list) if section => {
                list.iter().filter_map(toml::Value::as_table).try_for_each(|inner| check_keys(inner, &path))?;
            }
            _ => {
                let near = nearest(&path, value.is_table() || is_list_of_tables(value))
                    .map_or_else(String::new, |n| format!("did you mean `{n}`?"));
                return Err(ConfigError { message: format!("unknown key `{path}`"), hint: near });
            }
        }
    }
    Ok(())
}

fn is_list_of_tables(value: &toml::Value) -> bool {
    value.as_array().is_some_and(|list| list.iter().any(toml::Value::is_table))
}

/// The known key with the fewest edits; `None` when all are too far to be a slip.
fn nearest(path: &str, is_table: bool) -> Option<&'static str> {
    let last = path.rsplit('.').next().unwrap_or(path);
    let known: Vec<&'static str> = if is_table { SECTIONS.to_vec() } else { known_keys().collect() };
    known
        .into_iter()
        .map(|known| {
            let known_last = known.rsplit('.').next().unwrap_or(known);
            (edits(path, known).min(edits(last, known_last) + 1), known)
        })
        .min()
        .filter(|(edits, known)| *edits <= 4.min(known.len() / 2))
        .map(|(_, known)| known)
}

/// Levenshtein distance; both texts are short.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// One setting, by rank: flag or environment (clap merges those two), file, default.
pub struct Setting<T>(Option<T>);

impl<T> Setting<T> {
    /// What the command line or the environment says.
    #[must_use]
    pub fn flag(value: Option<T>) -> Self {
        Self(value)
    }

    /// What the file says, when nothing above it spoke.
    #[must_use]
    pub fn or(self, file: Option<T>) -> Self {
        Self(self.0.or(file))
    }

    /// The built-in value, when nobody spoke.
    #[must_use]
    pub fn or_default(self, default: T) -> T {
        self.0.unwrap_or(default)
    }

    /// The value, if anybody spoke.
    #[must_use]
    pub fn get(self) -> Option<T> {
        self.0
    }
}
