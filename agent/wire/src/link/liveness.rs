//! Is a transport alive? Pure: what was heard and what is owed, and `now`.
//!
//! A transport is silent when nothing arrives, and deaf when what we send is never answered although the
//! other direction works. An answer behind a queue of data is only late: data that pour in renew the patience.
//! Both end it after [`DEAD_AFTER`]. Much earlier it is suspect: then a plugin may have another one ready.

use std::time::Duration;

use tokio::time::Instant;

/// How often each end asks for a sign of life. Well below the shortest idle time-out seen in front of an
/// API server (20 s, a load balancer's example configuration).
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// Silence after which a transport is dead: three heartbeats. Any byte counts as a sign of life.
pub const DEAD_AFTER: Duration = Duration::from_secs(15);

/// Silence, with an answer owed, after which a transport is suspect. On a long line four round trips.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(2);

/// Bytes that arrive while an answer is owed and show that it waits behind others: a slow line may hold
/// megabytes. Less than 2 KiB/s is no queue that takes [`DEAD_AFTER`].
const BULK: usize = 32 * 1024;

/// Round-trip time assumed before the first pong.
const INITIAL_RTT: Duration = Duration::from_millis(50);

/// What is wrong with a transport that should be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dead {
    Silent,
    Deaf,
}

#[derive(Debug)]
pub(super) struct Liveness {
    heard: Instant,
    pinged: Option<Instant>,
    /// Since when something of ours has been without an answer.
    awaiting: Option<Instant>,
    /// Bytes heard since then.
    heard_since: usize,
    /// Pings carry the time since then.
    origin: Instant,
    rtt: Option<Duration>,
}

impl Liveness {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard: now,
            pinged: None,
            awaiting: None,
            heard_since: 0,
            origin: now,
            rtt: None,
        }
    }

    /// A transport begins.
    pub(super) fn restart(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
        self.awaiting = None;
    }

    /// When a byte arrived last, or the transport began.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    /// The next ping is due at once.
    pub(super) fn ask(&mut self) {
        self.pinged = None;
    }

    pub(super) fn on_heard(&mut self, now: Instant, length: usize) {
        self.heard = now;
        self.heard_since = self.heard_since.saturating_add(length);
        if self.heard_since >= BULK && self.awaiting.is_some() {
            self.await_from(now);
        }
    }

    fn await_from(&mut self, now: Instant) {
        self.awaiting = Some(now);
        self.heard_since = 0;
    }

    /// Something that must be answered is on its way.
    pub(super) fn on_sent(&mut self, now: Instant) {
        if self.awaiting.is_none() {
            self.await_from(now);
        }
    }

    /// An answer came. `more`: others are still owed.
    pub(super) fn on_answer(&mut self, now: Instant, more: bool) {
        self.awaiting = None;
        if more {
            self.await_from(now);
        }
    }

    /// The stamp of a ping, if one is due; it counts as sent.
    pub(super) fn ping(&mut self, now: Instant) -> Option<u64> {
        if self
            .pinged
            .is_some_and(|pinged| now.saturating_duration_since(pinged) < HEARTBEAT)
        {
            return None;
        }
        self.pinged = Some(now);
        self.on_sent(now);
        let elapsed = now.saturating_duration_since(self.origin);
        Some(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
    }

    /// A pong came back, after this time. A stamp from the future is nobody's, and no sample.
    pub(super) fn pong(&mut self, stamp: u64, now: Instant) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.origin);
        let sample = elapsed.checked_sub(Duration::from_micros(stamp))?;
        // RFC 6298's smoothing: one eighth of each new sample.
        self.rtt = Some(self.rtt.map_or(sample, |rtt| rtt * 7 / 8 + sample / 8));
        Some(sample)
    }

    /// Smoothed round-trip time.
    pub(super) fn rtt(&self) -> Duration {
        self.rtt.unwrap_or(INITIAL_RTT)
    }

    pub(super) fn dead(&self, now: Instant) -> Option<Dead> {
        if now.saturating_duration_since(self.heard) >= DEAD_AFTER {
            return Some(Dead::Silent);
        }
        let owed = self.awaiting?;
        (now.saturating_duration_since(owed) >= DEAD_AFTER).then_some(Dead::Deaf)
    }

    pub(super) fn is_suspect(&self, now: Instant) -> bool {
        self.suspect_at().is_some_and(|at| now >= at)
    }

    fn suspect_at(&self) -> Option<Instant> {
        let patience = SUSPECT_AFTER.max(self.rtt() * 4);
        self.awaiting.map(|owed| owed.max(self.heard) + patience)
    }

    /// When one of the answers above changes if nothing happens. Not before the first ping.
    pub(super) fn next_tick(&self, now: Instant) -> Option<Instant> {
        let ping = self.pinged? + HEARTBEAT;
        let deaf = self.awaiting.map(|owed| owed + DEAD_AFTER);
        let suspect = self.suspect_at().filter(|at| *at > now);
        [Some(ping), Some(self.heard + DEAD_AFTER), deaf, suspect]
            .into_iter()
            .flatten()
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn silence_is_death_and_any_byte_prevents_it() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        assert!(liveness.ping(start).is_some() && liveness.ping(seconds(start, 4.9)).is_none());
        assert_eq!(liveness.dead(seconds(start, 14.9)), None);
        assert_eq!(liveness.dead(seconds(start, 15.0)), Some(Dead::Silent));
        liveness.on_heard(seconds(start, 10.0), 1);
        liveness.on_answer(seconds(start, 10.0), false);
        assert_eq!(liveness.dead(seconds(start, 24.9)), None);
        assert_eq!(liveness.dead(seconds(start, 25.0)), Some(Dead::Silent));
    }

    #[test]
    fn a_path_that_only_carries_one_direction_is_deaf() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        liveness.ping(start);
        liveness.on_heard(seconds(start, 14.0), 1);
        assert_eq!(liveness.dead(seconds(start, 15.0)), Some(Dead::Deaf));
    }

    #[test]
    fn slow_answers_to_much_data_are_no_death() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        liveness.on_sent(start);
        for second in 1..60 {
            let now = seconds(start, f64::from(second));
            liveness.on_heard(now, 1);
            liveness.on_answer(now, true);
            assert_eq!(liveness.dead(now), None);
        }
    }

    #[test]
    fn an_answer_behind_much_data_is_late_and_not_missing() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        liveness.ping(start);
        for second in 1..60 {
            let now = seconds(start, f64::from(second));
            liveness.on_heard(now, BULK / 4);
            assert_eq!(liveness.dead(now), None);
        }
        let trickle = seconds(start, 59.0) + DEAD_AFTER;
        liveness.on_heard(trickle, 16);
        assert_eq!(liveness.dead(trickle), Some(Dead::Deaf));
    }

    #[test]
    fn suspicion_needs_something_owed_and_silence() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        assert!(!liveness.is_suspect(seconds(start, 10.0)));
        liveness.on_sent(seconds(start, 10.0));
        assert!(!liveness.is_suspect(seconds(start, 11.9)));
        assert!(liveness.is_suspect(seconds(start, 12.0)));
        liveness.on_heard(seconds(start, 12.5), 1);
        assert!(!liveness.is_suspect(seconds(start, 14.0)));
        assert!(liveness.is_suspect(seconds(start, 14.5)));
        liveness.on_answer(seconds(start, 15.0), false);
        assert!(!liveness.is_suspect(seconds(start, 100.0)));
    }

    #[test]
    fn ticks_come_when_something_changes() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        assert_eq!(liveness.next_tick(start), None);
        liveness.ping(start);
        assert_eq!(liveness.next_tick(start), Some(start + SUSPECT_AFTER));
        assert_eq!(liveness.next_tick(start + SUSPECT_AFTER), Some(start + HEARTBEAT));
        liveness.on_answer(start, false);
        assert_eq!(liveness.next_tick(start), Some(start + HEARTBEAT));
    }
}
