//! A reliable byte stream on top of transports: the state machine, without I/O and without a clock.
//!
//! Bytes and `now` go in, frames and bytes come out. It owns the positions of both directions, the
//! heartbeat, the probe and the goodbye. It does not read or write anything: [`io`] is the shell that
//! does. A link is made to outlive a transport: what it holds is the session's, not the transport's.
//!
//! ```text
//!   write() -> [send queue] -> take_frames() -> transport
//!   read()  <- [received]   <- on_bytes()    <- transport
//!                              on_tick()     <- time: ping every 5 s, dead after 15 s of silence
//! ```
//!
//! A goodbye goes behind everything that was written before it. The link is over when it has both sent
//! and received one.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::Instant;

use crate::error::DecodeError;
use crate::frame::{self, Frame};
use crate::probe;

pub mod io;

pub use io::{LinkHandle, LinkStream, channel};

/// How often each end asks for a sign of life. Well below the shortest idle time-out seen in front of an
/// API server (20 s, a load balancer's example configuration).
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// Silence after which a transport is dead: three heartbeats. Any byte counts as a sign of life.
pub const DEAD_AFTER: Duration = Duration::from_secs(15);

/// Bytes taken from the session that no transport has taken yet. Above it, `write` takes nothing.
const SEND_LIMIT: usize = 256 * 1024;

/// Most bytes the other end may have delivered before the session reads them: more than all its windows
/// together (1,024 streams of 64 KiB, the growth pool of 32 MiB, and yamux's headers).
const RECEIVE_LIMIT: usize = 128 * 1024 * 1024;

/// Round-trip time assumed before the first pong.
const INITIAL_RTT: Duration = Duration::from_millis(50);

/// What ended a transport.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportEnd {
    /// Both ends said goodbye.
    #[error("both ends said goodbye")]
    Goodbye,
    /// The transport's bytes ended without a goodbye.
    #[error("the connection to the agent ended")]
    Ended,
    /// The transport reported an error.
    #[error("the connection to the agent failed: {0}")]
    Failed(String),
    /// Nothing arrived for [`DEAD_AFTER`].
    #[error("nothing was heard for {} s", DEAD_AFTER.as_secs())]
    Silent,
    /// Bytes arrived altered.
    #[error("bytes were altered on the way, behind byte {position} ({error})")]
    Altered {
        /// Position in the link's stream up to which all was well.
        position: u64,
        /// What did not fit.
        error: DecodeError,
    },
    /// Bytes are missing between two frames that arrived.
    #[error("{missing} bytes went missing on the way, at byte {position}")]
    Gap {
        /// Position in the link's stream up to which all was well.
        position: u64,
        /// How many bytes are missing; 0 when bytes came twice.
        missing: u64,
    },
    /// The probe came back different.
    #[error("the path to the agent alters what passes through exec, first at byte {offset} of a probe")]
    ProbeAltered {
        /// Which byte of the probe.
        offset: u32,
    },
    /// The other end sent more than it was granted.
    #[error("the other end sent more than it was granted")]
    Overrun,
    /// This end gave the transport up.
    #[error("closed at this end")]
    Closed,
}

/// One end of a link.
#[derive(Debug)]
pub struct Link {
    send_queue: BytesMut,
    sent: u64,
    control: VecDeque<Frame>,
    input: BytesMut,
    received: VecDeque<Bytes>,
    received_length: usize,
    received_position: u64,
    heard: Instant,
    pinged: Option<Instant>,
    origin: Instant,
    rtt: Option<Duration>,
    probe: Probe,
    goodbye: Goodbye,
}

#[derive(Debug, Default)]
struct Probe {
    /// Offset of the next probe frame to send; `None` when this end does not probe.
    next: Option<u32>,
    /// Bytes that came back as they should.
    echoed: u32,
}

#[derive(Debug, Default)]
struct Goodbye {
    wanted: bool,
    sent: bool,
    received: bool,
}

impl Link {
    /// A link whose stream begins at position 0 in both directions.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            send_queue: BytesMut::new(),
            sent: 0,
            control: VecDeque::new(),
            input: BytesMut::new(),
            received: VecDeque::new(),
            received_length: 0,
            received_position: 0,
            heard: now,
            pinged: None,
            origin: now,
            rtt: None,
            probe: Probe::default(),
            goodbye: Goodbye::default(),
        }
    }

    /// A transport begins at `now`: silence counts from here.
    pub fn attach(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
        self.input.clear();
    }

    /// Makes the other end echo [`probe::PROBE_LENGTH`] bytes; a difference ends the transport.
    pub fn start_probe(&mut self) {
        self.probe = Probe {
            next: Some(0),
            echoed: 0,
        };
    }

    /// Whether a probe was started and all of it came back unaltered.
    #[must_use]
    pub fn probe_passed(&self) -> bool {
        self.probe.echoed == probe::PROBE_LENGTH
    }

    /// Whether a probe was started and has not come back whole.
    #[must_use]
    pub fn probe_unanswered(&self) -> bool {
        self.probe.next.is_some() && !self.probe_passed()
    }

    /// Takes bytes of the session and returns how many: none while the send queue is full or after
    /// [`Link::start_goodbye`].
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        if self.goodbye.wanted {
            return 0;
        }
        let room = SEND_LIMIT.saturating_sub(self.send_queue.len());
        let taken = room.min(bytes.len());
        self.send_queue.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// Copies received bytes into `out` and returns how many.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let mut copied = 0;
        while copied < out.len() {
            let Some(front) = self.received.front_mut() else {
                break;
            };
            let length = front.len().min(out.len() - copied);
            front.copy_to_slice(&mut out[copied..copied + length]);
            copied += length;
            if front.is_empty() {
                self.received.pop_front();
            }
        }
        self.received_length -= copied;
        copied
    }

    /// Says goodbye behind everything written so far.
    pub fn start_goodbye(&mut self) {
        self.goodbye.wanted = true;
    }

    /// Whether the other end said goodbye.
    #[must_use]
    pub fn goodbye_received(&self) -> bool {
        self.goodbye.received
    }

    /// Whether both ends said goodbye and nothing is left to send.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.goodbye.sent && self.goodbye.received
    }

    /// Smoothed round-trip time through the data path; 50 ms before the first pong.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.rtt.unwrap_or(INITIAL_RTT)
    }

    /// Bytes of the link's stream received so far.
    #[must_use]
    pub fn received_position(&self) -> u64 {
        self.received_position
    }

    /// Bytes from the transport, in order, cut anywhere.
    ///
    /// # Errors
    /// The transport is of no more use; nothing of the bad frame was taken.
    pub fn on_bytes(&mut self, bytes: &mut BytesMut, now: Instant) -> Result<(), TransportEnd> {
        self.heard = now;
        if self.input.is_empty() {
            std::mem::swap(&mut self.input, bytes);
        } else {
            self.input.extend_from_slice(bytes);
            bytes.clear();
        }
        loop {
            match Frame::decode(&mut self.input) {
                Ok(Some(frame)) => self.on_frame(frame, now)?,
                Ok(None) => break,
                Err(error) => {
                    return Err(TransportEnd::Altered {
                        position: self.received_position,
                        error,
                    });
                }
            }
        }
        if bytes.is_empty() && self.input.is_empty() {
            std::mem::swap(&mut self.input, bytes);
        }
        Ok(())
    }

    fn on_frame(&mut self, frame: Frame, now: Instant) -> Result<(), TransportEnd> {
        match frame {
            Frame::Data { position, bytes } => {
                if position != self.received_position {
                    return Err(TransportEnd::Gap {
                        position: self.received_position,
                        missing: position.saturating_sub(self.received_position),
                    });
                }
                self.received_position += bytes.len() as u64;
                self.received_length += bytes.len();
                if self.received_length > RECEIVE_LIMIT {
                    return Err(TransportEnd::Overrun);
                }
                self.received.push_back(bytes);
            }
            Frame::Ping { stamp } => {
                // One owed pong is enough: a flood of pings must not become a queue.
                self.control.retain(|frame| !matches!(frame, Frame::Pong { .. }));
                self.control.push_back(Frame::Pong { stamp });
            }
            Frame::Pong { stamp } => {
                let elapsed = now.saturating_duration_since(self.origin);
                let sample = elapsed.saturating_sub(Duration::from_micros(stamp));
                // RFC 6298's smoothing: one eighth of each new sample.
                self.rtt = Some(self.rtt.map_or(sample, |rtt| rtt * 7 / 8 + sample / 8));
            }
            Frame::Goodbye => {
                self.goodbye.received = true;
                self.goodbye.wanted = true;
            }
            Frame::Probe { offset, bytes } => {
                if self.control.len() > 64 {
                    return Err(TransportEnd::Overrun);
                }
                self.control.push_back(Frame::ProbeEcho { offset, bytes });
            }
            Frame::ProbeEcho { offset, bytes } => {
                if let Some(offset) = probe::first_difference(offset, &bytes) {
                    return Err(TransportEnd::ProbeAltered { offset });
                }
                self.probe.echoed = self
                    .probe
                    .echoed
                    .saturating_add(u32::try_from(bytes.len()).unwrap_or(0));
            }
        }
        Ok(())
    }

    /// What is due at `now`: a ping, or the end of a silent transport.
    ///
    /// # Errors
    /// [`TransportEnd::Silent`] after [`DEAD_AFTER`] without a byte.
    pub fn on_tick(&mut self, now: Instant) -> Result<(), TransportEnd> {
        if now.saturating_duration_since(self.heard) >= DEAD_AFTER {
            return Err(TransportEnd::Silent);
        }
        if self
            .pinged
            .is_none_or(|pinged| now.saturating_duration_since(pinged) >= HEARTBEAT)
        {
            self.pinged = Some(now);
            let elapsed = now.saturating_duration_since(self.origin);
            self.control.retain(|frame| !matches!(frame, Frame::Ping { .. }));
            self.control.push_front(Frame::Ping {
                stamp: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            });
        }
        Ok(())
    }

    /// When [`Link::on_tick`] has something to do next.
    #[must_use]
    pub fn next_tick(&self) -> Option<Instant> {
        let ping = self.pinged.map(|pinged| pinged + HEARTBEAT)?;
        Some(ping.min(self.heard + DEAD_AFTER))
    }

    /// Appends frames to `out` while it holds fewer than `limit` bytes: control first, then data, then
    /// the probe, then the goodbye.
    pub fn take_frames(&mut self, out: &mut BytesMut, limit: usize) {
        while out.len() < limit {
            if let Some(frame) = self.control.pop_front() {
                frame.encode(out);
            } else if !self.send_queue.is_empty() {
                let length = self.send_queue.len().min(frame::MAX_DATA);
                frame::encode_data(self.sent, &self.send_queue[..length], out);
                self.send_queue.advance(length);
                self.sent += length as u64;
            } else if let Some(offset) = self.probe.next.filter(|offset| *offset < probe::PROBE_LENGTH) {
                let bytes = probe::chunk(offset);
                self.probe.next = Some(offset + u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                Frame::Probe { offset, bytes }.encode(out);
            } else if self.goodbye.wanted && !self.goodbye.sent {
                self.goodbye.sent = true;
                Frame::Goodbye.encode(out);
            } else {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moves everything `from` has to say to `to`, in pieces of `chunk` bytes.
    fn carry(from: &mut Link, to: &mut Link, chunk: usize, now: Instant) -> Result<usize, TransportEnd> {
        let mut out = BytesMut::new();
        from.take_frames(&mut out, usize::MAX);
        let total = out.len();
        while !out.is_empty() {
            let mut piece = out.split_to(chunk.min(out.len()));
            to.on_bytes(&mut piece, now)?;
        }
        Ok(total)
    }

    fn drain(link: &mut Link) -> Vec<u8> {
        let mut out = vec![0; 1 << 20];
        let length = link.read(&mut out);
        out.truncate(length);
        out
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_arrive_whatever_the_pieces() {
        let now = Instant::now();
        for chunk in [1, 7, 4096, 1 << 20] {
            let (mut near, mut far) = (Link::new(now), Link::new(now));
            let data: Vec<u8> = (0..100_000u32).map(|n| n.to_be_bytes()[3]).collect();
            assert_eq!(near.write(&data), data.len());
            carry(&mut near, &mut far, chunk, now).unwrap();
            assert_eq!(drain(&mut far), data);
            assert_eq!(far.received_position(), 100_000);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_send_queue_takes_nothing_and_recovers() {
        let now = Instant::now();
        let (mut near, mut far) = (Link::new(now), Link::new(now));
        assert_eq!(near.write(&vec![1; SEND_LIMIT + 5]), SEND_LIMIT);
        assert_eq!(near.write(&[1]), 0);
        carry(&mut near, &mut far, 1 << 16, now).unwrap();
        assert_eq!(near.write(&[1]), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_frame_is_a_gap_and_a_repeated_one_too() {
        let now = Instant::now();
        let (mut near, mut far) = (Link::new(now), Link::new(now));
        near.write(b"one");
        let mut first = BytesMut::new();
        near.take_frames(&mut first, usize::MAX);
        near.write(b"two");
        let mut second = BytesMut::new();
        near.take_frames(&mut second, usize::MAX);
        let lost = far.on_bytes(&mut second.clone(), now);
        assert!(matches!(
            lost,
            Err(TransportEnd::Gap {
                position: 0,
                missing: 3
            })
        ));
        far.on_bytes(&mut first.clone(), now).unwrap();
        let twice = far.on_bytes(&mut first, now);
        assert!(matches!(
            twice,
            Err(TransportEnd::Gap {
                position: 3,
                missing: 0
            })
        ));
        assert_eq!(drain(&mut far), b"one");
    }

    #[tokio::test(start_paused = true)]
    async fn an_altered_byte_is_named_with_its_position() {
        let now = Instant::now();
        let (mut near, mut far) = (Link::new(now), Link::new(now));
        near.write(b"fine");
        carry(&mut near, &mut far, 64, now).unwrap();
        near.write(b"bad");
        let mut out = BytesMut::new();
        near.take_frames(&mut out, usize::MAX);
        let last = out.len() - 1;
        out[last] ^= 1;
        let end = far.on_bytes(&mut out, now);
        assert!(matches!(
            end,
            Err(TransportEnd::Altered {
                position: 4,
                error: DecodeError::BadChecksum
            })
        ));
        assert_eq!(drain(&mut far), b"fine");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_transport_and_any_byte_prevents_it() {
        let start = Instant::now();
        let (mut near, mut far) = (Link::new(start), Link::new(start));
        near.attach(start);
        near.on_tick(start).unwrap();
        assert_eq!(near.next_tick(), Some(start + HEARTBEAT));
        near.on_tick(start + Duration::from_secs(14)).unwrap();
        assert!(matches!(
            near.on_tick(start + DEAD_AFTER),
            Err(TransportEnd::Silent)
        ));
        far.write(b"x");
        carry(&mut far, &mut near, 64, start + Duration::from_secs(14)).unwrap();
        near.on_tick(start + Duration::from_secs(28)).unwrap();
        assert!(near.on_tick(start + Duration::from_secs(29)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_is_answered_and_measures_the_round_trip() {
        let start = Instant::now();
        let (mut near, mut far) = (Link::new(start), Link::new(start));
        near.on_tick(start).unwrap();
        carry(&mut near, &mut far, 64, start).unwrap();
        carry(&mut far, &mut near, 64, start + Duration::from_millis(80)).unwrap();
        assert_eq!(near.rtt(), Duration::from_millis(80));
    }

    #[tokio::test(start_paused = true)]
    async fn goodbye_goes_last_and_is_answered() {
        let now = Instant::now();
        let (mut near, mut far) = (Link::new(now), Link::new(now));
        near.write(b"last words");
        near.start_goodbye();
        assert_eq!(near.write(b"more"), 0);
        carry(&mut near, &mut far, 5, now).unwrap();
        assert!(far.goodbye_received() && !far.is_over());
        assert_eq!(drain(&mut far), b"last words");
        carry(&mut far, &mut near, 5, now).unwrap();
        assert!(far.is_over() && near.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn the_probe_comes_back_or_names_the_altered_byte() {
        let now = Instant::now();
        let (mut near, mut far) = (Link::new(now), Link::new(now));
        near.start_probe();
        assert!(near.probe_unanswered());
        carry(&mut near, &mut far, 1000, now).unwrap();
        carry(&mut far, &mut near, 1000, now).unwrap();
        assert!(near.probe_passed() && !near.probe_unanswered());

        let mut out = BytesMut::new();
        let mut bytes = probe::chunk(0).to_vec();
        bytes[3] = !bytes[3];
        Frame::ProbeEcho {
            offset: 0,
            bytes: bytes.into(),
        }
        .encode(&mut out);
        let end = near.on_bytes(&mut out, now);
        assert!(matches!(end, Err(TransportEnd::ProbeAltered { offset: 3 })));
    }
}
