//! Where a session stands, for everybody who waits, shows or opens streams.
//!
//! One watch for a command's whole life, over all its transports and agents. The keeper and the command write
//! it; who opens streams goes through a [`Door`].

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{Notify, watch};
use tunnel_wire::Session;
use tunnel_wire::link::LinkHandle;

use super::Way;
use super::door::Door;
use crate::traffic::Traffic;

/// Where a session stands.
#[derive(Debug, Clone)]
pub enum Phase {
    /// No agent, until somebody wants to open a stream.
    Idle {
        /// Why the last one did not come up.
        failure: Option<Arc<str>>,
    },
    /// No transport yet.
    Connecting,
    /// Streams can be opened and flow.
    Ready {
        /// Which transport of the present agent this is.
        transport: u32,
        /// How it comes to the agent.
        way: Way,
        /// How long there was none before it; zero when it took over without a pause.
        after: Duration,
    },
    /// The transport is lost, streams wait for the next one.
    Reconnecting {
        /// Why there is none.
        reason: Arc<str>,
        /// Which attempt is under way, from 1.
        attempt: u32,
    },
    /// The user asked for the end; open connections may finish.
    Draining,
    /// Over.
    Closed,
}

/// The phase, and the session that streams are opened in.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Where it stands.
    pub phase: Phase,
    session: Option<Session>,
    /// What the session travels on.
    link: Option<LinkHandle>,
    /// Whether everything that belongs to the present session is in place.
    complete: bool,
    /// What is to be told once it is: the keeper is ready already.
    ready: Option<Phase>,
    /// How often no agent came up although one was wanted.
    pub(super) failures: u64,
    /// What the keeper said while the door was shut.
    missed: Option<Phase>,
}

impl Standing {
    /// Where streams can be opened.
    pub(super) fn open_session(&self) -> Option<&Session> {
        match self.phase {
            Phase::Ready { .. } | Phase::Draining => self.session.as_ref(),
            Phase::Idle { .. } | Phase::Connecting | Phase::Reconnecting { .. } | Phase::Closed => None,
        }
    }
}

/// The writing side. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StandingTx {
    standing: watch::Sender<Standing>,
    /// Somebody wants to open a stream, and there is no agent.
    wanted: Arc<Notify>,
    traffic: Traffic,
}

impl Default for StandingTx {
    fn default() -> Self {
        Self {
            standing: watch::Sender::new(Standing {
                phase: Phase::Connecting,
                session: None,
                link: None,
                complete: false,
                ready: None,
                failures: 0,
                missed: None,
            }),
            wanted: Arc::default(),
            traffic: Traffic::default(),
        }
    }
}

impl StandingTx {
    /// Streams are opened in this session, which has its first transport, once [`StandingTx::complete`] says so.
    pub fn set_session(&self, session: Session) {
        self.standing.send_if_modified(|standing| {
            standing.session = Some(session);
            standing.complete = false;
            standing.ready = Some(Phase::Ready {
                transport: 1,
                way: Way::Exec,
                after: Duration::ZERO,
            });
            false
        });
    }

    /// What that session travels on, for its round trip.
    pub fn set_link(&self, link: LinkHandle) {
        self.standing.send_if_modified(|standing| {
            standing.link = Some(link);
            false
        });
    }

    /// To the agent and back, while there is a connection to it.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        let standing = self.standing.borrow();
        let link = standing.open_session().and(standing.link.as_ref())?;
        Some(link.rtt())
    }

    /// What all sessions have carried.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// The session before is gone, and another one is being made.
    pub fn begin_anew(&self, reason: &str) {
        self.standing.send_if_modified(|standing| {
            standing.complete = false;
            standing.ready = None;
            false
        });
        self.set_phase(Phase::Reconnecting {
            reason: reason.into(),
            attempt: 1,
        });
    }

    /// There is no agent from now on: the next stream that somebody wants to open asks for one. `failure` is what
    /// those are told who wait for it already. Returns the phase before.
    pub fn rest(&self, failure: Option<&str>) -> Phase {
        let before = self.standing.borrow().phase.clone();
        self.standing.send_if_modified(|standing| {
            standing.session = None;
            standing.complete = false;
            standing.ready = None;
            standing.missed = None;
            standing.failures += u64::from(failure.is_some());
            false
        });
        self.set_phase(Phase::Idle {
            failure: failure.map(Arc::from),
        });
        before
    }

    /// Takes a rest back: somebody opened a stream in `session` before the door was shut. It stands as its keeper has
    /// said meanwhile, else as `before`.
    pub fn wake(&self, session: Session, before: Phase) {
        self.standing.send_if_modified(|standing| {
            let resting = matches!(standing.phase, Phase::Idle { .. });
            if resting {
                standing.session = Some(session);
                standing.complete = true;
                standing.ready = None;
                standing.phase = standing.missed.take().unwrap_or(before);
            }
            resting
        });
    }

    /// Resolves when somebody wants to open a stream and there is no agent.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Forgets who wanted to: there is an agent.
    pub fn granted(&self) {
        // Whether anybody did is of no matter.
        let _wish: Option<()> = self.wanted.notified().now_or_never();
    }

    /// Everything that belongs to the session is in place: it is ready whenever its keeper is. `lost` is how
    /// long there was none before.
    pub fn complete(&self, lost: Duration) {
        let ready = self.standing.borrow().ready.clone();
        self.standing.send_if_modified(|standing| {
            standing.complete = true;
            standing.ready = None;
            false
        });
        // Otherwise the keeper has lost its transport meanwhile, and says so itself when it has another.
        if let Some(Phase::Ready { transport, way, .. }) = ready {
            self.set_phase(Phase::Ready {
                transport,
                way,
                after: lost,
            });
        }
    }

    /// A new phase. Once the end has begun nothing but the end follows; nothing is ready before it is complete, and
    /// what the keeper of a session says that is being given up is only kept for [`StandingTx::wake`].
    pub fn set_phase(&self, phase: Phase) {
        self.standing.send_if_modified(|standing| {
            let of_the_keeper = matches!(phase, Phase::Ready { .. } | Phase::Reconnecting { .. });
            match standing.phase {
                Phase::Closed => return false,
                Phase::Draining if !matches!(phase, Phase::Closed) => return false,
                Phase::Idle { .. } if of_the_keeper => {
                    standing.missed = Some(phase);
                    return false;
                }
                Phase::Idle { .. }
                | Phase::Connecting
                | Phase::Ready { .. }
                | Phase::Reconnecting { .. }
                | Phase::Draining => {}
            }
            if !standing.complete && matches!(phase, Phase::Ready { .. }) {
                standing.ready = Some(phase);
                return false;
            }
            if matches!(phase, Phase::Reconnecting { .. }) {
                standing.ready = None;
            }
            if matches!(
                (&standing.phase, &phase),
                (Phase::Reconnecting { .. }, Phase::Ready { .. })
            ) {
                self.traffic.reconnected();
            }
            standing.phase = phase;
            true
        });
    }

    /// What carries the session at this moment.
    #[must_use]
    pub fn way(&self) -> Option<Way> {
        match self.standing.borrow().phase {
            Phase::Ready { way, .. } => Some(way),
            Phase::Idle { .. }
            | Phase::Connecting
            | Phase::Reconnecting { .. }
            | Phase::Draining
            | Phase::Closed => None,
        }
    }

    /// The reading side.
    #[must_use]
    pub fn reader(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// The way to open streams; each waits for a transport for at most `hold`.
    #[must_use]
    pub fn door(&self, hold: Duration) -> Door {
        self.door_with_start(hold, hold)
    }

    /// The same, and for an agent that has to be started for at most `start`.
    #[must_use]
    pub fn door_with_start(&self, hold: Duration, start: Duration) -> Door {
        Door::new(
            self.reader(),
            Arc::clone(&self.wanted),
            self.traffic.clone(),
            hold,
            start,
        )
    }
}

#[cfg(test)]
mod tests {
    use tunnel_wire::link;
    use tunnel_wire::session::{End, start};

    use super::*;

    fn reconnecting() -> Phase {
        Phase::Reconnecting {
            reason: "refused".into(),
            attempt: 2,
        }
    }

    #[tokio::test]
    async fn a_session_is_ready_when_it_is_complete_and_its_keeper_has_a_transport() {
        let (link, io) = link::channel();
        let (session, ..) = start(End::Plugin, link, io);
        let standing_tx = StandingTx::default();
        let reader = standing_tx.reader();
        let transport = || match reader.borrow().phase {
            Phase::Ready { transport, .. } => Some(transport),
            Phase::Idle { .. }
            | Phase::Connecting
            | Phase::Reconnecting { .. }
            | Phase::Draining
            | Phase::Closed => None,
        };
        standing_tx.set_session(session.clone());
        assert_eq!(transport(), None);
        standing_tx.set_phase(reconnecting());
        standing_tx.complete(Duration::ZERO);
        assert_eq!(transport(), None);
        let ready = |transport| Phase::Ready {
            transport,
            way: Way::Exec,
            after: Duration::ZERO,
        };
        standing_tx.set_phase(ready(2));
        assert_eq!(transport(), Some(2));

        standing_tx.begin_anew("its pod was deleted");
        standing_tx.set_session(session);
        standing_tx.set_phase(ready(2));
        assert_eq!(transport(), None);
        standing_tx.complete(Duration::from_secs(1));
        assert_eq!(transport(), Some(2));
    }

    #[test]
    fn nothing_but_the_end_follows_the_end() {
        let standing_tx = StandingTx::default();
        let reader = standing_tx.reader();
        standing_tx.set_phase(Phase::Draining);
        standing_tx.set_phase(reconnecting());
        assert!(matches!(reader.borrow().phase, Phase::Draining));
        standing_tx.set_phase(Phase::Closed);
        standing_tx.set_phase(Phase::Draining);
        assert!(matches!(reader.borrow().phase, Phase::Closed));
    }

    #[tokio::test]
    async fn nothing_the_keeper_says_ends_a_rest_and_a_rest_can_be_taken_back() {
        let (link, io) = link::channel();
        let (session, ..) = start(End::Plugin, link, io);
        let standing_tx = StandingTx::default();
        let reader = standing_tx.reader();
        standing_tx.set_session(session.clone());
        standing_tx.complete(Duration::ZERO);
        let before = standing_tx.rest(None);
        assert!(matches!(before, Phase::Ready { transport: 1, .. }));
        standing_tx.set_phase(reconnecting());
        assert!(matches!(reader.borrow().phase, Phase::Idle { .. }));
        standing_tx.wake(session.clone(), before);
        assert!(matches!(
            reader.borrow().phase,
            Phase::Reconnecting { attempt: 2, .. }
        ));

        let before = standing_tx.rest(None);
        standing_tx.wake(session.clone(), before);
        assert!(matches!(
            reader.borrow().phase,
            Phase::Reconnecting { attempt: 2, .. }
        ));
        let before = standing_tx.rest(None);
        standing_tx.set_phase(Phase::Connecting);
        standing_tx.wake(session, before);
        assert!(
            matches!(reader.borrow().phase, Phase::Connecting),
            "the next agent is being started already"
        );
    }
}
