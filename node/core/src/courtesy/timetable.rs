//! How fast a line may be used by day and hour. The caller says what the local time is, summer time and all.

/// Minutes of a day.
pub const DAY: u16 = 24 * 60;
/// Minutes of a week.
pub const WEEK: u16 = 7 * DAY;
/// Rows of a timetable: every hour of a week differently is more than anybody writes.
pub const ROWS_MAX: usize = 168;

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speed {
    /// As fast as it goes.
    Free,
    /// Bytes a second.
    Limited(u64),
}

impl Speed {
    /// The limit, if there is one.
    #[must_use]
    pub const fn limit(self) -> Option<u64> {
        match self {
            Self::Free => None,
            Self::Limited(bytes_per_s) => Some(bytes_per_s),
        }
    }
}

/// A minute of the week where the node stands; Monday at midnight is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalMinute(u16);

impl LocalMinute {
    /// `weekday` 0 is Monday. Whatever is beyond a week begins it anew.
    #[must_use]
    pub const fn new(weekday: u16, minute_of_day: u16) -> Self {
        Self((weekday % 7 * DAY + minute_of_day % DAY) % WEEK)
    }

    const fn plus(self, minutes: u16) -> Self {
        Self((self.0 + minutes) % WEEK)
    }
}

/// Days and hours with speeds of their own. One that ends no later than it begins goes on after midnight and belongs to the day on
/// which it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Bit 0 is Monday.
    pub days: u8,
    /// Minute of the day, from 0 to 1439.
    pub from: u16,
    /// ... from 0 to 1440.
    pub to: u16,
    /// What it says of what goes out.
    pub up: Option<Speed>,
    /// ... and of what comes in.
    pub down: Option<Speed>,
}

impl Row {
    fn holds(&self, at: LocalMinute) -> bool {
        let (day, minute) = (at.0 / DAY, at.0 % DAY);
        let has = |day: u16| self.days >> (day % 7) & 1 == 1;
        if self.from < self.to {
            return has(day) && (self.from..self.to).contains(&minute);
        }
        (has(day) && minute >= self.from) || (has(day + 6) && minute < self.to)
    }
}

/// Speeds at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speeds {
    /// What goes out.
    pub up: Speed,
    /// What comes in.
    pub down: Speed,
    /// Which row says so of either; none when the general limits hold.
    pub row: Option<usize>,
}

/// General speeds, and rows that stand above them; of two rows the first one counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timetable {
    up: Speed,
    down: Speed,
    rows: Vec<Row>,
}

impl Timetable {
    /// Rows beyond [`ROWS_MAX`] are left out.
    #[must_use]
    pub fn new(up: Speed, down: Speed, mut rows: Vec<Row>) -> Self {
        rows.truncate(ROWS_MAX);
        Self { up, down, rows }
    }

    /// No limit at any time.
    #[must_use]
    pub const fn free() -> Self {
        Self { up: Speed::Free, down: Speed::Free, rows: Vec::new() }
    }

    /// What holds at a time.
    #[must_use]
    pub fn at(&self, at: LocalMinute) -> Speeds {
        let mut said = (None, None);
        let mut first = None;
        for (index, row) in self.rows.iter().enumerate().filter(|(_, row)| row.holds(at)) {
            let news = (said.0.is_none() && row.up.is_some()) || (said.1.is_none() && row.down.is_some());
            if news {
                first = first.or(Some(index));
            }
            said = (said.0.or(row.up), said.1.or(row.down));
        }
        Speeds { up: said.0.unwrap_or(self.up), down: said.1.unwrap_or(self.down), row: first }
    }

    /// Minutes until other speeds hold; `None` when that is never.
    #[must_use]
    pub fn changes_in(&self, at: LocalMinute) -> Option<u16> {
        let now = self.at(at);
        let edges = self.rows.iter().flat_map(|row| [row.from, row.to % DAY]);
        let mut waits: Vec<u16> = edges
            .flat_map(|edge| (0..7).map(move |day| (day * DAY + edge + WEEK - at.0) % WEEK))
            .filter(|wait| *wait > 0)
            .collect();
        waits.sort_unstable();
        waits.into_iter().find(|wait| {
            let then = self.at(at.plus(*wait));
            (then.up, then.down) != (now.up, now.down)
        })
    }
}
