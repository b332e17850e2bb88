//! Datagrams of which each is known: who sent it, which of the row it is, and every byte behind that. Pure.
//!
//! ```text
//!  0          4            8
//!  +----------+------------+-----------------------+
//!  | peer u32 | number u32 | pattern, to the size  |
//!  +----------+------------+-----------------------+
//! ```
//!
//! The pattern begins at another position for each peer and number, so a tail of another datagram is noticed.

use crate::pattern::Pattern;

/// Bytes before the pattern: the least size.
pub const HEADER: usize = 8;

/// One datagram of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbered {
    /// Whose row.
    pub peer: u32,
    /// Where in it, from 0.
    pub number: u32,
}

impl Numbered {
    /// The datagram, of `size` bytes and at least [`HEADER`].
    pub fn encode(self, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size.max(HEADER)];
        bytes[..4].copy_from_slice(&self.peer.to_be_bytes());
        bytes[4..HEADER].copy_from_slice(&self.number.to_be_bytes());
        self.pattern().fill(&mut bytes[HEADER..]);
        bytes
    }

    /// What this datagram is, or `None` when it is not as one was sent.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (peer, rest) = bytes.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let numbered = Self {
            peer: u32::from_be_bytes(*peer),
            number: u32::from_be_bytes(*number),
        };
        numbered.pattern().check(rest).ok().map(|()| numbered)
    }

    fn pattern(self) -> Pattern {
        // Further apart than a datagram is long.
        Pattern::at((u64::from(self.peer) << 32 | u64::from(self.number)) << 17)
    }
}

/// What has come back of one row.
#[derive(Debug, Clone)]
pub struct Tally {
    peer: u32,
    size: usize,
    seen: Vec<bool>,
    received: usize,
    counts: Counts,
}

/// What should not come back, and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Once more.
    pub duplicated: usize,
    /// Not as it was sent.
    pub altered: usize,
    /// Sent by another peer.
    pub foreign: usize,
}

impl Tally {
    /// Of `count` datagrams of `size` bytes that `peer` sends.
    pub fn new(peer: u32, count: usize, size: usize) -> Self {
        Self {
            peer,
            size: size.max(HEADER),
            seen: vec![false; count],
            received: 0,
            counts: Counts::default(),
        }
    }

    /// Counts what has arrived; its number when it is one of this row.
    pub fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        let Some(numbered) = Numbered::decode(bytes).filter(|_| bytes.len() == self.size) else {
            self.counts.altered += 1;
            return None;
        };
        if numbered.peer != self.peer {
            self.counts.foreign += 1;
            return None;
        }
        let number = usize::try_from(numbered.number).ok()?;
        match self.seen.get_mut(number) {
            Some(seen) if !*seen => {
                *seen = true;
                self.received += 1;
            }
            Some(_) => self.counts.duplicated += 1,
            None => self.counts.altered += 1,
        }
        Some(number)
    }

    /// How many different ones have come back.
    pub fn received(&self) -> usize {
        self.received
    }

    /// What else came.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.received == self.seen.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_read_as_it_was_written() {
        for peer in [0, 1, u32::MAX] {
            for number in [0, 9_999, u32::MAX] {
                for size in [HEADER, 9, 64, 65_507] {
                    let numbered = Numbered { peer, number };
                    let bytes = numbered.encode(size);
                    assert_eq!((bytes.len(), Numbered::decode(&bytes)), (size, Some(numbered)));
                }
            }
        }
        assert_eq!(Numbered::decode(&[0; 7]), None);
    }

    #[test]
    fn everything_that_can_happen_to_a_datagram_is_told_apart() {
        let mut tally = Tally::new(3, 4, 64);
        let datagram = |peer, number| Numbered { peer, number }.encode(64);
        assert_eq!(tally.take(&datagram(3, 1)), Some(1));
        tally.take(&datagram(3, 0));
        tally.take(&datagram(3, 0));
        tally.take(&datagram(2, 0));
        let mut altered = datagram(3, 2);
        altered[63] ^= 1;
        assert_eq!(tally.take(&altered), None);
        // The head of one and the tail of another; one cut short; one that was never sent.
        let mixed = [&datagram(3, 2)[..HEADER], &datagram(3, 3)[HEADER..]].concat();
        tally.take(&mixed);
        tally.take(&datagram(3, 2)[..63]);
        tally.take(&datagram(3, 4));
        let counts = Counts {
            duplicated: 1,
            altered: 4,
            foreign: 1,
        };
        assert_eq!((tally.received(), tally.counts()), (2, counts));
        assert!(!tally.is_complete());
        tally.take(&datagram(3, 2));
        tally.take(&datagram(3, 3));
        assert!(tally.is_complete());
    }
}
