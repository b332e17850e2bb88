//! Keeps one link on transports: notices when one is lost, old or doubtful, and makes the next.
//!
//! A transport that may still work is not given up for one that is only hoped for: the next one is dialled
//! beside it, and the link moves over when its hello is answered.

use std::future::pending;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tunnel_wire::hello::{HelloError, Verdict};
use tunnel_wire::link::{Health, LinkHandle, Progress, TransportEnd};

use super::backoff::Backoff;
use super::clock::{LOOK_EVERY, Moment, Watchman};
use super::dial::{DialError, Dialled, Name, dial};
use super::lifetime::Lifetimes;
use super::path::{PathJudge, Trial, moved};
use super::standing::{Phase, StandingTx};
use super::{Over, Settings, TransportError, Transports, WallClock};

/// Least and most time an attempt may take. In between: four round trips, or three times what the last
/// attempt that succeeded took.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));

/// A transport that lived this long, or moved a byte, ends the loss before it.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// When a planned renewal that failed is tried again.
const RENEW_PAUSE: Duration = Duration::from_secs(30);

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
    number: u32,
    begin: Begin,
    /// A planned renewal failed: not before then again.
    renew_not_before: Option<Instant>,
}

/// When and where a transport took over.
#[derive(Debug, Clone, Copy)]
struct Begin {
    at: Instant,
    progress: Progress,
}

/// What became of a transport.
#[derive(Debug, Clone, Copy)]
enum Outcome<'a> {
    Ended(&'a TransportEnd),
    /// It did not answer any more.
    Unanswered,
    /// Its successor was planned.
    Replaced,
}

impl Attached {
    pub(super) fn start(link: &LinkHandle, dialled: Dialled) -> Self {
        let begin = Begin {
            at: Instant::now(),
            progress: link.progress(),
        };
        let Dialled {
            transport,
            answer,
            number,
        } = dialled;
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

    async fn ended(&mut self) -> TransportEnd {
        match self.task.join_next().await {
            Some(Ok(end)) => end,
            Some(Err(_)) | None => TransportEnd::Closed,
        }
    }

    /// Gives the transport up. When this returns the link takes and sends nothing over it any more.
    async fn stop(mut self) {
        self.task.shutdown().await;
    }
}

/// Why another transport is wanted.
#[derive(Debug)]
enum Cause {
    Ended(TransportEnd),
    Suspect,
    Woke(Duration),
    Aged,
}

/// Everything about a link but the way to new transports.
#[derive(Debug)]
pub(super) struct Care {
    link: LinkHandle,
    name: Name,
    settings: Settings,
    standing_tx: StandingTx,
    alive: Alive,
    watchman: Watchman,
    lifetimes: Lifetimes,
    judge: PathJudge,
    /// The loss that is not over yet.
    backoff: Option<Backoff>,
    /// What the last attempt that succeeded took.
    usual: Duration,
}

impl Care {
    pub(super) fn new(
        link: LinkHandle,
        name: Name,
        settings: Settings,
        standing_tx: StandingTx,
        alive: Alive,
        usual: Duration,
    ) -> Self {
        Self {
            link,
            name,
            watchman: Watchman::new(Moment::now(&settings.clock)),
            lifetimes: Lifetimes::new(settings.transport_max_age),
            settings,
            standing_tx,
            alive,
            judge: PathJudge::default(),
            backoff: None,
            usual,
        }
    }

    /// Looks at the clocks. How long we slept, if we did.
    fn look(&mut self, attached: bool) -> Option<Duration> {
        let now = Moment::now(&self.settings.clock);
        let before = self.watchman.last();
        let asleep = self.watchman.look(now);
        if asleep.is_none() && attached && self.link.heard() >= before.awake {
            self.alive.mark(now);
        }
        asleep
    }

    fn patience(&self) -> Duration {
        let (least, most) = PATIENCE;
        least.max(self.link.rtt() * 4).max(self.usual * 3).min(most)
    }

    /// Draws conclusions from a transport that is over.
    fn conclude<E>(&mut self, begin: Begin, outcome: Outcome<'_>) -> Result<(), Over<E>> {
        let (before, after) = (begin.progress, self.link.progress());
        let age = begin.at.elapsed();
        if moved(before, after) || age >= HEALTHY_AFTER {
            self.backoff = None;
        }
        let end = match outcome {
            Outcome::Ended(end) => Some(end),
            Outcome::Unanswered => None,
            Outcome::Replaced => return Ok(()),
        };
        if let Some(TransportEnd::Ended | TransportEnd::Failed(_)) = end {
            self.lifetimes.ended_at(age);
        }
        let probe_open = self.link.probe_unanswered();
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
    fn backoff(&mut self) -> &mut Backoff {
        let give_up_after = self.settings.reconnect_max;
        self.backoff
            .get_or_insert_with(|| Backoff::new(Instant::now(), give_up_after))
    }

    fn say_reconnecting(&self, reason: &str, attempt: u32) {
        tracing::debug!(reason, attempt, "no transport");
        self.standing_tx.set_phase(Phase::Reconnecting {
            reason: reason.into(),
            attempt,
        });
    }
}

/// A link with its transports.
pub(super) struct Keeper<T> {
    pub(super) transports: T,
    pub(super) care: Care,
}

/// How one attempt went.
enum Attempt<E> {
    Connected(Box<Dialled>),
    /// The transport in doubt has answered meanwhile.
    Recovered,
    /// We slept: what it had begun is of the past.
    Slept,
    Failed(DialError<E>),
}

impl<T: Transports> Keeper<T> {
    /// Runs until there is nothing to keep. The link is closed then.
    pub(super) async fn keep(mut self, first: Attached) -> Over<T::Error> {
        let over = self.keep_on(first).await;
        self.care.link.close(match &over {
            Over::Link(end) => end.clone(),
            Over::Evicted => TransportEnd::Evicted,
            Over::Goodbye
            | Over::Refused(_)
            | Over::BadPath(_)
            | Over::GaveUp { .. }
            | Over::Transport(_) => TransportEnd::Closed,
        });
        over
    }

    async fn keep_on(&mut self, mut attached: Attached) -> Over<T::Error> {
        loop {
            let cause = self.care.guard(&mut attached).await;
            tracing::debug!(?cause, "another transport is wanted");
            match self.replace(attached, cause).await {
                Ok(next) => attached = next,
                Err(over) => return over,
            }
        }
    }

    /// Makes the next transport, and moves the link over to it. Gives the old one back when that turned out to
    /// be good enough.
    async fn replace(&mut self, attached: Attached, cause: Cause) -> Result<Attached, Over<T::Error>> {
        let mut search = Search::new(attached, &cause);
        // Whether it is slow or dead, an answer tells.
        self.care.link.ask();
        if let Cause::Ended(end) = &cause {
            let since = search.lose(&mut self.care, end)?;
            // One that ended without having moved a byte is a failed attempt like others.
            if let Some(since) = since.filter(|_| self.care.backoff.is_some()) {
                search.check_budget(&mut self.care)?;
                search.pause(&mut self.care, &end.to_string(), since).await?;
            }
        }
        loop {
            search.check_budget(&mut self.care)?;
            let began = Instant::now();
            match self.attempt(&mut search).await? {
                Attempt::Connected(dialled) => {
                    self.care.usual = began.elapsed();
                    return search.move_over(&mut self.care, *dialled).await;
                }
                Attempt::Slept => {}
                Attempt::Recovered => {
                    if let Some(attached) = search.keep_old(&self.care) {
                        return Ok(attached);
                    }
                }
                Attempt::Failed(error) => {
                    let reason = self.care.judge_failure(error)?;
                    if search.planned
                        && let Some(mut attached) = search.keep_old(&self.care)
                    {
                        tracing::debug!(reason, "the next transport was not needed yet");
                        attached.renew_not_before = Some(Instant::now() + RENEW_PAUSE);
                        return Ok(attached);
                    }
                    let paused = search.pause(&mut self.care, &reason, began).await?;
                    if paused == Paused::Recovered
                        && let Some(attached) = search.keep_old(&self.care)
                    {
                        return Ok(attached);
                    }
                }
            }
        }
    }

    /// One attempt, beside whatever there still is.
    async fn attempt(&mut self, search: &mut Search) -> Result<Attempt<T::Error>, Over<T::Error>> {
        let attempt = self.dial_beside(search).await?;
        if let (Attempt::Failed(_), Some(end)) = (&attempt, search.let_go.take()) {
            search.lose(&mut self.care, &end)?;
        }
        Ok(attempt)
    }

    async fn dial_beside(&mut self, search: &mut Search) -> Result<Attempt<T::Error>, Over<T::Error>> {
        let Self { transports, care } = self;
        let greeting = AtomicBool::new(false);
        let greet = || greeting.store(true, Ordering::Relaxed);
        let (link, name) = (care.link.clone(), care.name.clone());
        let dialling = dial(transports, &link, &name, care.patience(), &greet);
        let mut dialling = pin!(dialling);
        loop {
            tokio::select! {
                biased;
                dialled = &mut dialling => return Ok(match dialled {
                    Ok(connected) => Attempt::Connected(Box::new(connected)),
                    Err(error) => Attempt::Failed(error),
                }),
                happened = search.happens(care) => match happened {
                    // Once the hello is out the agent may have moved over, and let go of the old transport.
                    Happened::Recovered if greeting.load(Ordering::Relaxed) => search.in_doubt = false,
                    Happened::Recovered => return Ok(Attempt::Recovered),
                    Happened::Ended(end)
                        if greeting.load(Ordering::Relaxed) && !end.is_final() && !end.blames_path() =>
                    {
                        search.let_go = Some(end);
                    }
                    Happened::Ended(end) => drop(search.lose(care, &end)?),
                    Happened::Looked => {
                        if search.check_budget(care)? && !greeting.load(Ordering::Relaxed) {
                            return Ok(Attempt::Slept);
                        }
                    }
                },
            }
        }
    }
}

impl Care {
    /// Waits until another transport is wanted.
    async fn guard(&mut self, attached: &mut Attached) -> Cause {
        let mut health_rx = self.link.health();
        let mut look = interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let earliest = attached.renew_not_before.unwrap_or(attached.begin.at);
        let renew_at = self
            .lifetimes
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
    fn judge_failure<E: TransportError>(&mut self, error: DialError<E>) -> Result<String, Over<E>> {
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

/// The search for one transport.
struct Search {
    /// The one in use, while it lasts.
    attached: Option<Attached>,
    /// How it ended while the next one's hello was on its way: most likely the agent has moved over.
    let_go: Option<TransportEnd>,
    /// Since when no bytes flow, as far as is known.
    lost: Instant,
    /// The old transport is in doubt: hearing from it ends the search.
    in_doubt: bool,
    /// The search was planned: nothing is wrong with the old transport, and one failure ends it.
    planned: bool,
    reason: String,
    look: tokio::time::Interval,
}

/// Why a pause is over.
#[derive(Debug, PartialEq, Eq)]
enum Paused {
    /// It is time for the next attempt.
    Enough,
    /// The transport in doubt has answered.
    Recovered,
}

/// What happens beside an attempt or a pause.
enum Happened {
    Ended(TransportEnd),
    Recovered,
    Looked,
}

impl Search {
    fn new(attached: Attached, cause: &Cause) -> Self {
        let mut look = interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            attached: Some(attached),
            let_go: None,
            lost: Instant::now(),
            in_doubt: matches!(cause, Cause::Suspect | Cause::Woke(_)),
            planned: matches!(cause, Cause::Aged),
            reason: match cause {
                Cause::Ended(end) => end.to_string(),
                Cause::Suspect => "the agent does not answer".to_owned(),
                Cause::Woke(asleep) => {
                    let seconds = Duration::from_secs(asleep.as_secs());
                    format!("asleep for {}", humantime::format_duration(seconds))
                }
                Cause::Aged => "planned".to_owned(),
            },
            look,
        }
    }

    /// Resolves when something changes beside the attempt.
    async fn happens(&mut self, care: &Care) -> Happened {
        let mut health_rx = care.link.health();
        health_rx.mark_unchanged();
        let attached = self.attached.as_mut();
        let let_go = self.let_go.is_some();
        let ended = async {
            match attached {
                Some(attached) if !let_go => attached.ended().await,
                Some(_) | None => pending().await,
            }
        };
        tokio::select! {
            biased;
            end = ended => Happened::Ended(end),
            Ok(()) = health_rx.changed() => self.look_up(care),
            _ = self.look.tick() => self.look_up(care),
        }
    }

    /// The transport in doubt may have answered since.
    fn look_up(&self, care: &Care) -> Happened {
        if self.in_doubt && self.attached.is_some() && care.link.heard() > self.lost {
            Happened::Recovered
        } else {
            Happened::Looked
        }
    }

    /// The old transport is over. Returns when it began.
    fn lose<E>(&mut self, care: &mut Care, end: &TransportEnd) -> Result<Option<Instant>, Over<E>> {
        let mut since = None;
        if let Some(attached) = self.attached.take() {
            // Without a loss before it there is nothing to go on with.
            care.backoff();
            care.conclude(attached.begin, Outcome::Ended(end))?;
            since = Some(attached.begin.at);
        }
        if self.planned {
            self.lost = Instant::now();
        }
        self.in_doubt = false;
        self.planned = false;
        self.reason = end.to_string();
        let attempt = care.backoff.as_ref().map_or(0, Backoff::attempts) + 1;
        care.say_reconnecting(&self.reason, attempt);
        Ok(since)
    }

    /// Looks at the clocks, and gives up when the time for a loss is over. Returns whether we slept.
    fn check_budget<E>(&mut self, care: &mut Care) -> Result<bool, Over<E>> {
        let asleep = care.look(self.attached.is_some());
        let now = Instant::now();
        let backoff = care.backoff();
        if asleep.is_some() {
            backoff.wake(now);
        }
        if self.attached.is_some() {
            // Not lost yet.
            return Ok(asleep.is_some());
        }
        backoff.look(now);
        if backoff.is_over() {
            return Err(Over::GaveUp {
                after: care.settings.reconnect_max,
                reason: self.reason.clone(),
            });
        }
        Ok(asleep.is_some())
    }

    /// The old transport after all, if it still is there and well.
    fn keep_old(&mut self, care: &Care) -> Option<Attached> {
        let well =
            care.link.heard() > self.lost || (self.planned && *care.link.health().borrow() == Health::Well);
        let attached = self.attached.take_if(|_| well)?;
        self.say_ready(care, attached.number);
        Some(attached)
    }

    /// Moves the link over to a transport whose hello was answered.
    async fn move_over<E>(mut self, care: &mut Care, dialled: Dialled) -> Result<Attached, Over<E>> {
        if let Some(old) = self.attached.take() {
            let begin = old.begin;
            old.stop().await;
            let outcome = if self.in_doubt {
                Outcome::Unanswered
            } else {
                Outcome::Replaced
            };
            care.conclude(begin, outcome)?;
        }
        care.judge.on_good_hello();
        let attached = Attached::start(&care.link, dialled);
        self.say_ready(care, attached.number);
        Ok(attached)
    }

    fn say_ready(&self, care: &Care, transport: u32) {
        let after = if self.planned {
            Duration::ZERO
        } else {
            self.lost.elapsed()
        };
        care.standing_tx.set_phase(Phase::Ready { transport, after });
    }

    /// Waits for the next attempt.
    async fn pause<E>(&mut self, care: &mut Care, reason: &str, began: Instant) -> Result<Paused, Over<E>> {
        reason.clone_into(&mut self.reason);
        // Whatever was planned, the old one is not well either.
        self.planned = false;
        self.in_doubt = self.attached.is_some();
        let now = Instant::now();
        let backoff = care.backoff();
        let delay = backoff.failed(reason, began, now, rand::random());
        let attempt = backoff.attempts() + 1;
        care.say_reconnecting(reason, attempt);
        let until = now + delay;
        loop {
            tokio::select! {
                biased;
                happened = self.happens(care) => match happened {
                    Happened::Ended(end) => drop(self.lose(care, &end)?),
                    Happened::Recovered => return Ok(Paused::Recovered),
                    Happened::Looked => {
                        if self.check_budget(care)? {
                            return Ok(Paused::Enough);
                        }
                    }
                },
                () = sleep_until(until) => return Ok(Paused::Enough),
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
