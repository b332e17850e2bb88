//! One TCP connection at the pod's edge, to an upstream or from a caller.
//!
//! A connection that ends early must look like a failure to its other end, never like a complete answer. So
//! each socket is set to reset on close from its first moment (`SO_LINGER` 0), and only a relay whose both
//! directions ended takes that back. A session that is cut off, a dropped task and a killed agent then all
//! reset, without anybody having to think of it.

use std::io;
use std::net::SocketAddr;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tunnel_edge::socket_error;
use tunnel_wire::Stream;
use tunnel_wire::relay::Side;

/// A TCP connection that is reset when dropped.
#[derive(Debug)]
pub(crate) struct Edge {
    tcp: TcpStream,
}

impl Edge {
    /// Takes a connection over: no delay of small writes, reset on close.
    pub(crate) fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_zero_linger()?;
        tcp.set_nodelay(true)?;
        Ok(Self { tcp })
    }

    /// The other end's address.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.tcp.peer_addr().ok()
    }

    /// Waits until the other end is gone: it reset the connection, or ended it without a word. One that said
    /// something and ended its direction may wait for the answer.
    pub(crate) async fn left(&self) {
        if matches!(self.tcp.peek(&mut [0]).await, Ok(1..)) {
            // It fails only without a runtime.
            drop(self.tcp.ready(Interest::ERROR).await);
        }
    }

    /// Relays until both directions have ended. A failure of one side resets or aborts the other one.
    pub(crate) async fn relay(mut self, mut stream: Stream) {
        let end = tunnel_wire::relay(&mut stream, &mut self.tcp).await;
        match end.result {
            Ok(()) => self.finish(),
            Err(error) => match error.side {
                // The stream is gone already; dropping the connection resets it.
                Side::A => {}
                Side::B => stream.abort(&socket_error::words(&error.source)),
            },
        }
    }

    /// Both ends have said all: what the kernel still holds is delivered after the close.
    fn finish(self) {
        // Failing here can only mean that the other end is gone, and then nothing waits for delivery.
        rustix::net::sockopt::set_socket_linger(&self.tcp, None).ok();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, Edge) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), Edge::new(far.unwrap().0).unwrap())
    }

    #[tokio::test]
    async fn one_that_ends_without_a_word_or_resets_has_left() {
        let (near, edge) = pair().await;
        drop(near);
        edge.left().await;

        let (mut near, edge) = pair().await;
        near.write_all(b"x").await.unwrap();
        near.set_zero_linger().unwrap();
        drop(near);
        edge.left().await;
    }

    #[tokio::test]
    async fn one_that_waits_for_an_answer_has_not_left_until_it_resets() {
        let (mut near, edge) = pair().await;
        near.write_all(b"x").await.unwrap();
        near.shutdown().await.unwrap();
        edge.tcp.ready(Interest::READABLE).await.unwrap();
        tokio::select! {
            biased;
            () = edge.left() => panic!("it waits for an answer"),
            () = tokio::task::yield_now() => {}
        }
        near.set_zero_linger().unwrap();
        drop(near);
        edge.left().await;
    }
}
