//! The UDP socket of a local port: a flow for each peer, each a stream of datagrams.
//!
//! A flow whose target was not reached stays for a moment and swallows what comes: a program that sends thousands of
//! datagrams a second to a dead name must not open a stream for each.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;
use tunnel_edge::udp::{Flows, NewFlow};
use tunnel_wire::Stream;
use tunnel_wire::datagram::Budget;
use tunnel_wire::flow::{Notice, Reason, relay};

use super::dial::{Connection, Dial};
use super::{Route, Ways};
use crate::cluster::upstream::{ChosenPod, Upstream};

/// How long a peer whose target was not reached is not listened to.
const SWALLOW: Duration = Duration::from_secs(1);

/// Serves one socket until `drain` is cancelled. Datagrams have no end to wait for: what a flow still does then is lost.
pub(super) async fn serve(
    socket: UdpSocket,
    route: Arc<Route>,
    ways: Arc<Ways>,
    (places, budget): (Budget, Budget),
    drain: CancellationToken,
) {
    let dropping = ways.door.traffic().clone();
    let mut flows = Flows::new(socket, places, budget);
    tokio::select! {
        never = flows.run(|flow| serve_flow(flow, Arc::clone(&route), Arc::clone(&ways))) => match never {},
        () = drain.cancelled() => {}
    }
    if flows.refused() > 0 {
        info!(
            target = route.label,
            datagrams = flows.refused(),
            "dropped: too many peers"
        );
        dropping.dropped(flows.refused());
    }
}

async fn serve_flow(mut flow: NewFlow, route: Arc<Route>, ways: Arc<Ways>) {
    let began = Instant::now();
    let peer = flow.peer;
    match relay_flow(&mut flow, &route, &ways).await {
        Ok(done) => info!(
            %peer, target = route.label, upstream = done.upstream, received = done.received, sent = done.sent,
            dropped = done.dropped, elapsed = ?began.elapsed(), reason = done.reason, "flow closed"
        ),
        Err(error) => {
            info!(%peer, target = route.label, reason = %error, "flow not reached");
            if !flow.queue.is_closed() {
                route.tell(&ways.say, &error.to_string());
            }
            drop(timeout(SWALLOW, flow.queue.closed()).await);
        }
    }
}

/// What the log says of a flow, as the program sees it.
struct Done {
    upstream: String,
    received: u64,
    sent: u64,
    dropped: u64,
    reason: String,
}

async fn relay_flow(flow: &mut NewFlow, route: &Arc<Route>, ways: &Ways) -> io::Result<Done> {
    let (mut stream, pod) = tokio::select! {
        opened = open(route, ways) => opened?,
        () = flow.queue.closed() => return Err(io::Error::other("made room for another flow")),
    };
    let upstream = stream
        .upstream()
        .map_or_else(|| "-".to_owned(), |address| address.to_string());
    let notice = |notice| {
        let (Notice::Here(refusal) | Notice::There(refusal)) = notice;
        route.tell(&ways.say, &refusal.to_string());
    };
    let mut counted = ways.door.traffic().counted(&mut *stream);
    let relayed = relay(
        &mut counted,
        &mut flow.edge,
        &flow.queue,
        Some(ways.udp_idle),
        notice,
    );
    let mut relayed = std::pin::pin!(relayed);
    let mut pod_lost = false;
    let end = tokio::select! {
        end = &mut relayed => end,
        () = lost(route, pod.as_ref()) => {
            pod_lost = true;
            // The next datagram begins another flow, to another pod.
            flow.queue.close();
            relayed.await
        }
    };
    ways.door.traffic().dropped(end.dropped);
    Ok(Done {
        upstream,
        received: end.sent,
        sent: end.received,
        dropped: end.dropped,
        reason: match end.reason {
            _ if pod_lost => "the pod is gone".to_owned(),
            Reason::Idle => "idle".to_owned(),
            Reason::MadeRoom => "made room for another flow".to_owned(),
            Reason::Ended => "ended by the agent".to_owned(),
            Reason::Failed(error) => error.to_string(),
        },
    })
}

/// A stream whose upstream is connected, and the pod that is, if it is one.
async fn open(route: &Arc<Route>, ways: &Ways) -> io::Result<(Box<Stream>, Option<ChosenPod>)> {
    let mut dial = Dial::new(route, ways);
    let (mut stream, pod) = match dial.open().await? {
        Connection::Agent(stream) => (stream, dial.pod()),
        // Refused when the targets were looked up: it carries no datagrams.
        Connection::Pod { .. } => return Err(io::ErrorKind::Unsupported.into()),
    };
    ways.door.opened(&mut stream).await.map_err(io::Error::other)?;
    Ok((stream, pod))
}

/// Resolves when the pod that was chosen is none to send to any more.
async fn lost(route: &Route, pod: Option<&ChosenPod>) {
    match (&route.upstream, pod) {
        (Upstream::Pods { group, .. }, Some(pod)) => group.lost(pod).await,
        (Upstream::Pods { .. } | Upstream::Name { .. }, _) => std::future::pending().await,
    }
}
