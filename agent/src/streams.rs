//! The streams of one session: what the plugin asks for, one task each.
//!
//! It owns the tasks; when the session is over they are dropped, and every connection they hold is reset with
//! them. It does not care about transports: they come and go under the session's link.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tunnel_wire::datagram::Budget;
use tunnel_wire::flow::MAX_FLOWS;
use tunnel_wire::link::LinkHandle;
use tunnel_wire::session::{Accepted, MAX_STREAMS};
use tunnel_wire::{Incoming, Open, Protocol, Refusal, RefusalCode, Session, Stream};

use crate::config::Config;
use crate::dial::{Request, dial};
use crate::listen::{Binding, listen};
use crate::log::Log;
use crate::udp;

/// What the streams of one session share.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) config: Arc<Config>,
    pub(crate) log: Log,
    pub(crate) session: Session,
    pub(crate) link: LinkHandle,
    /// What the datagrams that wait for their streams may take.
    pub(crate) datagrams: Budget,
    /// Flows that callers of exposed ports may have.
    pub(crate) flows: Budget,
    /// Callers that may wait for a transport: no more than the session could carry afterwards.
    pub(crate) holds: Semaphore,
    /// Streams that stand for a listener.
    listeners: AtomicUsize,
}

impl Serving {
    pub(crate) fn new(config: Arc<Config>, log: Log, session: Session, link: LinkHandle) -> Self {
        Self {
            config,
            log,
            session,
            link,
            datagrams: Budget::default(),
            flows: Budget::of(MAX_FLOWS),
            holds: Semaphore::new(MAX_STREAMS),
            listeners: AtomicUsize::new(0),
        }
    }

    /// Connections of people's programs at this moment: the streams without those that stand for a listener.
    pub(crate) fn connections(&self) -> usize {
        let listeners = self.listeners.load(Ordering::Relaxed);
        self.session.streams().saturating_sub(listeners)
    }
}

/// One listener, counted until dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(listeners: &'a AtomicUsize) -> Self {
        listeners.fetch_add(1, Ordering::Relaxed);
        Self(listeners)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves the streams that the plugin opens until the session is over.
pub(crate) async fn serve(serving: Arc<Serving>, mut incoming: Incoming) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = incoming.accept() => match accepted {
                Some(accepted) => {
                    let serving = Arc::clone(&serving);
                    tasks.spawn(async move { stream(&serving, accepted).await });
                }
                None => break,
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn stream(serving: &Arc<Serving>, accepted: Accepted) {
    let Accepted { open, stream } = accepted;
    match open {
        Open::Dial {
            protocol,
            host,
            port,
            patience_ms,
        } => {
            let request = Request::new(host, port, patience_ms);
            match protocol {
                Protocol::Tcp => dial_and_relay(&serving.config, &request, stream).await,
                Protocol::Udp => udp::dial_and_relay(serving, &request, stream).await,
            }
        }
        Open::Listen {
            protocol,
            listener,
            port,
        } => {
            let _counted = Counted::new(&serving.listeners);
            let binding = Binding {
                listener,
                address: serving.config.bind,
                port,
            };
            match protocol {
                Protocol::Tcp => listen(serving, binding, stream).await,
                Protocol::Udp => udp::listen(serving, binding, stream).await,
            }
        }
        Open::Accepted { .. } => {
            let detail = "only an agent accepts connections for the other end";
            stream
                .refuse(Refusal::new(RefusalCode::Unsupported, detail))
                .await;
        }
    }
}

async fn dial_and_relay(config: &Config, request: &Request, mut stream: Stream) {
    let dialled = tokio::select! {
        dialled = dial(config, request) => dialled,
        // Nobody waits any more: the connection must not come up later on its own.
        () = stream.failed() => return,
    };
    match dialled {
        // When the answer cannot be sent the opener is gone; dropping the connection resets it.
        Ok(edge) => {
            if stream.accept_at(edge.peer()).await.is_ok() {
                edge.relay(stream).await;
            }
        }
        Err(error) => stream.refuse(error.refusal()).await,
    }
}
