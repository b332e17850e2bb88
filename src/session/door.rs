//! The door to whatever session there is: opens streams, holds who comes while there is no transport, and asks for an
//! agent while there is none.
//!
//! It reads where the session stands ([`super::standing`]) and writes nothing. Every wait has a deadline.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};
use tunnel_wire::{Open, OpenError, Session, Stream};

use super::standing::{Phase, Standing};
use crate::traffic::{Traffic, kind};

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
    /// Told whenever somebody waits while there is no agent.
    wanted: Arc<Notify>,
    traffic: Traffic,
    /// How long a transport may take to come back.
    hold: Duration,
    /// How long an agent may take to come up.
    start: Duration,
}

impl Door {
    pub(super) fn new(
        standing_rx: watch::Receiver<Standing>,
        wanted: Arc<Notify>,
        traffic: Traffic,
        hold: Duration,
        start: Duration,
    ) -> Self {
        Self {
            standing_rx,
            wanted,
            traffic,
            hold,
            start,
        }
    }

    /// Opens a stream, once there is a transport, and an agent first if there is none.
    ///
    /// # Errors
    /// There was no transport for the time of the hold, no agent came up, or the session refuses.
    pub async fn open(&self, open: &Open) -> Result<Stream, DoorError> {
        let opened = self.try_open(open).await;
        self.count(opened)
    }

    async fn try_open(&self, open: &Open) -> Result<Stream, DoorError> {
        let mut wait = Wait::new(self);
        loop {
            let session = wait.for_session(None).await?;
            match session.open(open).await {
                // The agent was replaced in between; the next one is worth the rest of the wait.
                Err(OpenError::SessionClosed) => {
                    wait.for_session(Some(&session)).await?;
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
        let opened = tokio::select! {
            opened = stream.opened() => opened.map_err(DoorError::from),
            held = self.shut() => Err(held),
        };
        self.count(opened)
    }

    /// What goes through it.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    fn count<T>(&self, opened: Result<T, DoorError>) -> Result<T, DoorError> {
        opened.inspect_err(|error| {
            self.traffic.failed(match error {
                DoorError::Open(error) => kind(error.code()),
                DoorError::Held { .. } => "no-connection-to-the-agent",
                DoorError::NotStarted(_) => "no-agent",
            });
        })
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

/// One wait for a session.
struct Wait<'a> {
    door: &'a Door,
    standing_rx: watch::Receiver<Standing>,
    began: Instant,
    /// Failures before it began are not its own.
    failures: u64,
    /// Whether an agent had to be started meanwhile.
    starting: bool,
}

impl<'a> Wait<'a> {
    fn new(door: &'a Door) -> Self {
        let standing_rx = door.standing_rx.clone();
        let failures = standing_rx.borrow().failures;
        Self {
            door,
            standing_rx,
            began: Instant::now(),
            failures,
            starting: false,
        }
    }

    /// A session that is open, other than `closed`.
    async fn for_session(&mut self, closed: Option<&Session>) -> Result<Session, DoorError> {
        loop {
            let patience = {
                let standing = self.standing_rx.borrow_and_update();
                let other = |session: &&Session| closed.is_none_or(|closed| !closed.is_same(session));
                if let Some(session) = standing.open_session().filter(other) {
                    return Ok(session.clone());
                }
                let idle = matches!(standing.phase, Phase::Idle { .. });
                self.starting |= idle || matches!(standing.phase, Phase::Connecting);
                match &standing.phase {
                    Phase::Closed => return Err(OpenError::SessionClosed.into()),
                    Phase::Idle {
                        failure: Some(failure),
                    } if standing.failures != self.failures => {
                        return Err(DoorError::NotStarted(Arc::clone(failure)));
                    }
                    Phase::Idle { .. }
                    | Phase::Connecting
                    | Phase::Ready { .. }
                    | Phase::Reconnecting { .. }
                    | Phase::Draining => {}
                }
                let patience = if self.starting {
                    self.door.start.max(self.door.hold)
                } else {
                    self.door.hold
                };
                // Who waits no longer must not start an agent.
                if idle && self.began.elapsed() < patience {
                    self.door.wanted.notify_one();
                }
                patience
            };
            match timeout_at(self.began + patience, self.standing_rx.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(OpenError::SessionClosed.into()),
                // The closed one is all there is.
                Err(_) if self.standing_rx.borrow().open_session().is_some() => {
                    return Err(OpenError::SessionClosed.into());
                }
                Err(_) => return Err(self.door.held()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tunnel_wire::Protocol;
    use tunnel_wire::link;
    use tunnel_wire::session::{End, start};

    use futures::FutureExt as _;

    use super::super::standing::StandingTx;
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
                way: crate::session::Way::Exec,
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

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_transport_asks_for_an_agent_when_the_session_is_given_up() {
        let start_patience = Duration::from_secs(60);
        let standing_tx = StandingTx::default();
        standing_tx.set_phase(reconnecting());
        let door = standing_tx.door_with_start(HOLD, start_patience);
        let (dial, before) = (dial(), Instant::now());
        let given_up = async {
            tokio::time::sleep(HOLD / 2).await;
            standing_tx.rest(None);
            standing_tx.wanted().await;
        };
        let (opened, ()) = tokio::join!(door.open(&dial), given_up);
        assert!(matches!(opened.unwrap_err(), DoorError::Held { .. }));
        assert_eq!(
            before.elapsed(),
            start_patience,
            "an agent takes longer than a transport"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_meets_a_dead_session_is_told_when_no_other_comes_up() {
        let standing_tx = StandingTx::default();
        let (link, io) = link::channel();
        let (session, _incoming, driver) = start(End::Plugin, link.clone(), io);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(driver.run());
        standing_tx.set_session(session);
        standing_tx.complete(Duration::ZERO);
        link.close(link::TransportEnd::Closed);
        let door = standing_tx.door(HOLD);
        let (dial, before) = (dial(), Instant::now());
        let fails = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            standing_tx.rest(Some("the quota is used up"));
        };
        let (opened, ()) = tokio::join!(door.open(&dial), fails);
        assert_eq!(opened.unwrap_err().to_string(), "no agent: the quota is used up");
        assert_eq!(before.elapsed(), Duration::from_secs(1));
    }
}
