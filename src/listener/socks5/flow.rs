//! One flow of an association: the datagrams between its program and one target, as a stream of the session.
//!
//! Owns the flow from its dial to its line in the log. Who may send and which datagram is for which flow is decided by
//! `associate`, which puts the data into the queue.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncWriteExt as _, ReadBuf};
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tunnel_edge::udp::Shared;
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

/// What a flow moved. Counted here and not by the relay, which says nothing when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Counts {
    received: AtomicU64,
    sent: AtomicU64,
    lost: AtomicU64,
}

impl Counts {
    /// The program sent so many bytes.
    pub(super) fn received(&self, length: usize) {
        self.received.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// The way back to the program: its end of the association's socket, with the header of the target in front.
#[derive(Debug)]
pub(super) struct Program {
    edge: Shared,
    header: Box<[u8]>,
    counts: Arc<Counts>,
}

impl Program {
    pub(super) fn new(
        socket: Arc<UdpSocket>,
        address: SocketAddr,
        header: Box<[u8]>,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            edge: Shared::new(socket, address),
            header,
            counts,
        }
    }
}

impl Datagrams for Program {
    /// What the program sends is in the flow's queue.
    fn poll_receive(&mut self, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Pending
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<(), Refusal>> {
        let datagram = [&self.header, data].concat();
        let sent = ready!(self.edge.poll_send(cx, &datagram));
        match &sent {
            Ok(()) => self.counts.sent.fetch_add(data.len() as u64, Ordering::Relaxed),
            Err(_) => self.counts.lost.fetch_add(1, Ordering::Relaxed),
        };
        Poll::Ready(sent)
    }
}

/// A target that was called for the first time; the datagram is in the queue.
pub(super) struct NewFlow<C> {
    pub(super) connector: C,
    pub(super) limits: Limits,
    pub(super) target: Target,
    pub(super) program: Program,
    /// Closed when another flow needs the room.
    pub(super) queue: Queue,
    pub(super) counts: Arc<Counts>,
    /// The association has ended.
    pub(super) over: CancellationToken,
}

/// Serves a flow to its end, and logs it. Returns how many datagrams were swallowed afterwards.
pub(super) async fn serve<C: Connect>(mut flow: NewFlow<C>) -> u64 {
    let mut report = Report::new();
    report.begin("UDP");
    report.target(&flow.target);
    let (queue, over) = (flow.queue.clone(), flow.over.clone());
    let ended = tokio::select! {
        ended = flow.run(&mut report) => ended,
        () = queue.closed() => Ended::MadeRoom,
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
        () = queue.closed() => {}
        () = over.cancelled() => {}
    }
    flow.discard();
    let swallowed = flow.queue.dropped() - told;
    flow.connector.dropped(swallowed);
    swallowed
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
            Reason::MadeRoom => Ended::MadeRoom,
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
        let dropped = count(&self.counts.lost) + self.queue.dropped();
        report.dropped(dropped);
        self.connector.dropped(dropped);
    }
}
