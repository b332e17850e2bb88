//! The shell around a [`Link`]: gives it a transport below and yamux a byte stream above.
//!
//! One lock, never held across an await. [`LinkHandle::run`] owns a transport while it lasts and reads it
//! without pause, whatever its own writing does: a transport whose other direction is full must not stop
//! this one. It ends by telling why the transport ended; the link itself is closed by
//! [`LinkHandle::close`] alone, so that another transport can take over: see [`LinkHandle::run`].

use std::fmt;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::{Link, Progress, TransportEnd};

/// How much is gathered for one write to a transport. Two messages of an exec; in a pod, a write that
/// fills a default pipe.
const WRITE_SIZE: usize = 64 * 1024;

/// How much is read from a transport at once.
const READ_SIZE: usize = 64 * 1024;

/// How long what is to be sent waits for company in a crowd: the shortest a timer of tokio knows.
const REST: Duration = Duration::from_millis(1);

/// How long a transport that takes nothing more is still read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How the transport under a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// There is none.
    Detached,
    /// Bytes come, or none are owed.
    Well,
    /// An answer is owed and nothing comes; see [`Link::is_suspect`].
    Suspect,
}

struct State {
    link: Link,
    closed: Option<TransportEnd>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    health_tx: watch::Sender<Health>,
    health: Health,
    probed_tx: watch::Sender<bool>,
    probed: bool,
}

impl State {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    fn set_health(&mut self, health: Health) {
        // Compared here: this is asked for every read, and the channel has a lock of its own.
        if self.health != health {
            self.health = health;
            self.health_tx.send_replace(health);
        }
    }

    fn observe_probe(&mut self) {
        let probed = self.link.probe_passed();
        if self.probed != probed {
            self.probed = probed;
            self.probed_tx.send_replace(probed);
        }
    }

    fn observe_health(&mut self, now: Instant) {
        let suspect = self.link.is_suspect(now);
        self.set_health(if suspect { Health::Suspect } else { Health::Well });
    }
}

struct Shared {
    state: Mutex<State>,
    /// Something to send, or an end, for [`LinkHandle::run`].
    stirred: Notify,
    /// The next tick may be sooner than was known.
    sooner: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held cannot leave the state half changed in a way that matters more
        // than the panic itself; the transport's own checks find it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change that may bring the next tick forward: an acknowledgement or a suspicion may be due sooner.
    fn change<T>(&self, change: impl FnOnce(&mut State, Instant) -> T) -> T {
        let now = Instant::now();
        let mut state = self.lock();
        let before = state.link.next_tick(now);
        let result = change(&mut state, now);
        let sooner = match (state.link.next_tick(now), before) {
            (Some(after), Some(before)) => after < before,
            (after, before) => after.is_some() && before.is_none(),
        };
        drop(state);
        if sooner {
            self.sooner.notify_one();
        }
        result
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
    channel_over(Link::new(Instant::now()))
}

/// Both sides of a link made with limits of the caller's own.
#[must_use]
pub fn channel_over(link: Link) -> (LinkHandle, LinkStream) {
    let state = State {
        link,
        closed: None,
        reader: None,
        writer: None,
        health_tx: watch::Sender::new(Health::Detached),
        health: Health::Detached,
        probed_tx: watch::Sender::new(false),
        probed: false,
    };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        stirred: Notify::new(),
        sooner: Notify::new(),
    });
    (
        LinkHandle {
            shared: Arc::clone(&shared),
        },
        LinkStream { shared },
    )
}

/// A transport is under the link for as long as this lives.
struct Attached<'a>(&'a Shared);

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.0.lock().set_health(Health::Detached);
    }
}

impl LinkHandle {
    /// Runs the link over one transport until that ends, and tells why. The other end has `received` so many
    /// bytes of ours, as its hello says. Dropping the future gives the transport up; not one byte of it is
    /// taken or sent afterwards. At most one runs at a time.
    pub async fn run<R, W>(&self, reader: R, writer: W, received: u64) -> TransportEnd
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        {
            let mut state = self.shared.lock();
            if let Err(end) = state.link.attach(received, Instant::now()) {
                return end;
            }
            state.set_health(Health::Well);
        }
        let _attached = Attached(&self.shared);
        let mut reading = pin!(self.read_transport(reader));
        let mut writing = pin!(self.write_transport(writer));
        let end = tokio::select! {
            end = &mut reading => {
                if end.fault().is_some() {
                    // The other end reconnects sooner when it knows why.
                    drop(tokio::time::timeout(LAST_WORDS, writing).await);
                }
                end
            }
            end = self.keep_time() => end,
            end = &mut writing => {
                if matches!(end, TransportEnd::Failed(_)) {
                    // The other end is gone, but what it said last may still be on its way: a goodbye, mostly.
                    match tokio::time::timeout(LAST_WORDS, reading).await {
                        Ok(heard) if heard.is_final() || heard.blames_path() => heard,
                        Ok(_) | Err(_) => end,
                    }
                } else {
                    end
                }
            }
        };
        // A goodbye that was received ends the link whatever broke the transport afterwards.
        if self.goodbye_received() {
            TransportEnd::Goodbye
        } else {
            end
        }
    }

    /// Says goodbye behind everything that was written; [`LinkHandle::run`] ends once it is answered.
    pub fn goodbye(&self) {
        let mut state = self.shared.lock();
        state.link.start_goodbye();
        state.wake();
        drop(state);
        self.shared.stirred.notify_one();
    }

    /// Tells the other end that it was replaced; [`LinkHandle::run`] ends once that is sent.
    pub fn evict(&self) {
        self.shared.lock().link.start_eviction();
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

    /// Starts the corruption probe; see [`crate::probe`]. Not while one is unanswered: what comes back of that one
    /// would not be what this one sent.
    pub fn start_probe(&self) {
        let mut state = self.shared.lock();
        state.link.start_probe();
        state.observe_probe();
        drop(state);
        self.shared.stirred.notify_one();
    }

    /// Resolves once the newest probe has come back whole.
    pub async fn probed(&self) {
        let mut probed_rx = self.shared.lock().probed_tx.subscribe();
        // The sender is as old as the link.
        drop(probed_rx.wait_for(|probed| *probed).await);
    }

    /// Bytes of the newest probe that came back as they should.
    #[must_use]
    pub fn probe_echoed(&self) -> u32 {
        self.shared.lock().link.probe_echoed()
    }

    /// Whether a probe was started and has not come back whole: if the transport ended meanwhile, the
    /// path is suspect.
    #[must_use]
    pub fn probe_unanswered(&self) -> bool {
        self.shared.lock().link.probe_unanswered()
    }

    /// Whether a probe was started and none has ever come back whole.
    #[must_use]
    pub fn path_unchecked(&self) -> bool {
        self.shared.lock().link.path_unchecked()
    }

    /// Whether the other end said goodbye.
    #[must_use]
    pub fn goodbye_received(&self) -> bool {
        self.shared.lock().link.goodbye_received()
    }

    /// A short message that somebody waits for is about to be written; see [`Link::note_interactive`].
    pub fn note_interactive(&self, now: Instant) {
        self.shared.lock().link.note_interactive(now);
    }

    /// A stream begins while `others` are open; see [`Link::is_crowded`].
    pub fn note_stream(&self, others: usize) {
        self.shared.lock().link.note_stream(others, Instant::now());
    }

    /// Round-trip time through the data path.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.shared.lock().link.rtt()
    }

    /// How far both directions have come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.shared.lock().link.progress()
    }

    /// When a byte arrived last, or the transport began.
    #[must_use]
    pub fn heard(&self) -> Instant {
        self.shared.lock().link.heard()
    }

    /// Asks the other end for a sign of life at once.
    pub fn ask(&self) {
        self.shared.lock().link.ask();
        self.shared.sooner.notify_one();
    }

    /// How the transport is, from now on.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.shared.lock().health_tx.subscribe()
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
            let taken = self.shared.change(|state, now| {
                state.link.on_bytes(&mut buffer, now)?;
                state.observe_health(now);
                state.observe_probe();
                state.wake();
                Ok(())
            });
            // A ping or a probe may be owed an answer, or a fault be told.
            self.shared.stirred.notify_one();
            if let Err(end) = taken {
                return end;
            }
            // What has just come is passed on while it is in the processor's cache, and its buffer can be used again.
            tokio::task::yield_now().await;
        }
    }

    async fn write_transport(&self, mut writer: impl AsyncWrite + Unpin) -> TransportEnd {
        let mut out = BytesMut::with_capacity(WRITE_SIZE + crate::frame::MAX_FRAME);
        loop {
            let (over, closed) = self.shared.change(|state, now| {
                state.link.take_frames(&mut out, WRITE_SIZE, now);
                if let Some(waker) = state.writer.take() {
                    waker.wake();
                }
                let closed = state.closed.is_some() || state.link.farewell_sent();
                (state.link.is_over(), closed)
            });
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
                // Whoever stirred may be in the midst of it: what else is at hand goes into the same write.
                tokio::task::yield_now().await;
                if self.shared.lock().link.is_crowded(Instant::now()) {
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    async fn keep_time(&self) -> TransportEnd {
        loop {
            let next = {
                let now = Instant::now();
                let mut state = self.shared.lock();
                if let Err(end) = state.link.on_tick(now) {
                    return end;
                }
                state.observe_health(now);
                state.link.next_tick(now)
            };
            self.shared.stirred.notify_one();
            let Some(next) = next else {
                return std::future::pending().await;
            };
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.shared.sooner.notified() => {}
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
        if taken < buf.len() {
            // The flush waits behind the rest.
            self.shared.stirred.notify_one();
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What the link took is sent as soon as a transport takes it; nobody waits for that.
        self.shared.stirred.notify_one();
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
