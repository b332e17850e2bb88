//! Datagrams inside a stream: pure encoding, decoding, and the bounded queue in front of it.
//!
//! ```text
//!  0            2
//!  +------------+----------------------+
//!  | length u16 | payload, length bytes |     length 0..=65,507: one datagram, never merged or split
//!  +------------+----------------------+
//!  | ffff       | length u16 | code u8, text |    a notice: the edge could not deliver, and why
//!  +------------+----------------------+
//! ```
//!
//! Lengths are those of UDP over IPv4 (RFC 768, RFC 791); a notice carries what [`crate::error::Refusal`] says. What
//! moves datagrams is [`crate::flow`].

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::task::AtomicWaker;
use tokio::time::Instant;

pub use crate::budget::Budget;
use crate::error::{DecodeError, MAX_DETAIL, Refusal, RefusalCode, clip};

/// Most bytes in one datagram: 65,535 less the headers of IPv4 and UDP.
pub const MAX_DATAGRAM: usize = 65_507;

/// Bytes in front of each datagram.
pub const HEADER: usize = 2;

/// The length that stands for a notice.
const NOTICE: u16 = 0xffff;

/// What waits in one direction of one flow at most, in bytes: 0.2 s of 5 MiB/s, or sixteen of the largest.
pub const QUEUE_LIMIT: usize = 1024 * 1024;

/// What waits in all queues of one [`Budget`] together, in bytes.
pub const BUDGET: usize = 32 * 1024 * 1024;

/// What each waiting datagram counts for beside its bytes, so that the limits hold for memory.
const COST: usize = 64;

/// What the bytes of a flow's stream say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// One datagram, as it was sent.
    Datagram(Bytes),
    /// The other end could not deliver; the flow goes on.
    Notice(Refusal),
}

/// Appends one datagram.
///
/// # Panics
/// When it is longer than [`MAX_DATAGRAM`].
pub fn encode(datagram: &[u8], out: &mut BytesMut) {
    assert!(
        datagram.len() <= MAX_DATAGRAM,
        "a datagram has at most {MAX_DATAGRAM} bytes"
    );
    out.reserve(HEADER + datagram.len());
    out.put_u16(u16::try_from(datagram.len()).unwrap_or(NOTICE));
    out.put_slice(datagram);
}

/// Appends a notice.
pub fn encode_notice(refusal: &Refusal, out: &mut BytesMut) {
    let detail = clip(&refusal.detail);
    out.put_u16(NOTICE);
    out.put_u16(u16::try_from(1 + detail.len()).unwrap_or(NOTICE));
    out.put_u8(refusal.code as u8);
    out.put_slice(detail.as_bytes());
}

/// Takes the next whole record off the front of `input`, or `None` when more bytes are needed.
///
/// # Errors
/// The bytes are no records; nothing behind them can be trusted.
pub fn decode(input: &mut BytesMut) -> Result<Option<Record>, DecodeError> {
    let Some([high, low]) = input.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let first = u16::from_be_bytes([*high, *low]);
    if first != NOTICE {
        let length = usize::from(first);
        if length > MAX_DATAGRAM {
            return Err(DecodeError::BadLength { kind: 0, length });
        }
        if input.len() < HEADER + length {
            return Ok(None);
        }
        input.advance(HEADER);
        return Ok(Some(Record::Datagram(input.split_to(length).freeze())));
    }
    let Some([_, _, high, low]) = input.first_chunk::<{ 2 * HEADER }>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if !(1..=1 + MAX_DETAIL).contains(&length) {
        return Err(DecodeError::BadLength { kind: 1, length });
    }
    if input.len() < 2 * HEADER + length {
        return Ok(None);
    }
    input.advance(2 * HEADER);
    let mut notice = input.split_to(length);
    let code = RefusalCode::from_u8(notice.get_u8());
    let detail = std::str::from_utf8(&notice).map_err(|_| DecodeError::BadField("text"))?;
    Ok(Some(Record::Notice(Refusal::new(code, detail))))
}

impl Default for Budget {
    /// [`BUDGET`] bytes.
    fn default() -> Self {
        Self::of(BUDGET)
    }
}

/// Datagrams that wait for their flow's stream. The oldest go first when there is no room: who sends datagrams
/// would rather lose an old one than a new one. Cheap to clone; all clones are one queue.
#[derive(Debug, Clone)]
pub struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    budget: Budget,
    dropped: AtomicU64,
    closed: AtomicBool,
    began: Instant,
    /// When something last moved in the flow, either way: milliseconds since it began.
    moved: AtomicU64,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Waiting {
    datagrams: VecDeque<Bytes>,
    /// With [`COST`] for each.
    bytes: usize,
}

impl Queue {
    /// An empty queue that counts against `budget`.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        Self(Arc::new(Shared {
            waiting: Mutex::default(),
            budget,
            dropped: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            began: Instant::now(),
            moved: AtomicU64::new(0),
            waker: AtomicWaker::new(),
        }))
    }

    /// Adds a datagram; as many old ones as it takes are dropped and counted. One that is longer than
    /// [`MAX_DATAGRAM`] is dropped itself.
    pub fn push(&self, datagram: &[u8]) {
        let cost = datagram.len() + COST;
        let mut waiting = self.waiting();
        if datagram.len() > MAX_DATAGRAM {
            return self.count_dropped(1);
        }
        while waiting.bytes + cost > QUEUE_LIMIT || !self.0.budget.take(cost) {
            if self.pop_from(&mut waiting).is_none() {
                // Other flows have used the budget up.
                return self.count_dropped(1);
            }
            self.count_dropped(1);
        }
        waiting.bytes += cost;
        waiting.datagrams.push_back(Bytes::copy_from_slice(datagram));
        drop(waiting);
        self.0.waker.wake();
    }

    /// The oldest datagram. Registers the task of `cx` for the next one; only one task may wait.
    pub fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Bytes> {
        self.0.waker.register(cx.waker());
        self.pop().map_or(Poll::Pending, Poll::Ready)
    }

    /// The oldest datagram, if there is one.
    #[must_use]
    pub fn pop(&self) -> Option<Bytes> {
        self.pop_from(&mut self.waiting())
    }

    /// Ends the flow that takes from it: another one needs its place.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::Relaxed);
        self.0.waker.wake();
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Relaxed)
    }

    /// Resolves when it is closed: for a flow whose relay has not begun, which sees to it itself.
    pub async fn closed(&self) {
        poll_fn(|cx| {
            self.0.waker.register(cx.waker());
            if self.is_closed() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Something moves in the flow, either way.
    pub fn touch(&self, now: Instant) {
        let passed = now.saturating_duration_since(self.0.began).as_millis();
        self.0
            .moved
            .fetch_max(u64::try_from(passed).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// For how long nothing has moved.
    #[must_use]
    pub fn silence(&self, now: Instant) -> Duration {
        let moved = Duration::from_millis(self.0.moved.load(Ordering::Relaxed));
        now.saturating_duration_since(self.0.began).saturating_sub(moved)
    }

    /// Whether both are one queue.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// How many datagrams were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Counts datagrams that were lost elsewhere on their way into the flow.
    pub fn count_dropped(&self, datagrams: u64) {
        self.0.dropped.fetch_add(datagrams, Ordering::Relaxed);
    }

    fn pop_from(&self, waiting: &mut Waiting) -> Option<Bytes> {
        let datagram = waiting.datagrams.pop_front()?;
        let cost = datagram.len() + COST;
        waiting.bytes -= cost;
        self.0.budget.give_back(cost);
        Some(datagram)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let waiting = self.waiting.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.budget.give_back(waiting.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        let datagram = |length| Record::Datagram(Bytes::from(vec![7; length]));
        vec![
            datagram(0),
            datagram(1),
            Record::Notice(Refusal::new(
                RefusalCode::ConnectionRefused,
                "10.0.0.7:53: refused",
            )),
            datagram(1_200),
            Record::Notice(Refusal::new(RefusalCode::Other, "")),
            datagram(MAX_DATAGRAM),
        ]
    }

    fn encoded(records: &[Record]) -> BytesMut {
        let mut out = BytesMut::new();
        for record in records {
            match record {
                Record::Datagram(datagram) => encode(datagram, &mut out),
                Record::Notice(refusal) => encode_notice(refusal, &mut out),
            }
        }
        out
    }

    #[test]
    fn fixed_vectors() {
        let datagram = Record::Datagram(Bytes::from_static(b"ab"));
        assert_eq!(crate::hex(&encoded(&[datagram])), "00026162");
        let notice = Record::Notice(Refusal::new(RefusalCode::ConnectionRefused, "no"));
        assert_eq!(crate::hex(&encoded(&[notice])), "ffff0003036e6f");
    }

    #[test]
    fn datagrams_are_never_merged_or_split() {
        let wire = encoded(&records());
        for chunk in [1, 2, 3, 1_000, 16_380, wire.len()] {
            let mut input = BytesMut::new();
            let mut seen = Vec::new();
            for piece in wire.chunks(chunk) {
                input.extend_from_slice(piece);
                while let Some(record) = decode(&mut input).unwrap() {
                    seen.push(record);
                }
            }
            assert_eq!(seen, records(), "in pieces of {chunk}");
            assert!(input.is_empty());
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        for bad in [
            &[0xff, 0xe4][..],
            &[0xff, 0xff, 0, 0],
            &[0xff, 0xff, 2, 2],
            &[0xff, 0xff, 0, 2, 3, 0xff],
        ] {
            assert!(decode(&mut BytesMut::from(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_oldest_make_room() {
        let queue = Queue::new(Budget::default());
        let size = 10_000 - COST;
        let count = QUEUE_LIMIT / 10_000 + 5;
        for number in 0..count {
            queue.push(&vec![u8::try_from(number).unwrap(); size]);
        }
        assert_eq!(queue.dropped(), 5);
        assert_eq!(queue.pop().unwrap()[0], 5, "0 to 4 were dropped");
        queue.push(&vec![0; MAX_DATAGRAM + 1]);
        assert_eq!(queue.dropped(), 6, "too long for a datagram");
    }

    #[test]
    fn all_queues_stay_within_the_budget_and_give_it_back() {
        let budget = Budget::default();
        let queues: Vec<_> = (0..40).map(|_| Queue::new(budget.clone())).collect();
        for queue in &queues {
            for _ in 0..100 {
                queue.push(&vec![0; 20_000]);
            }
        }
        let held: usize = queues.iter().map(|queue| queue.waiting().bytes).sum();
        assert!(held <= BUDGET && held > BUDGET - QUEUE_LIMIT, "{held}");
        assert!(queues.iter().all(|queue| queue.dropped() > 0));
        drop(queues);
        assert_eq!(budget.left(), BUDGET);
    }
}
