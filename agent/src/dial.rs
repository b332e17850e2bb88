//! Dials an upstream for the plugin: resolve, ask the policy about every address, try them, the first that answers
//! is it.
//!
//! TCP addresses are tried as RFC 8305 ("happy eyeballs") has it: families in turn, the next one 250 ms after the
//! one before or as soon as that has failed, none given up before the deadline. A UDP socket is connected to the
//! first address that has a route; whether anybody listens there only its datagrams tell. What went wrong becomes a
//! refusal that names the address. `streams` calls it for each stream that wants an upstream.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tunnel_edge::socket_error;
use tunnel_edge::udp::Connected;
use tunnel_wire::{Refusal, RefusalCode};

use crate::config::Config;
use crate::edge::Edge;
use crate::log::chain;
use crate::policy::Denied;
use crate::resolve::{ResolveError, resolve};

/// How long resolving and dialling may take together. A TCP connection inside a cluster takes milliseconds; three
/// lost SYNs take 7 s.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an address has for itself before the next one is tried beside it (RFC 8305, section 5). With so many
/// addresses that the last ones would have no time left, it is shorter.
const HEAD_START: Duration = Duration::from_millis(250);

/// An upstream that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("resolve {host}: no answer within {} ms", .after.as_millis())]
    ResolveTimedOut { host: String, after: Duration },
    #[error("dial {address}: {reason} is not allowed")]
    NotAllowed { address: SocketAddr, reason: Denied },
    #[error("dial {address}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("dial {address}: no answer within {} ms", .after.as_millis())]
    TimedOut { address: SocketAddr, after: Duration },
}

/// What to dial.
#[derive(Debug)]
pub(crate) struct Request {
    /// A name or an address without brackets.
    host: String,
    port: u16,
    patience: Duration,
}

impl Request {
    /// `patience_ms` is the plugin's wish; 0 is none.
    pub(crate) fn new(host: String, port: u16, patience_ms: u16) -> Self {
        let patience = match patience_ms {
            0 => DIAL_TIMEOUT,
            wish => DIAL_TIMEOUT.min(Duration::from_millis(wish.into())),
        };
        Self { host, port, patience }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }

    async fn addresses(&self, config: &Config, deadline: Instant) -> Result<Vec<SocketAddr>, DialError> {
        let resolved = timeout_at(deadline, resolve(&config.current_hosts(), &self.host, self.port)).await;
        Ok(resolved.map_err(|_| DialError::ResolveTimedOut {
            host: self.host.clone(),
            after: self.patience,
        })??)
    }
}

/// Dials as `config` allows.
pub(crate) async fn dial(config: &Config, request: &Request) -> Result<Edge, DialError> {
    let deadline = request.deadline();
    let addresses = in_turn(request.addresses(config, deadline).await?);
    let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    let head_start = HEAD_START.min(request.patience / 2 / count);
    let mut waiting = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut worst = Worst::default();
    let mut next_at = Instant::now();
    loop {
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended {
                Ok(Ok(edge)) => return Ok(edge),
                Ok(Err(error)) => {
                    worst.add(error);
                    next_at = Instant::now();
                }
                // Only a panic: the other addresses are tried all the same.
                Err(_) => {}
            },
            () = sleep_until(next_at), if waiting.len() > 0 => {
                let Some(address) = waiting.next() else { continue };
                match permit(config, address) {
                    Ok(()) => {
                        attempts.spawn(dial_address(config.bind, address, deadline));
                        next_at = Instant::now() + head_start;
                    }
                    Err(denied) => worst.add(denied),
                }
            }
            else => return Err(worst.or_no_such_host(&request.host)),
        }
    }
}

/// Connects a UDP socket as `config` allows.
pub(crate) async fn dial_udp(config: &Config, request: &Request) -> Result<Connected, DialError> {
    let addresses = request.addresses(config, request.deadline()).await?;
    let mut worst = Worst::default();
    for address in addresses {
        let connected = match permit(config, address) {
            Ok(()) => Connected::connect(config.bind, address)
                .await
                .map_err(|source| DialError::Connect { address, source }),
            Err(denied) => Err(denied),
        };
        match connected {
            Ok(socket) => return Ok(socket),
            Err(error) => worst.add(error),
        }
    }
    Err(worst.or_no_such_host(&request.host))
}

/// The families in turn, beginning with that of the first address; else in the order of the resolver.
fn in_turn(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv4) else {
        return addresses;
    };
    let count = addresses.len();
    let (mut these, mut others): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv4() == first);
    these.reverse();
    others.reverse();
    let mut turns = Vec::with_capacity(count);
    while turns.len() < count {
        turns.extend(these.pop());
        turns.extend(others.pop());
    }
    turns
}

fn permit(config: &Config, address: SocketAddr) -> Result<(), DialError> {
    config
        .targets
        .check(address.ip())
        .map_err(|reason| DialError::NotAllowed { address, reason })
}

async fn dial_address(
    bind: Option<IpAddr>,
    address: SocketAddr,
    deadline: Instant,
) -> Result<Edge, DialError> {
    let start = Instant::now();
    match timeout_at(deadline, connect(bind, address)).await {
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
    // From its first moment: a dial that is given up may have got there, and must not look like a caller who left.
    socket.set_zero_linger()?;
    socket.connect(to).await
}

/// Of several failed addresses the one that says most.
#[derive(Default)]
struct Worst(Option<DialError>);

impl Worst {
    fn add(&mut self, error: DialError) {
        if self
            .0
            .as_ref()
            .is_none_or(|worst| telling(&error) > telling(worst))
        {
            self.0 = Some(error);
        }
    }

    fn or_no_such_host(self, host: &str) -> DialError {
        self.0.unwrap_or_else(|| {
            ResolveError::NoSuchHost {
                host: host.to_owned(),
            }
            .into()
        })
    }
}

/// How much a failure says: an upstream that answered more than one that is only out of reach.
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

    use tokio::io::AsyncReadExt;
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

    async fn dial(config: &Config, host: &str, port: u16) -> Result<Edge, DialError> {
        super::dial(config, &Request::new(host.to_owned(), port, 0)).await
    }

    async fn dial_udp(config: &Config, host: &str, port: u16) -> Result<Connected, DialError> {
        super::dial_udp(config, &Request::new(host.to_owned(), port, 0)).await
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

    #[test]
    fn families_take_turns_beginning_with_the_first() {
        let parse =
            |texts: &[&str]| -> Vec<SocketAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        assert_eq!(
            in_turn(parse(&[
                "[fd00::1]:1",
                "[fd00::2]:1",
                "10.0.0.1:1",
                "[fd00::3]:1"
            ])),
            parse(&["[fd00::1]:1", "10.0.0.1:1", "[fd00::2]:1", "[fd00::3]:1"])
        );
        assert_eq!(
            in_turn(parse(&["10.0.0.1:1", "10.0.0.2:1"])),
            parse(&["10.0.0.1:1", "10.0.0.2:1"])
        );
    }

    #[tokio::test]
    async fn a_dial_that_is_given_up_as_it_gets_there_is_a_reset() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut dial = Box::pin(connect(None, address));
        // On loopback the kernel is done with the first poll, and only the second would tell.
        tokio::select! {
            biased;
            _ = &mut dial => panic!("it is told at once"),
            () = std::future::ready(()) => drop(dial),
        }
        let (mut accepted, _) = listener.accept().await.unwrap();
        let error = accepted.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    /// A port whose queue of callers is full: nothing answers, nothing refuses.
    async fn silent(address: &str) -> (TcpListener, Vec<TcpStream>, u16) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
        let silent = socket.listen(1).unwrap();
        let address = silent.local_addr().unwrap();
        let mut callers = Vec::new();
        while let Ok(connected) =
            tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await
        {
            callers.push(connected.unwrap());
        }
        (silent, callers, address.port())
    }

    #[tokio::test]
    async fn the_plugin_may_be_less_patient() {
        let (_silent, _callers, port) = silent("127.0.0.3").await;
        let request = Request::new("127.0.0.3".to_owned(), port, 50);
        let error = super::dial(&config("127.0.0.0/8", ""), &request)
            .await
            .unwrap_err();
        assert!(
            matches!(error, DialError::TimedOut { after, .. } if after < Duration::from_secs(5)),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_address_that_never_answers_holds_nobody_up() {
        let (_silent, _callers, port) = silent("127.0.0.2").await;
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let config = config("127.0.0.0/8", "127.0.0.2 web\n127.0.0.1 web\n");
        let (edge, accepted) = tokio::join!(dial(&config, "web", port), listener.accept());
        assert_eq!(edge.unwrap().peer(), listener.local_addr().ok());
        accepted.unwrap();
    }

    #[tokio::test]
    async fn a_udp_socket_is_connected_to_the_first_address_that_may_be_dialled() {
        let mut config = config("127.0.0.0/8", "::1 web\n127.0.0.1 web\n");
        config.bind = Some("127.8.77.2".parse().unwrap());
        let edge = dial_udp(&config, "web", 53).await.unwrap();
        assert_eq!(edge.peer(), "127.0.0.1:53".parse().unwrap());
        let error = dial_udp(&config, "::1", 53).await.unwrap_err();
        assert_eq!(error.refusal().code, RefusalCode::NotAllowed);
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
