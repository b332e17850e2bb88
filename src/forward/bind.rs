//! The local ports of `forward`: which numbers they get, on which addresses.
//!
//! A port that the user named must be had. One that follows the remote number may give way to a free one, if
//! `--same-port` says so.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use tokio::net::{TcpListener, UdpSocket};

use super::Route;
use crate::cli::port::Protocol;
use crate::cli::target::LocalPort;
use crate::listener::{BindError, Port};

/// How often another free port is tried, when the one of the first address is taken on the next.
const FREE_PORT_ATTEMPTS: usize = 16;

/// Where to listen: one value of `--address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalHost {
    /// Both loopback addresses; one of them suffices, as with kubectl.
    Localhost,
    /// This address.
    Ip(IpAddr),
}

/// An `--address` of another form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an IP address of this machine, or localhost")]
pub struct LocalHostError;

impl fmt::Display for LocalHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Localhost => f.write_str("localhost"),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

impl FromStr for LocalHost {
    type Err = LocalHostError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("localhost") {
            return Ok(Self::Localhost);
        }
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        inner
            .unwrap_or(text)
            .parse()
            .map(Self::Ip)
            .map_err(|_| LocalHostError)
    }
}

/// What to do about a local port that was not named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SamePort {
    /// It has the remote number, or the command fails.
    #[default]
    Require,
    /// It has the remote number if that can be had, else any free one.
    Try,
    /// It is any free one.
    Random,
}

/// One port to bind.
#[derive(Debug)]
pub struct Request {
    /// Where it leads.
    pub route: Arc<Route>,
    /// As typed.
    pub local: LocalPort,
    /// The remote port's number, for [`LocalPort::Same`].
    pub same: Option<u16>,
    /// Where to listen; at least one.
    pub hosts: Vec<LocalHost>,
}

/// A bound port, on each of its addresses.
#[derive(Debug)]
pub struct BoundPort {
    /// Where it leads.
    pub route: Arc<Route>,
    /// At least one.
    pub(super) sockets: Vec<BoundSocket>,
}

/// One socket of it.
#[derive(Debug)]
pub(super) enum BoundSocket {
    Tcp(Port),
    Udp(UdpSocket),
}

impl BoundPort {
    /// Where it can be connected to.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets
            .iter()
            .filter_map(|socket| match socket {
                BoundSocket::Tcp(port) => port.address().tcp(),
                BoundSocket::Udp(socket) => socket.local_addr().ok(),
            })
            .collect()
    }
}

/// Binds all ports; none stays bound when one cannot be. What gave way to another number is told by its sentence.
///
/// # Errors
/// The first port that cannot be had.
pub async fn bind_all(
    requests: Vec<Request>,
    same_port: SamePort,
) -> Result<(Vec<BoundPort>, Vec<String>), BindError> {
    let mut bound = Vec::with_capacity(requests.len());
    let mut gave_way = Vec::new();
    for request in requests {
        let (port, may_give_way) = number(&request, same_port);
        let sockets = match bind(request.route.protocol, &request.hosts, port).await {
            Ok(sockets) => sockets,
            Err(error) if may_give_way && is_about_the_port(&error) => {
                let sockets = bind(request.route.protocol, &request.hosts, 0).await?;
                gave_way.push(format!(
                    "{error}; another one is used for {}",
                    request.route.label
                ));
                sockets
            }
            Err(error) => return Err(error),
        };
        bound.push(BoundPort {
            route: request.route,
            sockets,
        });
    }
    Ok((bound, gave_way))
}

/// Which local port to ask for, and whether another one will do.
fn number(request: &Request, same_port: SamePort) -> (u16, bool) {
    match (request.local, same_port) {
        (LocalPort::Number(port), _) => (port, false),
        (LocalPort::Any, _) | (LocalPort::Same, SamePort::Random) => (0, false),
        (LocalPort::Same, same_port) => (request.same.unwrap_or(0), same_port == SamePort::Try),
    }
}

fn is_about_the_port(error: &BindError) -> bool {
    matches!(error, BindError::InUse { .. } | BindError::Forbidden { .. })
}

async fn bind(protocol: Protocol, hosts: &[LocalHost], port: u16) -> Result<Vec<BoundSocket>, BindError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match bind_once(protocol, hosts, port).await {
            // Free on the first address, taken on another.
            Err(BindError::InUse { .. }) if port == 0 && attempts < FREE_PORT_ATTEMPTS => {}
            bound => return bound,
        }
    }
}

async fn bind_once(
    protocol: Protocol,
    hosts: &[LocalHost],
    port: u16,
) -> Result<Vec<BoundSocket>, BindError> {
    let mut sockets = Vec::new();
    let mut port = port;
    for host in hosts {
        match *host {
            LocalHost::Ip(ip) => sockets.push(bind_to(protocol, ip, &mut port).await?),
            LocalHost::Localhost => {
                let v4 = bind_to(protocol, Ipv4Addr::LOCALHOST.into(), &mut port).await;
                let v6 = match &v4 {
                    // The number is taken; the other family's program would not be the one that was asked for.
                    Err(error) if is_about_the_port(error) => None,
                    _ => Some(bind_to(protocol, Ipv6Addr::LOCALHOST.into(), &mut port).await),
                };
                match (v4, v6) {
                    (Ok(v4), Some(Ok(v6))) => sockets.extend([v4, v6]),
                    (_, Some(Err(error))) if is_about_the_port(&error) => return Err(error),
                    // A machine with one family only.
                    (Ok(one), _) | (Err(_), Some(Ok(one))) => sockets.push(one),
                    (Err(error), _) => return Err(error),
                }
            }
        }
    }
    Ok(sockets)
}

/// Binds one address. The number that port 0 got is kept for the next.
async fn bind_to(protocol: Protocol, ip: IpAddr, port: &mut u16) -> Result<BoundSocket, BindError> {
    let address = SocketAddr::new(ip, *port);
    let failed = |source| BindError::new(address, source);
    let (socket, bound) = match protocol {
        Protocol::Tcp => {
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            (BoundSocket::Tcp(Port::tcp(listener)?), bound)
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind(address).await.map_err(failed)?;
            let bound = socket.local_addr().map_err(failed)?;
            (BoundSocket::Udp(socket), bound)
        }
    };
    *port = bound.port();
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::upstream::{Upstream, Via};

    fn request(protocol: Protocol, local: LocalPort, same: u16, hosts: &[LocalHost]) -> Request {
        let upstream = Upstream::Name {
            host: "web.dev.svc".to_owned(),
            port: 80,
        };
        let label = "svc/web:80".to_owned();
        Request {
            route: Arc::new(Route::new(label, upstream, protocol, Via::Auto, true)),
            local,
            same: Some(same),
            hosts: hosts.to_vec(),
        }
    }

    const V4: LocalHost = LocalHost::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST));

    async fn bound(
        request: Request,
        same_port: SamePort,
    ) -> Result<(Vec<SocketAddr>, Vec<String>, Vec<BoundPort>), BindError> {
        let (ports, gave_way) = bind_all(vec![request], same_port).await?;
        Ok((ports[0].addresses(), gave_way, ports))
    }

    #[tokio::test]
    async fn localhost_is_one_number_on_both_families() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let request = request(protocol, LocalPort::Any, 80, &[LocalHost::Localhost]);
            let (addresses, _, _ports) = bound(request, SamePort::Require).await.unwrap();
            assert!(addresses[0].is_ipv4());
            assert!(
                addresses
                    .iter()
                    .all(|address| address.port() == addresses[0].port())
            );
        }
    }

    #[tokio::test]
    async fn a_taken_number_is_an_error_unless_it_may_give_way() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let number = taken.local_addr().unwrap().port();
        for (local, same_port) in [
            (LocalPort::Number(number), SamePort::Try),
            (LocalPort::Same, SamePort::Require),
        ] {
            for host in [V4, LocalHost::Localhost] {
                let error = bound(request(Protocol::Tcp, local, number, &[host]), same_port)
                    .await
                    .unwrap_err();
                assert!(
                    matches!(error, BindError::InUse { address } if address.port() == number),
                    "{error}"
                );
            }
        }
        let (addresses, gave_way, _ports) = bound(
            request(Protocol::Tcp, LocalPort::Same, number, &[LocalHost::Localhost]),
            SamePort::Try,
        )
        .await
        .unwrap();
        assert_ne!(addresses[0].port(), number);
        assert!(gave_way[0].contains(&number.to_string()), "{gave_way:?}");
        let (addresses, gave_way, _ports) = bound(
            request(Protocol::Tcp, LocalPort::Same, number, &[V4]),
            SamePort::Random,
        )
        .await
        .unwrap();
        assert_ne!(addresses[0].port(), number);
        assert!(gave_way.is_empty());
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_named() {
        let other = LocalHost::Ip("203.0.113.1".parse().unwrap());
        let error = bound(
            request(Protocol::Udp, LocalPort::Any, 80, &[other]),
            SamePort::Require,
        )
        .await
        .unwrap_err();
        assert!(matches!(error, BindError::NotOurs { .. }), "{error}");
    }

    #[test]
    fn addresses_are_read() {
        assert_eq!("LOCALHOST".parse(), Ok(LocalHost::Localhost));
        assert_eq!("127.0.0.1".parse(), Ok(V4));
        assert_eq!("[::1]".parse(), Ok(LocalHost::Ip(Ipv6Addr::LOCALHOST.into())));
        assert_eq!("web".parse::<LocalHost>(), Err(LocalHostError));
    }
}
