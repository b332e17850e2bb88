//! When may the agent go? A pure state machine: events and `now` in, a deadline or a reason out.
//!
//! Every end is the agent's own decision, because after a `kill -9` of the plugin nobody else is left to
//! take it. Signals and GOODBYE end the agent at once and never come here. `agent` drives this.
//!
//! ```text
//! Unattached --attached--> Attached <--attached/detached--> Detached
//!     | 20 s                                                    | grace
//!     v                                                         v
//!  NeverAttached                                            GraceOver
//! ```

use std::time::Duration;

use tokio::time::Instant;

/// Why the agent has nothing left to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Nobody proved the secret since the start.
    NeverAttached,
    /// The last one left and nobody came back within the grace period.
    GraceOver,
}

/// The state machine; see the module's diagram.
#[derive(Debug)]
pub struct Idle {
    state: State,
    grace: Duration,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Nobody has ever attached.
    Unattached { deadline: Instant },
    /// A transport is up: nothing to wait for.
    Attached,
    /// The last transport ended; another may come until the deadline.
    Detached { deadline: Instant },
}

impl Idle {
    /// Starts the wait for the first attach, which may take `first` from `now`; later absences may take `grace`.
    pub fn new(now: Instant, first: Duration, grace: Duration) -> Self {
        Self {
            state: State::Unattached {
                deadline: now + first,
            },
            grace,
        }
    }

    /// An attach has proven the secret.
    pub fn attached(&mut self) {
        self.state = State::Attached;
    }

    /// The last transport ended. Without an attach before it nothing changes: the first wait goes on.
    pub fn detached(&mut self, now: Instant) {
        if matches!(self.state, State::Attached) {
            self.state = State::Detached {
                deadline: now + self.grace,
            };
        }
    }

    /// The instant at which [`Idle::expired`] has something to say, if nothing happens before it.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Unattached { deadline } | State::Detached { deadline } => Some(deadline),
            State::Attached => None,
        }
    }

    /// The reason to end, once the deadline is reached.
    pub fn expired(&self, now: Instant) -> Option<Expiry> {
        match self.state {
            State::Unattached { deadline } if now >= deadline => Some(Expiry::NeverAttached),
            State::Detached { deadline } if now >= deadline => Some(Expiry::GraceOver),
            State::Unattached { .. } | State::Detached { .. } | State::Attached => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(20);
    const GRACE: Duration = Duration::from_secs(30);
    const TICK: Duration = Duration::from_millis(1);

    fn start() -> (Idle, Instant) {
        let now = Instant::now();
        (Idle::new(now, FIRST, GRACE), now)
    }

    #[test]
    fn expires_when_nobody_ever_attached() {
        let (idle, now) = start();
        assert_eq!(idle.deadline(), Some(now + FIRST));
        assert_eq!(idle.expired(now + FIRST - TICK), None);
        assert_eq!(idle.expired(now + FIRST), Some(Expiry::NeverAttached));
    }

    #[test]
    fn never_expires_while_attached() {
        let (mut idle, now) = start();
        idle.attached();
        assert_eq!(idle.deadline(), None);
        assert_eq!(idle.expired(now + Duration::from_secs(86_400)), None);
    }

    #[test]
    fn expires_a_grace_period_after_the_last_one_left() {
        let (mut idle, now) = start();
        idle.attached();
        let left = now + Duration::from_secs(100);
        idle.detached(left);
        assert_eq!(idle.deadline(), Some(left + GRACE));
        assert_eq!(idle.expired(left + GRACE - TICK), None);
        assert_eq!(idle.expired(left + GRACE), Some(Expiry::GraceOver));
    }

    #[test]
    fn coming_back_within_the_grace_period_starts_it_anew() {
        let (mut idle, now) = start();
        idle.attached();
        idle.detached(now);
        idle.attached();
        assert_eq!(idle.expired(now + GRACE), None);
        let left = now + GRACE + GRACE;
        idle.detached(left);
        assert_eq!(idle.expired(left + GRACE - TICK), None);
        assert_eq!(idle.expired(left + GRACE), Some(Expiry::GraceOver));
    }

    #[test]
    fn leaving_without_having_attached_keeps_the_first_deadline() {
        let (mut idle, now) = start();
        idle.detached(now + Duration::from_secs(10));
        assert_eq!(idle.deadline(), Some(now + FIRST));
    }

    #[test]
    fn leaving_twice_does_not_prolong_the_grace_period() {
        let (mut idle, now) = start();
        idle.attached();
        idle.detached(now);
        idle.detached(now + GRACE / 2);
        assert_eq!(idle.expired(now + GRACE), Some(Expiry::GraceOver));
    }
}
