//! A stream of bytes in which every position is known: nothing lost, doubled, moved or altered goes unnoticed.
//!
//! The eight bytes at position `8 * n` are splitmix64 of `n`, little-endian.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Where the stream is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pattern {
    position: u64,
}

/// The first byte that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// Its position in the stream.
    pub position: u64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "wrong byte at position {}", self.position)
    }
}

impl std::error::Error for Mismatch {}

impl Pattern {
    /// The stream from this position on.
    pub fn at(position: u64) -> Self {
        Self { position }
    }

    /// Bytes passed so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Fills `bytes` with the next part of the stream.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (word, skip) = self.word();
            let count = rest.len().min(8 - skip);
            let (head, tail) = rest.split_at_mut(count);
            head.copy_from_slice(&word[skip..skip + count]);
            self.position += count as u64;
            rest = tail;
        }
    }

    /// Compares `bytes` with the next part of the stream.
    ///
    /// # Errors
    /// A byte differs; the position stays before the word it is in.
    pub fn check(&mut self, bytes: &[u8]) -> Result<(), Mismatch> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (word, skip) = self.word();
            let count = rest.len().min(8 - skip);
            let (head, tail) = rest.split_at(count);
            if *head != word[skip..skip + count] {
                let index = head
                    .iter()
                    .zip(&word[skip..])
                    .take_while(|(got, wanted)| got == wanted)
                    .count();
                return Err(Mismatch {
                    position: self.position + index as u64,
                });
            }
            self.position += count as u64;
            rest = tail;
        }
        Ok(())
    }

    /// The word at the position, and where in it the position is.
    fn word(self) -> ([u8; 8], usize) {
        let skip = usize::try_from(self.position % 8).expect("below 8");
        (splitmix64(self.position / 8).to_le_bytes(), skip)
    }
}

fn splitmix64(index: u64) -> u64 {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// SHA-256 of the first `length` bytes, in lower-case hex.
pub fn sha256(length: u64) -> String {
    let mut pattern = Pattern::default();
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 16];
    while pattern.position < length {
        let left = usize::try_from(length - pattern.position).unwrap_or(usize::MAX);
        let part = block.len().min(left);
        pattern.fill(&mut block[..part]);
        hash.update(&block[..part]);
    }
    hex(&hash.finalize())
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_any_size_make_the_same_stream() {
        let mut whole = vec![0; 1000];
        Pattern::default().fill(&mut whole);
        for size in 1..40 {
            let mut pattern = Pattern::default();
            let mut parts = vec![0; 1000];
            for part in parts.chunks_mut(size) {
                pattern.fill(part);
            }
            assert_eq!(parts, whole, "parts of {size}");
            let mut pattern = Pattern::default();
            for part in whole.chunks(size) {
                pattern.check(part).unwrap();
            }
            assert_eq!(pattern.position(), 1000);
        }
    }

    #[test]
    fn the_first_wrong_byte_is_named() {
        let mut bytes = vec![0; 1000];
        Pattern::default().fill(&mut bytes);
        bytes[517] ^= 1;
        bytes[600] ^= 1;
        assert_eq!(Pattern::default().check(&bytes), Err(Mismatch { position: 517 }));
        // A lost byte shows at once, since no two words are alike.
        let mut bytes = vec![0; 64];
        Pattern::default().fill(&mut bytes);
        bytes.remove(16);
        assert_eq!(Pattern::default().check(&bytes).unwrap_err().position, 16);
    }

    #[test]
    fn the_hash_is_of_the_stream() {
        let mut bytes = vec![0; 100_003];
        Pattern::default().fill(&mut bytes);
        assert_eq!(sha256(100_003), hex(&Sha256::digest(&bytes)));
    }
}
