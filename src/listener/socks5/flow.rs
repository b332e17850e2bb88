//! One flow of an association: the datagrams between its program and one target, as a stream of the session.
//!
//! Owns the flow from its dial to its line in the log. Who may send and which datagram is for which flow is decided by
//! `associate`, which puts the data into the queue.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncWriteExt as _, ReadBuf};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tunnel_edge::socket_error;
use tunnel_wire::datagram::{self, Queue};
use tunnel_wire::flow::{Datagrams, Notice, Reason, relay};
use tunnel_wire::{Refusal, RefusalCode};

use crate::listener::access::Report;
use crate::listener::connection::{Ended, no_answer};
use crate::listener::target::Target;
use crate::listener::{Connect, DialError, Limits};

/// How long a target that was not reached is not tried again: a program that sends thousands of datagrams a second to
/// a dead name must not open a stream for each.
const SWALLOW: Duration = Duration::from_secs(1);

/// What a flow moved, and when last. Counted here and not by the relay, which says nothing when it is dropped.
#[derive(Debug)]
pub(super) struct Counts {
    began: Instant,
    /// Since `began`, in milliseconds.
    last: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    lost: AtomicU64,
}

impl Counts {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    /// The program sent so many bytes.
    pub(super) fn received(&self, length: usize) {
        self.moved(&self.received, length);
    }

    /// For how long nothing has come or gone.
    pub(super) fn idle(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }

    fn moved(&self, counter: &AtomicU64, length: usize) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
        counter.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// The way back to the program: its end of the association's socket, with the header of the target in front.
pub(super) struct Program {
    socket: Arc<UdpSocket>,
    address: SocketAddr,
    header: Box<[u8]>,
    counts: Arc<Counts>,
    /// Waits for room in the socket. Its own: a socket that is polled by several flows wakes only the last of them.
    writable: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl Program {
    pub(super) fn new(
        socket: Arc<UdpSocket>,
        address: SocketAddr,
        header: Box<[u8]>,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            socket,
            address,
            header,
            counts,
            writable: None,
        }
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let writable = self.writable.get_or_insert_with(|| {
            let socket = Arc::clone(&self.socket);
            Box::pin(async move { socket.writable().await })
        });
        let ready = ready!(writable.as_mut().poll(cx));
        self.writable = None;
        Poll::Ready(ready)
    }
}

impl Datagrams for Program {
    /// What the program sends is in the flow's queue.
    fn poll_receive(&mut self, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Pending
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<(), Refusal>> {
        let datagram = [&self.header, data].concat();
        let sent = loop {
            match self.socket.try_send_to(&datagram, self.address) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = ready!(self.poll_writable(cx)) {
                        break Err(error);
                    }
                }
                sent => break sent,
            }
        };
        Poll::Ready(match sent {
            Ok(_) => {
                self.counts.moved(&self.counts.sent, data.len());
                Ok(())
            }
            Err(error) => {
                self.counts.lost.fetch_add(1, Ordering::Relaxed);
                let words = socket_error::words(&error);
                let detail = format!("udp {}: {words}", self.address);
                Err(Refusal::new(socket_error::code(&error), detail))
            }
        })
    }
}

/// A target that was called for the first time; the datagram is in the queue.
pub(super) struct NewFlow<C> {
    pub(super) connector: C,
    pub(super) limits: Limits,
    pub(super) target: Target,
    pub(super) program: Program,
    pub(super) queue: Queue,
    pub(super) counts: Arc<Counts>,
    /// Another flow needs the room.
    pub(super) evicted: CancellationToken,
    /// The association has ended.
    pub(super) over: CancellationToken,
}

/// Serves a flow to its end, and logs it. Returns how many datagrams were swallowed afterwards.
pub(super) async fn serve<C: Connect>(mut flow: NewFlow<C>) -> u64 {
    let mut report = Report::new();
    report.begin("UDP");
    report.target(&flow.target);
    let (evicted, over) = (flow.evicted.clone(), flow.over.clone());
    let ended = tokio::select! {
        ended = flow.run(&mut report) => ended,
        () = evicted.cancelled() => Ended::MadeRoom,
        () = over.cancelled() => Ended::Dissociated,
    };
    let not_reached = matches!(ended, Ended::NotReached(_));
    if not_reached {
        flow.discard();
    }
    flow.tell(&mut report);
    report.end(&ended);
    drop(report);
    if !not_reached {
        return 0;
    }
    let told = flow.queue.dropped();
    tokio::select! {
        never = flow.swallow() => match never {},
        () = sleep(SWALLOW) => {}
        () = evicted.cancelled() => {}
        () = over.cancelled() => {}
    }
    flow.discard();
    flow.queue.dropped() - told
}

impl<C: Connect> NewFlow<C> {
    async fn run(&mut self, report: &mut Report) -> Ended {
        let limit = self.limits.dial;
        let dialled = timeout(limit, self.dial()).await;
        let mut stream = match dialled.unwrap_or_else(|_| Err(no_answer(limit))) {
            Ok(stream) => stream,
            Err(error) => return Ended::NotReached(error),
        };
        report.upstream(self.connector.upstream(&stream));
        report.connected();
        let target = &self.target;
        let notice = |notice| {
            let (Notice::Here(refusal) | Notice::There(refusal)) = notice;
            tracing::info!(%target, reason = %refusal, "datagram not delivered");
        };
        let idle = Some(self.limits.udp_idle);
        let end = relay(&mut stream, &mut self.program, &self.queue, idle, notice).await;
        match end.reason {
            Reason::Idle => Ended::Idle,
            Reason::Ended => Ended::Eof,
            Reason::Failed(error) => Ended::Upstream(error),
        }
    }

    /// Opens the stream and sends the first datagram along, which saves it a round trip. Only the first: it fits into
    /// the credit of a new stream, whatever its length.
    async fn dial(&self) -> Result<C::Stream, DialError> {
        let mut stream = self.connector.open_flow(&self.target).await?;
        let mut first = BytesMut::new();
        if let Some(data) = self.queue.pop() {
            datagram::encode(&data, &mut first);
        }
        let written = async {
            stream.write_all(&first).await?;
            stream.flush().await
        }
        .await;
        // Asked first: a refusal is also why a write failed.
        let opened = self.connector.opened(&mut stream).await;
        if opened.is_err() || written.is_err() {
            self.queue.count_dropped(1);
        }
        opened?;
        written.map(|()| stream).map_err(|error| DialError {
            code: RefusalCode::Other,
            detail: format!("the flow was lost at once: {error}"),
        })
    }

    /// Drops what comes.
    async fn swallow(&self) -> Infallible {
        loop {
            drop(poll_fn(|cx| self.queue.poll_pop(cx)).await);
            self.queue.count_dropped(1);
        }
    }

    /// Drops what waits.
    fn discard(&self) {
        while self.queue.pop().is_some() {
            self.queue.count_dropped(1);
        }
    }

    /// Gives the log what was counted.
    fn tell(&self, report: &mut Report) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        report.moved(count(&self.counts.received), count(&self.counts.sent));
        report.dropped(count(&self.counts.lost) + self.queue.dropped());
    }
}
