//! The parties of the chain: helpers, and the new holder at its end.

use cairn_proto::{ShardRoot, Slot};

use super::{
    BlindError, SLICE_SIZE, SLICES,
    ledger::Admitted,
    masks::{EphemeralSecret, Masks, Part},
    session::Session,
};
use crate::{
    erasure::{Codec, combine},
    shard_buffer::ShardBuffer,
    stripe::root_of,
};

/// A holder that lends its shard to a rebuild.
///
/// Slices go in order, each exactly once: one mask for two different slices would show their difference. A helper that
/// cannot go on is dropped, and the rebuild begins anew with another session.
pub struct Helper {
    coefficient: u8,
    first: bool,
    masks: Masks,
    next: usize,
}

impl Helper {
    /// Agrees with the other parties. `codec` is the group's, by its ticket.
    ///
    /// # Errors
    /// When the session is not what it should be, or the key of one party is not.
    pub fn new(admitted: Admitted, codec: &Codec, secret: EphemeralSecret) -> Result<Self, BlindError> {
        let (session, slot) = admitted.into_parts();
        session.check(codec)?;
        let masks = Masks::agree(&session, &session.id(), slot, &secret)?;
        Self::with(&session, slot, masks)
    }

    /// With masks of any origin.
    pub(super) fn with(session: &Session, slot: Slot, masks: Masks) -> Result<Self, BlindError> {
        let coefficient = Part::of(session, slot).and_then(|part| part.coefficient);
        let coefficient = coefficient.ok_or(BlindError::NoPart { slot })?;
        let first = session.links().first().is_some_and(|link| link.slot == slot);
        Ok(Self { coefficient, first, masks, next: 0 })
    }

    /// Passes a slice on: `out` = `incoming` + coefficient x `own` + all masks. `incoming` is the sum of those before us, `None`
    /// for the first of the chain; `own` is that slice of our shard. After an error nothing was written, and the same
    /// slice is still due.
    ///
    /// # Errors
    /// [`BlindError::Slice`], [`BlindError::Length`] or [`BlindError::Incoming`].
    pub fn pass(
        &mut self,
        slice: usize,
        incoming: Option<&[u8]>,
        own: &[u8],
        out: &mut [u8],
    ) -> Result<(), BlindError> {
        due(self.next, slice)?;
        for found in [Some(own.len()), incoming.map(<[u8]>::len), Some(out.len())].into_iter().flatten() {
            length(found)?;
        }
        match incoming {
            None if self.first => combine(&[self.coefficient], &[own], &mut [&mut *out]),
            Some(incoming) if !self.first => combine(&[1, self.coefficient], &[incoming, own], &mut [&mut *out]),
            _ => return Err(BlindError::Incoming),
        }
        self.masks.add(slice, out);
        self.next += 1;
        Ok(())
    }

    /// Whether every slice was passed on.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.next == SLICES
    }
}

/// Who is to hold the rebuilt shard. Its bytes come out of [`NewHolder::finish`] only, when their root is right.
pub struct NewHolder {
    root: ShardRoot,
    masks: Masks,
    shard: ShardBuffer,
    next: usize,
}

impl NewHolder {
    /// Agrees with the helpers. `codec` is the group's, by its ticket; `root` is the lost shard's, by the owner-signed
    /// record.
    ///
    /// # Errors
    /// When the session is not what it should be, or the key of one party is not.
    pub fn new(
        admitted: Admitted,
        codec: &Codec,
        secret: EphemeralSecret,
        root: ShardRoot,
    ) -> Result<Self, BlindError> {
        let (session, slot) = admitted.into_parts();
        session.check(codec)?;
        if slot != session.lost() {
            return Err(BlindError::NoPart { slot });
        }
        let masks = Masks::agree(&session, &session.id(), slot, &secret)?;
        Ok(Self { root, masks, shard: ShardBuffer::take(), next: 0 })
    }

    /// Takes a slice of the last helper and removes the masks that are left on it. After an error the same slice is still
    /// due.
    ///
    /// # Errors
    /// [`BlindError::Slice`] or [`BlindError::Length`].
    pub fn take(&mut self, slice: usize, incoming: &[u8]) -> Result<(), BlindError> {
        due(self.next, slice)?;
        length(incoming.len())?;
        let place = &mut self.shard[slice * SLICE_SIZE..][..SLICE_SIZE];
        place.copy_from_slice(incoming);
        self.masks.add(slice, place);
        self.next += 1;
        Ok(())
    }

    /// Whether every slice was taken.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.next == SLICES
    }

    /// The lost shard.
    ///
    /// - **DUR-3** Bytes with another root than the lost shard's come out of nowhere.
    ///
    /// # Errors
    /// [`BlindError::Incomplete`], or [`BlindError::WrongRoot`]: then find the liar.
    pub fn finish(self) -> Result<ShardBuffer, BlindError> {
        if !self.is_done() {
            return Err(BlindError::Incomplete { taken: self.next });
        }
        let found = root_of(&self.shard);
        if found != self.root {
            return Err(BlindError::WrongRoot { expected: self.root, found });
        }
        Ok(self.shard)
    }

    /// What is there so far, right or wrong.
    #[cfg(test)]
    pub(super) fn so_far(&self) -> &[u8] {
        &self.shard[..self.next * SLICE_SIZE]
    }
}

const fn due(expected: usize, found: usize) -> Result<(), BlindError> {
    if found == expected && found < SLICES { Ok(()) } else { Err(BlindError::Slice { expected, found }) }
}

const fn length(found: usize) -> Result<(), BlindError> {
    if found == SLICE_SIZE { Ok(()) } else { Err(BlindError::Length { found }) }
}

impl std::fmt::Debug for Helper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Helper(slice {})", self.next)
    }
}

impl std::fmt::Debug for NewHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewHolder(slice {})", self.next)
    }
}
