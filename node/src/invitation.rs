//! Our pass in the data folder, and invitations for others.
//!
//! The pass lies in `pass` of the data folder, one line of text. It is no secret, but names who invited us; the folder is ours alone.
//! An invitation's secret is used once and not kept.

use std::{io::Read as _, path::Path};

use cairn_proto::{
    PeerKey, Timestamp,
    network_file::{Admission, NetworkFile},
    pass::{Invitation, LINKS_MAX, LinkKind, Offer, Pass, PassError, Presented, TEXT_MAX},
};
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use crate::{
    data_dir::write_private,
    failure::{ExitCode, Failure},
    ops::SecretText,
};

/// File name in the data folder.
pub const PASS_FILE: &str = "pass";
const HOW: &str = "ask a member for an invitation (`cairn network invite`), then give it once: --invitation TEXT or @FILE, or \
                   CAIRN_INVITATION";

/// What somebody typed: an invitation or a pass, or `@FILE` with one.
///
/// # Errors
/// The file cannot be read.
pub fn read_argument(argument: &str) -> Result<SecretText, Failure> {
    let Some(path) = argument.strip_prefix('@') else { return Ok(SecretText::new(argument.to_owned())) };
    let mut text = String::with_capacity(TEXT_MAX);
    std::fs::File::open(path).and_then(|file| file.take(2 * TEXT_MAX as u64 + 1).read_to_string(&mut text)).map_err(
        |e| {
            Failure::new(ExitCode::NotFound, "INVITATION", format!("cannot read the invitation in {path}"))
                .caused_by(&e)
        },
    )?;
    Ok(SecretText::new(text))
}

fn unusable(why: &(dyn std::error::Error + 'static)) -> Failure {
    let hint = match why.downcast_ref::<PassError>() {
        Some(PassError::OtherNetwork) => "it belongs to another network than the network file here",
        Some(PassError::OtherPeer) => "a pass is for one peer; ask for an invitation, or for a pass for this one",
        Some(PassError::Ahead) => "set this machine's clock, or wait",
        Some(_) => "ask whoever invited you for a new one",
        None => "copy all of it, from `cairn-` to the end",
    };
    Failure::new(ExitCode::Refused, "INVITATION", "this invitation cannot be used").caused_by(why).with_hint(hint)
}

/// The pass that is kept here, whatever it is worth.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn kept(root: &Path) -> Result<Option<Pass>, Failure> {
    let path = root.join(PASS_FILE);
    let damaged = |e: &(dyn std::error::Error + 'static)| {
        let text = format!("the pass in {} cannot be used", path.display());
        Failure::new(ExitCode::Failed, "PASS", text)
            .caused_by(e)
            .with_hint("remove it and ask for a new invitation, or put it back from where you have it")
    };
    let mut text = String::new();
    match std::fs::File::open(&path).and_then(|file| file.take(2 * TEXT_MAX as u64).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(damaged(&e)),
    }
    match Presented::parse(&text) {
        Ok(Presented::Pass(pass)) => Ok(Some(pass)),
        Ok(Presented::Invitation(_)) => Err(damaged(&PassError::Open)),
        Err(e) => Err(damaged(&e)),
    }
}

/// The pass that we show from now on: made of what was given, or kept from before; none in an open network. Whoever gives an invitation
/// again that was used here keeps the pass that it became. The caller holds the folder's lock.
///
/// # Errors
/// None is here, or what was given or kept lets us in nowhere.
pub fn settle(
    root: &Path,
    network: &NetworkFile,
    me: &PeerKey,
    given: Option<&SecretText>,
    now: Timestamp,
) -> Result<Option<Pass>, Failure> {
    if network.admission == Admission::Open {
        if given.is_some() {
            tracing::warn!("this network is open: the invitation is not needed and not looked at");
        }
        return Ok(None);
    }
    let kept = kept(root)?;
    if let Some(given) = given {
        let pass = match Presented::parse(given.expose()).map_err(|e| unusable(&e))? {
            Presented::Pass(pass) => pass,
            Presented::Invitation(invitation) => match &kept {
                Some(pass) if pass.continues(invitation.chain()) && pass.holder() == *me => pass.clone(),
                _ => {
                    invitation.verify(network, now).map_err(|e| unusable(&e))?;
                    invitation.accept(me, now).map_err(|e| unusable(&e))?
                }
            },
        };
        if pass.holder() != *me {
            return Err(unusable(&PassError::OtherPeer));
        }
        pass.verify(network, now).map_err(|e| unusable(&e))?;
        if kept.as_ref() != Some(&pass) {
            write_private(&root.join(PASS_FILE), format!("{}\n", pass.to_text()).as_bytes())?;
        }
        return Ok(Some(pass));
    }
    let refused = |text: String| Failure::new(ExitCode::Refused, "NOT_INVITED", text).with_hint(HOW);
    let Some(pass) = kept else {
        return Err(refused(format!("network {} is by invitation, and this folder has none", network.name)));
    };
    let stands = if pass.holder() == *me { pass.verify(network, now) } else { Err(PassError::OtherPeer) };
    match stands {
        Ok(_) => Ok(Some(pass)),
        Err(e) => Err(refused(format!("network {} is by invitation, and our pass does not let us in", network.name))
            .caused_by(&e)),
    }
}

/// Who invites: the founder, or a member with its pass.
pub enum Inviter {
    /// With the network's own key.
    Founder(SigningKey),
    /// With a node's key, and the pass that let it in.
    Member(SigningKey, Box<Pass>),
}

/// What is offered.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// For this peer; none: for whoever has the text.
    pub peer: Option<PeerKey>,
    /// How often it may be passed on; none: as often as is usual and possible.
    pub depth: Option<u8>,
    /// How many identities a text lets in.
    pub uses: u8,
    /// Milliseconds within which a text is to be used.
    pub use_within: Option<u64>,
    /// Milliseconds after which whoever was let in by it is so no more.
    pub lasts: Option<u64>,
}

/// How often the founder's invitations may be passed on when nothing is said: four texts in a row fill a pass.
const DEPTH_USUAL: u8 = 3;

/// What to hand over.
pub enum Made {
    /// For whoever has it.
    Invitation(Invitation),
    /// For one peer.
    Pass(Pass),
}

impl Made {
    /// As a line of text.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        match self {
            Self::Invitation(invitation) => invitation.to_text(),
            Self::Pass(pass) => Zeroizing::new(pass.to_text()),
        }
    }
}

/// Makes an invitation; `secret` is fresh from the system, for a bearer's key.
///
/// # Errors
/// The network is open, or the inviter may not.
pub fn invite(
    network: &NetworkFile,
    inviter: &Inviter,
    terms: &Terms,
    secret: Zeroizing<[u8; 32]>,
    now: Timestamp,
) -> Result<Made, Failure> {
    if network.admission == Admission::Open {
        let text = format!("network {} is open: everybody with its network file may join", network.name);
        return Err(Failure::new(ExitCode::NothingToDo, "OPEN_NETWORK", text)
            .with_hint("hand out the network file; `cairn network new --admission invitation` makes the other kind"));
    }
    let may_not = |text: &str, hint: &str| {
        Failure::new(ExitCode::Refused, "MAY_NOT_INVITE", format!("this cannot be offered: {text}")).with_hint(hint)
    };
    let (most, room) = match inviter {
        Inviter::Founder(_) => (None, LINKS_MAX),
        Inviter::Member(_, pass) => {
            pass.verify(network, now).map_err(|e| {
                Failure::new(ExitCode::Refused, "NOT_INVITED", "our own pass lets nobody in").caused_by(&e)
            })?;
            let left = pass.depth().checked_sub(1).ok_or_else(|| {
                may_not("our pass may not be passed on", "ask whoever invited this node, or the founder, to invite")
            })?;
            (Some(left), pass.room())
        }
    };
    // A text takes two links: the bearer's and its user's.
    if room < if terms.peer.is_some() { 1 } else { 2 } {
        return Err(may_not("our pass is as long as one may be", "ask somebody nearer to the founder to invite"));
    }
    let depth = match (terms.depth, most) {
        (Some(asked), Some(most)) if asked > most => {
            let text = format!("it may be passed on {most} times at the most");
            return Err(may_not(&text, "leave --depth out, or lower it"));
        }
        (Some(asked), _) => asked,
        (None, most) => most.unwrap_or(DEPTH_USUAL),
    };
    let (kind, invitee, uses, use_by) = match &terms.peer {
        Some(peer) => (LinkKind::Peer, *peer.as_bytes(), 0, None),
        None => (LinkKind::Bearer, Invitation::key_of(&secret), terms.uses, terms.use_within.map(|ms| now.plus_ms(ms))),
    };
    let expires = terms.lasts.map(|ms| now.plus_ms(ms));
    let offer = Offer { depth, uses, issued: now, use_by, expires };
    let made = match inviter {
        Inviter::Founder(key) => Pass::found(network, key, kind, invitee, offer),
        Inviter::Member(key, pass) => pass.extend(key, kind, invitee, offer),
    };
    let wrong_key = |e: PassError| match (e, inviter) {
        (PassError::Forged, Inviter::Founder(_)) => {
            may_not("the key is not the founder's", "name the file that `cairn network new` wrote for this network")
        }
        (PassError::Forged, _) => may_not("our pass is another peer's", "remove it and ask for a new invitation"),
        (e, _) => Failure::new(ExitCode::Usage, "USAGE", "this cannot be offered").caused_by(&e),
    };
    let chain = made.map_err(wrong_key)?;
    match kind {
        LinkKind::Peer => Ok(Made::Pass(chain)),
        LinkKind::Bearer => Invitation::new(chain, secret)
            .map(Made::Invitation)
            .map_err(|e| Failure::new(ExitCode::Failed, "INVITATION", "the invitation cannot be made").caused_by(&e)),
    }
}

#[cfg(test)]
mod tests;
