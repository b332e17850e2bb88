//! What a link has to send: bytes from the oldest unacknowledged one to the newest.
//!
//! Positions only. It does not know frames, transports or time; it is bounded, and a writer that finds it full
//! waits.
//!
//! ```text
//!      acknowledged          next             end
//!   -------|------------------|----------------|------> position in the stream
//!    gone  |  sent, kept      |  not yet sent  |  not yet written
//! ```

use std::collections::VecDeque;

/// Bytes not yet sent on the present transport above which nothing more is taken: what waits here delays
/// everything behind it, and more than two writes to a transport never helps.
const UNSENT_LIMIT: usize = 128 * 1024;

/// Capacity that is kept once everything is acknowledged. Less would be given back and asked for again in the
/// midst of a transfer, which costs a page fault for each 4 KiB.
const IDLE_CAPACITY: usize = 1024 * 1024;

/// A position that this stream has not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfRange;

#[derive(Debug)]
pub(super) struct Outbound {
    /// From `acknowledged` to the end.
    bytes: VecDeque<u8>,
    acknowledged: u64,
    next: u64,
    /// The furthest `next` ever was: what the other end may acknowledge.
    sent: u64,
    limit: usize,
}

impl Outbound {
    /// `limit`: bytes that may be kept at once.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            acknowledged: 0,
            next: 0,
            sent: 0,
            limit,
        }
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Where the stream ends so far.
    pub(super) fn end(&self) -> u64 {
        self.acknowledged + self.bytes.len() as u64
    }

    /// Up to where the stream was sent on the present transport.
    pub(super) fn next_position(&self) -> u64 {
        self.next
    }

    /// Whether bytes were sent on the present transport that are not acknowledged.
    pub(super) fn awaits(&self) -> bool {
        self.next > self.acknowledged
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.next < self.end()
    }

    /// Takes bytes at the end and returns how many there was room for.
    pub(super) fn write(&mut self, bytes: &[u8]) -> usize {
        let unsent = usize::try_from(self.end() - self.next).unwrap_or(usize::MAX);
        let room = self.limit.saturating_sub(self.bytes.len());
        let taken = room.min(UNSENT_LIMIT.saturating_sub(unsent)).min(bytes.len());
        self.bytes.extend(&bytes[..taken]);
        taken
    }

    /// The next bytes to send, at most `most`, with the position of the first; none when all are sent.
    pub(super) fn next(&self, most: usize) -> (u64, &[u8]) {
        let offset = usize::try_from(self.next - self.acknowledged).unwrap_or(usize::MAX);
        let (front, back) = self.bytes.as_slices();
        let rest = match offset.checked_sub(front.len()) {
            None => &front[offset..],
            Some(offset) => &back[offset..],
        };
        (self.next, &rest[..rest.len().min(most)])
    }

    /// The bytes that [`Outbound::next`] gave are on their way.
    pub(super) fn advance(&mut self, length: usize) {
        self.next += length as u64;
        self.sent = self.sent.max(self.next);
    }

    /// The other end has everything before `position`. `true` when that is news.
    pub(super) fn acknowledge(&mut self, position: u64) -> Result<bool, OutOfRange> {
        if position > self.sent {
            return Err(OutOfRange);
        }
        let Some(news) = position.checked_sub(self.acknowledged).filter(|news| *news > 0) else {
            return Ok(false);
        };
        self.bytes.drain(..usize::try_from(news).unwrap_or(usize::MAX));
        self.acknowledged = position;
        // On an earlier transport more was sent than this one has repeated so far.
        self.next = self.next.max(position);
        if self.bytes.is_empty() {
            self.bytes.shrink_to(IDLE_CAPACITY);
        }
        Ok(true)
    }

    /// A new transport: what the other end has not received is sent again. It may have acknowledged more
    /// since it named `received`.
    pub(super) fn resume(&mut self, received: u64) -> Result<(), OutOfRange> {
        self.acknowledge(received)?;
        self.next = self.acknowledged;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send_all(outbound: &mut Outbound) -> Vec<u8> {
        let mut out = Vec::new();
        while outbound.has_unsent() {
            let (_, bytes) = outbound.next(3);
            let bytes = bytes.to_vec();
            outbound.advance(bytes.len());
            out.extend(bytes);
        }
        out
    }

    #[test]
    fn unacknowledged_bytes_are_sent_again_and_acknowledged_ones_are_not() {
        let mut outbound = Outbound::new(100);
        outbound.write(b"0123456789");
        assert_eq!(send_all(&mut outbound), b"0123456789");
        assert_eq!(outbound.acknowledge(4), Ok(true));
        assert_eq!(outbound.acknowledge(4), Ok(false));
        outbound.resume(6).unwrap();
        assert_eq!(outbound.next(100).0, 6);
        assert_eq!(send_all(&mut outbound), b"6789");
        assert!(outbound.awaits());
        outbound.acknowledge(10).unwrap();
        assert!(!outbound.awaits() && outbound.end() == 10);
    }

    #[test]
    fn a_position_told_before_the_last_acknowledgement_resumes_behind_it() {
        let mut outbound = Outbound::new(100);
        outbound.write(b"0123456789");
        send_all(&mut outbound);
        outbound.acknowledge(8).unwrap();
        outbound.resume(3).unwrap();
        assert_eq!(send_all(&mut outbound), b"89");
    }

    #[test]
    fn an_acknowledgement_may_overtake_the_repetition() {
        let mut outbound = Outbound::new(100);
        outbound.write(b"0123456789");
        send_all(&mut outbound);
        outbound.resume(2).unwrap();
        assert_eq!(outbound.acknowledge(7), Ok(true));
        assert_eq!(send_all(&mut outbound), b"789");
    }

    #[test]
    fn what_was_never_sent_cannot_be_acknowledged() {
        let mut outbound = Outbound::new(100);
        outbound.write(b"01");
        assert_eq!(outbound.acknowledge(1), Err(OutOfRange));
        assert_eq!(outbound.resume(1), Err(OutOfRange));
    }

    #[test]
    fn it_is_bounded_by_what_is_kept_and_by_what_is_not_sent() {
        let mut outbound = Outbound::new(10);
        assert_eq!(outbound.write(&[0; 20]), 10);
        assert_eq!(outbound.write(&[0]), 0);
        send_all(&mut outbound);
        assert_eq!(outbound.write(&[0]), 0);
        outbound.acknowledge(3).unwrap();
        assert_eq!(outbound.write(&[0; 20]), 3);

        let mut wide = Outbound::new(usize::MAX);
        assert_eq!(wide.write(&vec![0; UNSENT_LIMIT + 1]), UNSENT_LIMIT);
        wide.next(1);
        wide.advance(1);
        assert_eq!(wide.write(&[0; 5]), 1);
    }
}
