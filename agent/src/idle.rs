//! When may the agent go? A pure state machine: events and `now` in, a deadline or a reason out.
//!
//! Every end is the agent's own decision, because after a `kill -9` of the plugin nobody else is left to
//! take it. Signals and GOODBYE end the agent at once and never come here. `agent` drives this.
//!
//! ```text
//! Unattached --attached--> Attached <--attached/detached--> Detached
//!     | 20 s                                                    | grace, the longer one when
//!     v                                                         v connections were open
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
    GraceOver {
        /// Whether connections were open when it left.
        open: bool,
    },
}

/// The state machine; see the module's diagram.
#[derive(Debug)]
pub struct Idle {
    state: State,
    grace: Duration,
    grace_open: Duration,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Nobody has ever attached.
    Unattached { deadline: Instant },
    /// A transport is up: nothing to wait for.
    Attached,
    /// The last transport ended; another may come until the deadline.
    Detached { deadline: Instant, open: bool },
}

impl Idle {
    /// Starts the wait for the first attach, which may take `first` from `now`; later absences may take `grace`,
    /// or `grace_open` when connections were open at their beginning.
    pub fn new(now: Instant, first: Duration, grace: Duration, grace_open: Duration) -> Self {
        Self {
            state: State::Unattached {
                deadline: now + first,
            },
            grace,
            grace_open,
        }
    }

    /// An attach has proven the secret.
    pub fn attached(&mut self) {
        self.state = State::Attached;
    }

    /// The last transport ended, with connections `open` or not. Without an attach before it nothing changes: the
    /// first wait goes on.
    pub fn detached(&mut self, now: Instant, open: bool) {
        if matches!(self.state, State::Attached) {
            let grace = if open { self.grace_open } else { self.grace };
            self.state = State::Detached {
                deadline: now + grace,
                open,
            };
        }
    }

    /// The instant at which [`Idle::expired`] has something to say, if nothing happens before it.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Unattached { deadline } | State::Detached { deadline, .. } => Some(deadline),
            State::Attached => None,
        }
    }

    /// The reason to end, once the deadline is reached.
    pub fn expired(&self, now: Instant) -> Option<Expiry> {
        match self.state {
            State::Unattached { deadline } if now >= deadline => Some(Expiry::NeverAttached),
            State::Detached { deadline, open } if now >= deadline => Some(Expiry::GraceOver { open }),
            State::Unattached { .. } | State::Detached { .. } | State::Attached => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(20);
    const GRACE: Duration = Duration::from_secs(30);
    const GRACE_OPEN: Duration = Duration::from_secs(120);
    const TICK: Duration = Duration::from_millis(1);

    fn start() -> (Idle, Instant) {
        let now = Instant::now();
        (Idle::new(now, FIRST, GRACE, GRACE_OPEN), now)
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
        idle.detached(left, false);
        assert_eq!(idle.deadline(), Some(left + GRACE));
        assert_eq!(idle.expired(left + GRACE - TICK), None);
        assert_eq!(
            idle.expired(left + GRACE),
            Some(Expiry::GraceOver { open: false })
        );
    }

    #[test]
    fn what_was_open_when_the_last_one_left_is_given_longer() {
        let (mut idle, now) = start();
        idle.attached();
        idle.detached(now, true);
        assert_eq!(idle.deadline(), Some(now + GRACE_OPEN));
        assert_eq!(idle.expired(now + GRACE_OPEN - TICK), None);
        assert_eq!(
            idle.expired(now + GRACE_OPEN),
            Some(Expiry::GraceOver { open: true })
        );
    }

    #[test]
    fn coming_back_within_the_grace_period_starts_it_anew() {
        let (mut idle, now) = start();
        idle.attached();
        idle.detached(now, false);
        idle.attached();
        assert_eq!(idle.expired(now + GRACE), None);
        let left = now + GRACE + GRACE;
        idle.detached(left, false);
        assert_eq!(idle.expired(left + GRACE - TICK), None);
        assert_eq!(
            idle.expired(left + GRACE),
            Some(Expiry::GraceOver { open: false })
        );
    }

    #[test]
    fn leaving_without_having_attached_keeps_the_first_deadline() {
        let (mut idle, now) = start();
        idle.detached(now + Duration::from_secs(10), false);
        assert_eq!(idle.deadline(), Some(now + FIRST));
    }

    #[test]
    fn leaving_twice_does_not_prolong_the_grace_period() {
        let (mut idle, now) = start();
        idle.attached();
        idle.detached(now, false);
        idle.detached(now + GRACE / 2, false);
        assert_eq!(idle.expired(now + GRACE), Some(Expiry::GraceOver { open: false }));
    }
}
