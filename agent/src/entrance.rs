//! The entrance: a port of the pod's loopback where transports come by the API's port-forward.
//!
//! It takes connections and lets them prove that they are the plugin's (`tunnel_wire::entrance`); what is proven is, to
//! `agent`, a transport of the session that lives. It can neither begin a session nor take one over: its key is the
//! secret which that session's plugin has proven over exec, and without one nobody gets a byte.
//!
//! ```text
//!   connection --more than a few at it--> closed
//!       |
//!       '--> proofs --wrong, slow, no session, another link--> closed without a word
//!               '--> echoes, hello --> agent
//! ```
//!
//! Log lines have no way to people here: while such a transport is the newest, they go to the container's log alone.

use std::io;
use std::net::IpAddr;

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tunnel_wire::entrance::{self, Key, Nonce};

use crate::agent::Transport;
use crate::attachments::ACCEPT_PAUSE;
use crate::live::Proven;

/// The listening port.
#[derive(Debug)]
pub struct Entrance {
    listener: TcpListener,
    port: u16,
}

impl Entrance {
    /// Takes a free port of this address, which no other pod reaches.
    pub async fn bind(address: IpAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }

    /// The port, for the hello's answer.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The next connection. Safe to drop and call again.
    pub(crate) async fn accept(&self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((connection, _)) => return connection,
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }
}

/// Lets a connection prove itself. Whoever fails is told nothing.
pub(crate) async fn prove(connection: TcpStream, key: Option<Key>) -> Option<Proven> {
    let nonce = nonce()?;
    // Without it the end of each transfer would wait for an acknowledgement.
    connection.set_nodelay(true).ok()?;
    let (reader, writer) = connection.into_split();
    let mut transport = Transport {
        reader: Box::new(reader),
        writer: Box::new(writer),
        lines: mpsc::channel(1).0,
        gone: CancellationToken::new(),
    };
    let admitted = entrance::admit(&mut transport.reader, &mut transport.writer, nonce, key).await;
    let hello = admitted.ok()?;
    Some(Proven { transport, hello })
}

/// `None` while the system has no randomness to give, which is at its start at most.
fn nonce() -> Option<Nonce> {
    let mut nonce = [0; 32];
    let filled = getrandom(&mut nonce[..], GetRandomFlags::NONBLOCK).ok()?;
    (filled == nonce.len()).then_some(nonce)
}
