//! The agent's log: one JSON object a line, to the container's log and to the plugin over the newest attach.
//!
//! Only events of the whole agent are logged, never single connections: those reach the plugin as refusals and
//! aborts of their streams. A line never blocks the agent: when the attach cannot take it, it is dropped there.
//! The JSON is written by hand, because a serializer would cost more than the rest of this file.

use std::fmt::{self, Display, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

/// Lines that may wait for one attach to take them.
pub const QUEUE: usize = 64;

/// Where the lines of one attach go; the receiver writes them to the attach's stderr. Its end ends the attach.
pub type LineTx = mpsc::Sender<String>;

/// A cloneable log of one agent.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    container: Box<dyn Fn(&str) + Send + Sync>,
    /// The newest proven attach, if one is there.
    attach: Mutex<Option<LineTx>>,
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The agent is going down.
    Error,
    /// Degraded but working.
    Warn,
    /// The session or a listener came up or went.
    Info,
}

/// Values that go with a message, by name.
pub type Fields<'a> = &'a [(&'a str, &'a dyn Display)];

impl Log {
    /// A log whose lines also go to `container`, which must not block for long.
    pub fn new(container: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            shared: Arc::new(Shared {
                container: Box::new(container),
                attach: Mutex::new(None),
            }),
        }
    }

    /// Logs at [`Level::Info`].
    pub fn info(&self, message: &str, fields: Fields<'_>) {
        self.log(Level::Info, message, fields);
    }

    /// Logs at [`Level::Warn`].
    pub fn warn(&self, message: &str, fields: Fields<'_>) {
        self.log(Level::Warn, message, fields);
    }

    /// Logs one line to the container's log and to the newest attach.
    pub fn log(&self, level: Level, message: &str, fields: Fields<'_>) {
        let text = line(level, message, fields);
        (self.shared.container)(&text);
        if let Some(lines) = &*self.attach() {
            send(lines, text);
        }
    }

    /// Logs one line to the container's log and to an attach that is not the newest: one that was refused or
    /// replaced, and is told why.
    pub fn tell(&self, lines: &LineTx, level: Level, message: &str, fields: Fields<'_>) {
        let text = line(level, message, fields);
        (self.shared.container)(&text);
        send(lines, text);
    }

    /// From here on lines go to this attach. Returns the one before.
    pub(crate) fn set_attach(&self, lines: Option<LineTx>) -> Option<LineTx> {
        std::mem::replace(&mut *self.attach(), lines)
    }

    fn attach(&self) -> std::sync::MutexGuard<'_, Option<LineTx>> {
        self.shared.attach.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

/// A full queue belongs to an attach that does not drain its stderr: the line is dropped, the agent goes on.
fn send(lines: &LineTx, text: String) {
    drop(lines.try_send(text));
}

/// One line, without the line feed.
pub fn line(level: Level, message: &str, fields: Fields<'_>) -> String {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
    };
    let mut text = format!(r#"{{"level":"{level}","msg":"#);
    quote(&mut text, message);
    for (name, value) in fields {
        text.push(',');
        quote(&mut text, name);
        text.push(':');
        quote(&mut text, &value.to_string());
    }
    text.push('}');
    text
}

/// An error and its causes on one line, as a person reads them.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Appends `value` as a JSON string (RFC 8259, section 7).
fn quote(text: &mut String, value: &str) {
    text.push('"');
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            control if control < ' ' => {
                write!(text, "\\u{:04x}", u32::from(control)).expect("a String takes all that is written");
            }
            plain => text.push(plain),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_object() {
        let text = line(
            Level::Warn,
            "say \"no\"",
            &[("peer", &"10.0.0.1:5"), ("why", &"a\\b\n\u{1}é")],
        );
        assert_eq!(
            text,
            r#"{"level":"warn","msg":"say \"no\"","peer":"10.0.0.1:5","why":"a\\b\n\u0001é"}"#
        );
    }

    #[tokio::test]
    async fn lines_follow_the_newest_attach_and_never_block() {
        let log = Log::new(|_| ());
        let (first_tx, mut first) = mpsc::channel(1);
        let (second_tx, mut second) = mpsc::channel(1);
        log.set_attach(Some(first_tx));
        log.info("one", &[]);
        log.info("dropped, the queue is full", &[]);
        drop(log.set_attach(Some(second_tx)));
        log.info("two", &[]);
        assert!(first.recv().await.unwrap().contains("one"));
        assert_eq!(first.recv().await, None);
        assert!(second.recv().await.unwrap().contains("two"));
    }
}
