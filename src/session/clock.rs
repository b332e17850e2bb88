//! Was the laptop asleep? Two clocks, looked at every second.
//!
//! The clock of [`Instant`] stands still while a laptop sleeps, the wall clock goes on. A stopped process
//! (SIGSTOP) sees both go on, but late. Either way time has passed in which nothing could be heard.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How much more than that must have passed. A busy machine delays a task by less, and a clock that is set
/// right by more costs one connection too many.
const ASLEEP: Duration = Duration::from_secs(4);

/// When to look; the first time after one interval.
pub(super) fn looks() -> Interval {
    let mut looks = interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

/// The time of day. Tests bring their own.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl WallClock {
    /// A clock that asks `now`.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// What time it is.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        (self.0)()
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl std::fmt::Debug for WallClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WallClock").finish_non_exhaustive()
    }
}

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) awake: Instant,
    pub(super) wall: SystemTime,
}

impl Moment {
    pub(super) fn now(clock: &WallClock) -> Self {
        Self {
            awake: Instant::now(),
            wall: clock.now(),
        }
    }

    /// Time since an earlier moment, asleep or awake. A wall clock that was set back counts as standing still.
    pub(super) fn since(self, earlier: Self) -> Duration {
        let awake = self.awake.saturating_duration_since(earlier.awake);
        let wall = self.wall.duration_since(earlier.wall).unwrap_or_default();
        awake.max(wall)
    }
}

/// Compares each look with the one before.
#[derive(Debug)]
pub(super) struct Watchman {
    last: Moment,
}

impl Watchman {
    pub(super) fn new(now: Moment) -> Self {
        Self { last: now }
    }

    /// The look before.
    pub(super) fn last(&self) -> Moment {
        self.last
    }

    /// How long we were asleep since the last look, if we were. Must be asked at each of [`looks`].
    pub(super) fn look(&mut self, now: Moment) -> Option<Duration> {
        let passed = now.since(std::mem::replace(&mut self.last, now));
        let asleep = passed.saturating_sub(LOOK_EVERY);
        (asleep >= ASLEEP).then_some(asleep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_of_either_clock_is_a_sleep() {
        let start = Moment {
            awake: Instant::now(),
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        };
        let after = |awake: u64, wall: u64| Moment {
            awake: start.awake + Duration::from_secs(awake),
            wall: start.wall + Duration::from_secs(wall),
        };
        let mut watchman = Watchman::new(start);
        assert_eq!(watchman.look(after(1, 1)), None);
        assert_eq!(watchman.look(after(4, 4)), None);
        let night = 8 * 3600;
        assert_eq!(
            watchman.look(after(5, 5 + night)),
            Some(Duration::from_secs(night))
        );
        assert_eq!(
            watchman.look(after(66, 66 + night)),
            Some(Duration::from_secs(60))
        );
        // Set back by an hour.
        assert_eq!(watchman.look(after(67, 67 + night - 3600)), None);
        assert_eq!(watchman.look(after(68, 68 + night - 3600)), None);
    }
}
