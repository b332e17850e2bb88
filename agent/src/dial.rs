//! Dials an upstream for the plugin: resolve, ask the policy about every address, try them in turn.
//!
//! One deadline covers all of it, and each address gets its share of what is left, so that an address family
//! without a route does not eat the time of the next one. What went wrong becomes a refusal that names the
//! address. `agent` calls it for each stream that wants an upstream.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use tunnel_wire::{Refusal, RefusalCode};

use crate::config::Config;
use crate::edge::Edge;
use crate::log::chain;
use crate::policy::Denied;
use crate::resolve::{ResolveError, resolve};
use crate::socket_error;

/// How long resolving and dialling may take together. A TCP connection inside a cluster takes milliseconds; three
/// lost SYNs take 7 s.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// An upstream that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("resolve {host}: no answer within {} s", DIAL_TIMEOUT.as_secs())]
    ResolveTimedOut { host: String },
    #[error("dial {address}: {reason} is not allowed")]
    NotAllowed { address: SocketAddr, reason: Denied },
    #[error("dial {address}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("dial {address}: no answer within {} ms", .after.as_millis())]
    TimedOut { address: SocketAddr, after: Duration },
}

/// Dials `host`, a name or an address without brackets, as `config` allows.
pub(crate) async fn dial(config: &Config, host: &str, port: u16) -> Result<Edge, DialError> {
    let deadline = Instant::now() + DIAL_TIMEOUT;
    let addresses = timeout_at(deadline, resolve(&config.current_hosts(), host, port))
        .await
        .map_err(|_| DialError::ResolveTimedOut {
            host: host.to_owned(),
        })??;

    let mut worst = None;
    let mut left = addresses.len();
    for address in addresses {
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / u32::try_from(left).unwrap_or(u32::MAX);
        left -= 1;
        let error = match dial_address(config, address, now + share).await {
            Ok(edge) => return Ok(edge),
            Err(error) => error,
        };
        if worst
            .as_ref()
            .is_none_or(|worst| telling(&error) > telling(worst))
        {
            worst = Some(error);
        }
    }
    Err(worst.unwrap_or_else(|| {
        ResolveError::NoSuchHost {
            host: host.to_owned(),
        }
        .into()
    }))
}

async fn dial_address(config: &Config, address: SocketAddr, deadline: Instant) -> Result<Edge, DialError> {
    config
        .targets
        .check(address.ip())
        .map_err(|reason| DialError::NotAllowed { address, reason })?;
    let start = Instant::now();
    match timeout_at(deadline, connect(config.bind, address)).await {
        Ok(Ok(tcp)) => Edge::new(tcp).map_err(|source| DialError::Connect { address, source }),
        Ok(Err(source)) => Err(DialError::Connect { address, source }),
        Err(_) => Err(DialError::TimedOut {
            address,
            after: start.elapsed(),
        }),
    }
}

async fn connect(from: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(from) = from.filter(|from| from.is_ipv4() == to.is_ipv4()) {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    socket.connect(to).await
}

/// Of several failed addresses the one is told that says most: an upstream that answered before one that is
/// only out of reach.
fn telling(error: &DialError) -> u8 {
    match error.code() {
        RefusalCode::ConnectionRefused => 4,
        RefusalCode::ResourceExhausted => 3,
        RefusalCode::TimedOut => 2,
        RefusalCode::NotAllowed => 1,
        RefusalCode::NoSuchHost
        | RefusalCode::ResolveFailed
        | RefusalCode::Unreachable
        | RefusalCode::TooManyStreams
        | RefusalCode::AddressInUse
        | RefusalCode::ShuttingDown
        | RefusalCode::Unsupported
        | RefusalCode::Other => 0,
    }
}

impl DialError {
    /// What the plugin is told.
    pub(crate) fn refusal(&self) -> Refusal {
        let detail = match self {
            Self::Connect { source, .. } => format!("{self}: {}", socket_error::words(source)),
            Self::Resolve(_)
            | Self::ResolveTimedOut { .. }
            | Self::NotAllowed { .. }
            | Self::TimedOut { .. } => chain(self),
        };
        Refusal::new(self.code(), detail)
    }

    fn code(&self) -> RefusalCode {
        match self {
            Self::Resolve(ResolveError::NoSuchHost { .. }) => RefusalCode::NoSuchHost,
            Self::Resolve(ResolveError::Failed { .. } | ResolveError::GivenUp { .. }) => {
                RefusalCode::ResolveFailed
            }
            Self::ResolveTimedOut { .. } | Self::TimedOut { .. } => RefusalCode::TimedOut,
            Self::NotAllowed { .. } => RefusalCode::NotAllowed,
            Self::Connect { source, .. } => socket_error::code(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;
    use crate::config;

    fn config(allow: &str, hosts: &str) -> Config {
        Config::from_env(
            |name| match name {
                config::SESSION => Some("abc".into()),
                config::SECRET_SHA256 => Some("00".repeat(32)),
                config::ALLOW_TARGETS => Some(allow.into()),
                config::HOSTS => Some("hosts".into()),
                _ => None,
            },
            |_| Ok(hosts.into()),
        )
        .unwrap()
    }

    async fn upstream() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// A port that was free a moment ago, of an address nobody else uses in this test.
    async fn closed() -> SocketAddr {
        upstream().await.1
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_does_not_answer() {
        let (_listener, address) = upstream().await;
        let config = config("127.0.0.0/8", "127.199.0.1 web\n::1 web\n127.0.0.1 web\n");
        dial(&config, "web", address.port()).await.unwrap();
    }

    #[tokio::test]
    async fn a_closed_port_is_told_with_its_address() {
        let address = closed().await;
        let refusal = dial(&config("127.0.0.0/8", ""), "127.0.0.1", address.port())
            .await
            .unwrap_err()
            .refusal();
        assert_eq!(
            refusal,
            Refusal::new(
                RefusalCode::ConnectionRefused,
                format!("dial {address}: connection refused")
            )
        );
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_checked_after_resolving() {
        let (listener, address) = upstream().await;
        let config = config("127.8.0.0/16", "127.0.0.1 web\n::1 web\n");
        for host in ["web", "127.0.0.1", "127.1", "::ffff:127.0.0.1", "localhost"] {
            let error = dial(&config, host, address.port()).await.unwrap_err();
            let refusal = error.refusal();
            assert_eq!(refusal.code, RefusalCode::NotAllowed, "{host}: {refusal}");
            assert!(
                refusal.detail.contains("a loopback address is not allowed"),
                "{host}: {refusal}"
            );
        }
        let dialled = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
        assert!(dialled.is_err(), "nothing was dialled");
    }

    #[tokio::test]
    async fn the_address_that_says_most_is_told() {
        let address = closed().await;
        let config = config("127.0.0.0/8", "169.254.0.1 web\n127.0.0.1 web\n::1 web\n");
        let refusal = dial(&config, "web", address.port()).await.unwrap_err().refusal();
        assert_eq!(refusal.code, RefusalCode::ConnectionRefused, "{refusal}");
        assert!(refusal.detail.contains(&address.to_string()), "{refusal}");
    }

    #[tokio::test]
    async fn upstreams_are_dialled_from_the_bound_address() {
        let (listener, address) = upstream().await;
        let mut config = config("127.0.0.0/8", "");
        config.bind = Some("127.8.77.1".parse().unwrap());
        let _edge = dial(&config, "127.0.0.1", address.port()).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().1.ip(), config.bind.unwrap());
    }
}
