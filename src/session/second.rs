//! The second way to the agent, by port-forward: whether it is wanted, and when to try it. Pure: events and time go in.
//!
//! A session begins on exec, which alone can carry the secret, and is kept on exec whenever there is nothing better.
//! So a failure here never matters to it: it only decides when the next attempt is due. How one goes is in [`attempt`].
//!
//! ```text
//!   on exec --due--> attempt --better--> on port-forward --ends, or is replaced--> on exec
//!      ^               |  |
//!      |    no, not now|  '--no right, no such way--> on exec for good
//!      '--30 s..10 min-'
//! ```

use std::time::Duration;

use tokio::time::Instant;

use super::{SecondWay, Way};

pub(super) mod attempt;

/// From a transport by exec to the first attempt: the start of a session must not wait for it, nor what is said first.
const SETTLE: Duration = Duration::from_millis(500);

/// First and longest delay between two attempts. A path that cannot do it does not learn it within seconds.
const DELAYS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));

/// A transport that ends younger was no good: otherwise a path that cuts it each time would be moved to for ever.
const YOUNG: Duration = Duration::from_secs(60);

/// What port-forward may take longer than exec and still be better: the same bytes cost less work on it, measured by
/// a third of the throughput. The milliseconds are the noise of a busy machine.
const TOLERANCE: (u32, Duration) = (10, Duration::from_millis(1));

/// What is known about it.
#[derive(Debug)]
pub(super) struct Second {
    wanted: SecondWay,
    /// Of the agent's entrance; 0 is none.
    port: u16,
    delay: Duration,
    not_before: Option<Instant>,
    /// Something befell the transport by exec during the last attempt.
    disturbed: bool,
    ruled_out: bool,
}

/// Round trips over both ways, of the same bytes at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) exec: Duration,
    pub(super) port_forward: Duration,
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = |time: Duration| time.as_secs_f64() * 1000.0;
        let (exec, port_forward) = (millis(self.exec), millis(self.port_forward));
        write!(f, "{port_forward:.1} ms instead of {exec:.1} ms")
    }
}

impl Times {
    pub(super) fn is_better(self) -> bool {
        let (part, noise) = TOLERANCE;
        self.port_forward <= self.exec + self.exec / part + noise
    }
}

impl Second {
    pub(super) fn new(wanted: SecondWay, port: u16) -> Self {
        Self {
            wanted,
            port,
            delay: DELAYS.0,
            not_before: None,
            disturbed: false,
            ruled_out: false,
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Whether it has to be better before the session moves over.
    pub(super) fn is_compared(&self) -> bool {
        self.wanted == SecondWay::IfBetter
    }

    /// When to try it beside a transport by `way` that began at `began`; `None` if not at all.
    pub(super) fn due(&self, way: Way, began: Instant) -> Option<Instant> {
        if way == Way::PortForward || self.wanted == SecondWay::Off || self.port == 0 || self.ruled_out {
            return None;
        }
        let settled = began + SETTLE;
        Some(
            self.not_before
                .map_or(settled, |not_before| not_before.max(settled)),
        )
    }

    /// An attempt failed, or found it worse. Returns how long it is until the next.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        let delay = self.delay;
        self.not_before = Some(now + delay);
        self.delay = (delay * 2).min(DELAYS.1);
        delay
    }

    /// Something befell the transport by exec during an attempt. Once may be chance. Twice in a row it is the attempt that
    /// does it, on a narrow line or where only one connection is allowed.
    pub(super) fn disturbed(&mut self, now: Instant) {
        if std::mem::replace(&mut self.disturbed, true) {
            self.failed(now);
        }
    }

    /// An attempt went through, whatever it found.
    pub(super) fn undisturbed(&mut self) {
        self.disturbed = false;
    }

    /// It will never be there for this session.
    pub(super) fn rule_out(&mut self) {
        self.ruled_out = true;
    }

    /// A transport by it was replaced as planned: all is well with it.
    pub(super) fn replaced(&mut self) {
        self.not_before = None;
        self.delay = DELAYS.0;
    }

    /// A transport by it ended, or did not answer any more, at this age.
    pub(super) fn ended(&mut self, now: Instant, age: Duration) {
        if age < YOUNG {
            self.failed(now);
        } else {
            self.replaced();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn wanted() -> Second {
        Second::new(SecondWay::IfBetter, 40_000)
    }

    #[test]
    fn it_is_due_once_the_first_transport_has_settled() {
        let now = Instant::now();
        assert_eq!(wanted().due(Way::Exec, now), Some(now + SETTLE));
        assert_eq!(wanted().due(Way::PortForward, now), None);
        assert_eq!(Second::new(SecondWay::Off, 40_000).due(Way::Exec, now), None);
        assert_eq!(Second::new(SecondWay::Preferred, 0).due(Way::Exec, now), None);
    }

    #[test]
    fn attempts_that_fail_come_rarer_and_rarer() {
        let mut now = Instant::now();
        let mut second = wanted();
        let mut delays = Vec::new();
        for _ in 0..7 {
            let delay = second.failed(now);
            assert_eq!(second.due(Way::Exec, now), Some(now + delay));
            delays.push(delay.as_secs());
            now += delay;
        }
        assert_eq!(delays, [30, 60, 120, 240, 480, 600, 600]);
        // A transport by exec that is younger than that has to settle all the same.
        assert_eq!(
            second.due(Way::Exec, now + seconds(1)),
            Some(now + seconds(1) + SETTLE)
        );
    }

    #[test]
    fn one_that_dies_young_is_a_failure_and_an_old_one_is_not() {
        let now = Instant::now();
        let mut second = wanted();
        second.ended(now, seconds(1));
        second.ended(now, seconds(59));
        assert_eq!(second.due(Way::Exec, now), Some(now + seconds(60)));
        second.ended(now, YOUNG);
        assert_eq!(second.due(Way::Exec, now), Some(now + SETTLE));
        second.failed(now);
        second.replaced();
        assert_eq!(second.due(Way::Exec, now), Some(now + SETTLE));
        assert_eq!(second.failed(now), DELAYS.0);
    }

    #[test]
    fn attempts_that_disturb_exec_come_rarer_too() {
        let now = Instant::now();
        let mut second = wanted();
        second.disturbed(now);
        assert_eq!(second.due(Way::Exec, now), Some(now + SETTLE));
        second.disturbed(now);
        assert_eq!(second.due(Way::Exec, now), Some(now + DELAYS.0));
        second.disturbed(now);
        assert_eq!(second.due(Way::Exec, now), Some(now + DELAYS.0 * 2));
        let mut lucky = wanted();
        lucky.disturbed(now);
        lucky.undisturbed();
        lucky.disturbed(now);
        assert_eq!(lucky.due(Way::Exec, now), Some(now + SETTLE));
    }

    #[test]
    fn what_was_ruled_out_is_never_due() {
        let mut second = wanted();
        second.rule_out();
        second.replaced();
        assert_eq!(second.due(Way::Exec, Instant::now()), None);
    }

    #[test]
    fn port_forward_may_be_a_little_slower() {
        let times = |exec, port_forward| Times {
            exec: Duration::from_micros(exec),
            port_forward: Duration::from_micros(port_forward),
        };
        assert!(times(2_000, 2_000).is_better());
        assert!(times(2_000, 3_200).is_better());
        assert!(!times(2_000, 3_201).is_better());
        assert!(times(100_000, 111_000).is_better());
        assert!(!times(100_000, 111_001).is_better());
    }
}
