//! One `--listen` value: its text form, and binding it. What is special to unix sockets is in `unix`.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::net::TcpListener;

use super::socket::Port;

/// How often another free port is tried, when the one that 127.0.0.1 got is taken on `::1`.
const FREE_PORT_ATTEMPTS: usize = 16;

/// What stands in front of the path of a unix socket.
const UNIX: &str = "unix:";

/// What `--listen` names: a port of one address, or of both loopback addresses, or a unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// `ADDRESS:PORT`; port 0 is the next free one.
    Address(SocketAddr),
    /// `localhost:PORT`: 127.0.0.1 and, where the machine has it, `::1`.
    Localhost(u16),
    /// `unix:PATH`.
    Unix(PathBuf),
}

/// Where a bound port can be connected to. Its text is what `--listen` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAddress {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl LocalAddress {
    /// The address and port, of a TCP port.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// A `--listen` value of another form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected ADDRESS:PORT, localhost:PORT, PORT or unix:PATH, such as 127.0.0.1:6080 or unix:/tmp/tunnel.sock"
)]
pub struct ListenAddressError;

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program has the port.
    #[error("listen on {address}: the port is in use by another program")]
    InUse {
        /// The address with the port.
        address: SocketAddr,
    },
    /// The address is none of this machine's.
    #[error("listen on {address}: this machine does not have that address")]
    NotOurs {
        /// The address with the port.
        address: SocketAddr,
    },
    /// Ports below 1024 need rights.
    #[error("listen on {address}: permission denied")]
    Forbidden {
        /// The address with the port.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("listen on {address}")]
    Other {
        /// The address with the port.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Another program answers at the socket.
    #[error("listen on {UNIX}{}: another program listens there", path.display())]
    SocketInUse {
        /// The socket's file.
        path: PathBuf,
    },
    /// The file is none that a listener of before could have left.
    #[error("listen on {UNIX}{}: the file exists and is no socket", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// Anything else about a unix socket.
    #[error("listen on {UNIX}{}", path.display())]
    Socket {
        /// The socket's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl BindError {
    /// What a failed bind means.
    pub(crate) fn new(address: SocketAddr, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::AddrInUse {
            Self::InUse { address }
        } else if source.kind() == io::ErrorKind::AddrNotAvailable {
            Self::NotOurs { address }
        } else if source.kind() == io::ErrorKind::PermissionDenied {
            Self::Forbidden { address }
        } else {
            Self::Other { address, source }
        }
    }

    /// The option to type next, if one helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::InUse { address } => Some(format!(
                "take the next free port with `--listen {}`",
                SocketAddr::new(address.ip(), 0)
            )),
            Self::NotOurs { .. } => {
                Some("listen on this machine's own address: `--listen 127.0.0.1:6080`".to_owned())
            }
            Self::Forbidden { address } => Some(format!(
                "take a port from 1024 on: `--listen {}`",
                SocketAddr::new(address.ip(), 6080)
            )),
            Self::SocketInUse { .. } | Self::NotASocket { .. } => {
                Some("choose another file: `--listen unix:PATH`".to_owned())
            }
            Self::Socket { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("make its folder first, or choose another: `--listen unix:PATH`".to_owned())
            }
            Self::Other { .. } | Self::Socket { .. } => None,
        }
    }
}

impl ListenAddress {
    /// Binds the address; both loopback addresses get the same port.
    pub(crate) async fn bind(&self) -> Result<Vec<Port>, BindError> {
        let listeners = match self {
            Self::Address(address) => vec![bind(*address).await?],
            Self::Localhost(port) => bind_localhost(*port).await?,
            Self::Unix(path) => return Ok(vec![bind_unix(path).await?]),
        };
        listeners.into_iter().map(Port::tcp).collect()
    }
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix(UNIX) {
            let usable = cfg!(unix) && !path.is_empty();
            return usable.then(|| Self::Unix(path.into())).ok_or(ListenAddressError);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if let Ok(port) = port(text) {
            return Ok(Self::Address((Ipv4Addr::LOCALHOST, port).into()));
        }
        match text.rsplit_once(':') {
            Some((name, digits)) if name.eq_ignore_ascii_case("localhost") => {
                port(digits).map(Self::Localhost)
            }
            Some(_) | None => Err(ListenAddressError),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Localhost(port) => write!(f, "localhost:{port}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

fn port(digits: &str) -> Result<u16, ListenAddressError> {
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        digits.parse().map_err(|_| ListenAddressError)
    } else {
        Err(ListenAddressError)
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| BindError::new(address, source))
}

#[cfg(unix)]
async fn bind_unix(path: &Path) -> Result<Port, BindError> {
    super::unix::bind(path).await
}

/// Never asked for: `unix:` is not read here.
#[cfg(not(unix))]
#[expect(clippy::unused_async, reason = "as on systems that have unix sockets")]
async fn bind_unix(path: &Path) -> Result<Port, BindError> {
    Err(BindError::Socket {
        path: path.to_owned(),
        source: io::ErrorKind::Unsupported.into(),
    })
}

async fn bind_localhost(port: u16) -> Result<Vec<TcpListener>, BindError> {
    let mut attempts = 0;
    loop {
        let v4 = bind((IpAddr::V4(Ipv4Addr::LOCALHOST), port).into()).await?;
        let address = v4
            .local_addr()
            .map_err(|source| BindError::new((Ipv4Addr::LOCALHOST, port).into(), source))?;
        attempts += 1;
        match bind((IpAddr::V6(Ipv6Addr::LOCALHOST), address.port()).into()).await {
            Ok(v6) => return Ok(vec![v4, v6]),
            Err(BindError::InUse { .. }) if port == 0 && attempts < FREE_PORT_ATTEMPTS => {}
            Err(error @ (BindError::InUse { .. } | BindError::Forbidden { .. })) => return Err(error),
            // A machine without IPv6.
            Err(error) => {
                tracing::debug!(%error, "localhost is 127.0.0.1 only");
                return Ok(vec![v4]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_forms() {
        for (text, shown) in [
            ("127.0.0.1:6080", "127.0.0.1:6080"),
            ("[::1]:0", "[::1]:0"),
            ("0.0.0.0:1", "0.0.0.0:1"),
            ("LocalHost:7", "localhost:7"),
            ("6081", "127.0.0.1:6081"),
            #[cfg(unix)]
            ("unix:/tmp/a b:1", "unix:/tmp/a b:1"),
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            ":6080",
            "web:80",
            "localhost",
            "localhost:",
            "127.0.0.1",
            "::1:80",
            "127.0.0.1:65536",
            "+1",
            "unix:",
            "unix",
        ] {
            assert_eq!(text.parse::<ListenAddress>(), Err(ListenAddressError), "{text}");
        }
    }
}
