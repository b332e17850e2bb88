//! SPDY/3.1 inside the WebSocket of a port-forward: two streams, and no more of SPDY than they need.
//!
//! It is what kubectl speaks, and the cheapest way through an API server: that passes bytes on unread, where
//! [`super`]'s channels are taken apart by the node byte by byte (measured: a third of the CPU time for an upload).
//! Protocol: SPDY/3.1 draft (chromium.org), as `moby/spdystream` and `k8s.io/streaming` use it. No flow control: neither
//! end of a port-forward sends or heeds window updates.
//!
//! ```text
//!   1   control u1 = 1 | version u15 = 3 | type u16        0 | stream u31
//!   4   flags u8       | length u24                        flags u8 (1: the last) | length u24
//!   8   payload                                            data
//! ```
//!
//! A stream begins with its headers, a zlib stream over all headers of a direction with a dictionary given by the
//! protocol. Ours are stored blocks, which need no compressor; the node's are not read.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Duration, timeout};

use super::super::messages::{AsideTx, IncomingTx, Source};
use super::PortForwardError;

/// The sub-protocol's name.
pub(super) const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// The stream of the node's complaints.
const ERROR: u32 = 1;
/// The stream of the bytes.
pub(super) const DATA: u32 = 3;

const VERSION: u16 = 0x8003;
const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const LAST: u8 = 1;
const HEAD: usize = 8;
const NUMBER: usize = 4;

/// A zlib head that names a dictionary (RFC 1950), and the Adler-32 of SPDY/3's.
const ZLIB_HEAD: [u8; 6] = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];
/// An empty stored block: what an inflater holds back is due at it.
const ZLIB_FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];

/// A complaint is at most so long.
const COMPLAINT: usize = 8 * 1024;

/// The end of the data comes before the complaint that explains it.
const COMPLAINT_WAIT: Duration = Duration::from_secs(2);

/// What opens both streams for a connection to `port`.
pub(super) fn opening(port: u16) -> Bytes {
    let mut out = BytesMut::new();
    let mut zlib = BytesMut::from(ZLIB_HEAD.as_slice());
    for (stream, kind) in [(ERROR, "error"), (DATA, "data")] {
        let mut headers = BytesMut::new();
        headers.put_u32(3);
        for text in ["streamtype", kind, "port", &port.to_string(), "requestid", "0"] {
            headers.put_u32(u32::try_from(text.len()).unwrap_or(0));
            headers.put_slice(text.as_bytes());
        }
        // RFC 1951, 3.2.4: not the last block, stored, its length and that inverted.
        let length = u16::try_from(headers.len()).unwrap_or(0);
        zlib.put_u8(0);
        zlib.put_u16_le(length);
        zlib.put_u16_le(!length);
        zlib.put_slice(&headers);
        zlib.put_slice(&ZLIB_FLUSH);
        out.put_u16(VERSION);
        out.put_u16(SYN_STREAM);
        // Stream, no parent, no priority, no slot.
        out.put_u32(u32::try_from(10 + zlib.len()).unwrap_or(0));
        out.put_u32(stream);
        out.put_u32(0);
        out.put_u16(0);
        out.unsplit(zlib.split());
        if stream == ERROR {
            // Nothing is ever written to it.
            out.put_u32(ERROR);
            out.put_u32(u32::from(LAST) << 24);
        }
    }
    out.freeze()
}

/// What the node has sent.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Data {
        stream: u32,
        bytes: Bytes,
    },
    /// The stream's last byte has come.
    End {
        stream: u32,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
}

/// What is being read.
#[derive(Debug)]
enum Reading {
    Head,
    Data { stream: u32, left: usize, last: bool },
    Control { kind: u16, left: usize },
}

/// Takes the node's bytes apart. Data are passed on as they come, of all else a few bytes are kept.
#[derive(Debug)]
struct Frames {
    input: Bytes,
    /// The beginning of a head, or of the payload of a control frame.
    kept: BytesMut,
    reading: Reading,
}

impl Frames {
    fn new() -> Self {
        Self {
            input: Bytes::new(),
            kept: BytesMut::new(),
            reading: Reading::Head,
        }
    }

    /// More bytes, when [`Frames::next`] has nothing more.
    fn push(&mut self, bytes: Bytes) {
        self.input = bytes;
    }

    fn next(&mut self) -> Option<Part> {
        loop {
            match self.reading {
                Reading::Head => {
                    self.keep(HEAD)?;
                    let (first, second) = (self.kept.get_u32(), self.kept.get_u32());
                    let left = (second & 0x00ff_ffff) as usize;
                    self.reading = if first & 0x8000_0000 == 0 {
                        let last = second >> 24 & u32::from(LAST) != 0;
                        Reading::Data {
                            stream: first,
                            left,
                            last,
                        }
                    } else {
                        let [_, _, high, low] = first.to_be_bytes();
                        let kind = u16::from_be_bytes([high, low]);
                        Reading::Control { kind, left }
                    };
                }
                Reading::Data {
                    stream,
                    left: 0,
                    last,
                } => {
                    self.reading = Reading::Head;
                    if last {
                        return Some(Part::End { stream });
                    }
                }
                Reading::Data { stream, left, last } => {
                    if self.input.is_empty() {
                        return None;
                    }
                    let bytes = self.input.split_to(left.min(self.input.len()));
                    let left = left - bytes.len();
                    self.reading = Reading::Data { stream, left, last };
                    return Some(Part::Data { stream, bytes });
                }
                Reading::Control { kind, left } => {
                    // No more than a number of any of them matters here.
                    let left = left - self.keep_some(NUMBER.min(left + self.kept.len()));
                    let skipped = left.min(self.input.len());
                    self.input.advance(skipped);
                    let left = left - skipped;
                    self.reading = Reading::Control { kind, left };
                    if left > 0 {
                        return None;
                    }
                    self.reading = Reading::Head;
                    let mut kept = self.kept.split();
                    let number = kept.try_get_u32().unwrap_or(0);
                    match kind {
                        PING => return Some(Part::Ping { id: number }),
                        RST_STREAM => return Some(Part::Reset { stream: number }),
                        GOAWAY => return Some(Part::GoAway),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Moves bytes over until `length` are kept; `None` while they are not there.
    fn keep(&mut self, length: usize) -> Option<()> {
        self.keep_some(length);
        (self.kept.len() >= length).then_some(())
    }

    /// The same, and returns how many were moved.
    fn keep_some(&mut self, length: usize) -> usize {
        let missing = length.saturating_sub(self.kept.len());
        let taken = self.input.split_to(missing.min(self.input.len()));
        self.kept.put_slice(&taken);
        taken.len()
    }
}

/// Reads both streams until the data have ended and nothing is left to complain about.
pub(super) async fn read<S>(
    mut source: Source<S>,
    incoming_tx: IncomingTx,
    aside_tx: AsideTx,
    complaint: impl FnOnce(&Bytes) -> PortForwardError + Send,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut frames = Frames::new();
    let mut words = BytesMut::new();
    let mut ended = false;
    let mut complained = false;
    let end = loop {
        let Some(part) = frames.next() else {
            let message = source.message();
            let message = if ended {
                timeout(COMPLAINT_WAIT, message).await.ok().flatten()
            } else {
                message.await
            };
            match message {
                Some(message) => frames.push(message),
                None => break ended,
            }
            continue;
        };
        match part {
            Part::Data { stream: DATA, bytes } => {
                if incoming_tx.send(Ok(bytes)).await.is_err() {
                    return;
                }
            }
            Part::Data { stream: ERROR, bytes } => {
                let room = COMPLAINT.saturating_sub(words.len()).min(bytes.len());
                words.put_slice(&bytes[..room]);
            }
            Part::End { stream: DATA } if complained => break true,
            Part::End { stream: DATA } => ended = true,
            Part::Reset { stream: DATA } | Part::GoAway => break ended,
            Part::End { stream: ERROR } if ended || !words.is_empty() => break ended,
            // Nodes close the two in either order.
            Part::End { stream: ERROR } => complained = true,
            Part::Ping { id } => answer(&aside_tx, id),
            Part::Data { .. } | Part::End { .. } | Part::Reset { .. } => {}
        }
    };
    if !words.is_empty() {
        let error = complaint(&words.freeze());
        drop(incoming_tx.send(Err(io::Error::other(error))).await);
    } else if !end {
        // After an error of the transport this second one is never read.
        drop(incoming_tx.send(Err(super::cut())).await);
    }
}

/// The node asks for a sign of life with even numbers. When much else is under way that is sign enough: waiting here
/// would stop the reading.
fn answer(aside_tx: &AsideTx, id: u32) {
    if id.is_multiple_of(2)
        && let Some(messages) = aside_tx.upgrade()
    {
        let mut pong = BytesMut::with_capacity(HEAD + 4);
        pong.put_u16(VERSION);
        pong.put_u16(PING);
        pong.put_u32(4);
        pong.put_u32(id);
        drop(messages.try_send(pong.freeze()));
    }
}

#[cfg(test)]
mod tests;
