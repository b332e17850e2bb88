//! Listeners of the reverse direction: what connects to the pod's port becomes a stream toward the plugin.
//!
//! A listener lives as long as the stream that asked for it; its connections may outlive it, so that ending an
//! `expose` cuts nobody off in the middle. Nothing a caller does ends a listener, and neither does a lost
//! transport: who calls meanwhile, or has no answer yet, is held for a while, then reset. What happens with a
//! connection that the plugin does not want is `edge`'s promise: it is reset at once.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tunnel_edge::socket_error;
use tunnel_wire::link::Health;
use tunnel_wire::{Answer, Open, Protocol, Refusal, Stream};

use crate::edge::Edge;
use crate::streams::Serving;

/// Callers that may wait in the kernel for the accept loop. The kernel's own limit is 4,096.
const BACKLOG: u32 = 1024;

/// First and longest pause after an accept that failed, when waiting is all that helps (no file descriptor
/// left). Doubles in between.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Which listener, and where it binds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Binding {
    /// The plugin's number for it, which comes back with each connection.
    pub(crate) listener: u16,
    /// The address to bind; none means every address of both families.
    pub(crate) address: Option<IpAddr>,
    /// The port to bind; 0 means any free one, which only the log tells.
    pub(crate) port: u16,
}

/// Serves one listener until `stream`, which asked for it, has ended, and then its last connections.
pub(crate) async fn listen(serving: &Arc<Serving>, binding: Binding, mut stream: Stream) {
    let tcp = match bind(binding.address, binding.port) {
        Ok(tcp) => tcp,
        Err(error) => {
            let detail = format!("listen on port {}: {}", binding.port, socket_error::words(&error));
            stream
                .refuse(Refusal::new(socket_error::code(&error), detail))
                .await;
            return;
        }
    };
    let local = tcp.local_addr().ok();
    if stream.accept_at(local).await.is_err() {
        return;
    }
    let address = local.map_or_else(|| binding.port.to_string(), |address| address.to_string());
    serving.log.info(
        "listening",
        &[("listener", &binding.listener), ("address", &address)],
    );

    let mut connections = JoinSet::new();
    tokio::select! {
        never = accept(&tcp, serving, binding.listener, &mut connections) => match never {},
        () = stream.ended() => {}
    }
    drop(tcp);
    // An answer to the end; when the stream is gone already there is nobody to answer.
    drop(stream.shutdown().await);
    serving.log.info(
        "listener closed",
        &[("listener", &binding.listener), ("address", &address)],
    );
    while connections.join_next().await.is_some() {}
}

fn bind(address: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
    match address {
        Some(address) => bind_to(SocketAddr::new(address, port)),
        None => match bind_to(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)) {
            Err(error) if is_without_ipv6(&error) => {
                bind_to(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
            }
            bound => bound,
        },
    }
}

/// No IPv6 in this kernel, or none in this pod.
pub(crate) fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
    )
}

fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if address.is_ipv6() && address.ip().is_unspecified() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts for ever: no error of an accept is a reason to stop.
async fn accept(
    tcp: &TcpListener,
    serving: &Arc<Serving>,
    listener: u16,
    connections: &mut JoinSet<()>,
) -> Infallible {
    let mut pause = None;
    loop {
        let accepted = tokio::select! {
            accepted = tcp.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((tcp, peer)) => {
                pause = None;
                let serving = Arc::clone(serving);
                connections.spawn(async move { connection(&serving, listener, tcp, peer).await });
            }
            // The caller was gone before it was accepted: nothing to wait for.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                let (first, longest) = ACCEPT_PAUSE;
                if pause.is_none() {
                    serving.log.warn(
                        "accept fails, callers wait",
                        &[("listener", &listener), ("error", &socket_error::words(&error))],
                    );
                }
                let length = pause.map_or(first, |pause: Duration| longest.min(pause * 2));
                pause = Some(length);
                tokio::time::sleep(length).await;
            }
        }
    }
}

async fn connection(serving: &Serving, listener: u16, tcp: TcpStream, peer: SocketAddr) {
    // Dropping the connection resets it, whatever is missing: the socket, the session or the program behind it.
    let Ok(edge) = Edge::new(tcp) else { return };
    if !hold(serving, &edge).await {
        return;
    }
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let open = Open::Accepted {
        protocol: Protocol::Tcp,
        listener,
        peer,
    };
    let opened = tokio::select! {
        opened = serving.session.open(&open) => opened,
        () = unanswered(serving, None) => return,
    };
    let Ok(stream) = opened else { return };
    let answer = stream.answer();
    tokio::select! {
        () = edge.relay(stream) => {}
        () = unanswered(serving, Some(&answer)) => {}
    }
}

/// Waits while there is no transport, and tells whether there is one now. A transport that is merely slow is no
/// reason to wait here: the link keeps what it does not take.
async fn hold(serving: &Serving, edge: &Edge) -> bool {
    let mut health_rx = serving.link.health();
    if *health_rx.borrow() != Health::Detached {
        return true;
    }
    let Ok(_permit) = serving.holds.try_acquire() else {
        return false;
    };
    tokio::select! {
        back = back(serving, &mut health_rx) => back,
        () = edge.left() => false,
    }
}

/// Resolves when the transport has been away for as long as callers are held, and the plugin has not answered before:
/// it may have been lost under the open as well as before it.
async fn unanswered(serving: &Serving, answer: Option<&Answer>) {
    let mut health_rx = serving.link.health();
    while is_detached(&mut health_rx, true).await {
        if !back(serving, &mut health_rx).await {
            if answer.is_some_and(Answer::is_here) {
                break;
            }
            return;
        }
    }
    // The relay tells when that is over.
    std::future::pending::<()>().await;
}

/// Waits for a transport for as long as callers are held, and tells whether there is one.
async fn back(serving: &Serving, health_rx: &mut watch::Receiver<Health>) -> bool {
    timeout(serving.config.hold, is_detached(health_rx, false))
        .await
        .unwrap_or(false)
}

/// Waits until there is no transport, or one; `false` when the link is gone.
async fn is_detached(health_rx: &mut watch::Receiver<Health>, detached: bool) -> bool {
    let is = |health: &Health| (*health == Health::Detached) == detached;
    health_rx.wait_for(is).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_an_address_both_families_are_bound() {
        let tcp = bind(None, 0).unwrap();
        let port = tcp.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        if tcp.local_addr().unwrap().is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error() {
        let address = IpAddr::from([127, 8, 99, 1]);
        let tcp = bind(Some(address), 0).unwrap();
        let error = bind(Some(address), tcp.local_addr().unwrap().port()).unwrap_err();
        assert_eq!(socket_error::code(&error), tunnel_wire::RefusalCode::AddressInUse);
    }
}
