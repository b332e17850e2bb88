//! The search for one transport, beside whatever there still is of the one before.
//!
//! It holds the old transport while it lasts, and gives it back when it turns out to be good enough. The
//! attempts themselves are [`super::keeper`]'s.

use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, Interval, sleep_until};
use tunnel_wire::link::{Health, TransportEnd};

use super::Over;
use super::backoff::Backoff;
use super::care::{Attached, Care, Cause, Outcome};
use super::clock::looks;
use super::dial::Dialled;
use super::standing::Phase;

/// The search for one transport.
pub(super) struct Search {
    /// The one in use, while it lasts.
    attached: Option<Attached>,
    /// How it ended while the next one's hello was on its way: most likely the agent has moved over.
    pub(super) let_go: Option<TransportEnd>,
    /// Since when no bytes flow, as far as is known.
    lost: Instant,
    /// The old transport is in doubt: hearing from it ends the search.
    pub(super) in_doubt: bool,
    /// The search was planned: nothing is wrong with the old transport, and one failure ends it.
    pub(super) planned: bool,
    reason: String,
    look: Interval,
}

/// Why a pause is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Paused {
    /// It is time for the next attempt.
    Enough,
    /// The transport in doubt has answered.
    Recovered,
}

/// What happens beside an attempt or a pause.
pub(super) enum Happened {
    Ended(TransportEnd),
    Recovered,
    Looked,
}

impl Search {
    pub(super) fn new(attached: Attached, cause: &Cause) -> Self {
        Self {
            attached: Some(attached),
            let_go: None,
            lost: Instant::now(),
            in_doubt: matches!(cause, Cause::Suspect | Cause::Woke(_)),
            planned: matches!(cause, Cause::Aged | Cause::Second),
            reason: match cause {
                Cause::Ended(end) => end.to_string(),
                Cause::Suspect => "the agent does not answer".to_owned(),
                Cause::Woke(asleep) => {
                    let seconds = Duration::from_secs(asleep.as_secs());
                    format!("asleep for {}", humantime::format_duration(seconds))
                }
                Cause::Aged | Cause::Second => "planned".to_owned(),
            },
            look: looks(),
        }
    }

    /// Resolves when something changes beside the attempt.
    pub(super) async fn happens(&mut self, care: &Care) -> Happened {
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
    pub(super) fn lose<E>(
        &mut self,
        care: &mut Care,
        end: &TransportEnd,
    ) -> Result<Option<Instant>, Over<E>> {
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
    pub(super) fn check_budget<E>(&mut self, care: &mut Care) -> Result<bool, Over<E>> {
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
    pub(super) fn keep_old(&mut self, care: &Care) -> Option<Attached> {
        let well =
            care.link.heard() > self.lost || (self.planned && *care.link.health().borrow() == Health::Well);
        let attached = self.attached.take_if(|_| well)?;
        self.say_ready(care, &attached);
        Some(attached)
    }

    /// Moves the link over to a transport whose hello was answered.
    pub(super) async fn move_over<E>(
        mut self,
        care: &mut Care,
        dialled: Dialled,
    ) -> Result<Attached, Over<E>> {
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
        self.say_ready(care, &attached);
        Ok(attached)
    }

    fn say_ready(&self, care: &Care, attached: &Attached) {
        let after = if self.planned {
            Duration::ZERO
        } else {
            self.lost.elapsed()
        };
        care.standing_tx.set_phase(Phase::Ready {
            transport: attached.number,
            way: attached.begin.way,
            after,
        });
    }

    /// Whatever was planned, the old transport is not well either.
    pub(super) fn doubt(&mut self) {
        self.planned = false;
        self.in_doubt = self.attached.is_some();
    }

    /// Waits for the next attempt.
    pub(super) async fn pause<E>(
        &mut self,
        care: &mut Care,
        reason: &str,
        began: Instant,
    ) -> Result<Paused, Over<E>> {
        reason.clone_into(&mut self.reason);
        self.doubt();
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
