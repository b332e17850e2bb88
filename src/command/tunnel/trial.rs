//! A session for `doctor --deep`: started, attached and removed as any other, and in between somebody's to measure.
//!
//! It serves nothing, prints no events and does not start another agent when the first is lost. How long each step took
//! is written down ([`Timeline`]); what is good and what is bad is the caller's to say.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tunnel_wire::link::LinkHandle;
use tunnel_wire::{Incoming, Session};

use super::super::Context;
use super::super::expose::Listening;
use super::super::narrate::Narrator;
use super::loss::{Loss, Verdict};
use super::{Plan, Stage, Tunnel, settings};
use crate::cluster::agent::Agent;
use crate::cluster::client::{Access, ApiServer};
use crate::cluster::end::Ending;
use crate::cluster::names::SessionId;
use crate::cluster::options::AgentOptions;
use crate::cluster::start::StartStep;
use crate::error::Error;
use crate::session::StandingTx;

/// How long all objects of a session may take to go, once its Job is deleted: ten times what was measured.
pub(in crate::command) const REMOVAL_WAIT: Duration = Duration::from_secs(15);

/// The session, for whoever measures it.
pub(in crate::command) struct Subject {
    pub(in crate::command) session: Session,
    pub(in crate::command) incoming: Incoming,
    pub(in crate::command) link: LinkHandle,
    pub(in crate::command) standing: StandingTx,
    pub(in crate::command) agent: Agent,
}

/// Where the time of a start went.
#[derive(Debug)]
pub(in crate::command) struct Timeline {
    began: Instant,
    /// Each step with its beginning; none is the attach.
    steps: Vec<(Option<StartStep>, Instant)>,
    ready: Option<Instant>,
}

/// How a session went.
pub(in crate::command) struct Trial {
    pub(in crate::command) id: SessionId,
    pub(in crate::command) timeline: Timeline,
    pub(in crate::command) fate: Fate,
    /// What became of its objects, and how long that took; `None` when they are another process's.
    pub(in crate::command) removal: Option<(Ending, Duration)>,
    /// `--keep`: these Jobs stay, as `job/name`.
    pub(in crate::command) kept: Vec<String>,
}

/// What ended it.
pub(in crate::command) enum Fate {
    /// Whoever measured was done.
    Used,
    NotStarted(Error),
    /// It ended before, for this reason.
    Lost(String),
}

/// What a session is made with.
pub(in crate::command) struct Ground<'a> {
    pub(in crate::command) plan: &'a Plan<'a>,
    pub(in crate::command) options: AgentOptions,
    pub(in crate::command) access: &'a Access,
    pub(in crate::command) server: &'a ApiServer,
}

/// What ended the middle part.
enum Middle {
    Fate(Fate),
    /// The user wants the end.
    Asked,
    TakenOver,
}

impl Timeline {
    pub(in crate::command) fn start(now: Instant) -> Self {
        Self {
            began: now,
            steps: Vec::new(),
            ready: None,
        }
    }

    /// A step begins, and the one before ends.
    pub(in crate::command) fn step(&mut self, step: Option<&StartStep>, now: Instant) {
        self.steps.push((step.cloned(), now));
    }

    pub(in crate::command) fn ready(&mut self, now: Instant) {
        self.ready = Some(now);
    }

    /// From the first request until all was ready.
    pub(in crate::command) fn took(&self) -> Option<Duration> {
        Some(self.ready? - self.began)
    }

    /// The step that took longest, and how long.
    pub(in crate::command) fn longest(&self) -> Option<(Option<&StartStep>, Duration)> {
        let ends = self.steps.iter().skip(1).map(|(_, begin)| *begin);
        let ends = ends.chain([self.ready?]);
        self.steps
            .iter()
            .zip(ends)
            .map(|((step, begin), end)| (step.as_ref(), end - *begin))
            .max_by_key(|(_, took)| *took)
    }
}

/// Starts a session, lets `measure` have it, and removes it. `None` when the user asked for the end, which leaves
/// nothing either.
///
/// # Errors
/// The user would not wait for the removal.
pub(in crate::command) async fn run(
    ground: Ground<'_>,
    context: &Context,
    measure: impl AsyncFnOnce(Subject),
) -> Result<Option<Trial>, Error> {
    let narrator = Narrator::silent();
    let stage = Stage {
        id: SessionId::random(),
        metrics: None,
        settings: settings(ground.plan.session),
        plan: ground.plan,
        context,
        access: ground.access.pinned_to(ground.server),
        server: ground.server,
        options: ground.options,
        standing_tx: narrator.standing(),
        narrator,
    };
    let tunnel = Tunnel::new(&stage);
    let timeline = Mutex::new(Timeline::start(Instant::now()));
    let middle = Box::pin(tunnel.be_measured(&timeline, measure)).await;
    context.printer.steps_done();
    let fate = match middle {
        Ok(Middle::Fate(fate)) => Some(fate),
        Ok(Middle::Asked) => {
            tunnel.remove(Ok(())).await?;
            return Ok(None);
        }
        Ok(Middle::TakenOver) | Err(Error::TakenOver) => None,
        Err(error) => return tunnel.remove(Err(error)).await.map(|()| None),
    };
    let removal = match fate {
        Some(_) => {
            let began = Instant::now();
            Some((tunnel.delete(REMOVAL_WAIT).await?, began.elapsed()))
        }
        None => None,
    };
    Ok(Some(Trial {
        id: stage.id.clone(),
        timeline: timeline.into_inner().unwrap_or_else(PoisonError::into_inner),
        fate: fate.unwrap_or_else(|| Fate::Lost(Error::TakenOver.to_string())),
        removal,
        kept: if stage.options.keep {
            tunnel.jobs()
        } else {
            Vec::new()
        },
    }))
}

impl Tunnel<'_> {
    async fn be_measured(
        &self,
        timeline: &Mutex<Timeline>,
        measure: impl AsyncFnOnce(Subject),
    ) -> Result<Middle, Error> {
        let lock = || timeline.lock().unwrap_or_else(PoisonError::into_inner);
        let orderly = self.stage.context.shutdown.orderly();
        let seen = |step: Option<&StartStep>| lock().step(step, Instant::now());
        let came_up = tokio::select! {
            came_up = self.come_up_telling(&seen) => came_up,
            () = orderly.cancelled() => return Ok(Middle::Asked),
        };
        let mut live = match came_up {
            Ok(live) => live,
            Err(error) => return Ok(Middle::Fate(Fate::NotStarted(error))),
        };
        lock().ready(Instant::now());
        self.stage.standing_tx.complete(Duration::ZERO);
        let Some(incoming) = live.running.incoming.take() else {
            return Ok(Middle::Fate(Fate::Lost(
                "its streams are somebody else's".to_owned(),
            )));
        };
        let subject = Subject {
            session: live.running.session.clone(),
            incoming,
            link: live.running.link().clone(),
            standing: self.stage.standing_tx.clone(),
            agent: live.agent.clone(),
        };
        let mut listening = Listening::none();
        let loss = tokio::select! {
            loss = Loss::of(self.stage.server, &mut live, &mut listening) => loss,
            () = measure(subject) => {
                self.goodbye(live).await?;
                return Ok(Middle::Fate(Fate::Used));
            }
            () = orderly.cancelled() => {
                self.goodbye(live).await?;
                return Ok(Middle::Asked);
            }
        };
        Ok(match self.judge(loss, &live).await {
            Verdict::TakenOver => Middle::TakenOver,
            Verdict::Replace(reason) | Verdict::Lost(reason) => {
                let said = reason.log.into_iter().chain(live.log.lines()).next_back();
                let said = said.map(|line| format!("; the agent said: {line}"));
                Middle::Fate(Fate::Lost(reason.text + &said.unwrap_or_default()))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_step_ends_with_the_next_or_with_ready() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let mut timeline = Timeline::start(began);
        timeline.step(Some(&StartStep::CheckingRights), at(0));
        timeline.step(Some(&StartStep::Scheduling), at(50));
        timeline.step(Some(&StartStep::Starting), at(300));
        assert_eq!((timeline.took(), timeline.longest()), (None, None));
        timeline.step(None, at(400));
        timeline.ready(at(900));
        assert_eq!(timeline.took(), Some(Duration::from_millis(900)));
        assert_eq!(timeline.longest(), Some((None, Duration::from_millis(500))));

        let pulling = StartStep::Pulling {
            image: "pause".to_owned(),
        };
        let mut timeline = Timeline::start(began);
        timeline.step(Some(&pulling), at(10));
        timeline.step(None, at(900));
        timeline.ready(at(1000));
        assert_eq!(
            timeline.longest(),
            Some((Some(&pulling), Duration::from_millis(890)))
        );
    }
}
