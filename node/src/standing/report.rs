//! Standing and evidence in words: what `cairn peers` says of a peer, and what a file proves of whom.

use std::{collections::BTreeSet, path::PathBuf};

use cairn_core::{
    audit::{Lie, convict},
    invitations::newcomers_quota,
    reputation::{Reason, Standing},
};
use cairn_proto::{
    PeerKey, Timestamp,
    audit::{
        Evidence, Opened, Verdict, VerdictKind, Vote,
        evidence::EVIDENCE_MAX,
        verdict::{EXCLUDE_DOMAINS_MIN, VERDICT_MAX},
    },
};
use serde::Serialize;

pub use super::talk::Voted;
use crate::audits::auditor::Owing;

/// Most bytes of a file that tells of somebody.
pub const FILE_MAX: usize = if VERDICT_MAX > EVIDENCE_MAX { VERDICT_MAX } else { EVIDENCE_MAX };

/// All that is thought of a peer.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// Who.
    pub peer: PeerKey,
    /// Thousandths.
    pub score: u16,
    /// Whether shards may be placed on it.
    pub eligible: bool,
    /// Whether it is proved to have lied.
    pub convicted: bool,
    /// The file that proves it, when it is here.
    pub evidence: Option<PathBuf>,
    /// Every figure, in words.
    pub lines: Vec<String>,
    /// What it is sure to have had and did not show when this node asked last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owing: Vec<Owing>,
    /// Every figure. Times are as figures go by them: in a trial with faster timers a round is a day.
    pub why: Vec<Reason>,
    /// Who let it in, in a network by invitation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invited: Option<Invited>,
    /// Who votes to exclude it, when somebody does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voted: Option<Voted>,
}

/// Who let a peer in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Invited {
    /// The one who did last, then who let that one in; empty: the founder did.
    pub by: Vec<PeerKey>,
    /// How many of those whom the last one let in are proved to have lied.
    pub convicted: usize,
}

impl Explained {
    /// With who let it in, down from the founder.
    #[must_use]
    pub(super) fn with_inviters(mut self, invited: Option<Invited>) -> Self {
        let Some(invited) = invited else { return self };
        let mut line = "invited by the founder".to_owned();
        if !invited.by.is_empty() {
            let names: Vec<String> = invited.by.iter().rev().map(ToString::to_string).collect();
            line = format!("invited: the founder let in {}, who let it in", names.join(", who let in "));
        }
        self.lines.push(line);
        if invited.convicted > 0 {
            let quota = |why: &Reason| if let Reason::Quota { quota, .. } = why { Some(*quota) } else { None };
            let begins = newcomers_quota(self.why.iter().find_map(quota).unwrap_or(1000), invited.convicted);
            self.lines.push(format!(
                "its inviter let in {} that are proved to have lied: while it is new, 0.{begins:03} of what it offers may be used; that is \
                 no word against it or its inviter",
                invited.convicted
            ));
        }
        self.invited = Some(invited);
        self
    }

    /// With what audits of this node hold against it.
    #[must_use]
    pub fn with_audits(mut self, owing: Vec<Owing>) -> Self {
        self.lines.extend(owing.iter().map(ToString::to_string));
        self.owing = owing;
        self
    }

    /// With who votes to exclude it. Votes that made a verdict say so themselves; of others it is said why they do not count.
    #[must_use]
    pub(super) fn with_votes(mut self, voted: Option<Voted>) -> Self {
        let Some(Voted { peers, domains, of }) = voted.filter(|_| !self.convicted) else { return self };
        let mut line = format!("{peers} peers of {domains} of {of} domains vote to exclude it; a domain has one vote");
        if !self.why.iter().any(|why| matches!(why, Reason::Excluded { .. })) {
            line += &format!(
                ", and it takes more than two thirds of a panel that we draw, {EXCLUDE_DOMAINS_MIN} at the least: that is not so, and \
                 nothing follows"
            );
        }
        self.lines.push(line);
        self.voted = voted;
        self
    }

    pub(super) fn new(
        peer: PeerKey,
        standing: &Standing,
        evidence: Option<PathBuf>,
        real: impl Fn(Timestamp) -> Timestamp,
    ) -> Self {
        let mut lines: Vec<String> = standing.explain().into_iter().take(1).collect();
        lines.extend(standing.why.iter().map(|why| match why {
            Reason::Excluded { votes, until } => format!("excluded by {votes} votes until {}", date(real(*until))),
            Reason::Suspected { votes, until, .. } => {
                format!("suspected by {votes} votes until {}", date(real(*until)))
            }
            Reason::Quota { .. } => format!("{why} in a day while it is new, where enough older peers are known"),
            _ => why.to_string(),
        }));
        if let Some(path) = &evidence {
            lines.push(format!("the proof is {}", path.display()));
            lines.push(format!("anybody can check it: cairn peers --verify {}", path.display()));
        }
        let convicted = standing.why.iter().any(|why| matches!(why, Reason::Convicted { .. }));
        let (score, eligible, why) = (standing.score, standing.eligible, standing.why.clone());
        Self { peer, score, eligible, convicted, evidence, lines, owing: Vec::new(), why, invited: None, voted: None }
    }
}

/// Against whom a proof would be: the signer of what is said to be a lie. Nothing is verified.
pub(super) fn accused(evidence: &Evidence) -> Option<PeerKey> {
    match evidence {
        Evidence::WrongAnswer { answer: word, .. } | Evidence::Equivocation { first: word, .. } => {
            PeerKey::from_slice(&word.signer).ok()
        }
        Evidence::Silence { .. } | Evidence::SelfReport { .. } => None,
    }
}

/// What a file says of whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// `proof`, `word` (somebody's, or the peer's own), `verdict` or `nothing`.
    pub kind: &'static str,
    /// Whether it proves a lie by itself.
    pub proves: bool,
    /// Of whom.
    pub subject: Option<PeerKey>,
    /// In plain words.
    pub lines: Vec<String>,
}

/// Checks a file of evidence or a verdict by itself: no network, no clock, nobody's word.
#[must_use]
pub fn check(file: &[u8]) -> Checked {
    match (Evidence::decode(file), Verdict::decode(file)) {
        (Ok(evidence), _) => check_evidence(&evidence),
        (_, Ok(verdict)) => check_verdict(&verdict),
        (Err(error), Err(_)) => nothing(&format!("it is no file of evidence and no verdict: {error}")),
    }
}

fn nothing(why: &str) -> Checked {
    let lines = vec!["This file proves nothing of anybody.".to_owned(), why.to_owned()];
    Checked { kind: "nothing", proves: false, subject: None, lines }
}

fn check_evidence(evidence: &Evidence) -> Checked {
    let said = |kind, subject, lines| Checked { kind, proves: false, subject: Some(subject), lines };
    match evidence.open() {
        Err(error) => nothing(&format!("{error}")),
        Ok(Opened::Silence { challenge, report }) => said(
            "word",
            challenge.holder,
            vec![
                format!("By the word of {}, peer {} did not answer it in time.", report.reporter, challenge.holder),
                "That is a complaint and proves nothing by itself: who says so may be wrong, or cut off, or lie."
                    .to_owned(),
            ],
        ),
        Ok(Opened::SelfReport { answer, .. }) => said(
            "word",
            answer.holder,
            vec![
                format!("Peer {} says itself that it has not got a shard that it was asked for.", answer.holder),
                "That is an admission and no lie.".to_owned(),
            ],
        ),
        Ok(Opened::WrongAnswer { .. } | Opened::Equivocation { .. }) => match convict(evidence) {
            Err(error) => nothing(&format!("{error}")),
            Ok(conviction) => {
                let did = match conviction.lie() {
                    Lie::WrongAnswer => "it signed an answer to an audit that is not of the shard it was asked for",
                    Lie::Equivocation => "it signed two statements on one question that cannot both be true",
                };
                let lines = vec![
                    format!("This proves that peer {} lied: {did}.", conviction.subject()),
                    "The signatures are its own; nobody else could have made this file, and nobody needs to be trusted.".to_owned(),
                    format!("Evidence {}.", conviction.evidence()),
                ];
                Checked { kind: "proof", proves: true, subject: Some(*conviction.subject()), lines }
            }
        },
    }
}

fn check_verdict(verdict: &Verdict) -> Checked {
    let subject = verdict.matter.subject;
    let mut voters = BTreeSet::new();
    for signed in &verdict.votes {
        match Vote::open(signed) {
            Err(error) => return nothing(&format!("a vote in it does not verify: {error}")),
            Ok(vote) if vote.matter != verdict.matter || !vote.against || vote.voter == subject => {
                return nothing(&format!("the vote of {} is on something else", vote.voter));
            }
            Ok(vote) => drop(voters.insert(vote.voter)),
        }
    }
    let what = match verdict.matter.kind {
        VerdictKind::Suspect => "suspect",
        VerdictKind::Exclude => "exclude",
    };
    let lines = vec![
        format!("{} peers signed that they {what} peer {subject}, in round {}.", voters.len(), verdict.matter.round),
        format!(
            "That is their word and no proof. Each node reckons by its own book whether they were drawn and are of enough domains, {} at \
             the least to exclude; then it follows for a while, and its own experience goes before.",
            EXCLUDE_DOMAINS_MIN
        ),
    ];
    Checked { kind: "verdict", proves: false, subject: Some(subject), lines }
}

fn date(at: Timestamp) -> String {
    let time = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| at.0.to_string(), |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string())
}
