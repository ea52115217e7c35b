//! `[limits]` of `config.toml`: how fast this node may use its line, by day and hour.
//!
//! ```toml
//! [limits]
//! up = "2 MiB/s"
//! down = "none"
//! timetable = [{ days = "mon-fri", from = "08:00", to = "18:00", up = "500 KiB/s" }]
//! ```

use cairn_core::courtesy::timetable::{DAY, ROWS_MAX, Row, Speed, Timetable};
use cairn_proto::ByteSize;
use serde::Deserialize;

/// What the settings file may say.
pub(crate) const KEYS: [&str; 3] = ["limits.up", "limits.down", "limits.timetable"];
/// Slowest that a line may be set to: a shard takes half a minute then, and who waits for one gives it two.
pub const LEAST: u64 = 32 * 1024;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// The section `[limits]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSection {
    /// What may go out, as `2 MiB/s`.
    pub up: Option<String>,
    /// What may come in.
    pub down: Option<String>,
    /// Days and hours with limits of their own; of two that meet the first one counts.
    pub timetable: Option<Vec<RowSection>>,
}

/// One row of the timetable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RowSection {
    /// `mon-fri`, `sat,sun`; every day when it is not said.
    pub days: Option<String>,
    /// `08:00`, where this machine stands; midnight when it is not said.
    pub from: Option<String>,
    /// `18:00`; before or at `from` it is of the next day. Midnight when it is not said.
    pub to: Option<String>,
    /// What may go out meanwhile.
    pub up: Option<String>,
    /// What may come in.
    pub down: Option<String>,
}

/// A limit that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` cannot be {value:?}: {why}")]
pub struct WrongLimit {
    /// Which setting.
    pub key: String,
    /// What it says.
    pub value: String,
    /// Why it cannot be that.
    pub why: &'static str,
}

fn wrong(key: &str, value: &str, why: &'static str) -> WrongLimit {
    WrongLimit { key: key.to_owned(), value: value.to_owned(), why }
}

/// `2 MiB/s` or `none`.
///
/// # Errors
/// Something else, or too slow.
pub fn speed(key: &str, text: &str) -> Result<Speed, WrongLimit> {
    let trimmed = text.trim();
    if trimmed.eq_ignore_ascii_case("none") {
        return Ok(Speed::Free);
    }
    let size = trimmed.strip_suffix("/s").map(str::trim_end);
    // A plain number could be bits, bytes or KiB.
    let unit = size.filter(|size| size.ends_with(|last: char| last.is_ascii_alphabetic()));
    let bytes = unit.and_then(|size| size.parse::<ByteSize>().ok());
    let bytes = bytes.ok_or_else(|| wrong(key, text, "write it as \"2 MiB/s\" or \"500 kB/s\", or \"none\""))?;
    if bytes.0 < LEAST {
        return Err(wrong(key, text, "32 KiB/s is the least: a shard of a mebibyte must come through in time"));
    }
    Ok(Speed::Limited(bytes.0))
}

/// As [`speed`], and a plain number is in KiB a second, as restic has it.
///
/// # Errors
/// As for [`speed`].
pub fn flag(name: &str, text: &str) -> Result<Speed, WrongLimit> {
    match text.trim().parse::<u64>() {
        Ok(kib) => speed(name, &format!("{kib} KiB/s")),
        Err(_) => speed(name, text),
    }
}

fn minute(key: &str, text: &str) -> Result<u16, WrongLimit> {
    let two = |digits: &str| (digits.len() == 2).then(|| digits.parse::<u16>().ok()).flatten();
    let time = text.trim().split_once(':').and_then(|(hour, minute)| Some((two(hour)?, two(minute)?)));
    match time {
        Some((hour @ 0..=23, minute @ 0..=59)) => Ok(hour * 60 + minute),
        Some((24, 0)) => Ok(DAY),
        _ => Err(wrong(key, text, "write a time of day as \"08:00\"")),
    }
}

fn days(key: &str, text: &str) -> Result<u8, WrongLimit> {
    let why = "name days as \"mon-fri\" or \"sat,sun\"";
    let day = |name: &str| {
        let name = name.trim().to_ascii_lowercase();
        DAYS.iter().position(|day| *day == name).ok_or_else(|| wrong(key, text, why))
    };
    let mut set = 0u8;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // `sat-mon` goes over Sunday.
        (0..=(last + 7 - first) % 7).for_each(|further| set |= 1 << ((first + further) % 7));
    }
    Ok(set)
}

impl LimitsSection {
    /// As the core has it.
    ///
    /// # Errors
    /// The first setting that cannot be used, by name.
    pub fn timetable(&self) -> Result<Timetable, WrongLimit> {
        let named = |key: &str, text: &Option<String>| text.as_deref().map(|text| speed(key, text)).transpose();
        let general = |key: &str, text: &Option<String>| named(key, text).map(|speed| speed.unwrap_or(Speed::Free));
        let sections = self.timetable.as_deref().unwrap_or_default();
        if sections.len() > ROWS_MAX {
            return Err(wrong("limits.timetable", &format!("{} rows", sections.len()), "168 are the most"));
        }
        let row = |(index, section): (usize, &RowSection)| {
            let key = |name: &str| format!("limits.timetable[{index}].{name}");
            let time = |name: &str, text: &Option<String>| match text {
                Some(text) => minute(&key(name), text).map(Some),
                None => Ok(None),
            };
            let from = time("from", &section.from)?.unwrap_or(0);
            let to = time("to", &section.to)?.unwrap_or(DAY);
            if from == DAY {
                return Err(wrong(&key("from"), "24:00", "a day begins at \"00:00\""));
            }
            if from == to {
                return Err(wrong(&key("to"), section.to.as_deref().unwrap_or_default(), "it is the same as `from`"));
            }
            let (up, down) = (named(&key("up"), &section.up)?, named(&key("down"), &section.down)?);
            if up.is_none() && down.is_none() {
                return Err(wrong(&format!("limits.timetable[{index}]"), "", "it says neither `up` nor `down`"));
            }
            let days = section.days.as_deref().map_or(Ok(0x7f), |text| days(&key("days"), text))?;
            Ok(Row { days, from, to, up, down })
        };
        let rows = sections.iter().enumerate().map(row).collect::<Result<_, _>>()?;
        Ok(Timetable::new(general("limits.up", &self.up)?, general("limits.down", &self.down)?, rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_core::courtesy::timetable::LocalMinute;

    fn section(text: &str) -> LimitsSection {
        crate::config::FileConfig::parse(text).expect("readable").limits
    }

    #[test]
    fn a_timetable_is_read() {
        let table = section(
            "[limits]\nup = \"2 MiB/s\"\ntimetable = [{ days = \"mon-fri\", from = \"08:00\", to = \"18:00\", up = \"500 KiB/s\" },\n\
             { days = \"sat-sun\", up = \"none\", down = \"1 MB/s\" }, { from = \"22:00\", to = \"06:00\", down = \"none\" }]\n",
        );
        let table = table.timetable().expect("usable");
        let at = |weekday, hour: u16| {
            (table.at(LocalMinute::new(weekday, hour * 60)).up, table.at(LocalMinute::new(weekday, hour * 60)).down)
        };
        assert_eq!(at(0, 9), (Speed::Limited(500 * 1024), Speed::Free));
        assert_eq!(at(0, 19), (Speed::Limited(2 << 20), Speed::Free));
        assert_eq!(at(5, 9), (Speed::Free, Speed::Limited(1_000_000)));
        assert_eq!(section("[limits]\n").timetable(), Ok(Timetable::free()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, message: &str| {
            let wrong = section(&format!("[limits]\n{text}\n")).timetable().expect_err(text);
            assert_eq!(wrong.to_string(), message);
        };
        check("up = \"fast\"", "`limits.up` cannot be \"fast\": write it as \"2 MiB/s\" or \"500 kB/s\", or \"none\"");
        check(
            "up = \"500/s\"",
            "`limits.up` cannot be \"500/s\": write it as \"2 MiB/s\" or \"500 kB/s\", or \"none\"",
        );
        check(
            "down = \"1 KiB/s\"",
            "`limits.down` cannot be \"1 KiB/s\": 32 KiB/s is the least: a shard of a mebibyte must come through in time",
        );
        check(
            "timetable = [{ up = \"none\" }, { from = \"8\", up = \"none\" }]",
            "`limits.timetable[1].from` cannot be \"8\": write a time of day as \"08:00\"",
        );
        check(
            "timetable = [{ days = \"monday\", up = \"none\" }]",
            "`limits.timetable[0].days` cannot be \"monday\": name days as \"mon-fri\" or \"sat,sun\"",
        );
        check(
            "timetable = [{ from = \"08:00\", to = \"08:00\", up = \"none\" }]",
            "`limits.timetable[0].to` cannot be \"08:00\": it is the same as `from`",
        );
        check("timetable = [{}]", "`limits.timetable[0]` cannot be \"\": it says neither `up` nor `down`");
        let unknown =
            crate::config::FileConfig::parse("[limits]\ntimetable = [{ upp = \"none\" }]\n").expect_err("unknown");
        assert!(unknown.message.contains("`upp`") && unknown.message.contains("limits.timetable"), "{unknown:?}");
        let near = crate::config::FileConfig::parse("[limits]\nupp = \"none\"\n").expect_err("unknown");
        assert_eq!(near.hint, "did you mean `limits.up`?");
    }

    #[test]
    fn a_flag_is_in_kib_as_restics() {
        assert_eq!(flag("--limit-up", "512"), Ok(Speed::Limited(512 * 1024)));
        assert_eq!(flag("--limit-up", "1.5 MiB/s"), Ok(Speed::Limited(3 << 19)));
        assert!(flag("--limit-up", "1").is_err());
    }
}
