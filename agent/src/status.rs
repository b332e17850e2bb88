//! Is a transport there, since when, and how much goes on? What `tunnel-agent state` prints.
//!
//! `agent` writes it, the attachments read it for whoever asks over the unix socket. `cleanup` decides from it
//! whether a session is dead.

use tokio::sync::watch;
use tokio::time::Instant;
use tunnel_wire::Session;

/// What is known at one moment.
#[derive(Debug, Clone)]
struct State {
    /// Whether a transport is there.
    attached: bool,
    /// The newest session; it outlives its transports.
    session: Option<Session>,
    /// When `attached` last changed.
    since: Instant,
}

/// The writing side, owned by the agent.
#[derive(Debug)]
pub(crate) struct StatusTx {
    state_tx: watch::Sender<State>,
}

/// The reading side. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Status {
    state_rx: watch::Receiver<State>,
}

impl StatusTx {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            state_tx: watch::Sender::new(State {
                attached: false,
                session: None,
                since: now,
            }),
        }
    }

    pub(crate) fn reader(&self) -> Status {
        Status {
            state_rx: self.state_tx.subscribe(),
        }
    }

    /// A transport of `session` is there. One that replaces another one keeps the time.
    pub(crate) fn attached(&self, session: &Session, now: Instant) {
        self.state_tx.send_modify(|state| {
            if !state.attached {
                state.since = now;
            }
            state.attached = true;
            state.session = Some(session.clone());
        });
    }

    /// The transport ended.
    pub(crate) fn detached(&self, now: Instant) {
        self.state_tx.send_modify(|state| {
            state.attached = false;
            state.since = now;
        });
    }
}

impl Status {
    /// One line of JSON without the line feed: `{"attached":true,"seconds":12,"streams":3}`.
    ///
    /// `seconds` is the time since the agent last changed between attached and not attached, in whole seconds.
    pub fn line(&self, now: Instant) -> String {
        let state = self.state_rx.borrow();
        let attached = state.attached;
        let seconds = now.saturating_duration_since(state.since).as_secs();
        let streams = state.session.as_ref().map_or(0, Session::streams);
        format!(r#"{{"attached":{attached},"seconds":{seconds},"streams":{streams}}}"#)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tunnel_wire::{link, session};

    use super::*;

    fn session() -> Session {
        let (link, io) = link::channel();
        session::start(session::End::Agent, link, io).0
    }

    #[tokio::test]
    async fn the_time_counts_from_the_last_change() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let status_tx = StatusTx::new(start);
        let status = status_tx.reader();
        assert_eq!(
            status.line(after(3)),
            r#"{"attached":false,"seconds":3,"streams":0}"#
        );
        status_tx.attached(&session(), after(10));
        assert_eq!(
            status.line(after(12)),
            r#"{"attached":true,"seconds":2,"streams":0}"#
        );
        status_tx.attached(&session(), after(20));
        assert_eq!(
            status.line(after(25)),
            r#"{"attached":true,"seconds":15,"streams":0}"#
        );
        status_tx.detached(after(30));
        assert_eq!(
            status.line(after(31)),
            r#"{"attached":false,"seconds":1,"streams":0}"#
        );
    }
}
