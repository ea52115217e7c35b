//! Where a chain stopped, by the words of its helpers.

use super::wire::Break;

/// What a helper said when its part was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// It passed everything on, and the next one took it.
    Done,
    /// It stopped.
    Broken(Break),
    /// Its stream ended, or it said nothing that can be understood.
    Gone,
}

/// Which helper of the chain it stopped at, by their words in the chain's order; `None` for those that have not spoken. `Err` names the
/// one whose word is needed to tell; when it does not come in time, it is that one.
///
/// Whoever says that the next one stopped taking is believed as far as that one's word goes: it may only have passed on what it
/// suffered itself. A broken line between two looks like the later of them. A liar can point at its neighbour, so this costs standing
/// and brings another order, and convicts nobody (TRUST-1).
pub fn stopped_at(words: &[Option<Word>]) -> Result<usize, usize> {
    let Some(mut at) = words.iter().position(|word| *word != Some(Word::Done)) else {
        // All say that it went through, and nothing came: the last one sent it nowhere.
        return Ok(words.len().saturating_sub(1));
    };
    while words[at].ok_or(at)? == Word::Broken(Break::Next) && at + 1 < words.len() {
        at += 1;
        if words[at] == Some(Word::Done) {
            return Ok(at);
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_stopped_is_found() {
        let (done, gone) = (Some(Word::Done), Some(Word::Gone));
        let (next, previous) = (Some(Word::Broken(Break::Next)), Some(Word::Broken(Break::Previous)));
        let own = Some(Word::Broken(Break::Own));
        let cases = [
            // The third went away: those before cannot go on, those after get nothing.
            ([next, next, gone, previous, previous], Ok(2)),
            // It took everything and passed nothing on.
            ([done, done, gone, previous, previous], Ok(2)),
            ([done, done, own, previous, previous], Ok(2)),
            ([next, next, None, previous, previous], Err(2)),
            // Somebody later says it first.
            ([None, None, None, previous, previous], Err(0)),
            ([next, None, None, previous, previous], Err(1)),
            // The line between the second and the third.
            ([next, next, previous, previous, previous], Ok(2)),
            ([gone, previous, previous, previous, previous], Ok(0)),
            // The last one does not reach the new holder.
            ([next, next, next, next, next], Ok(4)),
            ([done, done, done, done, done], Ok(4)),
            ([next, done, done, done, done], Ok(1)),
        ];
        for (words, expected) in cases {
            assert_eq!(stopped_at(&words), expected, "{words:?}");
        }
    }
}
