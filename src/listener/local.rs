//! The local end of one connection: the program that connected to us, with what it sent but nobody took.
//!
//! Unless it is closed on purpose, it is reset: whatever ends the connection's task early (an error, a panic,
//! the end of the session) can then never look like a proper end of the data. A unix socket cannot say so;
//! see [`Socket::reset_on_close`].

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::prefixed::Prefixed;
use super::socket::Socket;

/// Room made for one read, in bytes.
pub(super) const READ: usize = 16 * 1024;

/// How much is read ahead of what can be passed on, in bytes.
const READ_AHEAD: usize = 64 * 1024;

/// An accepted connection.
#[derive(Debug)]
pub(super) struct Local {
    stream: Socket,
    /// Read and not yet used.
    pub(super) buf: BytesMut,
    /// The TCP address it connected to; none at a unix socket.
    pub(super) own: Option<SocketAddr>,
    /// Bytes read so far.
    pub(super) received: u64,
    /// Bytes written so far.
    pub(super) sent: u64,
    closed: bool,
}

impl Local {
    pub(super) fn new(stream: Socket) -> io::Result<Self> {
        stream.set_nodelay()?;
        let own = stream.own()?;
        Ok(Self {
            stream,
            buf: BytesMut::new(),
            own,
            received: 0,
            sent: 0,
            closed: false,
        })
    }

    /// The TCP address of the program; none at a unix socket.
    pub(super) fn peer(&self) -> io::Result<Option<SocketAddr>> {
        self.stream.peer()
    }

    /// Reads more into `buf`; 0 is the end. Nothing is lost when dropped before it is done.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        self.split().0.fill().await
    }

    /// Reads until `buf` holds that many bytes.
    pub(super) async fn fill_to(&mut self, length: usize) -> io::Result<()> {
        while self.buf.len() < length {
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.split().1.write_all(bytes).await
    }

    /// Both directions, to be used at once.
    pub(super) fn split(&mut self) -> (LocalReader<'_>, LocalWriter<'_>) {
        let reader = LocalReader {
            stream: &self.stream,
            buf: &mut self.buf,
            received: &mut self.received,
        };
        (
            reader,
            LocalWriter {
                stream: &self.stream,
                sent: &mut self.sent,
            },
        )
    }

    /// The connection as a byte stream that starts with what is in `buf`.
    pub(super) fn raw(&mut self) -> Prefixed<&mut Socket> {
        Prefixed::new(std::mem::take(&mut self.buf), &mut self.stream)
    }

    /// Marks the connection as properly ended: what was written reaches the program, then the end does.
    pub(super) fn close(mut self) {
        self.closed = true;
    }

    /// Ends the connection after an answer: no more will be written, and what the program still sends is
    /// dropped until it closes or `limit` has passed. Closing at once would reset the connection while it
    /// sends, and the answer could be lost with it.
    pub(super) async fn finish(mut self, limit: Duration) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let drained = timeout(limit, async {
            loop {
                self.buf.clear();
                match self.fill().await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        })
        .await;
        if drained.is_err() {
            tracing::trace!("the program still sends; closed regardless");
        }
        self.close();
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if !self.closed
            && let Err(error) = self.stream.reset_on_close(true)
        {
            tracing::debug!(%error, "the connection could not be reset");
        }
    }
}

/// What the program sends.
#[derive(Debug)]
pub(super) struct LocalReader<'a> {
    stream: &'a Socket,
    pub(super) buf: &'a mut BytesMut,
    received: &'a mut u64,
}

impl LocalReader<'_> {
    /// Reads more into `buf`; 0 is the end. Nothing is lost when dropped before it is done.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        let length = self.stream.read_into(self.buf, READ).await?;
        *self.received += length as u64;
        Ok(length)
    }

    /// Resolves when the program ends its direction, or the connection fails. Reads ahead for that, up to a
    /// bound. Nothing is lost when dropped before it is done.
    pub(super) async fn ended(&mut self) -> io::Result<()> {
        while self.buf.len() < READ_AHEAD {
            if self.fill().await? == 0 {
                return Ok(());
            }
        }
        std::future::pending().await
    }
}

/// What the program gets.
#[derive(Debug)]
pub(super) struct LocalWriter<'a> {
    stream: &'a Socket,
    sent: &'a mut u64,
}

impl LocalWriter<'_> {
    pub(super) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while bytes.has_remaining() {
            let length = self.stream.write_some(bytes).await?;
            if length == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes.advance(length);
            *self.sent += length as u64;
        }
        Ok(())
    }
}
