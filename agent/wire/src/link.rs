//! A reliable byte stream on top of transports: the state machine, without I/O and without a clock.
//!
//! Bytes and `now` go in, frames and bytes come out. It owns the positions of both directions, what may have
//! to be sent again, the heartbeat, the probe and the last words. It does not read or write anything: [`io`]
//! is the shell that does. A link outlives its transports: what it holds is the session's.
//!
//! ```text
//!   write() -> [outbound: kept until acknowledged] -> take_frames() -> transport
//!   read()  <- [received]                          <- on_bytes()    <- transport
//!                                                     on_tick()     <- time: ping, ack, suspicion, death
//!
//!                attach(received by the peer):
//!                what it lacks is sent again                      goodbye sent and received
//!   Detached --------------------------------------> Attached ------------------------------> Over
//!    ^ writes are taken until the limit,               |   ^ ping every 5 s, suspect after 2 s
//!    | reads give what had arrived                     |   '-- an answer, or data that pour in
//!    |                                                 |
//!    |<-- silent, deaf (15 s): on_tick ----------------|
//!    |<-- altered, gap: on_bytes --> fault is sent ----|
//!    |<-- the peer's fault; the transport ended -------|
//!    |                                                 |
//!    |        evicted, overrun, or a peer with another past: TransportEnd::is_final, nobody resumes
//! ```
//!
//! # Resume
//!
//! Each hello names the position its sender has received up to. Both ends then send from the other's position
//! on. The plugin may say its hello while an older transport still works: its position is then too low, and
//! bytes come twice. So a data frame may begin before the receiver's position, and only its news count; one
//! that begins behind it is a gap and ends the transport. A ping tells how far the data went, so that a loss
//! is noticed at the latest with the next heartbeat when no data follow.
//!
//! # Acknowledgement
//!
//! Cumulative: every [`ACK_EVERY`] bytes, every 16 KiB if the last one is 2 ms ago, with data that goes the other way
//! anyway, and at the latest [`ACK_DELAY`] after a byte arrived. Each ping is answered with one again, lest a lost one stop the sender for
//! good. What is not acknowledged is kept, at most [`REPLAY_LIMIT`]; then `write` takes nothing more.
//!
//! # In flight
//!
//! What is sent and not yet acknowledged is bounded by what the path needs (`flight`), not only by what may be kept: a
//! bulk copy does not fill every buffer on the way, behind which a keystroke would wait.
//!
//! # In a crowd
//!
//! Where many streams begin at once (`crowd`), a transport is written to once a millisecond instead of for each of them.
//!
//! # Last words
//!
//! A goodbye goes behind everything that was written before it, and names the position it ends at. The link is
//! over when it has both sent and received one; no data follow it, answers may. A fault tells the other end why
//! a transport is given up, an eviction that another plugin came: behind these nothing follows on that transport.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use crate::frame::{self, Frame};
use crate::probe;

mod crowd;
mod end;
mod flight;
mod inbound;
pub mod io;
mod liveness;
mod outbound;

pub use end::TransportEnd;
pub use inbound::{ACK_DELAY, ACK_EVERY};
pub use io::{Health, LinkHandle, LinkStream, channel};
pub use liveness::{DEAD_AFTER, HEARTBEAT, SUSPECT_AFTER};

use crowd::Crowd;
use flight::Flight;
use inbound::Inbound;
use liveness::{Dead, Liveness};
use outbound::Outbound;

/// Bytes of each direction that are kept for another transport: 160 MiB/s at a round trip of 100 ms.
pub const REPLAY_LIMIT: usize = 16 * 1024 * 1024;

/// Answers that may be owed at once: more are a flood.
const CONTROL_LIMIT: usize = 64;

/// How far a link has come in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the other end's stream received.
    pub received: u64,
    /// Bytes of this end's stream the other end has acknowledged.
    pub acknowledged: u64,
    /// Bytes this end's stream has in all.
    pub written: u64,
}

/// One end of a link.
#[derive(Debug)]
pub struct Link {
    outbound: Outbound,
    flight: Flight,
    crowd: Crowd,
    inbound: Inbound,
    liveness: Liveness,
    /// Answers, before all data.
    control: VecDeque<Frame>,
    /// The stamp of a ping that is due.
    ping: Option<u64>,
    /// What was on its way when the last ping went.
    ping_in_flight: u64,
    /// The beginning of a frame.
    input: BytesMut,
    probe: Probe,
    goodbye: Goodbye,
    /// A last frame other than a goodbye.
    farewell: Option<Farewell>,
}

#[derive(Debug, Default)]
struct Probe {
    /// Offset of the next probe frame to send; `None` when this end does not probe.
    next: Option<u32>,
    /// Bytes that came back as they should.
    echoed: u32,
    /// All of them have come back once.
    passed: bool,
}

impl Probe {
    /// What comes back is what was sent, in the same order.
    fn on_echo(&mut self, offset: u32, bytes: &[u8]) -> Result<(), TransportEnd> {
        let sent = self.next.unwrap_or(0);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if offset != self.echoed || length > sent.saturating_sub(offset) {
            return Err(TransportEnd::ProbeAltered { offset: self.echoed });
        }
        if let Some(offset) = probe::first_difference(offset, bytes) {
            return Err(TransportEnd::ProbeAltered { offset });
        }
        self.echoed += length;
        self.passed |= self.echoed == probe::PROBE_LENGTH;
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Goodbye {
    wanted: bool,
    sent: bool,
    received: bool,
}

#[derive(Debug)]
struct Farewell {
    frame: Frame,
    sent: bool,
}

impl Link {
    /// A link whose stream begins at position 0 in both directions; it keeps at most [`REPLAY_LIMIT`].
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self::with_limit(now, REPLAY_LIMIT)
    }

    /// A link that keeps at most `limit` unacknowledged bytes.
    #[must_use]
    pub fn with_limit(now: Instant, limit: usize) -> Self {
        Self {
            outbound: Outbound::new(limit),
            flight: Flight::new(0, now),
            crowd: Crowd::default(),
            inbound: Inbound::default(),
            liveness: Liveness::new(now),
            control: VecDeque::new(),
            ping: None,
            ping_in_flight: 0,
            input: BytesMut::new(),
            probe: Probe::default(),
            goodbye: Goodbye::default(),
            farewell: None,
        }
    }

    /// A transport begins at `now`, to an end that has `received` so many of our bytes: what it lacks is sent
    /// again, silence counts from here, and what was only of the last transport is forgotten.
    ///
    /// # Errors
    /// [`TransportEnd::Unresumable`]: the other end has bytes we never sent, so it is another link's.
    pub fn attach(&mut self, received: u64, now: Instant) -> Result<(), TransportEnd> {
        self.outbound
            .resume(received)
            .map_err(|_| TransportEnd::Unresumable)?;
        self.flight = Flight::new(self.outbound.acknowledged(), now);
        self.liveness.restart(now);
        self.control.clear();
        self.ping = None;
        self.input.clear();
        self.farewell = None;
        self.goodbye.sent = false;
        // The hello may have told less than what has arrived by now.
        self.inbound.owe_ack(now);
        if self.probe_unanswered() {
            self.start_probe();
        }
        Ok(())
    }

    /// Makes the other end echo [`probe::PROBE_LENGTH`] bytes; a difference ends the transport. It begins anew
    /// on each transport until it has come back whole.
    pub fn start_probe(&mut self) {
        self.probe.next = Some(0);
        self.probe.echoed = 0;
    }

    /// Whether a probe was started and all of it came back unaltered.
    #[must_use]
    pub fn probe_passed(&self) -> bool {
        self.probe.echoed == probe::PROBE_LENGTH
    }

    /// Bytes of the newest probe that came back as they should.
    #[must_use]
    pub fn probe_echoed(&self) -> u32 {
        self.probe.echoed
    }

    /// Whether a probe was started and has not come back whole.
    #[must_use]
    pub fn probe_unanswered(&self) -> bool {
        self.probe.next.is_some() && !self.probe_passed()
    }

    /// Whether a probe was started and none has ever come back whole: later ones only measure.
    #[must_use]
    pub fn path_unchecked(&self) -> bool {
        self.probe.next.is_some() && !self.probe.passed
    }

    /// Takes bytes of the session and returns how many: none while too much is unsent or unacknowledged, or
    /// after [`Link::start_goodbye`].
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        if self.goodbye.wanted {
            return 0;
        }
        self.outbound.write(bytes)
    }

    /// Copies received bytes into `out` and returns how many.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        self.inbound.read(out)
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

    /// Tells the other end that it was replaced, as the last frame of this transport.
    pub fn start_eviction(&mut self) {
        self.say_last(Frame::Evicted);
    }

    fn say_last(&mut self, frame: Frame) {
        self.farewell.get_or_insert(Farewell { frame, sent: false });
    }

    /// Whether the last frame of this transport, other than a goodbye, has been taken.
    #[must_use]
    pub fn farewell_sent(&self) -> bool {
        self.farewell.as_ref().is_some_and(|farewell| farewell.sent)
    }

    /// A short message that somebody waits for is about to be written: bulk keeps out of its way for a while.
    pub fn note_interactive(&mut self, now: Instant) {
        self.flight.on_interactive(now);
    }

    /// A stream begins while `others` are open.
    pub fn note_stream(&mut self, others: usize, now: Instant) {
        self.crowd.on_stream(others, now);
    }

    /// Whether many streams come and go at once: what is to be sent may wait a moment for company.
    #[must_use]
    pub fn is_crowded(&self, now: Instant) -> bool {
        self.crowd.is_there(now)
    }

    /// Smoothed round-trip time through the data path; 50 ms before the first pong.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.liveness.rtt()
    }

    /// When a byte arrived last, or the transport began.
    #[must_use]
    pub fn heard(&self) -> Instant {
        self.liveness.heard()
    }

    /// Makes the next [`Link::on_tick`] ask for a sign of life.
    pub fn ask(&mut self) {
        self.liveness.ask();
    }

    /// How far both directions have come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress {
            received: self.inbound.position(),
            acknowledged: self.outbound.acknowledged(),
            written: self.outbound.end(),
        }
    }

    /// Whether an answer is owed and nothing at all has arrived for [`SUSPECT_AFTER`], or four round trips.
    #[must_use]
    pub fn is_suspect(&self, now: Instant) -> bool {
        self.liveness.is_suspect(now)
    }

    /// Bytes from the transport, in order, cut anywhere.
    ///
    /// # Errors
    /// The transport is of no more use; nothing of the bad frame was taken. Where the bytes are at fault,
    /// [`Link::take_frames`] has a last frame that tells the other end so.
    pub fn on_bytes(&mut self, bytes: &mut BytesMut, now: Instant) -> Result<(), TransportEnd> {
        let result = self.take_bytes(bytes, now);
        if let Some((fault, position)) = result.as_ref().err().and_then(TransportEnd::fault) {
            self.say_last(Frame::Fault { fault, position });
        }
        result
    }

    fn take_bytes(&mut self, bytes: &mut BytesMut, now: Instant) -> Result<(), TransportEnd> {
        self.liveness.on_heard(now, bytes.len());
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
                        position: self.inbound.position(),
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
                self.flight.on_received(bytes.len());
                self.inbound.receive(position, bytes, now)?;
            }
            Frame::Ack { position } => {
                let news = self
                    .outbound
                    .acknowledge(position)
                    .map_err(|_| TransportEnd::Overrun)?;
                if news {
                    self.flight.on_delivered(self.outbound.acknowledged(), now);
                    self.liveness.on_answer(now, self.outbound.awaits());
                }
            }
            Frame::Ping { stamp, position } => {
                if position > self.inbound.position() {
                    return Err(self.inbound.gap(position));
                }
                // The acknowledgement before this one may have been lost, and with it the sender's room.
                self.inbound.owe_ack(now);
                // One owed pong is enough: a flood of pings must not become a queue.
                self.control.retain(|frame| !matches!(frame, Frame::Pong { .. }));
                self.control.push_back(Frame::Pong { stamp });
            }
            Frame::Pong { stamp } => {
                if let Some(sample) = self.liveness.pong(stamp, now) {
                    self.flight.on_round_trip(sample, self.ping_in_flight, now);
                }
                self.liveness.on_answer(now, self.outbound.awaits());
            }
            Frame::Goodbye { position } => {
                if position != self.inbound.position() {
                    return Err(self.inbound.gap(position));
                }
                self.goodbye.received = true;
                self.goodbye.wanted = true;
            }
            Frame::Probe { offset, bytes } => {
                if self.control.len() > CONTROL_LIMIT {
                    return Err(TransportEnd::Overrun);
                }
                self.control.push_back(Frame::ProbeEcho { offset, bytes });
            }
            Frame::ProbeEcho { offset, bytes } => {
                self.probe.on_echo(offset, &bytes)?;
            }
            Frame::Fault { fault, position } => return Err(TransportEnd::PeerFault { fault, position }),
            Frame::Evicted => return Err(TransportEnd::Evicted),
        }
        Ok(())
    }

    /// What is due at `now`: a ping, or the end of a transport that is dead.
    ///
    /// # Errors
    /// [`TransportEnd::Silent`] or [`TransportEnd::Deaf`] after [`DEAD_AFTER`].
    pub fn on_tick(&mut self, now: Instant) -> Result<(), TransportEnd> {
        match self.liveness.dead(now) {
            Some(Dead::Silent) => return Err(TransportEnd::Silent),
            Some(Dead::Deaf) => return Err(TransportEnd::Deaf),
            None => {}
        }
        if let Some(stamp) = self.liveness.ping(now) {
            self.ping = Some(stamp);
        }
        Ok(())
    }

    /// When there is something to do next: [`Link::on_tick`], or an acknowledgement to send.
    #[must_use]
    pub fn next_tick(&self, now: Instant) -> Option<Instant> {
        let ack = self.inbound.next_ack(now);
        [self.liveness.next_tick(now), ack].into_iter().flatten().min()
    }

    /// Appends frames to `out` while it holds fewer than `limit` bytes: last words alone, else control, what
    /// acknowledges, data, the probe, the goodbye.
    pub fn take_frames(&mut self, out: &mut BytesMut, limit: usize, now: Instant) {
        if let Some(farewell) = &mut self.farewell {
            if !farewell.sent {
                farewell.sent = true;
                farewell.frame.encode(out);
            }
            return;
        }
        let before = self.outbound.next_position();
        while out.len() < limit {
            let flies = self.outbound.has_unsent() && self.flight.has_room(self.outbound.next_position());
            if let Some(stamp) = self.ping.take() {
                let position = self.outbound.next_position();
                self.ping_in_flight = self.flight.in_flight(position);
                Frame::Ping { stamp, position }.encode(out);
            } else if let Some(frame) = self.control.pop_front() {
                frame.encode(out);
            } else if let Some(position) = self.inbound.take_ack(now, flies) {
                Frame::Ack { position }.encode(out);
            } else if flies {
                let (position, bytes) = self.outbound.next(frame::MAX_DATA);
                frame::encode_data(position, bytes, out);
                let length = bytes.len();
                self.outbound.advance(length);
                self.liveness.on_sent(now);
            } else if self.outbound.has_unsent() {
                // What follows goes behind all data.
                break;
            } else if let Some(offset) = self.probe.next.filter(|offset| *offset < probe::PROBE_LENGTH) {
                let bytes = probe::chunk(offset);
                self.probe.next = Some(offset + u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                Frame::Probe { offset, bytes }.encode(out);
            } else if self.goodbye.wanted && !self.goodbye.sent {
                self.goodbye.sent = true;
                let position = self.outbound.end();
                Frame::Goodbye { position }.encode(out);
            } else {
                break;
            }
        }
        let next = self.outbound.next_position();
        if next > before {
            self.flight.on_sent(next, !self.outbound.has_unsent(), now);
        }
    }
}

#[cfg(test)]
mod tests;
