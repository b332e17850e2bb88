//! What it means when a session with an agent is over although nobody asked for it.
//!
//! It only finds out and decides; the next agent is made in [`super::agents`].

use std::time::Duration;

use tokio::time::timeout;

use super::super::expose::Listening;
use super::super::words::Reason;
use super::Tunnel;
use super::agents::Live;
use crate::cluster::client::ApiServer;
use crate::cluster::failure::FailureKind;
use crate::cluster::lease::LeaseEnd;
use crate::cluster::watch::{self as agent_watch, AgentEnd};
use crate::error::{AttachError, Error};
use crate::session::Over;
use crate::ui::Event;

/// A Job that goes so soon after its agent was heard was deleted by somebody who meant it. A pod that ends by
/// itself leaves its Job for longer (the Job controller and the TTL take 7 s), and an agent that nobody
/// attaches to stays for its grace period.
const DELETED_WITHIN: Duration = Duration::from_secs(15);

/// How long the cluster may take to say why an agent said goodbye.
const FATE_WAIT: Duration = Duration::from_secs(5);

/// How long the end of a session may take to follow the end of a listener.
const SETTLE: Duration = Duration::from_secs(1);

/// An agent that ends sooner than this counts as one that does not work.
const SHORT_LIFE: Duration = Duration::from_secs(10);

/// So many of them in a row, and the next will not work either.
const SHORT_LIVES: u32 = 3;

/// What was noticed.
#[derive(Debug)]
pub(super) enum Loss {
    /// The session itself.
    Over(Over<AttachError>),
    /// The cluster.
    Agent(AgentEnd),
    /// The lease; `None` if its task panicked.
    Lease(Option<LeaseEnd>),
    /// The agent does not listen any more.
    Listener,
}

/// What follows.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Another agent takes its place.
    Replace(Reason),
    /// The session is somebody else's.
    TakenOver,
    /// The session is over.
    Lost(Reason),
}

impl Loss {
    /// Resolves when the session with this agent is over.
    pub(super) async fn of(server: &ApiServer, live: &mut Live, listening: &mut Listening) -> Self {
        tokio::select! {
            biased;
            over = live.running.over() => Self::Over(over),
            end = agent_watch::watch_agent(server, &live.agent) => Self::Agent(end),
            Some(end) = live.lease.join_next() => Self::Lease(end.ok()),
            () = listening.ended() => match timeout(SETTLE, live.running.over()).await {
                Ok(over) => Self::Over(over),
                Err(_) => Self::Listener,
            },
        }
    }
}

impl Tunnel<'_> {
    /// Decides what follows from a loss.
    pub(super) async fn judge(&self, loss: Loss, live: &Live) -> Verdict {
        tracing::debug!(?loss, "the session with this agent is over");
        match loss {
            Loss::Over(over) => self.judge_over(over, live).await,
            Loss::Agent(end) => self.judge_agent(&end, live),
            Loss::Lease(Some(LeaseEnd::Gone)) => self.judge_agent(&AgentEnd::JobDeleted { gone: true }, live),
            Loss::Lease(end) => Verdict::Lost(Reason::of_lease(end, &self.stage.options)),
            Loss::Listener => Verdict::Lost(Reason::new("the agent no longer listens for the service")),
        }
    }

    async fn judge_over(&self, over: Over<AttachError>, live: &Live) -> Verdict {
        if over.is_takeover() {
            return Verdict::TakenOver;
        }
        match over {
            Over::Goodbye => {
                let fate = agent_watch::watch_agent(self.stage.server, &live.agent);
                match timeout(FATE_WAIT, fate).await {
                    Ok(end) => self.judge_agent(&end, live),
                    Err(_) => Verdict::Replace(Reason::new("the agent said goodbye")),
                }
            }
            Over::Transport(AttachError::Gone(end)) => self.judge_agent(&end, live),
            over @ (Over::Evicted
            | Over::Refused(_)
            | Over::BadPath(_)
            | Over::GaveUp { .. }
            | Over::Transport(_)
            | Over::Link(_)) => {
                let mut reason = over.to_string();
                if live.running.path_suspect() && !matches!(over, Over::BadPath(_)) {
                    reason.push_str(
                        "; the path may alter or cut what passes through exec: not all of the probe came back",
                    );
                }
                Verdict::Lost(Reason::new(reason))
            }
        }
    }

    fn judge_agent(&self, end: &AgentEnd, live: &Live) -> Verdict {
        let reason = Reason::of_agent(end);
        let meant = match end {
            AgentEnd::NamespaceTerminating => true,
            AgentEnd::JobDeleted { .. } if live.running.unheard() < DELETED_WITHIN => {
                return Verdict::Lost(Reason::of_agent(&AgentEnd::JobDeleted { gone: false }));
            }
            // Our own deadline: either the session is as old as it may become, or we could not renew it.
            AgentEnd::Failed(failure) if failure.kind == FailureKind::DeadlineExceeded => {
                self.lifetime_left().is_zero()
            }
            AgentEnd::JobDeleted { .. } | AgentEnd::PodDeleted | AgentEnd::Failed(_) => false,
        };
        if meant || Self::short_lives(live) >= SHORT_LIVES {
            Verdict::Lost(reason)
        } else {
            Verdict::Replace(reason)
        }
    }

    /// How many agents in a row have ended at once, this one included.
    pub(super) fn short_lives(live: &Live) -> u32 {
        if live.since.elapsed() < SHORT_LIFE {
            live.short_lives + 1
        } else {
            0
        }
    }

    /// Says that the session is somebody else's.
    pub(super) fn taken_over(&self) -> Error {
        let error = Error::TakenOver;
        self.stage.context.printer.warn(&error.to_string());
        self.stage.context.printer.event(&Event::Lost {
            reason: error.to_string(),
        });
        error
    }

    /// Says that the session is lost, before the clean-up begins.
    pub(super) fn lost(&self, reason: Reason, live: &Live) -> Error {
        let Reason {
            text: reason,
            mut log,
        } = reason;
        log.extend(live.log.lines());
        self.stage
            .context
            .printer
            .warn(&format!("the session is lost: {reason}"));
        self.stage.context.printer.event(&Event::Lost {
            reason: reason.clone(),
        });
        Error::Lost { reason, log }
    }
}
