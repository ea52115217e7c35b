//! What befalls many peers at once, and what stewards order then.

use cairn_core::assess::GroupState;
use cairn_proto::{Action, Order};

use super::{Event, World};
use crate::world::HOUR;

/// What befalls many peers at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// So many hundredths leave for good within an hour.
    Lost(u32),
    /// So many hundredths fall silent in each of six hours, and are back within the next day.
    Silent(u32),
}

impl World<'_> {
    /// What an order says of its group, by the steward that gives it.
    pub(super) fn count_urgent(&mut self, at: usize, order: &Order) {
        let steward = &self.members[at].steward;
        let state = steward.report(&order.group, self.now).map(|report| report.assessment.state);
        let urgent = state.is_some_and(|state| state >= GroupState::Critical);
        if urgent {
            self.report.urgent += 1;
            self.report.urgent_shards += match &order.action {
                Action::Copy { ordinals, .. } => ordinals.len() as u64,
                Action::Rebuild { ordinals, helpers, .. } => {
                    (ordinals.len() * helpers.len().min(self.codec.params().data())) as u64
                }
                _ => 0,
            };
        }
        if steward.watch().mass_failure(self.now) {
            self.report.frozen += 1;
            self.report.frozen_not_urgent += u32::from(!urgent);
        }
    }

    /// An hour of what befalls many.
    pub(super) fn blow(&mut self, blow: Blow, hour: u32) {
        let there: Vec<usize> = (0..self.members.len()).filter(|at| !self.members[*at].departed).collect();
        let hit = |world: &mut Self, hundredths: u32| -> Vec<usize> {
            there.iter().copied().filter(|_| world.dice.per_mille(10 * hundredths)).collect()
        };
        match blow {
            Blow::Lost(hundredths) => {
                for at in hit(self, hundredths) {
                    let wait = u64::from(self.dice.below(HOUR as u32));
                    self.after(wait, Event::Depart(at));
                }
            }
            Blow::Silent(hundredths) => {
                for at in hit(self, hundredths) {
                    let wait = 12 * HOUR + self.dice.around_hours(6);
                    self.members[at].silent_until = self.now.plus_ms(wait);
                    self.members[at].up = false;
                    self.after(wait, Event::Back(at));
                }
                if hour < 5 {
                    self.after(HOUR, Event::Blow(blow, hour + 1));
                }
            }
        }
        self.trace.line(self.now, format_args!("{blow:?} in hour {hour}"));
    }
}
