//! Where a session stands, for everybody who waits, shows or opens streams.
//!
//! One watch for a command's whole life, over all its transports and agents. The keeper and the command write
//! it; the listeners open streams through [`Door`], which holds them while there is no transport.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};
use tunnel_wire::{Open, OpenError, Session, Stream};

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
    /// Whether everything that belongs to the present session is in place.
    complete: bool,
    /// What is to be told once it is: the keeper is ready already.
    ready: Option<Phase>,
    /// How often no agent came up although one was wanted.
    failures: u64,
}

impl Standing {
    fn open_session(&self) -> Option<&Session> {
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
}

impl Default for StandingTx {
    fn default() -> Self {
        Self {
            standing: watch::Sender::new(Standing {
                phase: Phase::Connecting,
                session: None,
                complete: false,
                ready: None,
                failures: 0,
            }),
            wanted: Arc::default(),
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
                after: Duration::ZERO,
            });
            false
        });
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
    /// those are told who wait for it already.
    pub fn rest(&self, failure: Option<&str>) {
        self.standing.send_if_modified(|standing| {
            standing.session = None;
            standing.complete = false;
            standing.ready = None;
            standing.failures += u64::from(failure.is_some());
            false
        });
        self.set_phase(Phase::Idle {
            failure: failure.map(Arc::from),
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
        if let Some(Phase::Ready { transport, .. }) = ready {
            self.set_phase(Phase::Ready {
                transport,
                after: lost,
            });
        }
    }

    /// A new phase. Once the end has begun nothing but the end follows; nothing is ready before it is complete.
    pub fn set_phase(&self, phase: Phase) {
        self.standing.send_if_modified(|standing| {
            let ending = match standing.phase {
                Phase::Draining => !matches!(phase, Phase::Closed),
                Phase::Closed => true,
                Phase::Idle { .. } | Phase::Connecting | Phase::Ready { .. } | Phase::Reconnecting { .. } => {
                    false
                }
            };
            let early = !standing.complete && matches!(phase, Phase::Ready { .. });
            if early {
                standing.ready = Some(phase);
                return false;
            }
            if matches!(phase, Phase::Reconnecting { .. }) {
                standing.ready = None;
            }
            if !ending {
                standing.phase = phase;
            }
            !ending
        });
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
        Door {
            standing_rx: self.reader(),
            wanted: Arc::clone(&self.wanted),
            hold,
            start,
        }
    }
}

/// Why no stream was opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DoorError {
    /// The other end said no, or the session ended.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There was no transport for too long.
    #[error("no connection to the agent for {}{}", humantime::format_duration(*.hold), match .reason {
        Some(reason) => format!(" ({reason})"),
        None => String::new(),
    })]
    Held {
        /// How long was waited.
        hold: Duration,
        /// What the keeper says about it.
        reason: Option<Arc<str>>,
    },
    /// There was no agent, and none came up.
    #[error("no agent: {0}")]
    NotStarted(Arc<str>),
}

/// Opens streams in whatever session there is. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Door {
    standing_rx: watch::Receiver<Standing>,
    wanted: Arc<Notify>,
    hold: Duration,
    start: Duration,
}

impl Door {
    /// Opens a stream, once there is a transport.
    ///
    /// # Errors
    /// There was none for the time of the hold, or the session refuses.
    pub async fn open(&self, open: &Open) -> Result<Stream, DoorError> {
        let patience = match self.standing_rx.borrow().phase {
            Phase::Idle { .. } | Phase::Connecting => self.start,
            Phase::Ready { .. } | Phase::Reconnecting { .. } | Phase::Draining | Phase::Closed => self.hold,
        };
        let deadline = Instant::now() + patience;
        loop {
            let session = self.session_by(deadline).await?;
            match session.open(open).await {
                // The agent was replaced in between; the next one is worth the rest of the wait.
                Err(OpenError::SessionClosed) if Instant::now() < deadline => {
                    drop(timeout_at(deadline, self.other_than(&session)).await);
                }
                opened => return Ok(opened?),
            }
        }
    }

    /// Waits for the other end's answer to an open.
    ///
    /// # Errors
    /// It refuses, or there was no transport for the time of the hold.
    pub async fn opened(&self, stream: &mut Stream) -> Result<(), DoorError> {
        tokio::select! {
            opened = stream.opened() => Ok(opened?),
            held = self.shut() => Err(held),
        }
    }

    async fn session_by(&self, deadline: Instant) -> Result<Session, DoorError> {
        let mut standing_rx = self.standing_rx.clone();
        let failures = {
            let standing = standing_rx.borrow();
            if matches!(standing.phase, Phase::Idle { .. }) {
                self.wanted.notify_one();
            }
            standing.failures
        };
        let waited = timeout_at(
            deadline,
            standing_rx.wait_for(|standing| {
                standing.open_session().is_some()
                    || matches!(standing.phase, Phase::Closed)
                    || standing.failures != failures
            }),
        )
        .await;
        match waited {
            Ok(Ok(standing)) => match (standing.open_session(), &standing.phase) {
                (Some(session), _) => Ok(session.clone()),
                (
                    None,
                    Phase::Idle {
                        failure: Some(failure),
                    },
                ) => Err(DoorError::NotStarted(Arc::clone(failure))),
                (None, _) => Err(OpenError::SessionClosed.into()),
            },
            Ok(Err(_)) => Err(OpenError::SessionClosed.into()),
            Err(_) => Err(self.held()),
        }
    }

    /// Resolves when another session has taken the place of this closed one, or the end has come.
    async fn other_than(&self, session: &Session) {
        let mut standing_rx = self.standing_rx.clone();
        drop(
            standing_rx
                .wait_for(|standing| {
                    matches!(standing.phase, Phase::Closed)
                        || standing
                            .open_session()
                            .is_some_and(|other| !other.is_same(session))
                })
                .await,
        );
    }

    /// Resolves when there has been no transport for the time of the hold.
    async fn shut(&self) -> DoorError {
        let mut standing_rx = self.standing_rx.clone();
        let is_open = |standing: &Standing| standing.open_session().is_some();
        loop {
            // An error means that the command is gone; then nobody waits either.
            if standing_rx.wait_for(|standing| !is_open(standing)).await.is_err() {
                return self.held();
            }
            let deadline = Instant::now() + self.hold;
            match timeout_at(deadline, standing_rx.wait_for(is_open)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return self.held(),
            }
        }
    }

    fn held(&self) -> DoorError {
        let reason = match &self.standing_rx.borrow().phase {
            Phase::Reconnecting { reason, .. } => Some(Arc::clone(reason)),
            Phase::Idle { .. }
            | Phase::Connecting
            | Phase::Ready { .. }
            | Phase::Draining
            | Phase::Closed => None,
        };
        DoorError::Held {
            hold: self.hold,
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use tunnel_wire::Protocol;
    use tunnel_wire::link;
    use tunnel_wire::session::{End, start};

    use super::*;

    const HOLD: Duration = Duration::from_secs(10);

    fn dial() -> Open {
        Open::Dial {
            protocol: Protocol::Tcp,
            patience_ms: 0,
            host: "web".to_owned(),
            port: 80,
        }
    }

    fn reconnecting() -> Phase {
        Phase::Reconnecting {
            reason: "refused".into(),
            attempt: 2,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_waits_for_the_hold_and_then_says_why() {
        let standing_tx = StandingTx::default();
        standing_tx.set_phase(reconnecting());
        let before = Instant::now();
        let error = standing_tx.door(HOLD).open(&dial()).await.unwrap_err();
        assert_eq!(before.elapsed(), HOLD);
        assert_eq!(error.to_string(), "no connection to the agent for 10s (refused)");
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_goes_on_with_the_next_transport() {
        let standing_tx = StandingTx::default();
        let (link, io) = link::channel();
        let (session, _incoming, driver) = start(End::Plugin, link, io);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(driver.run());
        standing_tx.set_session(session);
        standing_tx.complete(Duration::ZERO);
        standing_tx.set_phase(reconnecting());
        let door = standing_tx.door(HOLD);
        let (dial, before) = (dial(), Instant::now());
        let later = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            standing_tx.set_phase(Phase::Ready {
                transport: 2,
                after: Duration::from_secs(3),
            });
        };
        let (opened, ()) = tokio::join!(door.open(&dial), later);
        let mut stream = opened.unwrap();
        assert_eq!(before.elapsed(), Duration::from_secs(3));
        // The answer never comes; the loss of the transport bounds the wait.
        standing_tx.set_phase(reconnecting());
        let before = Instant::now();
        assert!(matches!(
            door.opened(&mut stream).await,
            Err(DoorError::Held { .. })
        ));
        assert_eq!(before.elapsed(), HOLD);
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_agent_an_open_asks_for_one_and_waits_for_its_start() {
        let start_patience = Duration::from_secs(60);
        let standing_tx = StandingTx::default();
        standing_tx.rest(None);
        let door = standing_tx.door_with_start(HOLD, start_patience);
        let dial = dial();
        let starts = async {
            standing_tx.wanted().await;
            standing_tx.set_phase(Phase::Connecting);
            tokio::time::sleep(HOLD * 2).await;
            let (link, io) = link::channel();
            let (session, incoming, driver) = start(End::Plugin, link, io);
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(driver.run());
            standing_tx.set_session(session);
            standing_tx.complete(Duration::ZERO);
            standing_tx.granted();
            (tasks, incoming)
        };
        let (opened, _session) = tokio::join!(door.open(&dial), starts);
        opened.unwrap();
        assert!(
            standing_tx.wanted().now_or_never().is_none(),
            "the wish is granted"
        );
        standing_tx.rest(None);
        let before = Instant::now();
        let error = door.open(&dial).await.unwrap_err();
        assert!(matches!(error, DoorError::Held { .. }), "{error}");
        assert_eq!(before.elapsed(), start_patience);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_an_agent_that_does_not_come_up_is_told_at_once() {
        let standing_tx = StandingTx::default();
        standing_tx.rest(None);
        let door = standing_tx.door(HOLD);
        let (dial, before) = (dial(), Instant::now());
        let fails = async {
            standing_tx.wanted().await;
            standing_tx.set_phase(Phase::Connecting);
            standing_tx.rest(Some("the quota is used up"));
        };
        let (opened, ()) = tokio::join!(door.open(&dial), fails);
        let error = opened.unwrap_err();
        assert_eq!(error.to_string(), "no agent: the quota is used up");
        assert_eq!(before.elapsed(), Duration::ZERO);
        // The next one asks again, and is not told of the failure before.
        drop(door.open(&dial).now_or_never());
        standing_tx.wanted().await;
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
}
