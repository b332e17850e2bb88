//! The session that the agent keeps, and the transport under it at this moment, if there is one.
//!
//! The link, yamux and the streams live here and do not notice how often the transport changes. `agent` decides
//! which transport comes and what its end means; the streams are `streams`' business.
//!
//! ```text
//!   start --> attached --transport ends, or a newer one comes--> detached --newer one--> attached ...
//!                 | a final end                                     | evict, or the agent ends
//!                 v                                                 v
//!             link closed: all streams are reset, nobody can resume
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tunnel_wire::Session;
use tunnel_wire::hello::{HELLO_TIMEOUT, Hello, SessionId, Verdict};
use tunnel_wire::link::{self, LinkHandle, TransportEnd};
use tunnel_wire::session::{self, End};

use crate::Task;
use crate::agent::Transport;
use crate::config::Config;
use crate::log::{LineTx, Log, chain};
use crate::streams::{self, Serving};

/// How long a plugin that is evicted has to take its last frame.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an end by signal waits for the plugin to answer the goodbye. Below the pod's grace period of 1 s.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

/// A transport whose plugin knows the secret.
pub(crate) struct Proven {
    pub(crate) transport: Transport,
    pub(crate) hello: Hello,
}

/// One session.
pub(crate) struct LiveSession {
    /// The link's number, chosen by the plugin.
    id: u64,
    /// Number of the newest transport it has had.
    newest: u32,
    /// Port of the entrance, 0 for none.
    entrance: u16,
    link: LinkHandle,
    serving: Arc<Serving>,
    /// Whoever holds it has the link. A transport that was given up lets go of it only when its future is gone,
    /// and so takes not one byte more: then the position received is final.
    turn: Arc<Mutex<()>>,
    transport: Option<Attached>,
    /// yamux and the streams; dropping them resets all connections.
    tasks: JoinSet<()>,
}

/// The newest transport. Dropping it gives the transport up.
struct Attached {
    lines: LineTx,
    /// The one task that runs it, to its end.
    task: JoinSet<TransportEnd>,
}

impl fmt::Debug for LiveSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveSession")
            .field("link", &self.id)
            .field("transport", &self.newest)
            .finish_non_exhaustive()
    }
}

impl LiveSession {
    /// A session over its first transport.
    ///
    /// Each hello's answer tells the port of the `entrance`.
    pub(crate) fn start(config: &Arc<Config>, log: &Log, entrance: u16, proven: Proven) -> Self {
        let (link, io) = link::channel();
        let (session, incoming, driver) = session::start(End::Agent, link.clone(), io);
        let serving = Serving::new(Arc::clone(config), log.clone(), session, link.clone());
        let serving = Arc::new(serving);
        let mut tasks = JoinSet::new();
        let parts: [Task; 2] = [
            Box::pin(driver.run()),
            Box::pin(streams::serve(Arc::clone(&serving), incoming)),
        ];
        for part in parts {
            tasks.spawn(part);
        }
        let mut live = Self {
            id: proven.hello.link,
            newest: 0,
            entrance,
            link,
            serving,
            turn: Arc::default(),
            transport: None,
            tasks,
        };
        live.attach(proven);
        live
    }

    /// The link's number.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Number of the newest transport it has had.
    pub(crate) fn newest(&self) -> u32 {
        self.newest
    }

    pub(crate) fn session(&self) -> &Session {
        &self.serving.session
    }

    /// Whether all its streams are gone, so that there is nothing to resume.
    pub(crate) fn is_over(&self) -> bool {
        self.link.closed().is_some()
    }

    /// Connections that would be lost with the session.
    pub(crate) fn connections(&self) -> usize {
        if self.is_over() {
            0
        } else {
            self.serving.connections()
        }
    }

    /// Goes on over a newer transport; the one before is given up at once, whatever it is waiting for.
    pub(crate) fn attach(&mut self, proven: Proven) {
        self.newest = proven.hello.transport;
        let lines = proven.transport.lines.clone();
        let answer = Hello {
            entrance: self.entrance,
            ..proven
                .hello
                .answer(self.serving.config.session.clone(), Verdict::Accepted, 0)
        };
        let (link, turn) = (self.link.clone(), Arc::clone(&self.turn));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let end = run_transport(answer, &link, &turn, proven).await;
            if end.is_final() {
                link.close(end.clone());
            }
            end
        });
        self.transport = Some(Attached { lines, task });
    }

    /// Why the transport ended, once it has; never, while there is none.
    pub(crate) async fn detached(&mut self) -> TransportEnd {
        let end = match &mut self.transport {
            Some(attached) => attached.task.join_next().await,
            None => std::future::pending().await,
        };
        self.transport = None;
        end.and_then(Result::ok).unwrap_or(TransportEnd::Closed)
    }

    /// Where the people at the transport read, if there is one.
    pub(crate) fn lines(&self) -> Option<&LineTx> {
        self.transport.as_ref().map(|attached| &attached.lines)
    }

    /// Resets all streams at once. What is left to do is to tell the plugin.
    pub(crate) fn evict(self) -> impl Future<Output = ()> + Send + 'static {
        let Self {
            link,
            transport,
            tasks,
            ..
        } = self;
        link.evict();
        link.close(TransportEnd::Evicted);
        drop(tasks);
        async move {
            if let Some(mut attached) = transport {
                // A plugin that takes nothing in time learns it from the end of the transport, and when it
                // comes back.
                drop(timeout(EVICTION_TIMEOUT, attached.task.join_next()).await);
            }
        }
    }

    /// Says goodbye and waits a little for the answer.
    pub(crate) async fn goodbye(self) {
        self.link.goodbye();
        if let Some(mut attached) = self.transport {
            // Without an answer in time the other end is gone, or learns it from the end of the transport.
            drop(timeout(GOODBYE_TIMEOUT, attached.task.join_next()).await);
        }
    }
}

/// Answers the hello, once the position in it is final, and runs the link over the transport, to its end.
async fn run_transport(
    mut answer: Hello,
    link: &LinkHandle,
    turn: &Mutex<()>,
    proven: Proven,
) -> TransportEnd {
    let Proven { transport, hello } = proven;
    let Transport {
        reader,
        mut writer,
        lines: _lines,
        gone,
    } = transport;
    let run = async {
        let _turn = turn.lock().await;
        answer.received = link.progress().received;
        match timeout(HELLO_TIMEOUT, answer.write(&mut writer)).await {
            Ok(Ok(())) => link.run(reader, writer, hello.received).await,
            Ok(Err(error)) => TransportEnd::Failed(chain(&error)),
            Err(_) => TransportEnd::Silent,
        }
    };
    tokio::select! {
        // A goodbye may have come with the end.
        biased;
        end = run => end,
        () = gone.cancelled() => TransportEnd::Ended,
    }
}

/// Tells a plugin that knows the secret why it cannot have the session all the same.
pub(crate) async fn turn_away(session: SessionId, verdict: Verdict, proven: Proven) {
    let Proven { mut transport, hello } = proven;
    let answer = hello.answer(session, verdict, 0);
    // Whoever does not take the answer is gone, or will see the end of the transport.
    drop(timeout(HELLO_TIMEOUT, answer.write(&mut transport.writer)).await);
}
