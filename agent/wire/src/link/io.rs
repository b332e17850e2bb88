//! The shell around a [`Link`]: gives it a transport below and yamux a byte stream above.
//!
//! One lock, never held across an await. [`LinkHandle::run`] owns a transport while it lasts and reads it
//! without pause, whatever its own writing does: a transport whose other direction is full must not stop
//! this one. It ends by telling why the transport ended; the link itself is closed by
//! [`LinkHandle::close`], so that another transport can take over in between.

use std::fmt;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Link, TransportEnd};

/// How much is gathered for one write to a transport. Two messages of an exec; in a pod, a write that
/// fills a default pipe.
const WRITE_SIZE: usize = 64 * 1024;

/// How much is read from a transport at once.
const READ_SIZE: usize = 64 * 1024;

/// How long a transport that takes nothing more is still read.
const LAST_WORDS: Duration = Duration::from_secs(1);

struct State {
    link: Link,
    closed: Option<TransportEnd>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl State {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

struct Shared {
    state: Mutex<State>,
    /// Something to send, or an end, for [`LinkHandle::run`].
    stirred: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held cannot leave the state half changed in a way that matters more
        // than the panic itself; the transport's own checks find it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The side of a link that has transports. Cheap to clone.
#[derive(Clone)]
pub struct LinkHandle {
    shared: Arc<Shared>,
}

/// The side of a link that yamux reads and writes. Dropping it closes the link.
pub struct LinkStream {
    shared: Arc<Shared>,
}

impl fmt::Debug for LinkHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkHandle").finish_non_exhaustive()
    }
}

impl fmt::Debug for LinkStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkStream").finish_non_exhaustive()
    }
}

/// Both sides of one new link.
#[must_use]
pub fn channel() -> (LinkHandle, LinkStream) {
    let state = State {
        link: Link::new(Instant::now()),
        closed: None,
        reader: None,
        writer: None,
    };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        stirred: Notify::new(),
    });
    (
        LinkHandle {
            shared: Arc::clone(&shared),
        },
        LinkStream { shared },
    )
}

impl LinkHandle {
    /// Runs the link over one transport until that ends, and tells why.
    pub async fn run<R, W>(&self, reader: R, writer: W) -> TransportEnd
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        self.shared.lock().link.attach(Instant::now());
        let mut reading = pin!(self.read_transport(reader));
        let end = tokio::select! {
            end = &mut reading => end,
            end = self.keep_time() => end,
            end = self.write_transport(writer) => {
                if matches!(end, TransportEnd::Failed(_)) {
                    // The other end is gone, but what it said last may still be on its way: a goodbye, mostly.
                    drop(tokio::time::timeout(LAST_WORDS, reading).await);
                }
                end
            }
        };
        // A goodbye that was received ends the link whatever broke the transport afterwards.
        if self.goodbye_received() {
            TransportEnd::Goodbye
        } else {
            end
        }
    }

    /// Says goodbye behind everything written so far; [`LinkHandle::run`] ends once it is answered.
    pub fn goodbye(&self) {
        let mut state = self.shared.lock();
        state.link.start_goodbye();
        state.wake();
        drop(state);
        self.shared.stirred.notify_one();
    }

    /// Ends the link for the session above: its reads and writes fail with this reason.
    pub fn close(&self, end: TransportEnd) {
        let mut state = self.shared.lock();
        state.closed.get_or_insert(end);
        state.wake();
        drop(state);
        self.shared.stirred.notify_one();
    }

    /// Why the link was closed, if it was.
    #[must_use]
    pub fn closed(&self) -> Option<TransportEnd> {
        self.shared.lock().closed.clone()
    }

    /// Starts the corruption probe; see [`crate::probe`].
    pub fn start_probe(&self) {
        self.shared.lock().link.start_probe();
        self.shared.stirred.notify_one();
    }

    /// Whether a probe was started and has not come back whole: if the transport ended meanwhile, the
    /// path is suspect.
    #[must_use]
    pub fn probe_unanswered(&self) -> bool {
        self.shared.lock().link.probe_unanswered()
    }

    /// Whether the other end said goodbye.
    #[must_use]
    pub fn goodbye_received(&self) -> bool {
        self.shared.lock().link.goodbye_received()
    }

    /// Round-trip time through the data path.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.shared.lock().link.rtt()
    }

    /// Bytes of the link's stream received so far.
    #[must_use]
    pub fn received_position(&self) -> u64 {
        self.shared.lock().link.received_position()
    }

    async fn read_transport(&self, mut reader: impl AsyncRead + Unpin) -> TransportEnd {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_SIZE);
            match reader.read_buf(&mut buffer).await {
                Ok(0) => return TransportEnd::Ended,
                Ok(_) => {}
                Err(error) => return TransportEnd::Failed(error.to_string()),
            }
            let mut state = self.shared.lock();
            if let Err(end) = state.link.on_bytes(&mut buffer, Instant::now()) {
                return end;
            }
            if let Some(waker) = state.reader.take() {
                waker.wake();
            }
            drop(state);
            // A ping or a probe may be owed an answer.
            self.shared.stirred.notify_one();
        }
    }

    async fn write_transport(&self, mut writer: impl AsyncWrite + Unpin) -> TransportEnd {
        let mut out = BytesMut::with_capacity(WRITE_SIZE + crate::frame::MAX_FRAME);
        loop {
            let (over, closed) = {
                let mut state = self.shared.lock();
                state.link.take_frames(&mut out, WRITE_SIZE);
                if let Some(waker) = state.writer.take() {
                    waker.wake();
                }
                (state.link.is_over(), state.closed.is_some())
            };
            if !out.is_empty() {
                let written = async {
                    writer.write_all(&out).await?;
                    writer.flush().await
                };
                if let Err(error) = written.await {
                    return TransportEnd::Failed(error.to_string());
                }
                out.clear();
            } else if over {
                return TransportEnd::Goodbye;
            } else if closed {
                return TransportEnd::Closed;
            } else {
                self.shared.stirred.notified().await;
            }
        }
    }

    async fn keep_time(&self) -> TransportEnd {
        loop {
            let next = {
                let mut state = self.shared.lock();
                if let Err(end) = state.link.on_tick(Instant::now()) {
                    return end;
                }
                state.link.next_tick()
            };
            self.shared.stirred.notify_one();
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending::<()>().await,
            }
        }
    }
}

impl Drop for LinkStream {
    fn drop(&mut self) {
        LinkHandle {
            shared: Arc::clone(&self.shared),
        }
        .close(TransportEnd::Closed);
    }
}

fn closed_error(end: &TransportEnd) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, end.clone())
}

impl futures::AsyncRead for LinkStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        let copied = state.link.read(buf);
        if copied > 0 || buf.is_empty() {
            return Poll::Ready(Ok(copied));
        }
        if let Some(end) = &state.closed {
            Poll::Ready(Err(closed_error(end)))
        } else {
            state.reader = Some(cx.waker().clone());
            Poll::Pending
        }
    }
}

impl futures::AsyncWrite for LinkStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        if let Some(end) = &state.closed {
            return Poll::Ready(Err(closed_error(end)));
        }
        let taken = state.link.write(buf);
        if taken == 0 && !buf.is_empty() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(state);
        self.shared.stirred.notify_one();
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What the link took is sent as soon as a transport takes it; nobody waits for that.
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;

    /// Fails each write, as a pipe without a reader does.
    struct Broken;

    impl AsyncWrite for Broken {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_goodbye_is_heard_although_writing_fails() {
        let (mut near, far) = tokio::io::duplex(64);
        let (link, _stream) = channel();
        let late = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut goodbye = BytesMut::new();
            Frame::Goodbye.encode(&mut goodbye);
            near.write_all(&goodbye).await.unwrap();
            drop(near);
        };
        let (end, ()) = tokio::join!(link.run(far, Broken), late);
        assert!(matches!(end, TransportEnd::Goodbye), "{end}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_transport_that_takes_nothing_and_says_nothing_ends_soon() {
        let (_near, far) = tokio::io::duplex(64);
        let (link, _stream) = channel();
        let start = Instant::now();
        let end = link.run(far, Broken).await;
        assert!(matches!(end, TransportEnd::Failed(_)), "{end}");
        assert_eq!(start.elapsed(), LAST_WORDS);
    }
}
