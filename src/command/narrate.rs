//! Tells how a session stands: one updated line on a terminal, lines elsewhere, events, and the ready file.
//!
//! It follows the session's standing on a task of its own and decides nothing. The ready event itself is the
//! command's to print, since scripts wait for what comes with it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::expose::ExposePlan;
use super::ready;
use crate::cluster::agent::Agent;
use crate::error::Error;
use crate::session::{Phase, Standing, StandingTx, Way};
use crate::ui::event::{Ready, ReadyFile, State, StateName};
use crate::ui::{Event, Printer};

/// The running narration.
#[derive(Debug)]
pub(super) struct Narrator {
    standing_tx: StandingTx,
    facts: SharedFacts,
    task: Mutex<JoinSet<()>>,
}

/// What the ready file says beside the state.
#[derive(Debug)]
pub(super) struct Facts {
    ready: Ready,
    file: Option<ReadyFile>,
}

pub(super) type SharedFacts = Arc<Mutex<Option<Facts>>>;

/// What was ready, as it is now; none before.
pub(super) fn facts_of(facts: &SharedFacts) -> Option<Ready> {
    lock(facts).as_ref().map(|facts| facts.ready.clone())
}

impl Facts {
    /// Writes the ready file, if one is wanted.
    pub(super) fn new(ready: Ready, path: Option<&Path>) -> Result<Self, Error> {
        let file = match path {
            Some(path) => {
                let written = ReadyFile::write(path, &Event::Ready(ready.clone()));
                Some(written.map_err(|source| Error::Io {
                    doing: format!("write the ready file {}", path.display()),
                    source,
                })?)
            }
            None => None,
        };
        Ok(Self { ready, file })
    }

    fn rewrite(&mut self) {
        if let Some(file) = &self.file
            && let Err(error) = file.rewrite(&Event::Ready(self.ready.clone()))
        {
            // It was written before; the session is worth more than the file.
            tracing::warn!(%error, "the ready file is not up to date");
        }
    }
}

impl Narrator {
    /// Begins to follow a standing of its own; see [`Narrator::standing`].
    pub(super) fn start(printer: Printer) -> Self {
        let standing_tx = StandingTx::default();
        let facts = SharedFacts::default();
        let mut task = JoinSet::new();
        task.spawn(narrate(printer, standing_tx.reader(), Arc::clone(&facts)));
        Self {
            standing_tx,
            facts,
            task: Mutex::new(task),
        }
    }

    /// Tells nothing: for a session that somebody else tells about.
    pub(super) fn silent() -> Self {
        Self {
            standing_tx: StandingTx::default(),
            facts: SharedFacts::default(),
            task: Mutex::default(),
        }
    }

    /// Where the session writes how it stands.
    pub(super) fn standing(&self) -> StandingTx {
        self.standing_tx.clone()
    }

    /// What is told beside the state.
    pub(super) fn facts(&self) -> SharedFacts {
        Arc::clone(&self.facts)
    }

    /// Everything works for the first time.
    pub(super) fn ready(&self, facts: Facts) {
        *lock(&self.facts) = Some(facts);
    }

    /// Another agent does the work, or none.
    pub(super) fn agent(&self, agent: Option<&Agent>, expose: Option<&ExposePlan>) {
        if let Some(facts) = lock(&self.facts).as_mut() {
            ready::renew(&mut facts.ready, agent, expose);
            facts.rewrite();
        }
    }

    /// Tells the rest, and removes the ready file.
    pub(super) async fn end(&self) {
        self.standing_tx.set_phase(Phase::Closed);
        let mut task = std::mem::take(&mut *self.task.lock().unwrap_or_else(PoisonError::into_inner));
        // It ends with that phase.
        while task.join_next().await.is_some() {}
        *lock(&self.facts) = None;
    }
}

fn lock(facts: &SharedFacts) -> std::sync::MutexGuard<'_, Option<Facts>> {
    facts.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn narrate(printer: Printer, mut standing_rx: watch::Receiver<Standing>, facts: SharedFacts) {
    let mut told = Told::default();
    loop {
        let phase = standing_rx.borrow_and_update().phase.clone();
        let Some(state) = state_of(&phase) else { return };
        told.tell(&printer, &phase);
        let announced = lock(&facts).as_ref().and_then(|facts| facts.ready.transport_kind);
        if told.news(&state, announced) {
            printer.event(&Event::State(state.clone()));
        }
        if let Some(facts) = lock(&facts).as_mut() {
            facts.ready.state = state.state;
            facts.ready.transport_kind = state.transport_kind;
            facts.ready.reason = state.reason;
            facts.ready.attempt = state.attempt;
            facts.rewrite();
        }
        if standing_rx.changed().await.is_err() {
            return;
        }
    }
}

/// What people and programs know already.
#[derive(Debug, Default)]
struct Told {
    reason: Option<Arc<str>>,
    state: Option<State>,
    way: Option<Way>,
    ready: bool,
}

impl Told {
    /// Whether a state tells anything. The first readiness has an event of its own, which said `announced` of the way
    /// if it is out already. That readiness may be over before anybody looks here: then what is seen first is another.
    fn news(&mut self, state: &State, announced: Option<&str>) -> bool {
        let known = self.state.replace(state.clone());
        if known == self.state {
            return false;
        }
        if state.state != StateName::Ready {
            return true;
        }
        let lost = known.is_some_and(|known| known.state == StateName::Reconnecting);
        let moved = announced.is_some() && announced != state.transport_kind;
        std::mem::replace(&mut self.ready, true) || lost || moved
    }

    fn tell(&mut self, printer: &Printer, phase: &Phase) {
        match phase {
            Phase::Reconnecting { reason, attempt } => {
                let known = self.reason.replace(Arc::clone(reason));
                match known {
                    None => printer.warn(&format!(
                        "the connection to the agent is lost: {reason}; reconnecting"
                    )),
                    Some(known) if known != *reason => {
                        printer.step(&format!("still reconnecting (attempt {attempt}): {reason}"));
                    }
                    Some(_) => {
                        printer.tick(&format!("still reconnecting (attempt {attempt}): {reason}"));
                    }
                }
            }
            Phase::Ready { after, way, .. } => {
                let fell_back = self.way.replace(*way) == Some(Way::PortForward) && *way == Way::Exec;
                if self.reason.take().is_some() {
                    printer.steps_done();
                    let after = Duration::from_millis(millis(*after));
                    let how = if fell_back {
                        " by exec; port-forward is tried again"
                    } else {
                        ""
                    };
                    printer.note(&format!(
                        "reconnected after {}{how}",
                        humantime::format_duration(after)
                    ));
                }
            }
            // What comes next is another session.
            Phase::Idle { .. } => {
                self.reason = None;
                self.way = None;
            }
            Phase::Connecting | Phase::Draining | Phase::Closed => {}
        }
    }
}

/// The state of a phase; none once all is over, which other events tell.
pub(super) fn state_of(phase: &Phase) -> Option<State> {
    Some(match phase {
        Phase::Idle { failure } => State {
            reason: failure.as_deref().map(str::to_owned),
            ..StateName::Idle.into()
        },
        Phase::Connecting => StateName::Connecting.into(),
        Phase::Ready {
            transport,
            way,
            after,
        } => State {
            transport: Some(*transport),
            transport_kind: Some(way.as_str()),
            after_ms: Some(millis(*after)),
            ..StateName::Ready.into()
        },
        Phase::Reconnecting { reason, attempt } => State {
            reason: Some(reason.to_string()),
            attempt: Some(*attempt),
            ..StateName::Reconnecting.into()
        },
        Phase::Draining => StateName::Draining.into(),
        Phase::Closed => return None,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(transport: u32, way: Way) -> State {
        state_of(&Phase::Ready {
            transport,
            way,
            after: Duration::ZERO,
        })
        .unwrap()
    }

    fn reconnecting() -> State {
        let reason = "reset".into();
        state_of(&Phase::Reconnecting { reason, attempt: 1 }).unwrap()
    }

    const ANNOUNCED: Option<&str> = Some("exec");

    #[test]
    fn the_first_readiness_is_the_ready_events_and_each_later_one_is_told() {
        let connecting = StateName::Connecting.into();
        for announced in [None, ANNOUNCED] {
            let mut told = Told::default();
            assert!(told.news(&connecting, None));
            assert!(!told.news(&ready(1, Way::Exec), announced));
            assert!(told.news(&reconnecting(), ANNOUNCED));
            assert!(!told.news(&reconnecting(), ANNOUNCED));
            assert!(told.news(&ready(2, Way::Exec), ANNOUNCED));
        }
    }

    #[test]
    fn a_readiness_that_was_lost_or_moved_before_anybody_looked_hides_none() {
        let mut told = Told::default();
        assert!(told.news(&reconnecting(), ANNOUNCED));
        assert!(told.news(&ready(2, Way::Exec), ANNOUNCED));

        let mut told = Told::default();
        assert!(told.news(&ready(2, Way::PortForward), ANNOUNCED));
    }
}
