//! The local port of `kubectl tunnel proxy`: every door of it on one TCP port or unix socket.
//!
//! Owns the bound ports, the accept loops and the connections' tasks. Where a connection's bytes go is
//! behind [`Connect`]: this module knows no session, no cluster and no terminal. `command/` binds it, gives
//! it the session and prints its addresses and warnings.
//!
//! ```text
//! accept -> connection: first byte -+-> 5  socks5: greet, request, dial, reply --+-> raw relay
//!                                   |           `- UDP ASSOCIATE: a socket, flows  |
//!                                   +-> 4  socks4: request, dial, reply ---------+
//!                                   +-> 22 tls: server name, dial ---------------+
//!                                   +-> http: head, route ---- CONNECT ----------+
//!                                        |  |                                    |
//!                                        |  `- PRI: h2c: first :authority, dial -+
//!                                        `--- request <-> response, again and again
//! ```
//!
//! Two kinds of doors: those of programs that were told of a proxy, and know to log in to one (HTTP proxy,
//! SOCKS5), and those that go by a name alone (Host header, TLS server name, `:authority`). The latter take only
//! the names of `names`, and are closed when passwords are asked for. SOCKS4 is told and has no password.
//!
//! Architecture invariants: a connection's error ends that connection only; every wait has a deadline and
//! every buffer a bound; a connection that is not closed on purpose is reset, so that a cut is never taken
//! for an end.

mod accept;
mod access;
mod address;
mod browser;
mod connection;
mod credentials;
mod environment;
mod http;
mod local;
mod names;
mod prefixed;
mod socket;
mod socks4;
mod socks5;
mod target;
mod tls;
#[cfg(unix)]
mod unix;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tunnel_wire::RefusalCode;
use tunnel_wire::datagram::Budget;

pub use self::address::{BindError, ListenAddress, ListenAddressError, LocalAddress};
pub use self::credentials::{Credentials, CredentialsError};
pub use self::environment::{Shell, environment};
pub use self::target::{Target, TargetError};

pub(crate) use self::accept::accept;
pub(crate) use self::socket::{Peer, Port, Socket};

use self::connection::Shared;

/// The way to a target. Cloned into each connection.
pub trait Connect: Clone + Send + Sync + 'static {
    /// A two-way flow of bytes. Dropped without a shutdown it is aborted; a read of 0 bytes is the upstream's
    /// own end, never a loss.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Opens a stream. Resolves once the open is on its way: bytes may be written at once.
    fn open(&self, target: &Target) -> impl Future<Output = Result<Self::Stream, DialError>> + Send;

    /// Opens a stream of datagrams, encoded as `tunnel_wire::datagram` says. Resolves as [`Connect::open`] does.
    fn open_flow(&self, target: &Target) -> impl Future<Output = Result<Self::Stream, DialError>> + Send;

    /// Waits until the upstream is connected, or for the reason why not.
    fn opened(&self, stream: &mut Self::Stream) -> impl Future<Output = Result<(), DialError>> + Send;

    /// The address that was chosen, where it is known; for the log.
    fn upstream(&self, stream: &Self::Stream) -> Option<SocketAddr>;

    /// Datagrams were lost here, which somebody may count.
    fn dropped(&self, datagrams: u64);
}

/// Why an upstream was not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct DialError {
    /// Who failed and how; decides the status line or the SOCKS reply.
    pub code: RefusalCode,
    /// One lower-case fragment for people.
    pub detail: String,
}

/// What the listener is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// What to listen on; at least one.
    pub listen: Vec<ListenAddress>,
    /// Who may use the port; everybody who reaches it when `None`.
    pub credentials: Option<Credentials>,
    /// The cluster's DNS domain, such as `cluster.local`; for Host routing and `/proxy.pac`.
    pub cluster_domain: String,
    /// The namespace names are looked up in; for the hints in error texts.
    pub namespace: String,
    /// Deadlines and bounds.
    pub limits: Limits,
}

/// Deadlines and bounds of the local connections.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; further ones wait in the system's queue.
    pub connections: usize,
    /// From the accept to the first byte: browsers connect ahead and may send nothing for a while.
    pub first_byte: Duration,
    /// From the first byte of a request head or a SOCKS handshake to its last.
    pub head: Duration,
    /// Between two requests of a kept connection. Longer than what programs keep them for (90 s is usual),
    /// so that they end first and no request meets a closed connection.
    pub idle: Duration,
    /// From an open to its answer. The agent gives a dial up after 10 s, and a session that reconnects holds
    /// an open for 10 s.
    pub dial: Duration,
    /// How long a program may still send after our last byte.
    pub linger: Duration,
    /// How long a flow of datagrams may be idle.
    pub udp_idle: Duration,
    /// Flows of datagrams at once, all associations together: half of a session's streams (1,024), so that they never
    /// leave connections without one.
    pub flows: usize,
    /// Flows of one association.
    pub flows_each: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            first_byte: Duration::from_secs(60),
            head: Duration::from_secs(30),
            idle: Duration::from_secs(300),
            dial: Duration::from_secs(30),
            linger: Duration::from_secs(1),
            udp_idle: Duration::from_secs(60),
            flows: 512,
            flows_each: 64,
        }
    }
}

/// What the user should know about the options; for the terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// Other machines can connect.
    Reachable {
        /// The address they can connect to.
        address: SocketAddr,
        /// Whether they need a password.
        guarded: bool,
    },
    /// Other users of this machine can read the passwords.
    AuthFileExposed {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reachable {
                address,
                guarded: false,
            } => write!(
                f,
                "{address} can be reached from other machines, and whoever reaches it is in the cluster; \
                 ask for a password with --auth-file FILE, or listen on loopback only"
            ),
            Self::Reachable {
                address,
                guarded: true,
            } => write!(
                f,
                "{address} can be reached from other machines, and passwords travel to it unencrypted; \
                 listen on loopback only where that is enough"
            ),
            Self::AuthFileExposed { path } => {
                let path = path.display();
                write!(
                    f,
                    "other users of this machine can read the passwords in {path}; chmod 600 {path}"
                )
            }
        }
    }
}

/// Binds the local ports.
#[derive(Debug)]
pub struct Listener;

impl Listener {
    /// Binds every address of the options; connections wait until [`Bound::serve`].
    ///
    /// # Errors
    /// The first address that cannot be listened on; none is listened on then.
    pub async fn bind(options: Options) -> Result<Bound, BindError> {
        let mut ports = Vec::new();
        for listen in &options.listen {
            ports.extend(listen.bind().await?);
        }
        for port in &ports {
            tracing::info!(address = %port.address(), "listener bound");
        }
        Ok(Bound {
            ports,
            options: Arc::new(options),
        })
    }
}

/// Ports that are bound and not yet served.
#[derive(Debug)]
pub struct Bound {
    ports: Vec<Port>,
    options: Arc<Options>,
}

impl Bound {
    /// The addresses as bound, in the order of the options.
    pub fn addresses(&self) -> Vec<LocalAddress> {
        self.ports.iter().map(|port| port.address().clone()).collect()
    }

    /// What the user should know.
    pub fn warnings(&self) -> Vec<Warning> {
        let guarded = self.options.credentials.is_some();
        let reachable = self
            .addresses()
            .into_iter()
            .filter_map(|address| address.tcp())
            .filter(|address| !address.ip().to_canonical().is_loopback())
            .map(|address| Warning::Reachable { address, guarded });
        let exposed = self.options.credentials.as_ref().and_then(Credentials::exposed);
        reachable
            .chain(exposed.map(|path| Warning::AuthFileExposed {
                path: path.to_owned(),
            }))
            .collect()
    }

    /// Serves connections until `drain` is cancelled, then no new ones; returns when the last has ended.
    /// Idle connections end with the drain. Dropping the future resets the connections that still run.
    pub async fn serve<C: Connect>(self, connector: C, drain: CancellationToken) {
        let permits = Arc::new(Semaphore::new(self.options.limits.connections));
        let flows = Arc::new(Semaphore::new(self.options.limits.flows));
        let ending = TaskTracker::new();
        let shared = Arc::new(Shared {
            connector,
            options: self.options,
            drain,
            ending: ending.clone(),
            flows,
            datagrams: Budget::default(),
        });
        let mut loops = JoinSet::new();
        for port in self.ports {
            let serving = Arc::clone(&shared);
            let serve = move |socket, peer| connection::serve(socket, peer, Arc::clone(&serving));
            loops.spawn(accept(port, Arc::clone(&permits), shared.drain.clone(), serve));
        }
        while let Some(ended) = loops.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a listener ended");
            }
        }
        ending.close();
        ending.wait().await;
    }
}
