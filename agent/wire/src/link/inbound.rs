//! What a link has received: bytes until the session reads them, and the acknowledgement they are owed.
//!
//! Positions only; the other direction is [`super::outbound`]'s. It takes each byte once, and holds a bounded
//! amount.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::time::Instant;

use super::TransportEnd;

/// Bytes received after which they are acknowledged at once: often enough to keep the sender's buffer small,
/// seldom enough to cost nothing.
pub const ACK_EVERY: u64 = 128 * 1024;

/// Bytes that are acknowledged at once unless others were just now: a slow path has less than [`ACK_EVERY`] on its way.
const ACK_SOME: u64 = 16 * 1024;

/// How long ago "just now" is.
const ACK_PAUSE: Duration = Duration::from_millis(2);

/// How long an acknowledgement may wait for data to go with. Like TCP's (RFC 9293, 3.8.6.3), below what a
/// person or a time-out notices.
pub const ACK_DELAY: Duration = Duration::from_millis(40);

/// Most bytes the other end may have delivered before the session reads them: more than all its windows
/// together (1,024 streams of 64 KiB, the growth pool of 32 MiB, and yamux's headers).
const RECEIVE_LIMIT: usize = 128 * 1024 * 1024;

/// What each piece that waits to be read counts for in addition to its bytes, so that the limit holds for memory
/// however small the pieces are.
const PIECE_COST: usize = 64;

/// Shorter pieces are copied: else a few bytes would keep a whole read buffer from being used again.
const COPY_BELOW: usize = 4 * 1024;

#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// Not yet read.
    bytes: VecDeque<Bytes>,
    length: usize,
    position: u64,
    /// What the last acknowledgement on this transport said, and when.
    acknowledged: u64,
    acknowledged_at: Option<Instant>,
    /// When an acknowledgement is due although there is nothing to go with it.
    ack_due: Option<Instant>,
}

impl Inbound {
    /// How many bytes have arrived in all.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Copies bytes into `out` and returns how many.
    pub(super) fn read(&mut self, out: &mut [u8]) -> usize {
        let mut copied = 0;
        while copied < out.len() {
            let Some(front) = self.bytes.front_mut() else {
                break;
            };
            let length = front.len().min(out.len() - copied);
            front.copy_to_slice(&mut out[copied..copied + length]);
            copied += length;
            if front.is_empty() {
                self.bytes.pop_front();
            }
        }
        self.length -= copied;
        copied
    }

    /// Takes what is new of bytes that begin at `position`.
    pub(super) fn receive(
        &mut self,
        position: u64,
        mut bytes: Bytes,
        now: Instant,
    ) -> Result<(), TransportEnd> {
        let Some(known) = self.position.checked_sub(position) else {
            return Err(self.gap(position));
        };
        // Known bytes come again when the other end did not know how far we were; they want an answer as well.
        let known = usize::try_from(known).unwrap_or(usize::MAX).min(bytes.len());
        bytes.advance(known);
        self.ack_due.get_or_insert(now + ACK_DELAY);
        if bytes.is_empty() {
            return Ok(());
        }
        self.position += bytes.len() as u64;
        self.length += bytes.len();
        if self.length + self.bytes.len() * PIECE_COST > RECEIVE_LIMIT {
            return Err(TransportEnd::Overrun);
        }
        if bytes.len() < COPY_BELOW {
            bytes = Bytes::copy_from_slice(&bytes);
        }
        self.bytes.push_back(bytes);
        let owed = self.position - self.acknowledged;
        if owed >= ACK_SOME {
            let soon = self.acknowledged_at.map_or(now, |at| now.max(at + ACK_PAUSE));
            let due = if owed >= ACK_EVERY { now } else { soon };
            self.ack_due = self.ack_due.map(|before| before.min(due));
        }
        Ok(())
    }

    /// The other end has sent up to `position`, which has not arrived.
    pub(super) fn gap(&self, position: u64) -> TransportEnd {
        TransportEnd::Gap {
            position: self.position,
            missing: position.saturating_sub(self.position),
        }
    }

    /// An acknowledgement is due at once, whether or not there is news.
    pub(super) fn owe_ack(&mut self, now: Instant) {
        self.ack_due = Some(now);
    }

    /// The position to acknowledge, if that is due or there is data to go with it.
    pub(super) fn take_ack(&mut self, now: Instant, with_data: bool) -> Option<u64> {
        self.ack_due.take_if(|due| *due <= now || with_data)?;
        self.acknowledged = self.position;
        self.acknowledged_at = Some(now);
        Some(self.position)
    }

    /// When the next acknowledgement becomes due. One that is due already waits for the transport to take it, not
    /// for time.
    pub(super) fn next_ack(&self, now: Instant) -> Option<Instant> {
        self.ack_due.filter(|due| *due > now)
    }
}
