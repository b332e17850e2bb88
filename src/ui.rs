//! The only place that writes to the terminal: stdout is data, stderr is for people.
//!
//! It owns the form of what is said (plain lines, a spinner, JSON events) and decides nothing. With
//! `-o json` stdout carries one event a line; without, only the ready lines. A broken stdout is no error:
//! whoever read it has gone.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressStyle};

pub mod event;

pub use event::Event;

/// What goes to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// Ready lines for people and scripts that know kubectl's.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// `status`: a table with more columns.
    Wide,
    /// `status`: YAML.
    Yaml,
    /// `status`: ids alone.
    Name,
}

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();

/// Takes stdin and stderr away from this process and from those it starts, for the while a shell waits for an answer
/// with half a line on the screen: nobody may ask there or complain.
pub fn mute() {
    #[cfg(unix)]
    if let Ok(null) = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
    {
        for muted in [
            rustix::stdio::dup2_stdin(&null),
            rustix::stdio::dup2_stderr(&null),
        ] {
            if let Err(error) = muted {
                // There may be a word too many on the screen.
                tracing::debug!(%error, "stdin or stderr not muted");
            }
        }
    }
}

/// Says things. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Printer {
    output: Output,
    quiet: u8,
    spinner: ProgressBar,
}

impl Printer {
    /// A printer for these flags; the spinner shows only on a terminal and unless quiet.
    #[must_use]
    pub fn new(output: Output, quiet: u8) -> Self {
        let spinner = ProgressBar::new_spinner();
        if quiet > 0 || !std::io::stderr().is_terminal() {
            spinner.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            spinner.set_style(style);
        }
        Self {
            output,
            quiet,
            spinner,
        }
    }

    /// The chosen output.
    #[must_use]
    pub fn output(&self) -> Output {
        self.output
    }

    /// One step of something that takes a moment: the spinner's text on a terminal, otherwise a line.
    pub fn step(&self, text: &str) {
        if self.quiet > 0 {
            return;
        }
        if self.spinner.is_hidden() {
            self.line(text);
        } else {
            if self.spinner.is_finished() {
                // A finished one draws nothing, and the end has steps of its own.
                self.spinner.reset();
            }
            self.spinner.set_message(text.to_owned());
            self.spinner.enable_steady_tick(Duration::from_millis(100));
        }
    }

    /// A step told before, with other numbers: only for the spinner, since lines would pile up.
    pub fn tick(&self, text: &str) {
        if !self.spinner.is_hidden() {
            self.step(text);
        }
    }

    /// The steps are over: the spinner goes.
    pub fn steps_done(&self) {
        self.spinner.finish_and_clear();
    }

    /// A line for people.
    pub fn note(&self, text: &str) {
        if self.quiet == 0 {
            self.line(text);
        }
    }

    /// Something that works but surprises.
    pub fn warn(&self, text: &str) {
        if self.quiet < 2 {
            self.line(&format!("{WARNING}warning:{WARNING:#} {text}"));
        }
    }

    /// An error, what caused it, and the next command to type.
    pub fn error(&self, summary: &str, causes: &[String], hint: Option<&str>) {
        self.steps_done();
        // kubectl's own sentences begin in their own way.
        let kubectl = [
            "Error from server",
            "Unable to connect",
            "The connection to the server",
        ];
        let mut text = if kubectl.iter().any(|start| summary.starts_with(start)) {
            summary.to_owned()
        } else {
            format!("{ERROR}error:{ERROR:#} {summary}")
        };
        for cause in causes {
            text.push_str("\n  caused by: ");
            text.push_str(cause);
        }
        if let Some(hint) = hint {
            text = format!("{text}\n\n{HINT}hint:{HINT:#} {hint}");
        }
        self.line(&text);
    }

    /// A machine-readable event: a line of JSON, or its text form if it has one.
    pub fn event(&self, event: &Event) {
        match self.output {
            Output::Json => self.data(&event.json()),
            Output::Text | Output::Wide | Output::Yaml | Output::Name => {
                for line in event.lines() {
                    if self.quiet < 2 {
                        self.data(&line);
                    }
                }
            }
        }
    }

    /// Raw data on stdout, such as the answer to `version`.
    pub fn data(&self, text: &str) {
        self.spinner.suspend(|| {
            let mut stdout = anstream::stdout().lock();
            // A reader that has gone needs nothing more.
            drop(writeln!(stdout, "{text}").and_then(|()| stdout.flush()));
        });
    }

    /// The last data there will be: stdout is closed behind it, so that `eval "$(... &)"` does not wait for us.
    pub fn last_data(&self, text: &str) {
        self.data(text);
        #[cfg(unix)]
        if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null")
            && let Err(error) = rustix::stdio::dup2_stdout(&null)
        {
            // Whoever reads will wait until we end: unpleasant, not wrong.
            tracing::debug!(%error, "stdout not closed");
        }
    }

    /// Bytes of a log line, as they come from `tracing`.
    pub fn log(&self, bytes: &[u8]) {
        self.spinner
            .suspend(|| drop(anstream::stderr().lock().write_all(bytes)));
    }

    fn line(&self, text: &str) {
        self.spinner
            .suspend(|| drop(writeln!(anstream::stderr().lock(), "{text}")));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex, PoisonError};

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// A terminal that only remembers what was written.
    #[derive(Debug, Clone, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            80
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn steps_after_the_last_ready_line_are_seen_too() {
        let screen = Screen::default();
        let printer = Printer::new(Output::Text, 0);
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        printer.spinner.set_draw_target(target);
        printer.step("starting");
        printer.steps_done();
        printer.step("removing");
        printer.steps_done();
        let seen = screen.0.lock().unwrap().clone();
        assert!(seen.contains("starting") && seen.contains("removing"), "{seen}");
    }
}
