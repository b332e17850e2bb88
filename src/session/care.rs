//! What is known about a link and its transports, and what follows from how each of them went.
//!
//! It waits until another transport is wanted ([`Care::guard`]) and draws conclusions; the search for the next
//! one is [`super::search`]'s.

use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tunnel_wire::hello::{HelloError, Verdict};
use tunnel_wire::link::{Health, LinkHandle, Progress, TransportEnd};

use super::backoff::Backoff;
use super::clock::{Moment, Watchman, looks};
use super::dial::{DialError, Dialled, Name};
use super::lifetime::Lifetimes;
use super::path::{PathJudge, Trial, moved};
use super::second::Second;
use super::second::attempt::Setback;
use super::standing::{Phase, StandingTx};
use super::{Over, Settings, TransportError, WallClock, Way};

/// Least and most time an attempt may take. In between: four round trips, or three times what the last
/// attempt that succeeded took.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));

/// A transport that lived this long, or moved a byte, ends the loss before it.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// When the agent was last known to be there.
#[derive(Debug, Clone)]
pub(super) struct Alive(Arc<Mutex<Moment>>, WallClock);

impl Alive {
    pub(super) fn new(clock: WallClock) -> Self {
        Self(Arc::new(Mutex::new(Moment::now(&clock))), clock)
    }

    fn mark(&self, now: Moment) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    pub(super) fn unheard(&self) -> Duration {
        Moment::now(&self.1).since(*self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The transport in use.
#[derive(Debug)]
pub(super) struct Attached {
    /// The one task that runs the link over it. Dropping it gives the transport up.
    task: JoinSet<TransportEnd>,
    pub(super) number: u32,
    pub(super) begin: Begin,
    /// A planned renewal failed: not before then again.
    pub(super) renew_not_before: Option<Instant>,
}

/// When and where a transport took over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begin {
    pub(super) at: Instant,
    pub(super) way: Way,
    progress: Progress,
}

/// What became of a transport.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome<'a> {
    Ended(&'a TransportEnd),
    /// It did not answer any more.
    Unanswered,
    /// Its successor was planned.
    Replaced,
}

impl Attached {
    pub(super) fn start(link: &LinkHandle, dialled: Dialled) -> Self {
        let Dialled {
            transport,
            answer,
            number,
            way,
        } = dialled;
        let begin = Begin {
            at: Instant::now(),
            way,
            progress: link.progress(),
        };
        let running = link.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            running
                .run(transport.reader, transport.writer, answer.received)
                .await
        });
        Self {
            task,
            number,
            begin,
            renew_not_before: None,
        }
    }

    pub(super) async fn ended(&mut self) -> TransportEnd {
        match self.task.join_next().await {
            Some(Ok(end)) => end,
            Some(Err(_)) | None => TransportEnd::Closed,
        }
    }

    /// Gives the transport up. When this returns the link takes and sends nothing over it any more.
    pub(super) async fn stop(mut self) {
        self.task.shutdown().await;
    }
}

/// Why another transport is wanted.
#[derive(Debug)]
pub(super) enum Cause {
    Ended(TransportEnd),
    Suspect,
    Woke(Duration),
    Aged,
    /// The second way is due.
    Second,
}

/// Everything about a link but the way to new transports.
#[derive(Debug)]
pub(super) struct Care {
    pub(super) link: LinkHandle,
    pub(super) name: Name,
    pub(super) settings: Settings,
    pub(super) standing_tx: StandingTx,
    alive: Alive,
    watchman: Watchman,
    /// By exec, and by the second way: another part of the path may be what cuts it.
    lifetimes: (Lifetimes, Lifetimes),
    pub(super) second: Second,
    pub(super) judge: PathJudge,
    /// The loss that is not over yet.
    pub(super) backoff: Option<Backoff>,
    /// What the last attempt that succeeded took.
    pub(super) usual: Duration,
}

impl Care {
    pub(super) fn new(
        link: LinkHandle,
        name: Name,
        settings: Settings,
        standing_tx: StandingTx,
        alive: Alive,
        usual: Duration,
        entrance: u16,
    ) -> Self {
        Self {
            link,
            name,
            watchman: Watchman::new(Moment::now(&settings.clock)),
            lifetimes: (
                Lifetimes::new(settings.transport_max_age),
                Lifetimes::new(settings.transport_max_age),
            ),
            second: Second::new(settings.second, entrance),
            settings,
            standing_tx,
            alive,
            judge: PathJudge::default(),
            backoff: None,
            usual,
        }
    }

    /// Looks at the clocks. How long we slept, if we did.
    pub(super) fn look(&mut self, attached: bool) -> Option<Duration> {
        let now = Moment::now(&self.settings.clock);
        let before = self.watchman.last();
        let asleep = self.watchman.look(now);
        if asleep.is_none() && attached && self.link.heard() >= before.awake {
            self.alive.mark(now);
        }
        asleep
    }

    fn lifetimes(&mut self, way: Way) -> &mut Lifetimes {
        match way {
            Way::Exec => &mut self.lifetimes.0,
            Way::PortForward => &mut self.lifetimes.1,
        }
    }

    pub(super) fn patience(&self) -> Duration {
        let (least, most) = PATIENCE;
        least.max(self.link.rtt() * 4).max(self.usual * 3).min(most)
    }

    /// Draws conclusions from a transport that is over.
    pub(super) fn conclude<E>(&mut self, begin: Begin, outcome: Outcome<'_>) -> Result<(), Over<E>> {
        let (before, after) = (begin.progress, self.link.progress());
        let age = begin.at.elapsed();
        if begin.way == Way::PortForward {
            match outcome {
                Outcome::Replaced => self.second.replaced(),
                Outcome::Ended(_) | Outcome::Unanswered => self.second.ended(Instant::now(), age),
            }
        }
        if moved(before, after) || age >= HEALTHY_AFTER {
            self.backoff = None;
        }
        let end = match outcome {
            Outcome::Ended(end) => Some(end),
            Outcome::Unanswered => None,
            Outcome::Replaced => return Ok(()),
        };
        if let Some(TransportEnd::Ended | TransportEnd::Failed(_)) = end {
            self.lifetimes(begin.way).ended_at(age);
        }
        let probe_open = self.link.path_unchecked();
        let trial = Trial {
            end,
            before,
            after,
            probe_open,
        };
        self.judge.on_transport(&trial).map_err(Over::BadPath)?;
        match end {
            Some(TransportEnd::Goodbye) => Err(Over::Goodbye),
            Some(TransportEnd::Evicted) => Err(Over::Evicted),
            // Closed is our own doing.
            Some(end) if end.is_final() || matches!(end, TransportEnd::Closed) => {
                Err(Over::Link(end.clone()))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The attempts of the present loss.
    pub(super) fn backoff(&mut self) -> &mut Backoff {
        let give_up_after = self.settings.reconnect_max;
        self.backoff
            .get_or_insert_with(|| Backoff::new(Instant::now(), give_up_after))
    }

    pub(super) fn say_reconnecting(&self, reason: &str, attempt: u32) {
        tracing::debug!(reason, attempt, "no transport");
        self.standing_tx.set_phase(Phase::Reconnecting {
            reason: reason.into(),
            attempt,
        });
    }

    /// Draws conclusions from an attempt at the second way that came to nothing. Nobody has to do anything about it.
    pub(super) fn note<E: TransportError>(&mut self, setback: &Setback<E>) {
        if setback.is_lasting() {
            self.second.rule_out();
            tracing::info!("the session stays on exec, port-forward cannot be had: {setback}");
        } else {
            let pause = humantime::format_duration(self.second.failed(Instant::now()));
            tracing::info!("the session stays on exec, port-forward is tried again in {pause}: {setback}");
        }
    }

    /// When the second way is to be tried beside this transport.
    pub(super) fn second_due(&self, attached: &Attached) -> Option<Instant> {
        self.second.due(attached.begin.way, attached.begin.at)
    }

    /// Waits until another transport is wanted, at the latest when the second way is due.
    pub(super) async fn guard(&mut self, attached: &mut Attached, second_due: Option<Instant>) -> Cause {
        let mut health_rx = self.link.health();
        let mut look = looks();
        let earliest = attached.renew_not_before.unwrap_or(attached.begin.at);
        let renew_at = self
            .lifetimes(attached.begin.way)
            .renew_at()
            .map(|age| (attached.begin.at + age).max(earliest));
        let reconnects = !self.settings.reconnect_max.is_zero();
        loop {
            tokio::select! {
                biased;
                end = attached.ended() => return Cause::Ended(end),
                Ok(_) = health_rx.wait_for(|health| *health == Health::Suspect), if reconnects => {
                    return Cause::Suspect;
                }
                () = at(renew_at) => return Cause::Aged,
                () = at(second_due) => return Cause::Second,
                _ = look.tick() => {
                    if let Some(asleep) = self.look(true)
                        && reconnects
                    {
                        return Cause::Woke(asleep);
                    }
                }
            }
        }
    }

    /// The reason of an attempt that failed, unless it is the last.
    pub(super) fn judge_failure<E: TransportError>(
        &mut self,
        error: DialError<E>,
    ) -> Result<String, Over<E>> {
        match error {
            DialError::Transport(error) if error.is_final() => Err(Over::Transport(error)),
            DialError::Transport(error) => Ok(error.to_string()),
            DialError::Hello(HelloError::Refused(
                verdict @ (Verdict::Over
                | Verdict::Replaced
                | Verdict::Secret
                | Verdict::Session
                | Verdict::Version),
            )) => Err(Over::Refused(verdict)),
            DialError::Hello(error) => {
                if matches!(error, HelloError::NotAHello(_) | HelloError::Altered(_)) {
                    self.judge.on_bad_hello().map_err(Over::BadPath)?;
                }
                Ok(error.to_string())
            }
        }
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
