//! The demo's story on the screen, or as JSON lines.

use std::io::IsTerminal;

use serde_json::{Value, json};

use super::{Output, Renderer, line};
use crate::ops::Event;

/// Where the demo tells its story.
pub(crate) struct DemoScreen {
    output: Output,
    step: u32,
}

impl DemoScreen {
    pub(crate) fn new(output: Output) -> Self {
        Self { output, step: 0 }
    }

    /// A new chapter.
    pub(crate) fn step(&mut self, title: &str) {
        self.step += 1;
        if self.output.json {
            line(&json!({ "message_type": "step", "step": self.step, "title": title }).to_string());
        } else if !self.output.quiet {
            let (bold, plain) = if std::io::stdout().is_terminal() { ("\u{1b}[1m", "\u{1b}[0m") } else { ("", "") };
            line(&format!("\n{bold}{}. {title}{plain}", self.step));
        }
    }

    /// A sentence.
    pub(crate) fn say(&self, text: &str) {
        if self.output.json {
            line(&json!({ "message_type": "notice", "id": "STORY", "text": text }).to_string());
        } else if !self.output.quiet {
            line(&format!("   {text}"));
        }
    }

    /// A row of a small table.
    pub(crate) fn row(&self, kind: &str, row: &Value, text: &str) {
        if self.output.json {
            line(&super::json_object(kind, row));
        } else if !self.output.quiet {
            line(&format!("   {text}"));
        }
    }

    /// The figures at the end.
    pub(crate) fn summary(&self, summary: &Value, lines: &[String]) {
        if self.output.json {
            line(&super::json_summary("demo", summary));
            return;
        }
        for text in lines {
            line(&format!("   {text}"));
        }
    }

    /// Shows the events of a verb: its progress and whatever went wrong.
    pub(crate) fn renderer(&self) -> DemoEvents {
        DemoEvents(Renderer::new(self.output, false))
    }
}

/// A verb's progress within the demo.
pub(crate) struct DemoEvents(Renderer);

impl DemoEvents {
    pub(crate) fn show(&mut self, event: &Event) {
        if matches!(event, Event::Status(_) | Event::Error(_) | Event::Notice { .. }) {
            self.0.show(event);
        }
    }

    pub(crate) fn finish(&mut self) {
        self.0.finish();
    }
}
