//! Flows of datagrams from the callers of an exposed port to their local program, each from a socket of its own.
//!
//! The agent makes a flow of each caller's address; which one has been idle for too long is decided here. A flow has
//! no end to wait for: once the session drains, all of them end. A local program that is down is said once a flow,
//! which goes on, since the program may come back.

use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use tunnel_edge::udp::Connected;
use tunnel_wire::datagram::{Budget, Queue};
use tunnel_wire::flow::{Datagrams, Notice, Reason, relay};
use tunnel_wire::{Refusal, Stream};

use super::{Gate, program};
use crate::cli::port::Program;
use crate::traffic::{Traffic, kind};

/// How long the datagrams of a caller are swallowed when its program's name leads nowhere: each would open a stream
/// otherwise.
const SWALLOW: Duration = Duration::from_secs(1);

/// Who calls whom, and how long they may be silent.
pub(super) struct Flow<'a> {
    pub(super) peer: SocketAddr,
    pub(super) program: &'a Program,
    pub(super) idle: Duration,
    /// What waits in all flows of the session.
    pub(super) budget: Budget,
    pub(super) traffic: Traffic,
}

/// Serves one flow until it is idle, its stream has ended, or `drain` is cancelled.
pub(super) async fn serve(flow: Flow<'_>, mut stream: Stream, gate: &Gate, drain: &CancellationToken) {
    let connected = async {
        if !gate.pass_flow(&mut stream).await {
            return None;
        }
        Some(program::connect_udp(flow.program).await)
    };
    let socket = match drain.run_until_cancelled(connected).await.flatten() {
        Some(Ok(socket)) => socket,
        Some(Err(refusal)) => {
            info!(peer = %flow.peer, target = %flow.program, reason = %refusal, "flow not reached");
            flow.traffic.failed(kind(refusal.code));
            drain.run_until_cancelled(sleep(SWALLOW)).await;
            return stream.refuse(refusal).await;
        }
        None => return,
    };
    if stream.accept().await.is_err() {
        return;
    }
    relay_flow(&flow, socket, &mut stream, drain).await;
}

async fn relay_flow(flow: &Flow<'_>, socket: Connected, stream: &mut Stream, drain: &CancellationToken) {
    let Flow { peer, program, .. } = flow;
    debug!(%peer, target = %program, "flow opened");
    let began = Instant::now();
    let queue = Queue::new(flow.budget.clone());
    let mut edge = Counted {
        socket,
        received: 0,
        sent: 0,
        refused: 0,
    };
    let told = |notice| {
        let (Notice::Here(refusal) | Notice::There(refusal)) = notice;
        info!(%peer, target = %program, reason = %refusal, "datagram not delivered");
    };
    let mut carried = flow.traffic.counted(stream);
    let relayed = relay(&mut carried, &mut edge, &queue, Some(flow.idle), told);
    let reason = match drain.run_until_cancelled(relayed).await.map(|end| end.reason) {
        Some(Reason::Idle) => "idle".to_owned(),
        Some(Reason::MadeRoom) => "made room for another flow".to_owned(),
        Some(Reason::Ended) => "ended by the agent".to_owned(),
        Some(Reason::Failed(error)) => error.to_string(),
        None => "the session ends".to_owned(),
    };
    let dropped = queue.dropped() + edge.refused;
    flow.traffic.dropped(dropped);
    info!(
        %peer, target = %program, received = edge.received, sent = edge.sent, dropped,
        elapsed = ?began.elapsed(), reason, "flow closed"
    );
}

/// The program's socket, and what went through it, which is told even of a flow that is cut.
struct Counted {
    socket: Connected,
    /// Bytes from the caller.
    received: u64,
    /// Bytes to the caller.
    sent: u64,
    /// Datagrams that the system did not take.
    refused: u64,
}

impl Datagrams for Counted {
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<(), Refusal>> {
        let before = buf.filled().len();
        let received = self.socket.poll_receive(cx, buf);
        self.sent += (buf.filled().len() - before) as u64;
        received
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<Result<(), Refusal>> {
        let sent = self.socket.poll_send(cx, datagram);
        match &sent {
            Poll::Ready(Ok(())) => self.received += datagram.len() as u64,
            Poll::Ready(Err(_)) => self.refused += 1,
            Poll::Pending => {}
        }
        sent
    }
}
