//! Serves the connections that the agent's listeners accept: each is dialled to its local program.
//!
//! It owns the tasks of these connections; how the program is reached is [`program`]'s, what it is told about the
//! caller [`proxy_protocol`]'s, and datagrams are [`flow`]'s. It does not make the Service or ask the agent to
//! listen; `command/expose.rs` does. Connections that come before the Service was announced are held: one of them
//! is our own check that the ClusterIP leads here, which must not reach the local program.

mod flow;
mod program;
pub mod proxy_protocol;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, debug_span, info};
use tunnel_wire::datagram::Budget;
use tunnel_wire::error::{Refusal, RefusalCode};
use tunnel_wire::relay::{RelayError, Side, relay};
use tunnel_wire::session::{Accepted, Incoming};
use tunnel_wire::{Open, Protocol, Stream};

pub use self::proxy_protocol::ProxyProtocol;
use crate::cli::port::Program;
use crate::traffic::{Traffic, kind};

/// How long after its opening a connection that says nothing waits for our own checks to be gone: they go
/// within milliseconds, on a busy node within a second or two.
const SETTLE: Duration = Duration::from_secs(2);

/// Where the connections of one listener go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Who answers.
    pub program: Program,
    /// What comes to it.
    pub accepts: Accepts,
}

/// What a listener accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    /// TCP.
    Connections {
        /// What the program is told before.
        header: Option<Header>,
    },
    /// UDP.
    Flows {
        /// How long one may be silent, both ways.
        idle: Duration,
    },
}

/// The header of the PROXY protocol for the connections of one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How it is written.
    pub version: ProxyProtocol,
    /// What the callers dialled, if that is known.
    pub called: Option<SocketAddr>,
}

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

    /// The same for a flow of datagrams, which is no check of ours.
    async fn pass_flow(&self, stream: &mut Stream) -> bool {
        self.opened(stream).await.is_some()
    }

    /// Waits until the gate is opened; `None` when the stream failed first.
    async fn opened(&self, stream: &mut Stream) -> Option<Opening> {
        let mut opening_rx = self.opening_tx.subscribe();
        tokio::select! {
            biased;
            opening = opening_rx.wait_for(Option::is_some) => opening.ok().and_then(|opening| *opening),
            () = stream.failed() => None,
        }
    }

    async fn passed(&self, stream: &mut Stream) -> bool {
        let Some(Opening { at, checks }) = self.opened(stream).await else {
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
/// connection has ended; flows of datagrams end with `drain`. `routes[n]` is that of listener n.
pub async fn serve(
    mut incoming: Incoming,
    routes: Arc<[Route]>,
    gate: Gate,
    traffic: Traffic,
    drain: CancellationToken,
) {
    let reverse = Arc::new(Reverse {
        routes,
        gate,
        traffic,
        drain: drain.clone(),
        budget: Budget::default(),
    });
    let mut connections = JoinSet::new();
    let mut number = 0u64;
    loop {
        tokio::select! {
            () = drain.cancelled() => break,
            accepted = incoming.accept() => {
                let Some(accepted) = accepted else { break };
                number += 1;
                let span = debug_span!("conn", conn = number);
                let reverse = Arc::clone(&reverse);
                connections.spawn(async move { reverse.serve(accepted).await }.instrument(span));
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

/// What all connections of one session share.
struct Reverse {
    routes: Arc<[Route]>,
    gate: Gate,
    traffic: Traffic,
    drain: CancellationToken,
    budget: Budget,
}

impl Reverse {
    async fn serve(&self, accepted: Accepted) {
        let Accepted { open, stream } = accepted;
        let Open::Accepted {
            protocol,
            listener,
            peer,
        } = open
        else {
            let detail = "the plugin only serves its listeners";
            return stream
                .refuse(Refusal::new(RefusalCode::Unsupported, detail))
                .await;
        };
        let route = self.routes.get(usize::from(listener));
        match (protocol, route) {
            (
                Protocol::Tcp,
                Some(Route {
                    program,
                    accepts: Accepts::Connections { header },
                }),
            ) => connection(peer, program, *header, stream, &self.gate, &self.traffic).await,
            (
                Protocol::Udp,
                Some(Route {
                    program,
                    accepts: Accepts::Flows { idle },
                }),
            ) => {
                let flow = flow::Flow {
                    peer,
                    program,
                    idle: *idle,
                    budget: self.budget.clone(),
                    traffic: self.traffic.clone(),
                };
                flow::serve(flow, stream, &self.gate, &self.drain).await;
            }
            (protocol, _) => {
                let detail = format!("no {protocol} listener {listener}");
                stream
                    .refuse(Refusal::new(RefusalCode::Unsupported, detail))
                    .await;
            }
        }
    }
}

async fn connection(
    peer: SocketAddr,
    program: &Program,
    header: Option<Header>,
    mut stream: Stream,
    gate: &Gate,
    traffic: &Traffic,
) {
    if !gate.pass(&mut stream).await {
        return;
    }
    let started = Instant::now();
    let target = program.to_string();
    let header = header.map_or_else(Vec::new, |header| header.version.header(peer, header.called));
    let mut local = match program::dial(program, &header).await {
        Ok(local) => local,
        Err(refusal) => {
            info!(%peer, target, reason = %refusal, "connection refused by the local program");
            traffic.failed(kind(refusal.code));
            stream.refuse(refusal).await;
            return;
        }
    };
    if stream.accept().await.is_err() {
        return;
    }
    debug!(%peer, target, "connection opened");
    let mut counted = traffic.counted(&mut stream);
    let end = relay(&mut counted, &mut local).await;
    drop(counted);
    let reason = match end.result {
        Ok(()) => {
            // It may be reset already; then there is nothing to do.
            drop(local.reset_on_close(false));
            "eof".to_owned()
        }
        Err(RelayError {
            side: Side::A,
            source,
        }) => {
            traffic.failed("reset-by-caller");
            format!("reset by the caller: {source}")
        }
        Err(RelayError {
            side: Side::B,
            source,
        }) => {
            traffic.failed("reset-by-program");
            stream.abort(&format!("the local program at {target} reset the connection"));
            format!("reset by the local program: {source}")
        }
    };
    let elapsed = started.elapsed();
    info!(%peer, target, received = end.a_to_b, sent = end.b_to_a, ?elapsed, reason, "connection closed");
}
