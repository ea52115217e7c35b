//! How events, results and failures look: JSON lines with `--json`, else tables, bars and sentences.
//!
//! Results go to stdout, everything about the way there to stderr. A reader that goes away (`| head`) ends nothing:
//! writes that fail are dropped, the verb's own code stands.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

pub(crate) use demo_screen::DemoScreen;
use indicatif::{ProgressBar, ProgressStyle};
pub(super) use json::{object as json_object, summary_line as json_summary};

use crate::{
    api::FinalLine,
    failure::Failure,
    ops::{Event, Progress},
};

mod demo_screen;
mod json;
mod rows;
mod summary;
mod table;
mod values;

#[cfg(test)]
mod tests;

/// Without a terminal a person reads a log: one line a minute says enough.
const PLAIN_PROGRESS: Duration = Duration::from_secs(60);
/// Most often that a program is told of progress: verbs say it as often as they like.
const JSON_PROGRESS: Duration = Duration::from_secs(1);

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) progress: bool,
    /// `ls -l`.
    pub(crate) long: bool,
}

/// The end of a verb that has no events.
pub(super) fn end(output: Output, verb: &str, summary: &serde_json::Value) {
    if output.json {
        line(&json_summary(verb, summary));
    } else if !output.quiet {
        summary::lines(verb, summary).iter().for_each(|text| line(text));
    }
}

/// A table outside a verb's events.
pub(super) fn table(kind: &str, rows: &[serde_json::Value]) {
    if let Some(heading) = table::heading(kind) {
        line(&heading);
    }
    rows.iter().flat_map(|row| rows::row(kind, row, false)).for_each(|text| line(&text));
}

/// A line of results on stdout.
pub(crate) fn line(text: &str) {
    let _ = try_line(text);
}

/// As [`line`], for what must not be lost.
///
/// # Errors
/// Stdout is closed, or its disk is full.
pub(crate) fn try_line(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush())
}

/// A line for people on stderr.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A failure on stderr, as text or as restic's `exit_error` object.
pub(super) fn failure(failure: &Failure, json: bool) {
    note(&failure_text(failure, json));
}

fn failure_text(failure: &Failure, json: bool) -> String {
    if json {
        return serde_json::to_string(&FinalLine::ExitError(failure.clone())).unwrap_or_default();
    }
    let mut text = format!("error: {}", failure.message);
    for cause in &failure.causes {
        text.push_str("\ncaused by: ");
        text.push_str(cause);
    }
    if !failure.hint.is_empty() {
        text.push_str("\nhint: ");
        text.push_str(&failure.hint);
    }
    values::printable_lines(&text)
}

/// Shows a verb's events.
pub(super) struct Renderer {
    output: Output,
    /// Stdout carries the verb's bytes.
    bytes_on_stdout: bool,
    /// Whether there is a terminal that wants a bar.
    wants_bar: bool,
    /// Made by the first progress: a listing has none.
    bar: Option<ProgressBar>,
    last_plain: Instant,
    last_json: Option<Instant>,
    /// Kind of the rows being printed, for their heading.
    table: Option<String>,
    /// Errors of single items so far.
    errors: u64,
}

/// Errors of single items that are printed for people: more than anybody reads, fewer than a scrollback keeps.
const ERRORS_SHOWN: u64 = 100;

/// What stands for the errors that were not printed.
fn unsaid(errors: u64) -> Option<String> {
    let more = errors.checked_sub(ERRORS_SHOWN).filter(|n| *n > 0)?;
    Some(format!("... and {more} more errors (--json lists all)"))
}

impl Renderer {
    pub(super) fn new(output: Output, bytes_on_stdout: bool) -> Self {
        let wants_bar = output.progress && !output.quiet && !output.json && std::io::stderr().is_terminal();
        Self {
            output,
            bytes_on_stdout,
            wants_bar,
            bar: None,
            last_plain: Instant::now(),
            last_json: None,
            table: None,
            errors: 0,
        }
    }

    pub(super) fn show(&mut self, event: &Event) {
        if self.output.json {
            if !matches!(event, Event::Status(_)) || self.progress_is_due() {
                self.write(&json::line(event));
            }
            return;
        }
        match event {
            Event::Status(progress) => self.progress(progress),
            Event::Error(error) => {
                self.errors += 1;
                if self.errors <= ERRORS_SHOWN {
                    self.say(&format!("error: {}: {}: {}", error.during, error.item, error.message));
                }
            }
            Event::Notice { id, text } if !self.output.quiet => self.say(&format!("note: {text} [{id}]")),
            Event::Notice { .. } => {}
            Event::Row { kind, row } => {
                if self.table.as_deref() != Some(kind) {
                    self.table = Some(kind.clone());
                    if let Some(heading) = table::heading(kind).filter(|_| !self.output.quiet) {
                        self.print(&heading);
                    }
                }
                for text in rows::row(kind, row, self.output.long) {
                    self.print(&text);
                }
            }
            Event::Summary { verb, summary } => {
                self.finish();
                if !self.output.quiet {
                    for text in summary::lines(verb, summary) {
                        self.print(&text);
                    }
                    if let Some(text) = summary::nothing(verb, summary) {
                        self.say(text);
                    }
                }
            }
        }
    }

    fn progress_is_due(&mut self) -> bool {
        let due = self.last_json.is_none_or(|at| at.elapsed() >= JSON_PROGRESS);
        if due {
            self.last_json = Some(Instant::now());
        }
        due && self.output.progress && !self.output.quiet
    }

    pub(super) fn finish(&mut self) {
        self.clear();
        if let Some(text) = unsaid(std::mem::take(&mut self.errors)).filter(|_| !self.output.json) {
            self.say(&text);
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// The last place where a name from a snapshot or a peer could command the terminal; JSON escapes by itself.
    fn print(&self, text: &str) {
        self.write(&values::printable_lines(text));
    }

    fn write(&self, text: &str) {
        let write = || if self.bytes_on_stdout { note(text) } else { line(text) };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn say(&self, text: &str) {
        let text = &values::printable_lines(text);
        match &self.bar {
            Some(bar) => bar.suspend(|| note(text)),
            None => note(text),
        }
    }

    fn progress(&mut self, progress: &Progress) {
        if self.wants_bar {
            draw(self.bar.get_or_insert_with(spinner), progress);
        } else if self.output.progress && !self.output.quiet && self.last_plain.elapsed() >= PLAIN_PROGRESS {
            self.last_plain = Instant::now();
            note(&summary::progress_line(progress));
        }
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{prefix:>8} {spinner} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar
}

fn draw(bar: &ProgressBar, progress: &Progress) {
    if progress.total_bytes > 0 {
        if bar.length() != Some(progress.total_bytes) {
            let style = ProgressStyle::with_template("{prefix:>8} [{bar:20}] {percent:>3}% {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar.set_length(progress.total_bytes);
        }
        bar.set_position(progress.bytes_done.min(progress.total_bytes));
    }
    bar.set_prefix(progress.phase.clone());
    bar.set_message(summary::progress_text(progress));
    bar.tick();
}
