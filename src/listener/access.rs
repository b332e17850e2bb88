//! What the log says of a connection: a line at `-v` for each request, or for the connection when it is raw, or
//! for each flow of datagrams.
//!
//! Filled in by the protocols while they run, written when a request or relay ends, whatever ends it. A line
//! names the path without its query and no header: queries and headers carry secrets.

use std::net::SocketAddr;

use tokio::time::Instant;

use super::connection::Ended;
use super::local::Local;
use super::target::Target;

/// Longest text of a program's own in a line, in characters.
const MAX_TEXT: usize = 200;

/// The log of one connection.
#[derive(Debug)]
pub(super) struct Report {
    began: Instant,
    /// The request or relay under way.
    open: Option<Entry>,
    lines: u64,
    received: u64,
    sent: u64,
    /// Of the bytes above, those that a line told.
    told: (u64, u64),
}

/// A line that is being filled in.
#[derive(Debug)]
struct Entry {
    began: Instant,
    method: String,
    target: Option<Target>,
    upstream: Option<SocketAddr>,
    path: Option<String>,
    status: Option<Status>,
    dropped: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
enum Status {
    /// Of HTTP.
    Code(u16),
    /// Raw bytes flow.
    Connected,
}

impl Entry {
    fn new(method: &str) -> Self {
        Self {
            began: Instant::now(),
            method: printable(method),
            target: None,
            upstream: None,
            path: None,
            status: None,
            dropped: None,
        }
    }
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            open: None,
            lines: 0,
            received: 0,
            sent: 0,
            told: (0, 0),
        }
    }

    /// A request begins, or a protocol that carries one connection.
    pub(super) fn begin(&mut self, method: &str) {
        self.open = Some(Entry::new(method));
    }

    /// What comes next is answered, though no request was understood.
    pub(super) fn begin_unnamed(&mut self) {
        self.open.get_or_insert_with(|| Entry::new("-"));
    }

    /// Where it goes.
    pub(super) fn target(&mut self, target: &Target) {
        if let Some(entry) = &mut self.open {
            entry.target = Some(target.clone());
        }
    }

    /// Which address was chosen for that.
    pub(super) fn upstream(&mut self, address: Option<SocketAddr>) {
        if let Some(entry) = &mut self.open {
            entry.upstream = address;
        }
    }

    /// What it asks for there.
    pub(super) fn path(&mut self, path: &str) {
        if let Some(entry) = &mut self.open {
            entry.path = path.split(['?', '#']).next().map(printable);
        }
    }

    /// How it was answered.
    pub(super) fn status(&mut self, code: u16) {
        if let Some(entry) = &mut self.open {
            entry.status = Some(Status::Code(code));
        }
    }

    /// From here on bytes are relayed as they are.
    pub(super) fn connected(&mut self) {
        if let Some(entry) = &mut self.open {
            entry.status.get_or_insert(Status::Connected);
        }
    }

    /// Whether nothing was asked for on this connection so far.
    pub(super) fn is_fresh(&self) -> bool {
        self.open.is_none() && self.lines == 0
    }

    /// Adds what a local end moved.
    pub(super) fn count(&mut self, local: &Local) {
        self.received = local.received;
        self.sent = local.sent;
    }

    /// Sets the bytes of what has no local end of its own.
    pub(super) fn moved(&mut self, received: u64, sent: u64) {
        (self.received, self.sent) = (received, sent);
    }

    /// How many datagrams were lost here.
    pub(super) fn dropped(&mut self, datagrams: u64) {
        if let Some(entry) = &mut self.open {
            entry.dropped = Some(datagrams);
        }
    }

    /// The request is over: its line. Bytes of the next one that were read ahead count for this one.
    pub(super) fn end(&mut self, ended: &Ended) {
        if let Some(entry) = self.open.take() {
            self.write(&entry, ended);
        }
    }

    /// The connection is over. What sent bytes and never became a request has a line as well.
    pub(super) fn close(&mut self, ended: &Ended) {
        if self.is_fresh() && self.received > 0 {
            self.begin_unnamed();
        }
        self.end(ended);
        tracing::debug!(
            received = self.received,
            sent = self.sent,
            elapsed = ?self.began.elapsed(),
            reason = %ended,
            "connection closed"
        );
    }

    fn write(&mut self, entry: &Entry, ended: &Ended) {
        let status = match (entry.status, ended) {
            (Some(Status::Code(code)), _) => code.to_string(),
            (Some(Status::Connected), _) => "connected".to_owned(),
            (None, Ended::Rejected(_)) => "refused".to_owned(),
            (None, _) => "failed".to_owned(),
        };
        tracing::info!(
            method = %entry.method,
            target = entry.target.as_ref().map(tracing::field::display),
            upstream = entry.upstream.map(tracing::field::display),
            path = entry.path.as_ref().map(tracing::field::display),
            %status,
            received = self.received - self.told.0,
            sent = self.sent - self.told.1,
            dropped = entry.dropped,
            elapsed = ?entry.began.elapsed(),
            reason = %printable(&ended.to_string()),
            "access"
        );
        self.told = (self.received, self.sent);
        self.lines += 1;
    }
}

impl Drop for Report {
    /// The session's end drops connections where they are. What a relay moved is not known then.
    fn drop(&mut self) {
        self.end(&Ended::Cut);
    }
}

/// A program's text, fit for a terminal and a line.
fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_TEXT)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_no_query_no_control_characters_and_is_bounded() {
        let mut report = Report::new();
        report.begin("GET");
        report.path("/a/b?token=secret");
        let path = |report: &Report| report.open.as_ref().and_then(|entry| entry.path.clone()).unwrap();
        assert_eq!(path(&report), "/a/b");
        report.path("/\u{1b}[31m\u{9b}x#fragment");
        assert_eq!(path(&report), "/?[31m?x");
        report.path(&"x".repeat(5000));
        assert_eq!(path(&report).len(), MAX_TEXT);
        assert!(!report.is_fresh());
        report.end(&Ended::Complete);
        assert!(!report.is_fresh() && report.open.is_none());
    }
}
