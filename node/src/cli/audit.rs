//! `cairn audit`

use std::path::{Path, PathBuf};

use clap::Args;

use crate::{
    failure::{ExitCode, Failure},
    ops::{AuditArgs, AuditTokenArgs, Verb, encode_path},
};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cairn audit                                   the newest snapshot, 20 shards of each holder\n  \
    cairn audit 1a2b3c4d --samples 300            finds a loss of 1 in 100 with 95 %\n  \
    cairn audit --all --full-slots                every shard that was ever given out\n  \
    cairn audit --make-token proof.tokens         for somebody who may see no byte of it\n  \
    cairn audit --token proof.tokens --samples 10 that somebody, with any data folder of the network\n\n\
    What it shows: that a holder can produce random parts of these shards, now. A holder that answers hashes the whole shard \
    and says itself when it is damaged; one that lies has to have the parts that are asked for. It does not show that the bytes \
    lie on that holder's own disk, nor that they will be there tomorrow, nor anything about shards that were not asked for: how \
    large a loss the sample would have met is said with the result. A wrong answer is signed, so it is a proof; it is kept in \
    `evidence/` of the data folder.\n\n\
    What tokens show: the same to somebody who has no key. Each is good for one question, since a holder may keep the answer; \
    which were used is noted in FILE.used. They are believed as far as their maker is: who made them knows the answers, and \
    chose the shards. Tokens open and grant nothing.\n\n\
    Exit codes: 0 all right, 4 some did not answer, 5 something is missing or wrong"
)]
pub(super) struct Audit {
    /// Snapshot: `latest`, or the beginning of its id [default: latest]
    #[arg(value_name = "SNAP", conflicts_with_all = ["all", "token"])]
    snapshot: Option<String>,
    /// Everything in the vault, not one snapshot's
    #[arg(long, conflicts_with = "token")]
    all: bool,
    /// Shards to ask for at each holder [default: 20]; tokens to make [default: 50] or to use [default: all]
    #[arg(long, short = 'n', value_name = "N")]
    samples: Option<u32>,
    /// Ask each holder for every shard
    #[arg(long, conflicts_with_all = ["samples", "token", "make_token"])]
    full_slots: bool,
    /// Make tokens into this new file and ask nobody; fetches a shard (1 MiB) for each
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    make_token: Option<PathBuf>,
    /// Ask with the tokens of this file; needs no vault
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
}

impl Audit {
    pub(super) fn verb(self) -> Result<Verb, Failure> {
        if let Some(file) = &self.token {
            return Ok(Verb::AuditToken(AuditTokenArgs { file: absolute(file)?, samples: self.samples }));
        }
        Ok(Verb::Audit(AuditArgs {
            snapshot: self.snapshot,
            all: self.all,
            samples: self.samples,
            full_slots: self.full_slots,
            make_token: self.make_token.as_deref().map(absolute).transpose()?,
        }))
    }
}

fn absolute(path: &Path) -> Result<String, Failure> {
    std::path::absolute(path).map(|p| encode_path(&p)).map_err(|e| {
        Failure::new(ExitCode::Usage, "USAGE", format!("cannot use the file {}", path.display())).caused_by(&e)
    })
}
