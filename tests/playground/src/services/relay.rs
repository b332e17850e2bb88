//! One port of a Service: accepts on its address, dials a ready pod, copies both ways. UDP is [`datagrams`]'s.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Protocol, datagrams};
use crate::world::World;

#[derive(Debug)]
pub(super) struct Relay {
    targets_tx: watch::Sender<Vec<SocketAddr>>,
    _listener: DropGuard,
}

impl Relay {
    pub(super) fn bind(
        world: &Arc<World>,
        protocol: Protocol,
        address: SocketAddr,
        targets: Vec<SocketAddr>,
    ) -> io::Result<Self> {
        let (targets_tx, targets_rx) = watch::channel(targets);
        let stop = CancellationToken::new();
        let until = stop.clone();
        match protocol {
            Protocol::Tcp => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                let accepting = accept(Arc::clone(world), TcpListener::from_std(listener)?, targets_rx);
                world.spawn(async move {
                    until.run_until_cancelled(accepting).await;
                });
            }
            Protocol::Udp => {
                let socket = std::net::UdpSocket::bind(address)?;
                socket.set_nonblocking(true)?;
                let relaying = datagrams::relay(UdpSocket::from_std(socket)?, targets_rx);
                world.spawn(async move {
                    until.run_until_cancelled(relaying).await;
                });
            }
        }
        Ok(Self {
            targets_tx,
            _listener: stop.drop_guard(),
        })
    }

    pub(super) fn set_targets(&self, targets: Vec<SocketAddr>) {
        self.targets_tx.send_replace(targets);
    }
}

async fn accept(world: Arc<World>, listener: TcpListener, targets_rx: watch::Receiver<Vec<SocketAddr>>) {
    let mut turn = 0_usize;
    loop {
        let Ok((inbound, peer)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let targets = targets_rx.borrow().clone();
        if targets.is_empty() {
            continue;
        }
        let target = targets[turn % targets.len()];
        turn = turn.wrapping_add(1);
        world.spawn(async move {
            if let Err(error) = relay(inbound, peer, target).await {
                tracing::debug!(%peer, %target, %error, "service connection ended");
            }
        });
    }
}

/// Copies both ways; whatever goes wrong reaches the caller as a reset, as it would through NAT.
async fn relay(mut inbound: TcpStream, peer: SocketAddr, target: SocketAddr) -> io::Result<()> {
    inbound.set_nodelay(true)?;
    let result = async {
        let socket = TcpSocket::new_v4()?;
        // The caller's address is one of this machine's own, being loopback.
        socket.bind(SocketAddr::new(peer.ip(), 0))?;
        let mut outbound = socket.connect(target).await?;
        outbound.set_nodelay(true)?;
        let copied = copy_bidirectional(&mut inbound, &mut outbound).await;
        if copied.is_err() {
            outbound.set_zero_linger()?;
        }
        copied
    }
    .await;
    if let Err(error) = result {
        inbound.set_zero_linger()?;
        return Err(error);
    }
    Ok(())
}
