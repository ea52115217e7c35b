//! What is to be done, in order and bounded. What must be written or removed is never left out.

use std::collections::VecDeque;

use super::Effect;

/// What waits to be said or given. The driver polls after every call, so this is a guard against one that does not: messages beyond it are
/// lost, as they may be on their way, and counted.
pub(super) const EFFECTS_MAX: usize = 65_536;

#[derive(Default)]
pub(super) struct Effects {
    queue: VecDeque<Effect>,
    dropped: u64,
}

impl Effects {
    pub(super) fn pop(&mut self) -> Option<Effect> {
        self.queue.pop_front()
    }

    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(super) fn push(&mut self, effect: Effect) {
        if self.queue.len() < EFFECTS_MAX {
            self.queue.push_back(effect);
            return;
        }
        match effect {
            Effect::Persist(group) | Effect::Forget(group) => {
                // What is written is the state at that moment, so the last one of a group is enough: one a group at most beyond the
                // bound.
                let of = |effect: &Effect| match effect {
                    Effect::Persist(id) | Effect::Forget(id) => Some(*id),
                    _ => None,
                };
                self.remove_beyond(|e| of(e) == Some(group));
                self.queue.push_back(effect);
            }
            Effect::Tell { .. } | Effect::Give { .. } => self.dropped += 1,
        }
    }

    fn remove_beyond(&mut self, is: impl Fn(&Effect) -> bool) {
        let tail = self.queue.split_off(EFFECTS_MAX);
        self.queue.extend(tail.into_iter().filter(|effect| !is(effect)));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use cairn_proto::GroupId;

    use super::*;

    #[test]
    fn what_must_be_written_is_never_left_out() {
        let group = |at: u8| GroupId::from_bytes([at; 32]);
        let mut effects = Effects::default();
        let say = || Effect::Tell {
            to: cairn_proto::PeerKey::from_bytes([1; 32]),
            say: Box::new(super::super::Say::Compare { group: group(0), generation: 0, digest: [0; 32] }),
        };
        (0..EFFECTS_MAX).for_each(|_| effects.push(say()));
        for _ in 0..3 {
            effects.push(Effect::Persist(group(1)));
            effects.push(Effect::Forget(group(2)));
            effects.push(say());
        }
        effects.push(Effect::Forget(group(1)));
        assert_eq!((effects.len(), effects.dropped()), (EFFECTS_MAX + 2, 3));
        let rest: Vec<Effect> = std::iter::from_fn(|| effects.pop()).skip(EFFECTS_MAX).collect();
        assert_eq!(rest, [Effect::Forget(group(2)), Effect::Forget(group(1))]);
    }
}
