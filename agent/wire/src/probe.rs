//! The pseudo-random bytes that find a path which alters or cuts exec data.
//!
//! Some proxies in front of an API server truncate or rewrite what a client sends into an exec (session
//! recorders that parse raw frames, inspecting gateways). The first transport of a session therefore
//! echoes more than 64 KiB once. This file makes and checks the bytes; the link sends them.

use bytes::{BufMut, Bytes, BytesMut};

/// How many bytes are echoed: more than any 64 KiB buffer on the way.
pub const PROBE_LENGTH: u32 = 80 * 1024;

/// Most probe bytes in one frame.
pub const PROBE_CHUNK: u32 = 16 * 1024;

/// The probe's bytes from `offset`, at most [`PROBE_CHUNK`] of them; empty at the end.
#[must_use]
pub fn chunk(offset: u32) -> Bytes {
    let length = PROBE_LENGTH.saturating_sub(offset).min(PROBE_CHUNK);
    let mut out = BytesMut::with_capacity(length as usize);
    for index in offset..offset + length {
        out.put_u8(byte_at(index));
    }
    out.freeze()
}

/// Offset of the first byte that differs from the sequence, if one does.
#[must_use]
pub fn first_difference(offset: u32, bytes: &[u8]) -> Option<u32> {
    (offset..)
        .zip(bytes)
        .find(|(index, byte)| byte_at(*index) != **byte)
        .map(|(index, _)| index)
}

/// One step of a multiplicative hash (Knuth, TAOCP 6.4): every byte value occurs, no short period.
fn byte_at(index: u32) -> u8 {
    let mixed = (index ^ 0x5bd1_e995).wrapping_mul(2_654_435_761);
    (mixed ^ (mixed >> 15)).to_be_bytes()[1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_the_probe_and_find_a_changed_byte() {
        let mut offset = 0;
        let mut values = [0u32; 256];
        while offset < PROBE_LENGTH {
            let bytes = chunk(offset);
            assert_eq!(first_difference(offset, &bytes), None);
            let mut altered = bytes.to_vec();
            altered[17] ^= 4;
            assert_eq!(first_difference(offset, &altered), Some(offset + 17));
            for byte in &bytes {
                values[usize::from(*byte)] += 1;
            }
            offset += PROBE_CHUNK;
        }
        assert!(chunk(PROBE_LENGTH).is_empty());
        assert!(values.iter().all(|count| *count > 0), "every byte value is tried");
    }
}
