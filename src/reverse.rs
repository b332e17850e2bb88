//! Serves the connections that the agent's listeners accept: each is dialled to its local program.
//!
//! It owns the tasks of these connections. It does not make the Service or ask the agent to listen;
//! `command/expose.rs` does. Connections that come before the Service was announced are held: one of them
//! is our own check that the ClusterIP leads here, which must not reach the local program.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, debug_span, info};
use tunnel_wire::error::{Refusal, RefusalCode};
use tunnel_wire::relay::{RelayError, Side, relay};
use tunnel_wire::session::{Accepted, Incoming};
use tunnel_wire::{Open, Protocol, Stream};

use crate::cli::port::PortSpec;

/// How long the local program's address may take to accept. A program that is down refuses at once; this
/// bounds a host that does not answer at all, so that the caller is reset within a second.
const DIAL_TIMEOUT: Duration = Duration::from_millis(900);

/// How long after its opening a connection that says nothing waits for our own checks to be gone: they go
/// within milliseconds, on a busy node within a second or two.
const SETTLE: Duration = Duration::from_secs(2);

/// Holds early connections back. Some of them are our own checks, which the local program must never see: they
/// say nothing and give up.
#[derive(Debug, Clone)]
pub struct Gate {
    opening_tx: watch::Sender<Option<Opening>>,
    given_up_tx: watch::Sender<usize>,
}

/// When a gate was opened, and how many checks may have got through before and have to give up.
#[derive(Debug, Clone, Copy)]
struct Opening {
    at: Instant,
    checks: usize,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            opening_tx: watch::Sender::new(None),
            given_up_tx: watch::Sender::new(0),
        }
    }
}

impl Gate {
    /// Lets every connection through from now on but the `checks` that are ours.
    pub fn open(&self, checks: usize) {
        let at = Instant::now();
        self.opening_tx.send_replace(Some(Opening { at, checks }));
    }

    /// Waits until so many connections have given up.
    pub async fn given_up(&self, count: usize) {
        let mut given_up_rx = self.given_up_tx.subscribe();
        // The sender lives in `self`: it cannot be gone.
        drop(given_up_rx.wait_for(|given_up| *given_up >= count).await);
    }

    /// Waits for the gate; `false` when the connection gave up first.
    async fn pass(&self, stream: &mut Stream) -> bool {
        let passed = self.passed(stream).await;
        if !passed {
            self.given_up_tx.send_modify(|count| *count += 1);
        }
        passed
    }

    async fn passed(&self, stream: &mut Stream) -> bool {
        let mut opening_rx = self.opening_tx.subscribe();
        let opening = tokio::select! {
            biased;
            opening = opening_rx.wait_for(Option::is_some) => opening.ok().and_then(|opening| *opening),
            () = stream.failed() => return false,
        };
        let Some(Opening { at, checks }) = opening else {
            return false;
        };
        tokio::select! {
            biased;
            _ = timeout_at(at + SETTLE, self.given_up(checks)) => true,
            // Who says something is no check.
            arrived = stream.arrived() => arrived,
        }
    }
}

/// Serves what the agent accepts until the session is over or, after `drain`, until the last open
/// connection has ended. `ports[n]` is the local program of listener n.
pub async fn serve(mut incoming: Incoming, ports: Arc<[PortSpec]>, gate: Gate, drain: CancellationToken) {
    let mut connections = JoinSet::new();
    let mut number = 0u64;
    loop {
        tokio::select! {
            () = drain.cancelled() => break,
            accepted = incoming.accept() => {
                let Some(accepted) = accepted else { break };
                number += 1;
                let span = debug_span!("conn", conn = number);
                connections.spawn(connection(accepted, Arc::clone(&ports), gate.clone()).instrument(span));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    // New ones are refused while the open ones end.
    loop {
        tokio::select! {
            accepted = incoming.accept() => match accepted {
                Some(accepted) => {
                    let refusal = Refusal::new(RefusalCode::ShuttingDown, "the laptop's end is about to leave");
                    accepted.stream.refuse(refusal).await;
                }
                None => break,
            },
            done = connections.join_next() => {
                if done.is_none() {
                    break;
                }
            }
        }
    }
}

async fn connection(accepted: Accepted, ports: Arc<[PortSpec]>, gate: Gate) {
    let Accepted { open, mut stream } = accepted;
    let Open::Accepted {
        protocol: Protocol::Tcp,
        listener,
        peer,
    } = open
    else {
        stream
            .refuse(Refusal::new(
                RefusalCode::Unsupported,
                "the plugin only serves its listeners",
            ))
            .await;
        return;
    };
    let Some(spec) = ports.get(usize::from(listener)) else {
        stream
            .refuse(Refusal::new(
                RefusalCode::Unsupported,
                format!("no listener {listener}"),
            ))
            .await;
        return;
    };
    if !gate.pass(&mut stream).await {
        return;
    }
    let started = Instant::now();
    let target = spec.local_address();
    let mut local = match dial(spec).await {
        Ok(local) => local,
        Err(refusal) => {
            info!(%peer, target, reason = %refusal, "connection refused by the local program");
            stream.refuse(refusal).await;
            return;
        }
    };
    if stream.accept().await.is_err() {
        return;
    }
    debug!(%peer, target, "connection opened");
    // Whatever ends this task before both ends have said all must not look like an end to the program.
    reset_on_close(&local, true);
    let end = relay(&mut stream, &mut local).await;
    let reason = match end.result {
        Ok(()) => {
            reset_on_close(&local, false);
            "eof".to_owned()
        }
        Err(RelayError {
            side: Side::A,
            source,
        }) => format!("reset by the caller: {source}"),
        Err(RelayError {
            side: Side::B,
            source,
        }) => {
            stream.abort(&format!("the local program at {target} reset the connection"));
            format!("reset by the local program: {source}")
        }
    };
    let elapsed = started.elapsed();
    info!(%peer, target, received = end.a_to_b, sent = end.b_to_a, ?elapsed, reason, "connection closed");
}

/// Whether the system sends a reset when the connection is dropped, or delivers what it still holds.
fn reset_on_close(connection: &TcpStream, reset: bool) {
    // It may be reset already; then there is nothing to do.
    drop(socket2::SockRef::from(connection).set_linger(reset.then_some(Duration::ZERO)));
}

async fn dial(spec: &PortSpec) -> Result<TcpStream, Refusal> {
    let target = spec.local_address();
    let refused = |error: std::io::Error| {
        let code = if error.kind() == std::io::ErrorKind::ConnectionRefused {
            RefusalCode::ConnectionRefused
        } else if error.kind() == std::io::ErrorKind::TimedOut {
            RefusalCode::TimedOut
        } else {
            RefusalCode::Other
        };
        Refusal::new(code, format!("dial {target} on the laptop: {error}"))
    };
    let dialled = timeout(DIAL_TIMEOUT, dial_each(spec)).await;
    let connection = dialled
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(refused)?;
    connection.set_nodelay(true).map_err(refused)?;
    Ok(connection)
}

async fn dial_each(spec: &PortSpec) -> std::io::Result<TcpStream> {
    // `localhost` is both families whatever the hosts file says: a program may listen on either.
    let addresses: Vec<SocketAddr> = if spec.host == "localhost" {
        vec![
            (Ipv4Addr::LOCALHOST, spec.local).into(),
            (Ipv6Addr::LOCALHOST, spec.local).into(),
        ]
    } else {
        tokio::net::lookup_host((spec.host.as_str(), spec.local))
            .await?
            .collect()
    };
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(connection) => return Ok(connection),
            // A machine without IPv6 must not hide that nothing listens on IPv4.
            Err(error) if last.kind() == std::io::ErrorKind::ConnectionRefused => drop(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn spec(host: &str, local: u16) -> PortSpec {
        PortSpec {
            service: 80,
            host: host.to_owned(),
            local,
        }
    }

    #[tokio::test]
    async fn localhost_is_both_families() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address).await else {
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            let spec = spec("localhost", port);
            let (dialled, accepted) = tokio::join!(dial(&spec), listener.accept());
            dialled.unwrap();
            accepted.unwrap();
        }
    }

    #[tokio::test]
    async fn a_program_that_is_down_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let refusal = dial(&spec("localhost", port)).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::ConnectionRefused);
        assert!(refusal.detail.contains(&format!("localhost:{port}")), "{refusal}");
    }
}
