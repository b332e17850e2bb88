//! UDP sockets as edges of flows.
//!
//! A socket that is connected to its one peer ([`Connected`]) hears from the kernel when that port is closed (ICMP),
//! which an unconnected one never does. Peers that come by themselves share one socket, so that each gets its replies
//! from the port it called ([`Flows`]).

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{Interest, ReadBuf};
use tokio::net::UdpSocket;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tunnel_wire::Refusal;
use tunnel_wire::datagram::{Budget, MAX_DATAGRAM, Queue};
use tunnel_wire::flow::{Datagrams, Table};

use crate::socket_error;

/// Asked of the kernel for datagrams that wait for us. It gives what its limits allow (`rmem_max`, 208 KiB as a
/// rule); with less, more is lost in a burst, and that is all.
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// A socket that is connected to its peer.
pub struct Connected {
    socket: Arc<UdpSocket>,
    peer: SocketAddr,
    failure: Pin<Box<dyn Future<Output = io::Error> + Send>>,
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Connected {
    /// Connects a socket of its own to `peer`, from `from` if that is of the same family.
    ///
    /// # Errors
    /// There is no route, or no socket.
    pub async fn connect(from: Option<IpAddr>, peer: SocketAddr) -> io::Result<Self> {
        let any: IpAddr = if peer.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let from = from
            .filter(|from| from.is_ipv4() == peer.is_ipv4())
            .unwrap_or(any);
        let socket = UdpSocket::bind((from, 0)).await?;
        socket.connect(peer).await?;
        enlarge(&socket);
        let socket = Arc::new(socket);
        Ok(Self {
            failure: Box::pin(failure(Arc::clone(&socket))),
            socket,
            peer,
        })
    }

    /// Whom it is connected to.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
}

/// What the network says of a datagram sent before: it makes the socket neither readable nor writable.
async fn failure(socket: Arc<UdpSocket>) -> io::Error {
    loop {
        if let Err(error) = socket.ready(Interest::ERROR).await {
            return error;
        }
        let taken = socket.try_io(Interest::ERROR, || {
            socket
                .take_error()
                .and_then(|error| error.ok_or_else(|| io::ErrorKind::WouldBlock.into()))
        });
        match taken {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(error) | Err(error) => return error,
        }
    }
}

impl Datagrams for Connected {
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<(), Refusal>> {
        if let Poll::Ready(error) = self.failure.as_mut().poll(cx) {
            self.failure = Box::pin(failure(Arc::clone(&self.socket)));
            return Poll::Ready(Err(refusal(self.peer, &error)));
        }
        self.socket
            .poll_recv(cx, buf)
            .map_err(|error| refusal(self.peer, &error))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<Result<(), Refusal>> {
        self.socket
            .poll_send(cx, datagram)
            .map_ok(drop)
            .map_err(|error| refusal(self.peer, &error))
    }
}

/// A shared socket, toward one of its peers. What that peer sends is in the flow's queue.
pub struct Shared {
    socket: Arc<UdpSocket>,
    peer: SocketAddr,
    /// Waits for room in the socket. Its own: a socket that is polled by several flows wakes only the last of them.
    writable: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// `socket` has other peers as well.
    #[must_use]
    pub fn new(socket: Arc<UdpSocket>, peer: SocketAddr) -> Self {
        Self {
            socket,
            peer,
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

impl Datagrams for Shared {
    fn poll_receive(&mut self, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Pending
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<Result<(), Refusal>> {
        let sent = loop {
            match self.socket.try_send_to(datagram, self.peer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = ready!(self.poll_writable(cx)) {
                        break Err(error);
                    }
                }
                sent => break sent,
            }
        };
        Poll::Ready(sent.map(drop).map_err(|error| refusal(self.peer, &error)))
    }
}

/// A peer that has sent its first datagram, which is in the queue.
#[derive(Debug)]
pub struct NewFlow {
    /// Who.
    pub peer: SocketAddr,
    /// What it sends.
    pub queue: Queue,
    /// The way back to it.
    pub edge: Shared,
}

/// The flows of one shared socket. Dropping it ends them.
#[derive(Debug)]
pub struct Flows {
    socket: Arc<UdpSocket>,
    table: Table,
    tasks: JoinSet<(SocketAddr, Queue)>,
}

impl Flows {
    /// Flows that take one of `places` each, and whose queues share `budget`.
    #[must_use]
    pub fn new(socket: UdpSocket, places: Budget, budget: Budget) -> Self {
        enlarge(&socket);
        Self {
            socket: Arc::new(socket),
            table: Table::new(places, budget),
            tasks: JoinSet::new(),
        }
    }

    /// Receives for ever, and runs what `serve` makes of each new flow. An error of the socket is about one earlier
    /// datagram, and no reason to stop.
    pub async fn run<T>(&mut self, serve: impl Fn(NewFlow) -> T) -> Infallible
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let mut room = vec![0; MAX_DATAGRAM + 1];
        loop {
            tokio::select! {
                received = self.socket.recv_from(&mut room) => {
                    let Ok((length, peer)) = received else { continue };
                    if let Some(queue) = self.table.deliver(peer, &room[..length], Instant::now()) {
                        let edge = Shared::new(Arc::clone(&self.socket), peer);
                        let served = serve(NewFlow { peer, queue: queue.clone(), edge });
                        self.tasks.spawn(async move {
                            served.await;
                            (peer, queue)
                        });
                    }
                }
                Some(ended) = self.tasks.join_next() => {
                    self.ended(ended);
                }
            }
        }
    }

    /// Waits until the last flow has ended; none begins any more.
    pub async fn finish(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            self.ended(ended);
        }
    }

    fn ended(&mut self, ended: Result<(SocketAddr, Queue), JoinError>) {
        if let Ok((peer, queue)) = ended {
            self.table.end(peer, &queue);
        }
    }

    /// Datagrams of peers for whom there was no room.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.table.refused()
    }
}

/// A failed call as what travels to the other end.
fn refusal(peer: SocketAddr, error: &io::Error) -> Refusal {
    let code = socket_error::code(error);
    Refusal::new(code, format!("udp {peer}: {}", socket_error::words(error)))
}

/// Asks for room for a burst of datagrams.
pub fn enlarge(socket: &UdpSocket) {
    rustix::net::sockopt::set_socket_recv_buffer_size(socket, RECEIVE_BUFFER).ok();
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tunnel_wire::RefusalCode;

    use super::*;

    async fn receive(edge: &mut Connected) -> Result<Vec<u8>, Refusal> {
        let mut room = vec![0; 100];
        let mut buf = ReadBuf::new(&mut room);
        poll_fn(|cx| edge.poll_receive(cx, &mut buf)).await?;
        Ok(buf.filled().to_vec())
    }

    #[tokio::test]
    async fn a_closed_port_is_heard_of_without_another_datagram() {
        let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let peer = closed.local_addr().unwrap();
        drop(closed);
        let mut edge = Connected::connect(None, peer).await.unwrap();
        poll_fn(|cx| edge.poll_send(cx, b"x")).await.unwrap();
        let refusal = receive(&mut edge).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::ConnectionRefused);
        assert_eq!(refusal.detail, format!("udp {peer}: connection refused"));

        let open = UdpSocket::bind(peer).await.unwrap();
        poll_fn(|cx| edge.poll_send(cx, b"y")).await.unwrap();
        let (_, from) = open.recv_from(&mut [0; 2]).await.unwrap();
        open.send_to(b"z", from).await.unwrap();
        assert_eq!(receive(&mut edge).await.unwrap(), b"z");
    }

    #[tokio::test]
    async fn peers_of_a_shared_socket_get_their_own_replies() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut flows = Flows::new(socket, Budget::of(8), Budget::default());
        let echo = |mut flow: NewFlow| async move {
            loop {
                let datagram = poll_fn(|cx| flow.queue.poll_pop(cx)).await;
                poll_fn(|cx| flow.edge.poll_send(cx, &datagram)).await.unwrap();
            }
        };
        let calls = async {
            let mut callers = Vec::new();
            for number in 0..8u8 {
                let caller = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                caller.send_to(&[number], address).await.unwrap();
                callers.push((caller, number));
            }
            for (caller, number) in callers {
                let mut reply = [0];
                caller.recv(&mut reply).await.unwrap();
                assert_eq!(reply, [number]);
            }
        };
        tokio::select! {
            never = flows.run(echo) => match never {},
            () = calls => {}
        }
    }
}
