//! Decisions from a seed, the same on every machine.

use std::ops::Range;
use std::time::Duration;

/// `SplitMix64` (Steele, Lea and Flood, 2014): small, and good enough to choose faults.
#[derive(Debug, Clone)]
pub(crate) struct Seed(u64);

impl Seed {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `range`, which is not empty.
    pub(crate) fn of(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// One below `limit`, most of them small: every magnitude is as likely as every other.
    pub(crate) fn skewed(&mut self, limit: u64) -> u64 {
        let magnitude = self.of(0..u64::from(limit.max(2).ilog2()) + 1);
        self.of(0..limit.min(2 << magnitude).max(1))
    }

    pub(crate) fn size(&mut self, limit: usize) -> usize {
        usize::try_from(self.skewed(limit as u64)).unwrap()
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.of(0..from.len() as u64)).unwrap()]
    }

    /// `true` in so many of a hundred cases.
    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.of(0..100) < chance
    }

    pub(crate) fn millis(&mut self, limit: u64) -> Duration {
        Duration::from_millis(self.skewed(limit))
    }
}

/// What the stream numbered `stream` carries at `position`.
pub(crate) fn byte_at(stream: u64, position: u64) -> u8 {
    let mixed = (position ^ (stream << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[0]
}

/// What the stream carries from `position` on.
pub(crate) fn bytes_at(stream: u64, position: u64, length: usize) -> Vec<u8> {
    (position..)
        .take(length)
        .map(|position| byte_at(stream, position))
        .collect()
}
