//! What is said at the door, in one byte. Numbers are frozen.

use std::fmt;

use cairn_proto::pass::PassError;

/// What became of a pass that was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// Come in.
    Admitted = 0,
    /// None was shown.
    NoPass = 1,
    /// It is no pass, or a signature in it is false.
    False = 2,
    /// It is for another network.
    OtherNetwork = 3,
    /// It was made for another peer.
    OtherPeer = 4,
    /// Its time is over, or the invitation was used too late.
    Expired = 5,
    /// It is dated in the future.
    Ahead = 6,
    /// It was passed on in a way that its inviters do not allow.
    NotAllowed = 7,
    /// The invitation was used by others as often as it may be.
    UsedUp = 8,
    /// It took too long, or the connection broke.
    Late = 9,
}

impl Verdict {
    /// Of a byte; one that a later version may say is a refusal.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Admitted,
            1 => Self::NoPass,
            3 => Self::OtherNetwork,
            4 => Self::OtherPeer,
            5 => Self::Expired,
            6 => Self::Ahead,
            8 => Self::UsedUp,
            9 => Self::Late,
            2 => Self::False,
            _ => Self::NotAllowed,
        }
    }

    /// Of what was shown.
    #[must_use]
    pub fn of(shown: &[u8], judged: &Result<(), PassError>) -> Self {
        match judged {
            Ok(()) => Self::Admitted,
            Err(_) if shown.is_empty() => Self::NoPass,
            Err(PassError::Malformed(_) | PassError::Forged) => Self::False,
            Err(PassError::OtherNetwork) => Self::OtherNetwork,
            Err(PassError::OtherPeer) => Self::OtherPeer,
            Err(PassError::Expired | PassError::UsedLate) => Self::Expired,
            Err(PassError::Ahead) => Self::Ahead,
            Err(PassError::TooDeep | PassError::Circle | PassError::Open) => Self::NotAllowed,
            Err(PassError::UsedUp) => Self::UsedUp,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admitted => "the pass lets it in",
            Self::NoPass => "no pass was shown",
            Self::False => "the pass is false",
            Self::OtherNetwork => "the pass is for another network",
            Self::OtherPeer => "the pass was made for another peer",
            Self::Expired => "the pass expired, or its invitation was used too late",
            Self::Ahead => "the pass is dated in the future",
            Self::NotAllowed => "the pass was passed on in a way that its inviters do not allow",
            Self::UsedUp => "the invitation was used by others as often as it may be",
            Self::Late => "no pass came in time",
        })
    }
}
