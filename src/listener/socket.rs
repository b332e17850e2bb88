//! The two kinds of local ports, TCP and unix sockets, behind one face: what is listened on, what is
//! accepted, and who connected.
//!
//! Knows no protocol. How a unix socket's file comes and goes is in `unix`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};

use super::address::{BindError, LocalAddress};
#[cfg(unix)]
use super::unix::SocketFile;

/// A bound port.
#[derive(Debug)]
pub(crate) struct Port {
    kind: Kind,
    address: LocalAddress,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix {
        listener: UnixListener,
        /// Removed with the listener.
        _file: SocketFile,
    },
}

impl Port {
    pub(crate) fn tcp(listener: TcpListener) -> Result<Self, BindError> {
        let address = listener.local_addr().map_err(|source| BindError::Other {
            address: SocketAddr::from(([0; 4], 0)),
            source,
        })?;
        Ok(Self {
            kind: Kind::Tcp(listener),
            address: LocalAddress::Tcp(address),
        })
    }

    #[cfg(unix)]
    pub(super) fn unix(listener: UnixListener, file: SocketFile) -> Self {
        let address = LocalAddress::Unix(file.path().to_owned());
        Self {
            kind: Kind::Unix {
                listener,
                _file: file,
            },
            address,
        }
    }

    pub(crate) fn address(&self) -> &LocalAddress {
        &self.address
    }

    /// The next connection, and who made it.
    pub(crate) async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match &self.kind {
            Kind::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Socket::Tcp(stream), Peer::Tcp(peer)))
            }
            #[cfg(unix)]
            Kind::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let process = stream.peer_cred().ok().and_then(|peer| peer.pid());
                Ok((Socket::Unix(stream), Peer::Process(process)))
            }
        }
    }
}

/// Who connected; for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Tcp(SocketAddr),
    /// At a unix socket: a process, where the system tells which.
    #[cfg(unix)]
    Process(Option<i32>),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            #[cfg(unix)]
            Self::Process(Some(number)) => write!(f, "pid:{number}"),
            #[cfg(unix)]
            Self::Process(None) => f.write_str("unix"),
        }
    }
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    /// The TCP address it connected to; none at a unix socket.
    pub(crate) fn own(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Tcp(stream) => stream.local_addr().map(Some),
            #[cfg(unix)]
            Self::Unix(_) => Ok(None),
        }
    }

    /// The TCP address that connected; none at a unix socket.
    pub(super) fn peer(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().map(Some),
            #[cfg(unix)]
            Self::Unix(_) => Ok(None),
        }
    }

    /// Small writes are sent at once.
    pub(crate) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            #[cfg(unix)]
            Self::Unix(_) => Ok(()),
        }
    }

    /// Whether the close of the connection is a reset, where that can be told, or delivers what the system holds.
    ///
    /// A unix socket has no reset: its peer reads an end, and only on Linux, and only if it had sent bytes
    /// that were not read yet, an error instead. So a relay that is cut there looks like one that ended.
    /// HTTP responses with a length or in chunks show that they are not whole; for protocols that end with
    /// their connection only a TCP port tells a cut from an end.
    pub(crate) fn reset_on_close(&self, reset: bool) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => socket2::SockRef::from(stream).set_linger(reset.then_some(Duration::ZERO)),
            #[cfg(unix)]
            Self::Unix(_) => Ok(()),
        }
    }

    /// Reads what is there, once something is. Nothing is lost when dropped before it is done.
    pub(super) async fn read_into(&self, buf: &mut BytesMut, room: usize) -> io::Result<usize> {
        loop {
            // First wait, then make room: an idle connection holds no buffer.
            let read = match self {
                Self::Tcp(stream) => {
                    stream.readable().await?;
                    buf.reserve(room);
                    stream.try_read_buf(buf)
                }
                #[cfg(unix)]
                Self::Unix(stream) => {
                    stream.readable().await?;
                    buf.reserve(room);
                    stream.try_read_buf(buf)
                }
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    /// Writes some of the bytes, once there is room.
    pub(super) async fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let written = match self {
                Self::Tcp(stream) => {
                    stream.writable().await?;
                    stream.try_write(bytes)
                }
                #[cfg(unix)]
                Self::Unix(stream) => {
                    stream.writable().await?;
                    stream.try_write(bytes)
                }
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, out),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, out),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
