//! One TCP connection at the pod's edge, to an upstream or from a caller.
//!
//! A connection that ends early must look like a failure to its other end, never like a complete answer. So
//! each socket is set to reset on close from its first moment (`SO_LINGER` 0), and only a relay whose both
//! directions ended takes that back. A session that is cut off, a dropped task and a killed agent then all
//! reset, without anybody having to think of it.

use std::io;

use tokio::net::TcpStream;
use tunnel_wire::Stream;
use tunnel_wire::relay::Side;

use crate::socket_error;

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
