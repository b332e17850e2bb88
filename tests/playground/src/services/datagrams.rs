//! One UDP port of a Service: each caller's address gets a socket of its own toward one ready pod, and keeps that
//! pod for as long as it is ready, as kube-proxy's NAT does.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// How long a flow without answers is kept, as NAT forgets one.
const IDLE: Duration = Duration::from_secs(60);

/// Room for any datagram.
const ROOM: usize = 1 << 16;

struct Flow {
    socket: Arc<UdpSocket>,
    target: SocketAddr,
    answers: AbortHandle,
}

/// Serves the port for ever.
pub(super) async fn relay(socket: UdpSocket, targets_rx: watch::Receiver<Vec<SocketAddr>>) {
    let socket = Arc::new(socket);
    let mut flows: HashMap<SocketAddr, Flow> = HashMap::new();
    let mut answers = JoinSet::new();
    let mut room = vec![0; ROOM];
    let mut turn = 0_usize;
    loop {
        let (length, peer) = tokio::select! {
            received = socket.recv_from(&mut room) => match received {
                Ok(received) => received,
                // About an answer sent before.
                Err(_) => continue,
            },
            Some(ended) = answers.join_next() => {
                if let Ok(peer) = ended {
                    flows.remove(&peer);
                }
                continue;
            }
        };
        let targets = targets_rx.borrow().clone();
        if !flows
            .get(&peer)
            .is_some_and(|flow| targets.contains(&flow.target))
        {
            if let Some(old) = flows.remove(&peer) {
                old.answers.abort();
            }
            if targets.is_empty() {
                continue;
            }
            let target = targets[turn % targets.len()];
            turn = turn.wrapping_add(1);
            match connect(peer, target).await {
                Ok(connected) => {
                    let connected = Arc::new(connected);
                    let answers = answers.spawn(answer(Arc::clone(&connected), Arc::clone(&socket), peer));
                    let flow = Flow {
                        socket: connected,
                        target,
                        answers,
                    };
                    flows.insert(peer, flow);
                }
                Err(error) => tracing::debug!(%peer, %target, %error, "service flow not made"),
            }
        }
        if let Some(flow) = flows.get(&peer) {
            // What cannot be sent is lost, as on any network.
            drop(flow.socket.send(&room[..length]).await);
        }
    }
}

async fn connect(peer: SocketAddr, target: SocketAddr) -> io::Result<UdpSocket> {
    // The caller's address is one of this machine's own, being loopback.
    let socket = UdpSocket::bind((peer.ip(), 0)).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// Brings the pod's answers back until there are none for a while.
async fn answer(from: Arc<UdpSocket>, to: Arc<UdpSocket>, peer: SocketAddr) -> SocketAddr {
    let mut room = vec![0; ROOM];
    while let Ok(received) = timeout(IDLE, from.recv(&mut room)).await {
        // A pod that does not listen yet refuses; the flow goes on.
        if let Ok(length) = received {
            drop(to.send_to(&room[..length], peer).await);
        }
    }
    peer
}
