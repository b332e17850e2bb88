//! The forward direction: connections of local programs become streams of the session, or connections of the API
//! server's port-forward.
//!
//! ```text
//!   tcp    accept -> early bytes kept -> [ dial: agent, another pod, port-forward ] -> relay -> one line in the log
//!   udp    receive -> a flow for each peer -> stream of datagrams
//!   proxy  listener -> connector -> stream
//! ```
//!
//! Owns the local ports of `kubectl tunnel forward` and their connections ([`bind`], [`tcp`], [`udp`]) and the choice of
//! the way to an upstream ([`dial`]). It knows no terminal: what has to be said goes through [`Say`]. Which upstreams
//! there are is `cluster::upstream`'s, whether there is a session the door's.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tunnel_wire::datagram::Budget;
use tunnel_wire::flow::MAX_FLOWS;

pub mod bind;
mod connector;
mod dial;
mod early;
mod linger;
mod tcp;
mod udp;

pub use self::connector::SessionConnector;

use self::bind::{BoundPort, BoundSocket};
use self::dial::Memory;
use crate::cli::port::Protocol;
use crate::cluster::client::ApiServer;
use crate::cluster::upstream::{Upstream, Via};
use crate::listener::accept;
use crate::session::Door;

/// Connections at once, all local ports together: more wait in the system's queue.
const CONNECTIONS: usize = 4096;

/// When a trouble that lasts is told again.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// Tells the user something that must not be missed.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// One port of one target, and how to get there.
#[derive(Debug)]
pub struct Route {
    /// The target's port as the user named it, such as `svc/web:80`.
    pub label: String,
    /// What is dialled.
    pub upstream: Upstream,
    /// What it carries.
    pub protocol: Protocol,
    /// Which ways may be used.
    pub via: Via,
    /// Whether a refusal may be the moment between two pods, and is worth another try.
    pub balanced: bool,
    /// What was learned about its ways.
    memory: Memory,
    /// What the user was told of its troubles last, and when.
    told: Mutex<Option<(String, Instant)>>,
    /// Whether there was no connection since.
    failing: AtomicBool,
    /// Whether it was told that the port-forward is used.
    said: AtomicBool,
}

impl Route {
    /// A route nobody has used.
    #[must_use]
    pub fn new(label: String, upstream: Upstream, protocol: Protocol, via: Via, balanced: bool) -> Self {
        Self {
            label,
            upstream,
            protocol,
            via,
            balanced,
            memory: Memory::default(),
            told: Mutex::default(),
            failing: AtomicBool::new(false),
            said: AtomicBool::new(false),
        }
    }

    /// Tells the user of a trouble, but not again soon, and not another one of the same bad time: a program that tries
    /// in a loop must not fill the terminal.
    fn tell(&self, say: &Say, trouble: &str) {
        let now = Instant::now();
        let failing = self.failing.swap(true, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let known = told
            .as_ref()
            .is_some_and(|(text, at)| (failing || text == trouble) && now - *at < TOLD_AGAIN);
        if !known {
            *told = Some((trouble.to_owned(), now));
            say(&format!("{}: {trouble}", self.label));
        }
    }

    /// A connection was made: a trouble that comes later is another one.
    fn works(&self) {
        self.failing.store(false, Ordering::Relaxed);
    }

    /// Tells the user once which way its connections go.
    fn tell_way(&self, say: &Say, way: &str) {
        if !self.said.swap(true, Ordering::Relaxed) {
            say(&format!("{}: {way}", self.label));
        }
    }
}

/// What all connections share.
#[derive(Clone)]
pub struct Ways {
    /// Opens streams.
    pub door: Door,
    /// For the port-forward of single connections.
    pub server: ApiServer,
    /// How long a connection waits for a ready pod.
    pub hold: Duration,
    /// How long a UDP flow may be idle.
    pub udp_idle: Duration,
    /// Tells the user.
    pub say: Say,
}

impl fmt::Debug for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ways")
            .field("hold", &self.hold)
            .field("udp_idle", &self.udp_idle)
            .finish_non_exhaustive()
    }
}

/// Serves the ports until `drain` is cancelled, then no new connections; returns when the last has ended.
pub async fn serve(ports: Vec<BoundPort>, ways: Ways, drain: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let shared = (Budget::of(MAX_FLOWS), Budget::default());
    let ways = Arc::new(ways);
    let mut loops = JoinSet::new();
    for BoundPort { route, sockets } in ports {
        for socket in sockets {
            let (ways, route) = (Arc::clone(&ways), Arc::clone(&route));
            match socket {
                BoundSocket::Tcp(port) => {
                    let serve =
                        move |socket, peer| tcp::serve(socket, peer, Arc::clone(&route), Arc::clone(&ways));
                    loops.spawn(accept(port, Arc::clone(&permits), drain.clone(), serve));
                }
                BoundSocket::Udp(socket) => {
                    loops.spawn(udp::serve(socket, route, ways, shared.clone(), drain.clone()));
                }
            }
        }
    }
    while let Some(ended) = loops.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a local port ended");
        }
    }
}
