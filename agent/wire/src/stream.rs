//! One stream: an open, an answer, then bytes both ways under credit, each way with an explicit end.
//!
//! yamux reports a reset and a dead session as a plain end of file. This type ends each direction with a
//! message instead, so a reader can tell "the peer finished" (`Ok(0)`) from "the bytes stopped" (an
//! error). It does not dial, listen or copy; the programs and [`crate::relay`] do.
//!
//! A stream always reads what the other end sends, also while its owner only writes: grants and aborts
//! must not wait behind data. Received data waits here, at most as much as was granted.
//!
//! ```text
//!   opener    open ------------> [data ...] ------> end
//!   acceptor  <-- seen  <-- opened | refused  <---- [data ...] <-- end
//! ```

mod wakers;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures::{AsyncWrite as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

pub use self::wakers::Answer;
use self::wakers::Wakers;
use crate::budget::Budget;
use crate::error::{OpenError, Refusal};
use crate::link::LinkHandle;
use crate::message::{self, Decoder, MAX_DATA, Message, Open};
use crate::session::Permit;
use crate::window::{INITIAL_WINDOW, ReceiveWindow};

/// A message is interactive when it is short, as a keystroke or a small answer is...
const SHORT: usize = 4 * 1024;

/// ...and comes on a stream that has not said more than this of late: what the last second took away, and the second
/// before. The short rest of a block of a bulk copy is not interactive.
const QUIET: usize = 64 * 1024;

/// One two-way flow of a session.
///
/// `Ok(0)` from a read means the peer ended its direction; a cut, an abort or the end of the session is
/// an error. `shutdown` ends this direction and leaves the other open. Dropping a stream before both
/// directions ended aborts it.
#[derive(Debug)]
pub struct Stream {
    io: yamux::Stream,
    wakers: Arc<Wakers>,
    decoder: Decoder,
    received: VecDeque<Bytes>,
    window: ReceiveWindow,
    link: LinkHandle,
    answer: Option<Result<(), Refusal>>,
    upstream: Option<SocketAddr>,
    peer_open: Option<Open>,
    peer_ended: bool,
    failure: Option<Failure>,
    /// Encoded messages yamux has not taken: at most one data message and a few short ones.
    out: BytesMut,
    credit: u64,
    /// What this stream said of late, when it said something last: [`QUIET`] is forgotten each second.
    said: usize,
    said_at: Instant,
    ended: bool,
    _permit: Permit,
}

/// Why nothing more comes or goes.
#[derive(Debug, Clone, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Refused(Refusal),
    #[error("aborted by the other end: {0}")]
    Aborted(String),
    #[error("the session ended")]
    Lost,
    #[error("the other end broke the protocol: {0}")]
    Protocol(&'static str),
}

impl Failure {
    fn to_io(&self) -> io::Error {
        let error = OpenError::from(self.clone());
        match self {
            Self::Refused(_) => io::Error::other(error),
            Self::Aborted(_) | Self::Lost => io::Error::new(io::ErrorKind::ConnectionReset, error),
            Self::Protocol(_) => io::Error::new(io::ErrorKind::InvalidData, error),
        }
    }
}

impl From<Failure> for OpenError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => Self::Refused(refusal),
            Failure::Aborted(detail) => Self::Aborted { detail },
            Failure::Lost => Self::SessionClosed,
            Failure::Protocol(what) => Self::Protocol(what),
        }
    }
}

impl Stream {
    pub(crate) fn new(io: yamux::Stream, pool: Budget, link: LinkHandle, permit: Permit) -> Self {
        let now = Instant::now();
        Self {
            io,
            wakers: Arc::default(),
            decoder: Decoder::default(),
            received: VecDeque::new(),
            window: ReceiveWindow::new(pool, now),
            link,
            answer: None,
            upstream: None,
            peer_open: None,
            peer_ended: false,
            failure: None,
            out: BytesMut::new(),
            credit: u64::from(INITIAL_WINDOW),
            said: 0,
            said_at: now,
            ended: false,
            _permit: permit,
        }
    }

    /// Opener: sends the header.
    pub(crate) async fn send_open(&mut self, open: &Open) -> Result<(), OpenError> {
        Message::Open(open.clone()).encode(&mut self.out);
        self.flushed().await
    }

    /// Acceptor: says that the open was seen, before it is even read, and waits for it.
    pub(crate) async fn receive_open(&mut self) -> Result<Open, OpenError> {
        Message::Seen.encode(&mut self.out);
        self.flushed().await?;
        poll_fn(|cx| {
            self.wakers.reader.register(cx.waker());
            self.pump();
            match (self.peer_open.take(), &self.failure) {
                (Some(open), _) => Poll::Ready(Ok(open)),
                (None, Some(failure)) => Poll::Ready(Err(failure.clone().into())),
                (None, None) => Poll::Pending,
            }
        })
        .await
    }

    /// Opener: waits for the other end's answer. Bytes may be written before and while waiting.
    ///
    /// # Errors
    /// The other end refused, or the session ended first.
    pub async fn opened(&mut self) -> Result<(), OpenError> {
        poll_fn(|cx| {
            self.wakers.reader.register(cx.waker());
            self.pump();
            match (&self.answer, &self.failure) {
                (Some(Ok(())), _) => Poll::Ready(Ok(())),
                (Some(Err(refusal)), _) => Poll::Ready(Err(OpenError::Refused(refusal.clone()))),
                (None, Some(failure)) => Poll::Ready(Err(failure.clone().into())),
                (None, None) => Poll::Pending,
            }
        })
        .await
    }

    /// Opener: whether the answer has come, for whoever gives the stream away meanwhile.
    #[must_use]
    pub fn answer(&self) -> Answer {
        Answer::of(&self.wakers)
    }

    /// Acceptor: answers that the stream is connected to what was asked for.
    ///
    /// # Errors
    /// The session ended or the opener gave up.
    pub async fn accept(&mut self) -> Result<(), OpenError> {
        self.accept_at(None).await
    }

    /// The same, and to which address, where that is known.
    ///
    /// # Errors
    /// As for [`Stream::accept`].
    pub async fn accept_at(&mut self, upstream: Option<SocketAddr>) -> Result<(), OpenError> {
        Message::Opened(upstream).encode(&mut self.out);
        self.flushed().await
    }

    /// Opener: the address the other end is connected to, once it has said so.
    #[must_use]
    pub fn upstream(&self) -> Option<SocketAddr> {
        self.upstream
    }

    /// Acceptor: answers why not, and ends the stream. The answer is best effort: an opener that is gone
    /// needs none.
    pub async fn refuse(mut self, refusal: Refusal) {
        Message::Refused(refusal).encode(&mut self.out);
        if self.flushed().await.is_ok() {
            // Nothing else follows, and what the opener still sends is void: no abort on drop.
            self.ended = true;
            self.peer_ended = true;
        }
    }

    /// Gives up both directions and tells the other end why.
    pub fn abort(mut self, detail: &str) {
        self.send_abort(detail);
    }

    /// Waits until the other end ends its direction, aborts or vanishes; received data is dropped.
    ///
    /// For streams that carry no data but stand for something that lasts, such as a listener.
    pub async fn ended(&mut self) {
        poll_fn(|cx| {
            self.wakers.reader.register(cx.waker());
            self.pump();
            self.received.clear();
            if self.peer_ended || self.failure.is_some() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Waits until the stream has failed: aborted by the other end, or cut. Received data stays.
    ///
    /// For owners that hold a stream back for a while without reading it.
    pub async fn failed(&mut self) {
        poll_fn(|cx| {
            self.wakers.reader.register(cx.waker());
            self.pump();
            if self.failure.is_some() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Waits until there is something to read, an end included. `false` when the stream has failed instead.
    ///
    /// For owners that hold a stream back until its other end has shown that it means it.
    pub async fn arrived(&mut self) -> bool {
        poll_fn(|cx| {
            self.wakers.reader.register(cx.waker());
            self.pump();
            if !self.received.is_empty() || self.peer_ended {
                Poll::Ready(true)
            } else if self.failure.is_some() {
                Poll::Ready(false)
            } else {
                Poll::Pending
            }
        })
        .await
    }

    async fn flushed(&mut self) -> Result<(), OpenError> {
        poll_fn(|cx| {
            self.wakers.writer.register(cx.waker());
            self.poll_out()
        })
        .await
        .map_err(|_| self.failure.clone().map_or(OpenError::SessionClosed, Into::into))
    }

    /// Reads all that has arrived. Afterwards either `failure` is set, or the reading waker is registered
    /// with yamux, or the peer has ended everything it had to say.
    fn pump(&mut self) {
        let waker = Waker::from(Arc::clone(&self.wakers));
        let mut cx = Context::from_waker(&waker);
        while self.failure.is_none() {
            match self.decoder.decode() {
                Ok(Some(message)) => {
                    if let Err(failure) = self.on_message(message) {
                        self.failure = Some(failure);
                    }
                    continue;
                }
                Ok(None) => {}
                Err(_) => {
                    self.failure = Some(Failure::Protocol("a message was not understood"));
                    continue;
                }
            }
            match Pin::new(&mut self.io).poll_next(&mut cx) {
                Poll::Ready(Some(Ok(packet))) => self.decoder.push(Bytes::from_owner(packet)),
                // The peer finished and so did we: its side of the stream is gone, as it should be.
                Poll::Ready(Some(Err(_)) | None) if self.peer_ended && self.ended => break,
                Poll::Ready(Some(Err(_)) | None) => self.failure = Some(Failure::Lost),
                Poll::Pending => break,
            }
        }
    }

    fn on_message(&mut self, message: Message) -> Result<(), Failure> {
        match message {
            Message::Open(open) => self.peer_open = Some(open),
            Message::Seen => {}
            Message::Opened(upstream) => {
                self.upstream = upstream;
                self.answer = Some(Ok(()));
                self.wakers.set_answered();
            }
            Message::Refused(refusal) => {
                self.answer = Some(Err(refusal.clone()));
                return Err(Failure::Refused(refusal));
            }
            Message::Data(_) if self.peer_ended => return Err(Failure::Protocol("data after the end")),
            Message::Data(bytes) => {
                self.window
                    .on_received(bytes.len())
                    .map_err(|_| Failure::Protocol("more data than granted"))?;
                self.received.push_back(bytes);
            }
            Message::Grant(bytes) => self.credit = self.credit.saturating_add(u64::from(bytes)),
            Message::End => self.peer_ended = true,
            Message::Abort(detail) => return Err(Failure::Aborted(detail)),
        }
        Ok(())
    }

    /// Hands pending messages to yamux.
    fn poll_out(&mut self) -> Poll<io::Result<()>> {
        let waker = Waker::from(Arc::clone(&self.wakers));
        let mut cx = Context::from_waker(&waker);
        while !self.out.is_empty() {
            if let Ok(length) = ready!(Pin::new(&mut self.io).poll_write(&mut cx, &self.out)) {
                self.out.advance(length);
            } else {
                // The session is over or the peer reset the stream: its last words tell which.
                self.pump();
                let failure = self.failure.get_or_insert(Failure::Lost);
                return Poll::Ready(Err(failure.to_io()));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Grants what `length` consumed bytes allow for.
    fn consumed(&mut self, length: usize) {
        if let Some(grant) = self.window.on_consumed(length, Instant::now(), self.link.rtt())
            && !self.peer_ended
        {
            Message::Grant(grant).encode(&mut self.out);
            // Whatever yamux does not take now goes with the next wake-up of either half; a failure is
            // found by the next read.
            drop(self.poll_out());
        }
    }

    /// Of `offered` bytes `length` are about to be sent.
    fn say(&mut self, offered: usize, length: usize) {
        let now = Instant::now();
        let pause = now.saturating_duration_since(self.said_at).as_millis();
        let forgotten = usize::try_from(pause)
            .unwrap_or(usize::MAX)
            .saturating_mul(QUIET / 1000);
        self.said_at = now;
        // Bounded, so that a bulk copy is soon forgotten.
        self.said = (self.said.saturating_sub(forgotten) + length).min(3 * QUIET);
        if offered <= SHORT && self.said <= QUIET {
            self.link.note_interactive(now);
        }
    }

    fn send_abort(&mut self, detail: &str) {
        if self.ended && self.peer_ended && self.out.is_empty() {
            return;
        }
        // A message may be cut short in `out`; then the reset alone has to do. A stream that already
        // failed has nobody to tell.
        if self.out.is_empty() && self.failure.is_none() {
            Message::Abort(detail.to_owned()).encode(&mut self.out);
            drop(self.poll_out());
        }
        self.out.clear();
        self.ended = true;
        self.peer_ended = true;
        self.failure.get_or_insert(Failure::Lost);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.wakers.reader.register(cx.waker());
        this.pump();
        if buf.remaining() == 0 {
            // Nothing is wanted but to know how the stream is: `relay` asks while its other end takes nothing.
            return match &this.failure {
                Some(failure) => Poll::Ready(Err(failure.to_io())),
                None => Poll::Ready(Ok(())),
            };
        }
        let mut copied = 0;
        while buf.remaining() > 0 {
            let Some(front) = this.received.front_mut() else {
                break;
            };
            let length = front.len().min(buf.remaining());
            buf.put_slice(&front[..length]);
            front.advance(length);
            copied += length;
            if front.is_empty() {
                this.received.pop_front();
            }
        }
        if copied > 0 {
            this.consumed(copied);
            return Poll::Ready(Ok(()));
        }
        if !this.out.is_empty() {
            drop(this.poll_out());
        }
        if this.peer_ended {
            return Poll::Ready(Ok(()));
        }
        match &this.failure {
            Some(failure) => Poll::Ready(Err(failure.to_io())),
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.wakers.writer.register(cx.waker());
        ready!(this.poll_out())?;
        if this.credit == 0 {
            this.pump();
        }
        if let Some(failure) = &this.failure {
            return Poll::Ready(Err(failure.to_io()));
        }
        if this.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let length = buf
            .len()
            .min(MAX_DATA)
            .min(usize::try_from(this.credit).unwrap_or(usize::MAX));
        if length == 0 {
            return if buf.is_empty() {
                Poll::Ready(Ok(0))
            } else {
                Poll::Pending
            };
        }
        this.say(buf.len(), length);
        message::encode_data(&buf[..length], &mut this.out);
        this.credit -= length as u64;
        // The bytes are taken; if yamux does not take them now, the next write or flush waits for it.
        drop(this.poll_out());
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wakers.writer.register(cx.waker());
        self.poll_out()
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wakers.writer.register(cx.waker());
        if !self.ended {
            if let Some(failure) = &self.failure {
                return Poll::Ready(Err(failure.to_io()));
            }
            self.ended = true;
            Message::End.encode(&mut self.out);
        }
        self.poll_out()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.send_abort("dropped");
        // yamux turns a dropped stream into a reset unless its end was queued first.
        if self.failure.is_none() {
            let mut cx = Context::from_waker(Waker::noop());
            drop(Pin::new(&mut self.io).poll_close(&mut cx));
        }
    }
}
