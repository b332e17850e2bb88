//! When to try next, and when to give up. Pure: failures and time go in, delays come out.
//!
//! The delay counts from the start of one attempt to the start of the next: an attempt that took longer than
//! its delay is followed by the next one at once, since waiting for an answer that does not come is waiting
//! enough.

use std::time::Duration;

use tokio::time::Instant;

/// First and longest delay while the loss is young.
const DELAYS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

/// Delay once [`LONG_LOSS`] has been spent.
const LONG_DELAY: Duration = Duration::from_secs(5);

/// From here on an API server has better things to do than to answer us every second.
const LONG_LOSS: Duration = Duration::from_secs(30);

/// A changed reason is tried at once, but reasons that alternate must not become a busy loop.
const CHANGE_PAUSE: Duration = Duration::from_secs(1);

/// The longest step that counts as awake: the keeper looks at least every second.
const LONGEST_STEP: Duration = Duration::from_secs(2);

/// The attempts of one loss.
#[derive(Debug)]
pub(super) struct Backoff {
    delay: Duration,
    reason: Option<String>,
    changed: Option<Instant>,
    attempts: u32,
    spent: Duration,
    last_look: Instant,
    give_up_after: Duration,
}

impl Backoff {
    /// A loss that begins now, and may last for `give_up_after` awake.
    pub(super) fn new(now: Instant, give_up_after: Duration) -> Self {
        Self {
            delay: DELAYS.0,
            reason: None,
            changed: None,
            attempts: 0,
            spent: Duration::ZERO,
            last_look: now,
            give_up_after,
        }
    }

    /// Attempts that failed so far.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Time goes by. A step that took much longer than it should was a sleep, and is not counted.
    pub(super) fn look(&mut self, now: Instant) {
        let step = now.saturating_duration_since(self.last_look);
        self.last_look = now;
        self.spent += step.min(LONGEST_STEP);
    }

    /// The laptop slept: the loss begins anew.
    pub(super) fn wake(&mut self, now: Instant) {
        *self = Self::new(now, self.give_up_after);
    }

    /// Whether the session is lost.
    pub(super) fn is_over(&self) -> bool {
        self.spent >= self.give_up_after
    }

    /// An attempt that began at `began` failed at `now`. Returns how long to wait before the next one;
    /// `jitter` (0 to 1) shortens the delay by up to a fifth, so that many plugins do not come at once.
    pub(super) fn failed(&mut self, reason: &str, began: Instant, now: Instant, jitter: f64) -> Duration {
        self.attempts += 1;
        if self.reason.as_deref() != Some(reason) {
            let news = self.reason.replace(reason.to_owned()).is_some();
            let rested = self
                .changed
                .is_none_or(|at| now.saturating_duration_since(at) >= CHANGE_PAUSE);
            self.delay = DELAYS.0;
            if news && rested {
                self.changed = Some(now);
                return Duration::ZERO;
            }
        }
        let delay = if self.spent >= LONG_LOSS {
            LONG_DELAY
        } else {
            self.delay
        };
        self.delay = (self.delay * 2).min(DELAYS.1);
        delay
            .mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 5.0)
            .saturating_sub(now.saturating_duration_since(began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(300);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn delays_double_to_a_second_and_then_become_five() {
        let mut now = Instant::now();
        let mut backoff = Backoff::new(now, MAX);
        let mut delays = Vec::new();
        for _ in 0..5 {
            delays.push(backoff.failed("refused", now, now, 0.0).as_millis());
        }
        assert_eq!(delays, [200, 400, 800, 1000, 1000]);
        for _ in 0..30 {
            now += Duration::from_secs(1);
            backoff.look(now);
        }
        assert_eq!(backoff.failed("refused", now, now, 0.0), LONG_DELAY);
        assert_eq!(backoff.failed("refused", now, now, 1.0), Duration::from_secs(4));
    }

    #[test]
    fn a_slow_attempt_is_not_followed_by_a_wait() {
        let began = Instant::now();
        let mut backoff = Backoff::new(began, MAX);
        let now = began + Duration::from_secs(2);
        assert_eq!(backoff.failed("no answer", began, now, 0.0), Duration::ZERO);
    }

    #[test]
    fn another_reason_is_tried_at_once_but_not_again_and_again() {
        let now = Instant::now();
        let mut backoff = Backoff::new(now, MAX);
        assert_eq!(backoff.failed("no answer", now, now, 0.0), millis(200));
        assert_eq!(backoff.failed("refused", now, now, 0.0), Duration::ZERO);
        assert_eq!(backoff.failed("no answer", now, now, 0.0), millis(200));
        let later = now + Duration::from_secs(1);
        assert_eq!(backoff.failed("refused", later, later, 0.0), Duration::ZERO);
    }

    #[test]
    fn only_time_awake_counts_and_a_sleep_begins_anew() {
        let mut now = Instant::now();
        let mut backoff = Backoff::new(now, Duration::from_secs(10));
        now += Duration::from_secs(3600);
        backoff.look(now);
        assert!(!backoff.is_over());
        for _ in 0..8 {
            now += Duration::from_secs(1);
            backoff.look(now);
        }
        assert!(backoff.is_over());
        backoff.wake(now);
        assert!(!backoff.is_over() && backoff.attempts() == 0);
        assert!(Backoff::new(now, Duration::ZERO).is_over());
    }
}
