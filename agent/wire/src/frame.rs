//! The frames of a link: pure encoding and decoding, no I/O and no state.
//!
//! ```text
//!  0      1            4            8
//!  +------+------------+------------+----------------------+
//!  | type | length u24 | crc32c u32 | payload, length bytes |
//!  +------+------------+------------+----------------------+
//! ```
//!
//! The checksum (CRC32C, RFC 3720 appendix B.4) covers type, length and payload, so that a flipped bit
//! anywhere is seen. A frame with its header is at most 32 KiB, one WebSocket message.
//!
//! | type | name | payload |
//! |---|---|---|
//! | 1 | data | position u64 of its first byte in the sender's stream, then 1..=32,752 bytes |
//! | 2 | ping | stamp u64, opaque to the receiver; position u64 up to which data was sent on this transport |
//! | 3 | pong | the ping's stamp |
//! | 4 | goodbye | position u64: all bytes the sender's stream ever had |
//! | 5 | probe | offset u32, then bytes of [`crate::probe`] |
//! | 6 | probe echo | the probe's payload |
//! | 7 | ack | position u64: the receiver has every byte before it |
//! | 8 | fault | fault u8 (1 altered, 2 missing), position u64 up to which all was well |
//! | 9 | evicted | empty |
//!
//! Goodbye, fault and evicted are the last frame their sender puts on a transport.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::DecodeError;

/// Bytes in front of each payload.
pub const HEADER: usize = 8;

/// Largest frame, header included: what travels as one exec message without being cut on the way.
pub const MAX_FRAME: usize = 32 * 1024;

/// Largest payload of any frame.
pub const MAX_PAYLOAD: usize = MAX_FRAME - HEADER;

/// Most bytes of the link's stream in one data frame.
pub const MAX_DATA: usize = MAX_PAYLOAD - 8;

/// One frame of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of the link's stream.
    Data {
        /// Position of the first byte, counted from the start of the session.
        position: u64,
        /// The bytes, never empty.
        bytes: Bytes,
    },
    /// Asks for a pong and for an acknowledgement.
    Ping {
        /// Returned unchanged.
        stamp: u64,
        /// Where the data in front of it ends: what is missing there is noticed although nothing follows.
        position: u64,
    },
    /// Answers a ping.
    Pong {
        /// The ping's stamp.
        stamp: u64,
    },
    /// The sender has nothing more to say and leaves.
    Goodbye {
        /// Where its stream ends.
        position: u64,
    },
    /// Bytes to be echoed.
    Probe {
        /// Where in the pseudo-random sequence the bytes begin.
        offset: u32,
        /// The bytes.
        bytes: Bytes,
    },
    /// A probe sent back.
    ProbeEcho {
        /// The probe's offset.
        offset: u32,
        /// The probe's bytes.
        bytes: Bytes,
    },
    /// Everything before a position has arrived, and need not be kept.
    Ack {
        /// The first byte that has not arrived.
        position: u64,
    },
    /// What arrived cannot be used: the sender of this gives the transport up.
    Fault {
        /// What is wrong with it.
        fault: Fault,
        /// The first byte that has not arrived as it should.
        position: u64,
    },
    /// Another plugin has proven the session's secret and takes the agent over.
    Evicted,
}

/// How a transport failed the bytes on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// They arrived altered.
    Altered = 1,
    /// Some of them did not arrive.
    Missing = 2,
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Self::Data { .. } => 1,
            Self::Ping { .. } => 2,
            Self::Pong { .. } => 3,
            Self::Goodbye { .. } => 4,
            Self::Probe { .. } => 5,
            Self::ProbeEcho { .. } => 6,
            Self::Ack { .. } => 7,
            Self::Fault { .. } => 8,
            Self::Evicted => 9,
        }
    }

    /// Appends the encoded frame to `out`.
    ///
    /// # Panics
    /// When the payload is larger than [`MAX_PAYLOAD`]: the caller cuts data into frames.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Data { position, bytes } => encode_parts(self.kind(), &position.to_be_bytes(), bytes, out),
            Self::Ping { stamp, position } => {
                encode_parts(self.kind(), &stamp.to_be_bytes(), &position.to_be_bytes(), out);
            }
            Self::Pong { stamp: number }
            | Self::Goodbye { position: number }
            | Self::Ack { position: number } => encode_parts(self.kind(), &number.to_be_bytes(), &[], out),
            Self::Fault { fault, position } => {
                encode_parts(self.kind(), &[*fault as u8], &position.to_be_bytes(), out);
            }
            Self::Evicted => encode_parts(self.kind(), &[], &[], out),
            Self::Probe { offset, bytes } | Self::ProbeEcho { offset, bytes } => {
                encode_parts(self.kind(), &offset.to_be_bytes(), bytes, out);
            }
        }
    }

    /// Takes one frame from the front of `input`, or `None` when it is not whole yet.
    ///
    /// # Errors
    /// The bytes are no frame; nothing behind them can be trusted.
    pub fn decode(input: &mut BytesMut) -> Result<Option<Self>, DecodeError> {
        if input.len() < HEADER {
            return Ok(None);
        }
        let kind = input[0];
        let length =
            usize::try_from(u32::from_be_bytes([0, input[1], input[2], input[3]])).unwrap_or(usize::MAX);
        let fits = match kind {
            1 => (9..=MAX_PAYLOAD).contains(&length),
            2 => length == 16,
            3 | 4 | 7 => length == 8,
            5 | 6 => (5..=MAX_PAYLOAD).contains(&length),
            8 => length == 9,
            9 => length == 0,
            unknown => return Err(DecodeError::UnknownType(unknown)),
        };
        if !fits {
            return Err(DecodeError::BadLength { kind, length });
        }
        if input.len() < HEADER + length {
            input.reserve(HEADER + length - input.len());
            return Ok(None);
        }
        let mut frame = input.split_to(HEADER + length).freeze();
        let expected = u32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
        if crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[HEADER..]) != expected {
            return Err(DecodeError::BadChecksum);
        }
        frame.advance(HEADER);
        Ok(Some(match kind {
            1 => Self::Data {
                position: frame.get_u64(),
                bytes: frame,
            },
            2 => Self::Ping {
                stamp: frame.get_u64(),
                position: frame.get_u64(),
            },
            3 => Self::Pong {
                stamp: frame.get_u64(),
            },
            4 => Self::Goodbye {
                position: frame.get_u64(),
            },
            5 => Self::Probe {
                offset: frame.get_u32(),
                bytes: frame,
            },
            6 => Self::ProbeEcho {
                offset: frame.get_u32(),
                bytes: frame,
            },
            7 => Self::Ack {
                position: frame.get_u64(),
            },
            8 => Self::Fault {
                fault: match frame.get_u8() {
                    1 => Fault::Altered,
                    2 => Fault::Missing,
                    _ => return Err(DecodeError::BadField("fault")),
                },
                position: frame.get_u64(),
            },
            _ => Self::Evicted,
        }))
    }
}

/// Appends a data frame without needing the payload as `Bytes`: the hot path of a link.
pub(crate) fn encode_data(position: u64, bytes: &[u8], out: &mut BytesMut) {
    encode_parts(1, &position.to_be_bytes(), bytes, out);
}

fn encode_parts(kind: u8, head: &[u8], body: &[u8], out: &mut BytesMut) {
    let length = head.len() + body.len();
    assert!(
        length <= MAX_PAYLOAD,
        "a frame's payload is at most {MAX_PAYLOAD} bytes"
    );
    let length = u32::try_from(length).expect("bounded by MAX_PAYLOAD");
    let mut front = length.to_be_bytes();
    front[0] = kind;
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&front), head), body);
    out.reserve(HEADER + head.len() + body.len());
    out.put_slice(&front);
    out.put_u32(crc);
    out.put_slice(head);
    out.put_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex;

    fn all() -> Vec<Frame> {
        vec![
            Frame::Data {
                position: 7,
                bytes: Bytes::from_static(b"hello"),
            },
            Frame::Ping {
                stamp: 0x0102_0304_0506_0708,
                position: 12,
            },
            Frame::Pong { stamp: 1 },
            Frame::Goodbye { position: 5 },
            Frame::Probe {
                offset: 9,
                bytes: Bytes::from_static(b"xy"),
            },
            Frame::ProbeEcho {
                offset: 9,
                bytes: Bytes::from_static(b"xy"),
            },
            Frame::Ack { position: 12 },
            Frame::Fault {
                fault: Fault::Missing,
                position: 12,
            },
            Frame::Evicted,
        ]
    }

    #[test]
    fn fixed_vectors() {
        let encoded: Vec<String> = all()
            .iter()
            .map(|frame| {
                let mut out = BytesMut::new();
                frame.encode(&mut out);
                hex(&out)
            })
            .collect();
        assert_eq!(
            encoded,
            [
                "0100000d76577f1f000000000000000768656c6c6f",
                "020000103befa5980102030405060708000000000000000c",
                "0300000832eab8990000000000000001",
                "04000008632503160000000000000005",
                "05000006c877564d000000097879",
                "060000069061ac53000000097879",
                "070000084805a48a000000000000000c",
                "080000091278952702000000000000000c",
                "0900000063668299",
            ]
        );
    }

    #[test]
    fn frames_survive_any_split() {
        let mut wire = BytesMut::new();
        for frame in all() {
            frame.encode(&mut wire);
        }
        for chunk in 1..wire.len() {
            let mut input = BytesMut::new();
            let mut seen = Vec::new();
            for part in wire.chunks(chunk) {
                input.extend_from_slice(part);
                while let Some(frame) = Frame::decode(&mut input).unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, all(), "in pieces of {chunk}");
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        for frame in all() {
            let mut wire = BytesMut::new();
            frame.encode(&mut wire);
            for bit in 0..wire.len() * 8 {
                let mut bad = wire.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                // A longer length only asks for more bytes; those cannot make the checksum right again.
                bad.resize(bad.len() + MAX_FRAME, 0);
                assert!(
                    Frame::decode(&mut bad).is_err(),
                    "{frame:?} with bit {bit} flipped"
                );
            }
        }
    }

    #[test]
    fn lengths_out_of_bounds_are_refused_before_they_are_waited_for() {
        for (kind, length) in [
            (1u8, 8u32),
            (1, 32_761),
            (2, 8),
            (3, 7),
            (4, 7),
            (7, 9),
            (5, 4),
            (8, 8),
            (9, 1),
        ] {
            let mut input = BytesMut::new();
            let mut front = length.to_be_bytes();
            front[0] = kind;
            input.put_slice(&front);
            input.put_u32(0);
            let length = length as usize;
            assert_eq!(
                Frame::decode(&mut input),
                Err(DecodeError::BadLength { kind, length })
            );
        }
        let mut input = BytesMut::from(&[10u8, 0, 0, 0, 0, 0, 0, 0][..]);
        assert_eq!(Frame::decode(&mut input), Err(DecodeError::UnknownType(10)));
    }
}
