//! How long to wait for many who were asked the same: not for those who are gone.
//!
//! A dial to somebody who is gone takes its whole time-out, so the last answer of a wave would always come that late.
//! Once everybody was asked and half have answered, the rest has [`Waits::late`](super::Waits::late) after each further answer: whoever is
//! alive but slower than that after the others is missed. Before everybody was asked, nothing is cut short.

use std::time::Duration;

use tokio::time::Instant;

/// One wave of questions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hedge {
    count: usize,
    answered: usize,
    last: Instant,
    late: Duration,
    end: Instant,
}

impl Hedge {
    /// `count` are asked; stragglers get `late`, and after `longest` it is over anyway.
    pub(crate) fn new(count: usize, late: Duration, longest: Duration, now: Instant) -> Self {
        Self { count, answered: 0, last: now, late, end: now + longest }
    }

    /// Somebody answered well.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.answered += 1;
        self.last = now;
    }

    /// Until when to wait for the next answer, when so many have been asked.
    pub(crate) fn until(&self, asked: usize) -> Instant {
        if asked >= self.count && self.is_half() { self.end.min(self.last + self.late) } else { self.end }
    }

    /// Whether half have answered well.
    pub(crate) fn is_half(&self) -> bool {
        2 * self.answered >= self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stragglers_get_a_grace_after_each_answer_once_everybody_was_asked() {
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let late = Duration::from_millis(1500);
        let mut wave = Hedge::new(4, late, 12 * second, begin);
        assert_eq!(wave.until(4), begin + 12 * second, "nobody answered yet");
        wave.answered(begin + second);
        assert_eq!(wave.until(4), begin + 12 * second, "a quarter");
        wave.answered(begin + 2 * second);
        assert_eq!(wave.until(3), begin + 12 * second, "one was not even asked");
        assert_eq!(wave.until(4), begin + 2 * second + late);
        wave.answered(begin + 3 * second);
        assert_eq!(wave.until(4), begin + 3 * second + late, "those who come one by one are waited for");
        wave.answered(begin + 11 * second);
        assert_eq!(wave.until(4), begin + 12 * second, "never longer than that");
    }
}
