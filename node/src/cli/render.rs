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

use crate::{
    api::FinalLine,
    failure::Failure,
    ops::{Event, Progress},
};

mod demo_screen;
mod rows;
mod summary;

#[cfg(test)]
mod tests;

/// Without a terminal a person reads a log: one line a minute says enough.
const PLAIN_PROGRESS: Duration = Duration::from_secs(60);

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) progress: bool,
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
    text
}

/// Shows a verb's events.
pub(super) struct Renderer {
    output: Output,
    /// Stdout carries the verb's bytes.
    bytes_on_stdout: bool,
    bar: Option<ProgressBar>,
    last_plain: Instant,
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
        let wanted = output.progress && !output.quiet && !output.json && std::io::stderr().is_terminal();
        let bar = wanted.then(|| {
            let bar = ProgressBar::new(0);
            bar.set_style(ProgressStyle::default_spinner());
            bar
        });
        Self { output, bytes_on_stdout, bar, last_plain: Instant::now(), table: None, errors: 0 }
    }

    pub(super) fn show(&mut self, event: &Event) {
        if self.output.json {
            let hidden = matches!(event, Event::Status(_)) && (!self.output.progress || self.output.quiet);
            if !hidden {
                self.print(&serde_json::to_string(event).unwrap_or_default());
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
                    if let Some(heading) = rows::heading(kind).filter(|_| !self.output.quiet) {
                        self.print(&heading);
                    }
                }
                self.print(&rows::row(kind, row));
            }
            Event::Summary { verb, summary } => {
                self.finish();
                if !self.output.quiet {
                    for text in summary::lines(verb, summary) {
                        self.print(&text);
                    }
                }
            }
        }
    }

    pub(super) fn finish(&mut self) {
        self.clear();
        if let Some(text) = unsaid(std::mem::take(&mut self.errors)).filter(|_| !self.output.json) {
            self.say(&text);
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn print(&self, text: &str) {
        let write = || if self.bytes_on_stdout { note(text) } else { line(text) };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(text)),
            None => note(text),
        }
    }

    fn progress(&mut self, progress: &Progress) {
        if let Some(bar) = &self.bar {
            draw(bar, progress);
        } else if self.output.progress && !self.output.quiet && self.last_plain.elapsed() >= PLAIN_PROGRESS {
            self.last_plain = Instant::now();
            note(&summary::progress_line(progress));
        }
    }
}

fn draw(bar: &ProgressBar, progress: &Progress) {
    if progress.total_bytes > 0 {
        if bar.length() != Some(progress.total_bytes) {
            let style = ProgressStyle::with_template("{prefix:>8} [{bar:30}] {percent:>3}% {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar.set_length(progress.total_bytes);
        }
        bar.set_position(progress.bytes_done.min(progress.total_bytes));
    }
    bar.set_prefix(progress.phase.clone());
    bar.set_message(summary::progress_text(progress));
    bar.tick();
}
