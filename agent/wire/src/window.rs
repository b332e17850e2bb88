//! How much a stream may send before its receiver grants more: pure arithmetic.
//!
//! yamux gives each stream 256 KiB from the start, so a thousand stalled streams would fill the agent. A
//! sender of ours holds back at [`INITIAL_WINDOW`] until the receiver's relay has passed bytes on. A
//! stream that is read quickly gets a larger window, from a pool all streams of the session share.

use std::time::Duration;

use tokio::time::Instant;

use crate::budget::Budget;

/// What a stream may send unasked, in bytes.
pub const INITIAL_WINDOW: u32 = 64 * 1024;

/// Largest window of one stream: 160 MiB/s at a round trip of 100 ms.
pub const MAX_WINDOW: u32 = 16 * 1024 * 1024;

/// What all streams of a session together may have beyond their initial windows, in bytes.
pub const GROWTH_POOL: usize = 32 * 1024 * 1024;

/// The budget of all windows of a session: [`GROWTH_POOL`] bytes.
#[must_use]
pub fn growth_pool() -> Budget {
    Budget::of(GROWTH_POOL)
}

/// The receiving side of one direction of a stream.
#[derive(Debug)]
pub struct ReceiveWindow {
    size: u32,
    /// Sum of all grants, the initial window included.
    granted: u64,
    received: u64,
    consumed: u64,
    last_grant: Instant,
    pool: Budget,
}

/// The sender sent more than it was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overrun;

impl ReceiveWindow {
    /// A window of [`INITIAL_WINDOW`].
    #[must_use]
    pub fn new(pool: Budget, now: Instant) -> Self {
        Self {
            size: INITIAL_WINDOW,
            granted: u64::from(INITIAL_WINDOW),
            received: 0,
            consumed: 0,
            last_grant: now,
            pool,
        }
    }

    /// Counts bytes that arrived.
    ///
    /// # Errors
    /// They are more than was granted.
    pub fn on_received(&mut self, bytes: usize) -> Result<(), Overrun> {
        self.received += bytes as u64;
        if self.received > self.granted {
            Err(Overrun)
        } else {
            Ok(())
        }
    }

    /// Counts bytes that were passed on, and returns what to grant now: nothing until half of the window
    /// is used. A window used up within two round trips was too small and is doubled while the pool lasts.
    pub fn on_consumed(&mut self, bytes: usize, now: Instant, rtt: Duration) -> Option<u32> {
        self.consumed += bytes as u64;
        let open = self.granted - self.consumed;
        if open > u64::from(self.size / 2) {
            return None;
        }
        let quick = now.saturating_duration_since(self.last_grant) < rtt * 2;
        if quick && self.size < MAX_WINDOW && self.pool.take(self.size as usize) {
            self.size *= 2;
        }
        self.last_grant = now;
        let grant = u32::try_from(u64::from(self.size) - open).unwrap_or(0);
        self.granted += u64::from(grant);
        Some(grant)
    }
}

impl Drop for ReceiveWindow {
    fn drop(&mut self) {
        self.pool.give_back((self.size - INITIAL_WINDOW) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_keeps_the_initial_window() {
        let mut now = Instant::now();
        let mut window = ReceiveWindow::new(growth_pool(), now);
        let mut granted = u64::from(INITIAL_WINDOW);
        for _ in 0..100 {
            now += Duration::from_secs(1);
            window.on_received(32 * 1024).unwrap();
            granted += u64::from(window.on_consumed(32 * 1024, now, RTT).unwrap_or(0));
        }
        assert_eq!(granted, 100 * 32 * 1024 + u64::from(INITIAL_WINDOW));
        assert_eq!(window.size, INITIAL_WINDOW);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quick_reader_grows_to_the_limit_and_gives_back() {
        let pool = growth_pool();
        let now = Instant::now();
        let mut window = ReceiveWindow::new(pool.clone(), now);
        for _ in 0..200 {
            let size = window.size as usize;
            window.on_received(size / 2).unwrap();
            window.on_consumed(size / 2, now, RTT);
        }
        assert_eq!(window.size, MAX_WINDOW);
        assert_eq!(pool.left(), GROWTH_POOL - (MAX_WINDOW - INITIAL_WINDOW) as usize);
        drop(window);
        assert_eq!(pool.left(), GROWTH_POOL);
    }

    #[tokio::test(start_paused = true)]
    async fn all_windows_together_stay_within_the_pool() {
        let pool = growth_pool();
        let now = Instant::now();
        let mut windows: Vec<_> = (0..64).map(|_| ReceiveWindow::new(pool.clone(), now)).collect();
        for window in &mut windows {
            for _ in 0..50 {
                let half = window.size as usize / 2;
                window.on_received(half).unwrap();
                window.on_consumed(half, now, RTT);
            }
        }
        let grown: usize = windows
            .iter()
            .map(|window| (window.size - INITIAL_WINDOW) as usize)
            .sum();
        assert!(grown <= GROWTH_POOL, "{grown}");
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_granted_is_an_overrun() {
        let mut window = ReceiveWindow::new(growth_pool(), Instant::now());
        window.on_received(INITIAL_WINDOW as usize).unwrap();
        assert_eq!(window.on_received(1), Err(Overrun));
    }
}
