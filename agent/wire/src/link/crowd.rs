//! Whether many connections come and go at once. Pure: how many are open, and `now`.
//!
//! Each message wakes half a dozen processes on its way, which costs four times what the few bytes of an open or an end
//! do. So where a crowd begins, what is to be sent waits a moment for company (see [`super::io`]): a millisecond that
//! each of them waits is won back by the processors that all of them share. One after the other is no crowd, nor is
//! the handful that a browser opens.

use std::time::Duration;

use tokio::time::Instant;

/// It is a crowd when so many begin...
const MANY: u32 = 8;

/// ...in so long...
const SOON: Duration = Duration::from_millis(20);

/// ...while so many others are open.
const OTHERS: usize = 4;

/// How long after that others are expected.
const LASTS: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(super) struct Crowd {
    since: Option<Instant>,
    begun: u32,
    until: Option<Instant>,
}

impl Crowd {
    /// A stream begins while `others` are open.
    pub(super) fn on_stream(&mut self, others: usize, now: Instant) {
        if others < OTHERS {
            return;
        }
        if self
            .since
            .is_none_or(|since| now.saturating_duration_since(since) >= SOON)
        {
            self.since = Some(now);
            self.begun = 0;
        }
        self.begun += 1;
        if self.begun >= MANY {
            self.until = Some(now + LASTS);
        }
    }

    pub(super) fn is_there(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many begin, one each `pause`, while `others` are open.
    async fn after(count: u32, pause: Duration, others: usize) -> (Crowd, Instant) {
        let mut crowd = Crowd::default();
        for _ in 0..count {
            tokio::time::advance(pause).await;
            crowd.on_stream(others, Instant::now());
        }
        (crowd, Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn many_at_once_are_a_crowd_for_a_while() {
        let (crowd, now) = after(MANY, Duration::from_millis(1), OTHERS).await;
        assert!(crowd.is_there(now));
        assert!(!crowd.is_there(now + LASTS));
        let (crowd, now) = after(MANY - 1, Duration::from_millis(1), OTHERS).await;
        assert!(!crowd.is_there(now), "one less");
    }

    #[tokio::test(start_paused = true)]
    async fn one_after_the_other_or_now_and_then_is_none() {
        let (crowd, now) = after(1_000, Duration::from_millis(1), OTHERS - 1).await;
        assert!(!crowd.is_there(now), "hardly any at once");
        let (crowd, now) = after(1_000, SOON / 4, 100).await;
        assert!(!crowd.is_there(now), "beside many that stay");
    }
}
