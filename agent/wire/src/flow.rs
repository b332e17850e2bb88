//! A flow: datagrams between a socket at one edge and a stream, both ways, until it has been idle for long enough.
//!
//! [`relay`] moves them; the socket is behind [`Datagrams`], since this crate knows none. Datagrams toward the
//! stream wait in a [`Queue`] that drops the oldest, so a slow stream never stops the socket; datagrams from the
//! stream wait in the stream, whose credit stops its sender. [`Table`] tells the flows of one unconnected socket
//! apart by their peers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::datagram::{self, Budget, Queue, Record};
use crate::error::Refusal;
use crate::session::MAX_STREAMS;

/// Room for the largest datagram, and to see that one is larger.
const ROOM: usize = datagram::MAX_DATAGRAM + 1;

/// Encoded bytes that are handed to the stream at once, at the least if so many wait.
const BATCH: usize = 16 * 1024;

/// How long the end of a flow may take to be said.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Datagrams moved one way before other tasks get their turn.
const TURN: usize = 64;

/// Flows that all sockets of one owner may have: half of a session's streams, so that datagrams leave room for
/// connections.
pub const MAX_FLOWS: usize = MAX_STREAMS / 2;

/// How long nothing must have moved in a flow before it makes room for another one.
pub const LEAST_SILENCE: Duration = Duration::from_secs(1);

/// The socket's side of a flow.
pub trait Datagrams {
    /// The next datagram from the other end, into `buf`. An edge whose datagrams somebody else puts into the
    /// queue is never ready.
    ///
    /// # Errors
    /// The network says that something could not be delivered. The flow goes on.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<(), Refusal>>;

    /// Sends one datagram.
    ///
    /// # Errors
    /// It could not be sent, or the network says that an earlier one could not be delivered.
    fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<Result<(), Refusal>>;
}

/// Which end could not deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The edge of this end.
    Here(Refusal),
    /// The edge of the other end.
    There(Refusal),
}

/// Why a flow ended.
#[derive(Debug)]
pub enum Reason {
    /// Nothing came or went for as long as it may be idle.
    Idle,
    /// Another flow needed its place.
    MadeRoom,
    /// The other end ended it.
    Ended,
    /// The stream failed: aborted, refused or cut.
    Failed(io::Error),
}

/// What a flow did and how it ended.
#[derive(Debug)]
pub struct FlowEnd {
    /// Bytes taken from the socket and given to the stream.
    pub sent: u64,
    /// Bytes taken from the stream and given to the socket.
    pub received: u64,
    /// Datagrams that were lost in this end, either way.
    pub dropped: u64,
    /// Why it ended.
    pub reason: Reason,
}

/// Relays datagrams between `stream` and `edge` until the stream ends or nothing has moved for `idle`. Each kind of
/// failed delivery is told to the other end and to `on_notice` once.
pub async fn relay<S, E>(
    stream: &mut S,
    edge: &mut E,
    queue: &Queue,
    idle: Option<Duration>,
    mut on_notice: impl FnMut(Notice),
) -> FlowEnd
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: Datagrams,
{
    let mut flow = Flow {
        stream,
        edge,
        queue,
        out: BytesMut::new(),
        unflushed: false,
        input: BytesMut::new(),
        undelivered: None,
        noticed: None,
        sent: 0,
        received: 0,
        lost: 0,
        moved: false,
    };
    let timer = idle.map(|idle| (idle, Box::pin(sleep_until(Instant::now() + idle))));
    let reason = run(&mut flow, timer, &mut on_notice).await;
    if matches!(reason, Reason::Idle | Reason::MadeRoom | Reason::Ended) {
        // An end that cannot be said, or not in time, is told by the stream's own.
        let end = poll_fn(|cx| Pin::new(&mut *flow.stream).poll_shutdown(cx));
        drop(timeout(END_TIMEOUT, end).await);
    }
    FlowEnd {
        sent: flow.sent,
        received: flow.received,
        dropped: flow.lost + queue.dropped(),
        reason,
    }
}

type Timer = Option<(Duration, Pin<Box<Sleep>>)>;

async fn run<S, E>(flow: &mut Flow<'_, S, E>, mut timer: Timer, on_notice: &mut impl FnMut(Notice)) -> Reason
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: Datagrams,
{
    poll_fn(|cx| {
        let mut turn = 0;
        if flow.queue.is_closed() {
            return Poll::Ready(Reason::MadeRoom);
        }
        loop {
            flow.moved = false;
            flow.take_in(cx, on_notice);
            if let Err(error) = flow.send_on(cx) {
                return Poll::Ready(Reason::Failed(error));
            }
            match flow.deliver(cx, on_notice) {
                Ok(true) => return Poll::Ready(Reason::Ended),
                Ok(false) => {}
                Err(error) => return Poll::Ready(Reason::Failed(error)),
            }
            if !flow.moved {
                break;
            }
            flow.queue.touch(Instant::now());
            if let Some((idle, sleep)) = &mut timer {
                sleep.as_mut().reset(Instant::now() + *idle);
            }
            turn += 1;
            if turn == TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        match &mut timer {
            Some((_, sleep)) => sleep.as_mut().poll(cx).map(|()| Reason::Idle),
            None => Poll::Pending,
        }
    })
    .await
}

struct Flow<'a, S, E> {
    stream: &'a mut S,
    edge: &'a mut E,
    queue: &'a Queue,
    /// Encoded and not taken by the stream.
    out: BytesMut,
    unflushed: bool,
    /// Read from the stream and not a whole record yet.
    input: BytesMut,
    /// A datagram the socket has no room for.
    undelivered: Option<bytes::Bytes>,
    /// The last failure of this edge that was told.
    noticed: Option<Refusal>,
    sent: u64,
    received: u64,
    /// Datagrams that the socket refused to send.
    lost: u64,
    /// Whether anything moved since the last look.
    moved: bool,
}

impl<S, E> Flow<'_, S, E>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: Datagrams,
{
    /// Takes one datagram from the socket into the queue.
    fn take_in(&mut self, cx: &mut Context<'_>, on_notice: &mut impl FnMut(Notice)) {
        with_room(|room| {
            let mut buf = ReadBuf::new(room);
            match self.edge.poll_receive(cx, &mut buf) {
                Poll::Ready(Ok(())) => {
                    self.moved = true;
                    self.queue.push(buf.filled());
                }
                Poll::Ready(Err(refusal)) => {
                    self.moved = true;
                    self.notice(refusal, on_notice);
                }
                Poll::Pending => {}
            }
        });
    }

    /// Hands what waits to the stream.
    fn send_on(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            while self.out.len() < BATCH
                && let Poll::Ready(datagram) = self.queue.poll_pop(cx)
            {
                self.moved = true;
                self.sent += datagram.len() as u64;
                datagram::encode(&datagram, &mut self.out);
            }
            if self.out.is_empty() {
                break;
            }
            match Pin::new(&mut *self.stream).poll_write(cx, &self.out) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(length)) => {
                    self.unflushed = true;
                    bytes::Buf::advance(&mut self.out, length);
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut *self.stream).poll_flush(cx)
        {
            flushed?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Gives the socket one read of the stream; whether the other end has ended the flow.
    fn deliver(&mut self, cx: &mut Context<'_>, on_notice: &mut impl FnMut(Notice)) -> io::Result<bool> {
        loop {
            while let Some(datagram) = self.undelivered.take() {
                match self.edge.poll_send(cx, &datagram) {
                    Poll::Ready(Ok(())) => self.received += datagram.len() as u64,
                    Poll::Ready(Err(refusal)) => {
                        self.lost += 1;
                        self.notice(refusal, on_notice);
                    }
                    Poll::Pending => {
                        self.undelivered = Some(datagram);
                        return Ok(false);
                    }
                }
                self.moved = true;
            }
            let record = datagram::decode(&mut self.input)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match record {
                Some(Record::Datagram(datagram)) => self.undelivered = Some(datagram),
                Some(Record::Notice(refusal)) => on_notice(Notice::There(refusal)),
                None => {
                    let read = with_room(|room| {
                        let mut buf = ReadBuf::new(room);
                        Pin::new(&mut *self.stream)
                            .poll_read(cx, &mut buf)
                            .map_ok(|()| self.input.extend_from_slice(buf.filled()))
                            .map_ok(|()| buf.filled().len())
                    });
                    match read {
                        Poll::Ready(Ok(0)) => return Ok(true),
                        Poll::Ready(Ok(_)) => self.moved = true,
                        Poll::Ready(Err(error)) => return Err(error),
                        Poll::Pending => return Ok(false),
                    }
                }
            }
        }
    }

    /// Tells a failure of this edge, unless it was the last one told.
    fn notice(&mut self, refusal: Refusal, on_notice: &mut impl FnMut(Notice)) {
        if self.noticed.as_ref() == Some(&refusal) {
            return;
        }
        // The other end may miss it while its stream takes nothing: what waits here is bounded.
        if self.out.len() < BATCH {
            datagram::encode_notice(&refusal, &mut self.out);
        }
        on_notice(Notice::Here(refusal.clone()));
        self.noticed = Some(refusal);
    }
}

thread_local! {
    /// Room for one datagram, used only within one poll: flows that wait hold none.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; ROOM]);
}

fn with_room<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|room| use_it(room))
}

/// The flows of one unconnected socket, by peer.
///
/// A program may call from a new port each time (resolvers do), so flows that are only waiting to become idle must not
/// keep new ones out: the one of this socket in which nothing moved for longest makes room, if that was [`LEAST_SILENCE`].
#[derive(Debug)]
pub struct Table {
    flows: HashMap<SocketAddr, Queue>,
    places: Budget,
    budget: Budget,
    refused: u64,
}

impl Table {
    /// A table whose flows take a place each, and whose queues share `budget`.
    #[must_use]
    pub fn new(places: Budget, budget: Budget) -> Self {
        Self {
            flows: HashMap::new(),
            places,
            budget,
            refused: 0,
        }
    }

    /// Puts a datagram into its flow. The queue of a new flow comes back: somebody has to serve it, and to call
    /// [`Table::end`] afterwards.
    pub fn deliver(&mut self, peer: SocketAddr, datagram: &[u8], now: Instant) -> Option<Queue> {
        if let Some(queue) = self.flows.get(&peer) {
            queue.touch(now);
            queue.push(datagram);
            return None;
        }
        if !self.places.take(1) && !self.make_room(now) {
            self.refused += 1;
            return None;
        }
        let queue = Queue::new(self.budget.clone());
        queue.touch(now);
        queue.push(datagram);
        self.flows.insert(peer, queue.clone());
        Some(queue)
    }

    /// Ends the flow that was silent for longest; its place is the next one's.
    fn make_room(&mut self, now: Instant) -> bool {
        let silent = self
            .flows
            .iter()
            .map(|(peer, queue)| (*peer, queue.silence(now)))
            .filter(|(_, silence)| *silence >= LEAST_SILENCE)
            .max_by_key(|(_, silence)| *silence);
        let Some(queue) = silent.and_then(|(peer, _)| self.flows.remove(&peer)) else {
            return false;
        };
        queue.close();
        true
    }

    /// The flow of this queue is over: the next datagram of its peer begins another one.
    pub fn end(&mut self, peer: SocketAddr, queue: &Queue) {
        // One that made room has no place any more, and its peer may have another flow.
        if self.flows.get(&peer).is_some_and(|flow| flow.is_same(queue)) {
            self.flows.remove(&peer);
            self.places.give_back(1);
        }
    }

    /// Datagrams of peers for whom there was no room.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.places.give_back(self.flows.len());
    }
}

#[cfg(test)]
mod tests;
