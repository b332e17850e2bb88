//! Which way to an upstream is tried for a connection, and which one next.
//!
//! ```text
//!   a name           agent  -- refused, and the target is balanced --> agent again, after a pause
//!   pods             agent to a ready pod  -- refused, no answer --> agent to another ready pod ...
//!                                          -- no other pod is left, or enough failed --> port-forward into the pod
//!   pods, --via=pod  port-forward into a ready pod  -- refused, gone --> another pod ...
//! ```
//!
//! Another try comes only after a failure before the upstream was connected, and the agent itself said so: then nobody
//! has seen the connection's bytes. That only the port-forward gets there (the program listens on loopback, or a policy
//! or a mesh keeps the agent out) is said and remembered once something came that way; where it is refused as well,
//! the pod's program is away, and the agent's way is the one to try again.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep};
use tunnel_wire::{Open, OpenError, Protocol, RefusalCode, Stream};

use super::linger::Lingering;
use super::{Route, Say, Ways};
use crate::cli::target::RemotePort;
use crate::cluster::api_error::ApiError;
use crate::cluster::port_forward::{self, PortForward, PortForwardError};
use crate::cluster::upstream::{ChosenPod, PodGroup, Upstream, Via};
use crate::session::DoorError;

/// Pauses before another try: the moment between two pods of a rollout is as long. Together a second, which is what
/// a program waits until it is told that nobody listens.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(600),
];

/// How long the agent may take to reach a pod: in a cluster that takes milliseconds, and one lost packet costs a second.
const POD_PATIENCE_MS: u16 = 2_500;

/// How long another pod is waited for, once one has failed.
const NEXT_POD: Duration = Duration::from_secs(1);

/// Pods that do not answer the agent, before it is taken for what keeps it from all of them: each costs the patience.
const SILENT_PODS: usize = 2;

/// How long it is remembered that only the port-forward gets there.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Since when only the port-forward is known to reach a route's pods.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Option<Instant>>);

impl Memory {
    fn remember(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn only_port_forward(&self) -> bool {
        let remembered = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.is_some_and(|since| since.elapsed() < REMEMBERED)
    }
}

/// The dial for one connection.
#[derive(Debug)]
pub(super) struct Dial<'a> {
    route: &'a Arc<Route>,
    ways: &'a Ways,
    tries: usize,
    /// Pods that failed, by name.
    tried: Vec<String>,
    /// What is being tried.
    current: Option<Way>,
    /// The last pod the agent could not reach, and why.
    unreached: Option<String>,
    /// How many of them did not answer.
    silent: usize,
    /// The port-forward was refused, too.
    refused_inside: bool,
}

/// One way to an upstream.
#[derive(Debug, Clone)]
enum Way {
    /// The agent dials a name.
    Name { host: String, port: u16 },
    /// The agent dials a pod.
    Agent(ChosenPod),
    /// The API server's port-forward.
    PortForward(ChosenPod),
}

impl<'a> Dial<'a> {
    pub(super) fn new(route: &'a Arc<Route>, ways: &'a Ways) -> Self {
        Self {
            route,
            ways,
            tries: 0,
            tried: Vec::new(),
            current: None,
            unreached: None,
            silent: 0,
            refused_inside: false,
        }
    }

    /// Opens the next way. Bytes may be written at once; whether the upstream is connected shows when it is read.
    pub(super) async fn open(&mut self) -> io::Result<Connection> {
        let way = match &self.route.upstream {
            Upstream::Name { host, port } => Way::Name {
                host: host.clone(),
                port: *port,
            },
            Upstream::Pods { group, port } => self.choose(group, port).await?,
        };
        self.current = Some(way.clone());
        match way {
            Way::Name { host, port } => self.stream(&host, port, 0).await,
            Way::Agent(pod) => self.stream(&pod.ip, pod.port, POD_PATIENCE_MS).await,
            Way::PortForward(pod) => {
                let pipe = port_forward::connect(&self.ways.server, &pod.namespace, &pod.name, pod.port)
                    .await
                    .map_err(io::Error::other)?;
                Ok(Connection::Pod {
                    pipe: Lingering::new(pipe),
                    name: pod.name,
                    news: self.news(),
                })
            }
        }
    }

    /// Whether another way may be tried after `error`, which came before anything else; waits until then.
    pub(super) async fn may_try_again(&mut self, error: &io::Error) -> bool {
        let Some(code) = refusal_code(error) else {
            return false;
        };
        let Some(pause) = PAUSES.get(self.tries) else {
            return false;
        };
        let again = match self.current.take() {
            Some(Way::Name { .. }) => self.route.balanced && code == RefusalCode::ConnectionRefused,
            Some(Way::Agent(pod)) => {
                self.unreached = Some(format!("pod {}: {error}", pod.name));
                self.silent += usize::from(code == RefusalCode::TimedOut);
                self.pod_failed(&pod);
                is_of_the_upstream(code)
            }
            Some(Way::PortForward(pod)) => {
                self.refused_inside = true;
                self.pod_failed(&pod);
                true
            }
            None => false,
        };
        if again {
            self.tries += 1;
            tracing::debug!(target = %self.route.label, %error, "trying again");
            sleep(*pause).await;
        }
        again
    }

    /// Why the connection was not made, in the words of all who tried.
    pub(super) fn why(&self, error: &io::Error) -> String {
        match (&self.current, &self.unreached) {
            (Some(Way::PortForward(_)), Some(unreached)) => {
                format!("{unreached}; by the API server's port-forward: {error}")
            }
            _ => error.to_string(),
        }
    }

    /// The pod that is being tried, if it is one.
    pub(super) fn pod(&self) -> Option<ChosenPod> {
        match &self.current {
            Some(Way::Agent(pod) | Way::PortForward(pod)) => Some(pod.clone()),
            Some(Way::Name { .. }) | None => None,
        }
    }

    fn pod_failed(&mut self, pod: &ChosenPod) {
        if let Upstream::Pods { group, .. } = &self.route.upstream {
            group.failed(pod);
        }
        self.tried.push(pod.name.clone());
    }

    /// A pod, and the way to it.
    async fn choose(&self, group: &PodGroup, port: &RemotePort) -> io::Result<Way> {
        let patience = if self.tried.is_empty() {
            self.ways.hold
        } else {
            NEXT_POD
        };
        let deadline = Instant::now() + patience;
        let pod = group
            .choose(port, self.route.protocol, &self.tried, deadline)
            .await
            .map_err(io::Error::other)?;
        let port_forward = match self.route.via {
            Via::Pod => true,
            Via::Agent => false,
            Via::Auto if self.route.protocol == Protocol::Udp || self.refused_inside => false,
            Via::Auto => {
                let last = self.tries == PAUSES.len();
                let enough = self.silent >= SILENT_PODS || self.tried.contains(&pod.name);
                last || enough || self.route.memory.only_port_forward()
            }
        };
        Ok(if port_forward {
            Way::PortForward(pod)
        } else {
            Way::Agent(pod)
        })
    }

    /// What there is to learn from a port-forward that works: nothing if it was asked for.
    fn news(&self) -> Option<News> {
        (self.route.via == Via::Auto).then(|| News {
            route: Arc::clone(self.route),
            warning: self.unreached.as_ref().map(|reason| {
                format!(
                    "the agent does not get through to {reason}; using the API server's port-forward into the pod"
                )
            }),
            say: Arc::clone(&self.ways.say),
        })
    }

    async fn stream(&self, host: &str, port: u16, patience_ms: u16) -> io::Result<Connection> {
        let open = Open::Dial {
            protocol: self.route.protocol,
            host: host.to_owned(),
            port,
            patience_ms,
        };
        let opened = self.ways.door.open(&open).await;
        Ok(Connection::Agent(Box::new(opened.map_err(io::Error::other)?)))
    }
}

/// Whether an error means that the upstream was never connected.
pub(super) fn was_refused(error: &io::Error) -> bool {
    refusal_code(error).is_some()
}

/// Why an upstream was not connected, if that is what an error means.
fn refusal_code(error: &io::Error) -> Option<RefusalCode> {
    if let Some(error) = PortForwardError::find(error) {
        return (!error.connected).then_some(RefusalCode::ConnectionRefused);
    }
    if let Some(error) = find::<ApiError>(error) {
        // The pod has gone, or its node does not answer the API server.
        let of_the_pod = error.code().is_some_and(|code| code == 404 || code >= 500);
        return of_the_pod.then_some(RefusalCode::Unreachable);
    }
    match OpenError::from_io(error) {
        Some(OpenError::Refused(refusal)) => Some(refusal.code),
        Some(
            OpenError::TooManyStreams { .. }
            | OpenError::SessionClosed
            | OpenError::Aborted { .. }
            | OpenError::Protocol(_),
        )
        | None => None,
    }
}

/// The error inside.
fn find<E: std::error::Error + 'static>(error: &io::Error) -> Option<&E> {
    error.get_ref()?.downcast_ref()
}

/// Whether there is no session to open a stream in; that is told by its state, not by each connection.
pub(super) fn is_without_session(error: &io::Error) -> bool {
    find::<DoorError>(error).is_some_and(|error| match error {
        DoorError::Held { .. } | DoorError::NotStarted(_) | DoorError::Open(OpenError::SessionClosed) => true,
        DoorError::Open(_) => false,
    })
}

/// Whether another upstream may do better.
fn is_of_the_upstream(code: RefusalCode) -> bool {
    matches!(
        code,
        RefusalCode::ConnectionRefused | RefusalCode::TimedOut | RefusalCode::Unreachable
    )
}

/// An upstream's end of a connection, connected or on its way.
#[derive(Debug)]
pub(super) enum Connection {
    Agent(Box<Stream>),
    Pod {
        pipe: Lingering<PortForward>,
        name: String,
        /// The first byte tells that this way works.
        news: Option<News>,
    },
}

/// That only the port-forward reaches a route's pods.
pub(super) struct News {
    route: Arc<Route>,
    /// Nothing when it was known before.
    warning: Option<String>,
    say: Say,
}

impl News {
    fn spread(self) {
        // Only from a dial that tried the agent first: else it would be remembered for ever.
        if let Some(warning) = self.warning {
            self.route.memory.remember();
            self.route.tell_way(&self.say, &warning);
        }
    }
}

impl fmt::Debug for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("News")
            .field("warning", &self.warning)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// What was dialled in the end; for the log.
    pub(super) fn upstream(&self) -> String {
        match self {
            Self::Agent(stream) => stream
                .upstream()
                .map_or_else(|| "-".to_owned(), |address| address.to_string()),
            Self::Pod { name, .. } => format!("pod/{name} by port-forward"),
        }
    }

    /// Tells the other end, where it can be told, that the connection is void.
    pub(super) fn abort(self, reason: &str) {
        if let Self::Agent(stream) = self {
            stream.abort(reason);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Agent(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Pod { pipe, news, .. } => {
                let before = buf.filled().len();
                let read = Pin::new(pipe).poll_read(cx, buf);
                if buf.filled().len() > before
                    && let Some(news) = news.take()
                {
                    news.spread();
                }
                read
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Agent(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Pod { pipe, .. } => Pin::new(pipe).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Agent(stream) => Pin::new(stream).poll_flush(cx),
            Self::Pod { pipe, .. } => Pin::new(pipe).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Agent(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Pod { pipe, .. } => Pin::new(pipe).poll_shutdown(cx),
        }
    }
}
