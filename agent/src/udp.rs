//! UDP at the pod's edge: flows to upstreams, and flows of callers to an exposed port.
//!
//! Each flow is one stream. The plugin ends idle flows; here a flow ends with its stream.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::UdpSocket;
use tunnel_edge::socket_error;
use tunnel_edge::udp::{Flows, NewFlow};
use tunnel_wire::datagram::Queue;
use tunnel_wire::flow::relay;
use tunnel_wire::{Open, Protocol, Refusal, Stream};

use crate::dial::{Request, dial_udp};
use crate::listen::{Binding, is_without_ipv6};
use crate::streams::Serving;

/// Connects to the upstream and relays until the stream ends.
pub(crate) async fn dial_and_relay(serving: &Serving, request: &Request, mut stream: Stream) {
    let dialled = tokio::select! {
        dialled = dial_udp(&serving.config, request) => dialled,
        () = stream.failed() => return,
    };
    let mut edge = match dialled {
        Ok(edge) => edge,
        Err(error) => return stream.refuse(error.refusal()).await,
    };
    if stream.accept_at(Some(edge.peer())).await.is_err() {
        return;
    }
    let queue = Queue::new(serving.datagrams.clone());
    // What could not be delivered is in the stream, where the plugin reads it.
    drop(relay(&mut stream, &mut edge, &queue, None, |_| ()).await);
}

/// Serves one exposed port until `stream`, which asked for it, has ended, and then its last flows.
pub(crate) async fn listen(serving: &Arc<Serving>, binding: Binding, mut stream: Stream) {
    let socket = match bind(binding.address, binding.port).await {
        Ok(socket) => socket,
        Err(error) => {
            let detail = format!(
                "listen on udp port {}: {}",
                binding.port,
                socket_error::words(&error)
            );
            let refusal = Refusal::new(socket_error::code(&error), detail);
            return stream.refuse(refusal).await;
        }
    };
    if stream.accept_at(socket.local_addr().ok()).await.is_err() {
        return;
    }
    serving.log.info(
        "listening for datagrams",
        &[("listener", &binding.listener), ("port", &binding.port)],
    );
    let mut flows = Flows::new(socket, serving.flows.clone(), serving.datagrams.clone());
    tokio::select! {
        never = flows.run(|flow| caller(Arc::clone(serving), binding.listener, flow)) => match never {},
        () = stream.ended() => {}
    }
    drop(stream.shutdown().await);
    serving.log.info(
        "listener closed",
        &[("listener", &binding.listener), ("refused", &flows.refused())],
    );
    // Who waits for an answer gets it.
    flows.finish().await;
}

/// One caller's flow. A plugin that does not want it has nobody to send to; the next datagram asks again.
async fn caller(serving: Arc<Serving>, listener: u16, mut flow: NewFlow) {
    let open = Open::Accepted {
        protocol: Protocol::Udp,
        listener,
        peer: SocketAddr::new(flow.peer.ip().to_canonical(), flow.peer.port()),
    };
    let opened = tokio::select! {
        opened = serving.session.open(&open) => opened,
        () = flow.queue.closed() => return,
    };
    if let Ok(mut stream) = opened {
        drop(relay(&mut stream, &mut flow.edge, &flow.queue, None, |_| ()).await);
    }
}

async fn bind(address: Option<IpAddr>, port: u16) -> io::Result<UdpSocket> {
    match address {
        Some(address) => UdpSocket::bind((address, port)).await,
        // Linux: an IPv6 socket takes IPv4 as well, unless the node's administrator has decided otherwise.
        None => match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).await {
            Err(error) if is_without_ipv6(&error) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).await,
            bound => bound,
        },
    }
}
