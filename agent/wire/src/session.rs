//! One yamux connection over a link: opens and accepts streams, and closes yamux's known traps.
//!
//! It owns the connection, the stream permits and the growth pool. It does not know what the streams are
//! for, and it does not reconnect: the link below may be given another transport, and may be without one for
//! minutes. Then yamux's writes wait, its ping is answered late (it has no time-out), streams accept what their
//! credit and yamux's queue hold, and [`Session::open`] waits once 256 opens are unanswered: whoever opens
//! bounds that wait.
//!
//! The traps of yamux 0.14, each with what is done about it here or below, and a test of its own:
//!
//! | trap | remedy |
//! |---|---|
//! | both ends saturated while a pong is owed: neither reads again | [`crate::link::io`] reads without pause into a queue that all windows together bound |
//! | the stream above the limit kills the whole connection | [`MAX_STREAMS`] permits at both ends, far below yamux's own limit |
//! | 256 opens without an answer stop the next | the acceptor says `seen` before it reads the open |
//! | the peer sees no stream until something is written | the open is written at once |
//! | a reset or a dead connection reads as a clean end | explicit ends, see [`crate::stream`] |
//! | 256 KiB of window a stream from the start | credit of our own, see [`crate::window`] |
//! | everything stops while its owner does something else | [`Driver::run`] does nothing but drive it |

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};

use crate::budget::Budget;
use crate::error::{OpenError, Refusal, RefusalCode};
use crate::link::{LinkHandle, LinkStream};
use crate::message::{self, Open};
use crate::stream::Stream;
use crate::window::growth_pool;

/// Streams a session carries at most, both directions together, counted at each end.
pub const MAX_STREAMS: usize = 1024;

/// yamux's own limit, which must never be reached: both ends may be at theirs, and refused and dying
/// streams count a little longer.
const YAMUX_STREAMS: usize = 4 * MAX_STREAMS;

/// How long an accepted stream may take to say what it wants.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens that wait for the driver at most.
const OPEN_QUEUE: usize = 64;

/// Which end of the session this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The plugin: yamux's client.
    Plugin,
    /// The agent: yamux's server.
    Agent,
}

/// Starts a session on a link. The driver must be run by a task of the caller's.
#[must_use]
pub fn start(end: End, link: LinkHandle, io: LinkStream) -> (Session, Incoming, Driver) {
    let mut config = yamux::Config::default();
    // The order matters: yamux checks the window against the number of streams in each setter.
    config.set_max_connection_receive_window(None);
    config.set_max_num_streams(YAMUX_STREAMS);
    config.set_split_send_size(message::HEADER + message::MAX_DATA);
    let mode = match end {
        End::Plugin => yamux::Mode::Client,
        End::Agent => yamux::Mode::Server,
    };
    let (open_tx, open_rx) = mpsc::channel(OPEN_QUEUE);
    let (incoming_tx, incoming_rx) = mpsc::channel(YAMUX_STREAMS);
    let (closed_tx, closed_rx) = watch::channel(false);
    let shared = Shared {
        link,
        pool: growth_pool(),
        streams: Arc::default(),
        begun: Arc::default(),
    };
    let driver = Driver {
        connection: yamux::Connection::new(io, config, mode),
        open_rx,
        opening: VecDeque::new(),
        incoming_tx,
        closed_tx,
    };
    let session = Session {
        shared: shared.clone(),
        open_tx,
        closed_rx,
    };
    (
        session,
        Incoming {
            shared,
            streams_rx: incoming_rx,
            greeting: FuturesUnordered::new(),
        },
        driver,
    )
}

#[derive(Clone)]
struct Shared {
    link: LinkHandle,
    pool: Budget,
    streams: Arc<AtomicUsize>,
    /// Streams there have been so far.
    begun: Arc<AtomicUsize>,
}

impl Shared {
    fn permit(&self) -> Option<Permit> {
        let taken = self
            .streams
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < MAX_STREAMS).then_some(count + 1)
            });
        self.begun.fetch_add(1, Ordering::Relaxed);
        let others = taken.ok()?;
        self.link.note_stream(others);
        Some(Permit {
            streams: Arc::clone(&self.streams),
        })
    }
}

/// One of the session's [`MAX_STREAMS`]; counted until dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    streams: Arc<AtomicUsize>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A running session. Cheap to clone.
#[derive(Clone)]
pub struct Session {
    shared: Shared,
    open_tx: mpsc::Sender<oneshot::Sender<yamux::Stream>>,
    closed_rx: watch::Receiver<bool>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("streams", &self.streams())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Opens a stream. Returns once the open is on its way: bytes may be written at once, and
    /// [`Stream::opened`] waits for the answer.
    ///
    /// # Errors
    /// The session carries [`MAX_STREAMS`] streams, or has ended, or the host name is too long.
    pub async fn open(&self, open: &Open) -> Result<Stream, OpenError> {
        if let Open::Dial { host, .. } = open
            && !(1..=message::MAX_HOST).contains(&host.len())
        {
            let detail = format!("a host name has 1 to {} bytes", message::MAX_HOST);
            return Err(OpenError::Refused(Refusal::new(RefusalCode::NoSuchHost, detail)));
        }
        let permit = self
            .shared
            .permit()
            .ok_or(OpenError::TooManyStreams { limit: MAX_STREAMS })?;
        let (stream_tx, stream_rx) = oneshot::channel();
        self.open_tx
            .send(stream_tx)
            .await
            .map_err(|_| OpenError::SessionClosed)?;
        let io = stream_rx.await.map_err(|_| OpenError::SessionClosed)?;
        let mut stream = Stream::new(io, self.shared.pool.clone(), self.shared.link.clone(), permit);
        stream.send_open(open).await?;
        Ok(stream)
    }

    /// Streams open at this moment, both directions together.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.shared.streams.load(Ordering::Relaxed)
    }

    /// Streams there have been so far: whether any came and went since it was asked before.
    #[must_use]
    pub fn begun(&self) -> usize {
        self.shared.begun.load(Ordering::Relaxed)
    }

    /// Whether both are handles of one session.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared.streams, &other.shared.streams)
    }

    /// Resolves when the session is over; [`LinkHandle::closed`] tells why.
    pub async fn closed(&self) {
        let mut closed_rx = self.closed_rx.clone();
        // An error means that the driver is gone: over as well.
        drop(closed_rx.wait_for(|closed| *closed).await);
    }
}

/// A stream the other end opened.
#[derive(Debug)]
pub struct Accepted {
    /// What it wants. Answer with [`Stream::accept`] or [`Stream::refuse`].
    pub open: Open,
    /// The stream.
    pub stream: Stream,
}

/// The streams that the other end opens.
pub struct Incoming {
    shared: Shared,
    streams_rx: mpsc::Receiver<yamux::Stream>,
    greeting: FuturesUnordered<Greeting>,
}

type Greeting = std::pin::Pin<Box<dyn Future<Output = Option<Accepted>> + Send>>;

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("greeting", &self.greeting.len())
            .finish_non_exhaustive()
    }
}

impl Incoming {
    /// The next stream that has said what it wants, or `None` when the session is over. Must be polled
    /// without long pauses: it is what answers `seen`.
    ///
    /// Streams above [`MAX_STREAMS`] are refused here, streams that say nothing or nonsense are dropped.
    pub async fn accept(&mut self) -> Option<Accepted> {
        loop {
            tokio::select! {
                Some(greeted) = self.greeting.next(), if !self.greeting.is_empty() => {
                    if let Some(accepted) = greeted {
                        return Some(accepted);
                    }
                }
                stream = self.streams_rx.recv() => self.greeting.push(greet(self.shared.clone(), stream?)),
            }
        }
    }
}

fn greet(shared: Shared, io: yamux::Stream) -> Greeting {
    Box::pin(async move {
        let permit = shared.permit();
        let full = permit.is_none();
        let permit = permit.unwrap_or_else(|| Permit {
            streams: Arc::new(AtomicUsize::new(1)),
        });
        let mut stream = Stream::new(io, shared.pool.clone(), shared.link.clone(), permit);
        let open = tokio::time::timeout(OPEN_TIMEOUT, stream.receive_open())
            .await
            .ok()?
            .ok()?;
        if full {
            let detail = format!("the session already carries {MAX_STREAMS} streams");
            stream
                .refuse(Refusal::new(RefusalCode::TooManyStreams, detail))
                .await;
            return None;
        }
        Some(Accepted { open, stream })
    })
}

/// Owns the yamux connection. Everything in the session moves only while [`Driver::run`] is polled.
pub struct Driver {
    connection: yamux::Connection<LinkStream>,
    open_rx: mpsc::Receiver<oneshot::Sender<yamux::Stream>>,
    opening: VecDeque<oneshot::Sender<yamux::Stream>>,
    incoming_tx: mpsc::Sender<yamux::Stream>,
    closed_tx: watch::Sender<bool>,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("opening", &self.opening.len())
            .finish_non_exhaustive()
    }
}

impl Driver {
    /// Drives the session until its link is closed.
    pub async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        self.closed_tx.send_replace(true);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => {
                    // Full only when the other end opens far more than it may: dropping resets the stream.
                    drop(self.incoming_tx.try_send(stream));
                    continue;
                }
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            while let Poll::Ready(Some(waiting)) = self.open_rx.poll_recv(cx) {
                self.opening.push_back(waiting);
            }
            self.opening.retain(|waiting| !waiting.is_closed());
            if self.opening.is_empty() {
                return Poll::Pending;
            }
            match self.connection.poll_new_outbound(cx) {
                Poll::Ready(Ok(stream)) => {
                    if let Some(waiting) = self.opening.pop_front() {
                        // Nobody waits any more: dropping the stream is all there is to do.
                        drop(waiting.send(stream));
                    }
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
