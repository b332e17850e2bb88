//! The agent's life: transports come, a proven one carries the session, and at some time all is over.
//!
//! ```text
//!   transport --hello not proven in 5 s--> told why, ended; nothing else changes
//!   entrance  --proven there---------.
//!       | proven
//!       |<---------------------------'
//!       |-- of the session that lives: newer --> it carries the session on, the older transport is given up
//!       |                              older --> told that it is stale
//!       |-- of one that is over, or whose past is not known here --> told so
//!       '-- of a new plugin, over exec --> a new session; the one before is evicted, its streams are reset
//!
//!   transport ends --> nobody attached, the session is kept --grace--> exit
//! ```
//!
//! It does no I/O of its own: transports arrive over a queue (from `attachments`, or from a test) and at the `entrance`,
//! signals as a token. What a session consists of is `live`'s business.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tunnel_wire::entrance::Key;
use tunnel_wire::hello::{self, HelloError, Verdict};
use tunnel_wire::link::TransportEnd;

use crate::Task;
use crate::config::Config;
use crate::entrance::{self, Entrance};
use crate::idle::{Expiry, Idle};
use crate::live::{self, LiveSession, Proven};
use crate::log::{Level, LineTx, Log, chain};
use crate::status::{Status, StatusTx};

/// Transports whose hello has not proven the secret yet. More are turned away: whoever may exec into the pod
/// could otherwise pile them up.
pub const MAX_UNPROVEN: usize = 4;

/// Sessions that are over and remembered as such. A plugin that was evicted may try to come back; the one that
/// was evicted so many times ago has given up.
const OVER: usize = 16;

/// One connected byte pipe to a plugin, not yet proven.
pub struct Transport {
    /// From the plugin. Its end of file ends the transport.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// To the plugin.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// Log lines for the people at the other end. When the agent drops it, the transport is over for the agent.
    pub lines: LineTx,
    /// Cancelled by the other side of the queue when the transport is over for a reason that `reader` cannot see.
    pub gone: CancellationToken,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("gone", &self.gone.is_cancelled())
            .finish_non_exhaustive()
    }
}

/// Why the agent ended. All of them are good ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Nobody proved the secret in time.
    NeverAttached,
    /// The last one left, and nobody came back within the grace period.
    GraceOver {
        /// Whether connections were open when it left.
        open: bool,
    },
    /// The plugin said goodbye.
    Goodbye,
    /// A signal, or whoever runs the agent in-process.
    Shutdown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NeverAttached => "nobody attached",
            Self::GraceOver { open: false } => "nobody came back within the grace period",
            Self::GraceOver { open: true } => "nobody came back within the grace period for open connections",
            Self::Goodbye => "the plugin said goodbye",
            Self::Shutdown => "told to end",
        })
    }
}

/// One agent, ready to run.
#[derive(Debug)]
pub struct Agent {
    config: Arc<Config>,
    log: Log,
    status_tx: StatusTx,
    entrance: Option<Entrance>,
}

/// What changes while an agent runs.
#[derive(Debug)]
struct State {
    live: Option<LiveSession>,
    /// Links of sessions that are over, the last one at the end.
    over: VecDeque<u64>,
    idle: Idle,
    /// Transports that are told why they have to go.
    leaving: JoinSet<()>,
    /// What opens the entrance: the secret of the session that lives, once proven over exec.
    key: Option<Key>,
}

impl Agent {
    /// An agent that logs to `log` and, once somebody is attached, to them as well.
    pub fn new(config: Config, log: Log) -> Self {
        Self {
            config: Arc::new(config),
            log,
            status_tx: StatusTx::new(Instant::now()),
            entrance: None,
        }
    }

    /// Opens the entrance if the configuration wants one. Exec works without it as well.
    #[must_use]
    pub async fn open_entrance(mut self) -> Self {
        if let Some(address) = self.config.entrance {
            match Entrance::bind(address).await {
                Ok(entrance) => self.entrance = Some(entrance),
                Err(error) => self.log.warn("no entrance", &[("reason", &error)]),
            }
        }
        self
    }

    /// What [`Agent::run`] is doing at each moment.
    pub fn status(&self) -> Status {
        self.status_tx.reader()
    }

    /// Runs until there is nothing left to do, or `shutdown` is cancelled. When it returns every stream has
    /// been given up and no new one can begin.
    pub async fn run(
        self,
        mut transports_rx: mpsc::Receiver<Transport>,
        shutdown: CancellationToken,
    ) -> Exit {
        let Config {
            first_attach,
            grace,
            grace_open,
            ..
        } = *self.config;
        let mut state = State {
            live: None,
            over: VecDeque::new(),
            idle: Idle::new(Instant::now(), first_attach, grace, grace_open),
            leaving: JoinSet::new(),
            key: None,
        };
        let mut unproven = JoinSet::new();
        let mut knocking = JoinSet::new();
        let exit = loop {
            tokio::select! {
                () = shutdown.cancelled() => break Exit::Shutdown,
                Some(transport) = transports_rx.recv() => self.admit(transport, &mut unproven),
                Some(proof) = unproven.join_next() => {
                    if let Ok(Some(proven)) = proof {
                        self.receive(&mut state, proven);
                    }
                }
                connection = knocked(self.entrance.as_ref()) => {
                    // More are turned away without a word: whatever is in the pod could pile them up.
                    if knocking.len() < MAX_UNPROVEN {
                        let proof: Task<_> = Box::pin(entrance::prove(connection, state.key.clone()));
                        knocking.spawn(proof);
                    }
                }
                Some(proof) = knocking.join_next() => {
                    if let Ok(Some(proven)) = proof {
                        self.resume(&mut state, proven);
                    }
                }
                end = detached(state.live.as_mut()) => {
                    self.detach(&mut state, &end);
                    if matches!(end, TransportEnd::Goodbye) {
                        break Exit::Goodbye;
                    }
                }
                expiry = expired(&state.idle) => break match expiry {
                    Expiry::NeverAttached => Exit::NeverAttached,
                    Expiry::GraceOver { open } => Exit::GraceOver { open },
                },
                Some(_) = state.leaving.join_next() => {}
            }
        };
        self.log.info("the agent ends", &[("reason", &exit)]);
        if let Some(live) = state.live {
            live.goodbye().await;
        }
        self.log.set_attach(None);
        exit
    }

    /// Lets a transport prove itself, unless too many are at it already.
    fn admit(&self, transport: Transport, unproven: &mut JoinSet<Option<Proven>>) {
        if unproven.len() >= MAX_UNPROVEN {
            let reason = format!("{MAX_UNPROVEN} others have not proven the session's secret yet, try again");
            self.log.tell(
                &transport.lines,
                Level::Warn,
                "attach refused",
                &[("reason", &reason)],
            );
            return;
        }
        let (config, log) = (Arc::clone(&self.config), self.log.clone());
        let proof: Task<_> = Box::pin(async move { prove(&config, &log, transport).await });
        unproven.spawn(proof);
    }

    /// Decides what a transport is for whose plugin knows the secret.
    fn receive(&self, state: &mut State, proven: Proven) {
        let hello = &proven.hello;
        match &mut state.live {
            Some(live) if live.id() == hello.link && !live.is_over() => self.resume(state, proven),
            live => {
                let known = live.as_ref().is_some_and(|live| live.id() == hello.link);
                let stranger = hello.received > 0;
                if state.over.contains(&hello.link) || (stranger && !known && live.is_some()) {
                    self.turn_away(state, Verdict::Replaced, proven);
                } else if known || stranger {
                    self.turn_away(state, Verdict::Over, proven);
                } else {
                    self.begin(state, proven);
                }
            }
        }
    }

    /// Carries the session that lives on. One that came through the entrance may be too late for it: then it is
    /// dropped, and the plugin learns why over exec.
    fn resume(&self, state: &mut State, proven: Proven) {
        let hello = &proven.hello;
        let Some(live) = state
            .live
            .as_mut()
            .filter(|live| live.id() == hello.link && !live.is_over())
        else {
            return;
        };
        if hello.transport <= live.newest() {
            self.turn_away(state, Verdict::Stale, proven);
            return;
        }
        let transport = hello.transport;
        self.log.set_attach(Some(proven.transport.lines.clone()));
        self.log.info("resumed", &[("transport", &transport)]);
        live.attach(proven);
        self.status_tx.attached(live.session(), Instant::now());
        state.idle.attached();
    }

    /// Begins a new session. The one before is over, whatever it was doing.
    fn begin(&self, state: &mut State, proven: Proven) {
        if let Some(older) = state.live.take() {
            if state.over.len() == OVER {
                state.over.pop_front();
            }
            state.over.push_back(older.id());
            if let Some(lines) = older.lines() {
                let fields: [(&str, &dyn fmt::Display); 1] = [("connections", &older.connections())];
                self.log
                    .tell(lines, Level::Warn, "taken over by another plugin", &fields);
            }
            let eviction: Task = Box::pin(older.evict());
            state.leaving.spawn(eviction);
        }
        let hello = &proven.hello;
        self.log.set_attach(Some(proven.transport.lines.clone()));
        self.log.info(
            "attached",
            &[("plugin", &hello.software), ("transport", &hello.transport)],
        );
        state.key = Some(Key {
            session: self.config.session.clone(),
            link: hello.link,
            secret: hello.secret.clone(),
        });
        let port = self.entrance.as_ref().map_or(0, Entrance::port);
        let live = LiveSession::start(&self.config, &self.log, port, proven);
        self.status_tx.attached(live.session(), Instant::now());
        state.idle.attached();
        state.live = Some(live);
    }

    /// Tells a plugin that knows the secret why it cannot have the session.
    fn turn_away(&self, state: &mut State, verdict: Verdict, proven: Proven) {
        let reason = HelloError::Refused(verdict);
        let fields: [(&str, &dyn fmt::Display); 2] =
            [("reason", &reason), ("transport", &proven.hello.transport)];
        self.log
            .tell(&proven.transport.lines, Level::Warn, "attach refused", &fields);
        let session = self.config.session.clone();
        let told: Task = Box::pin(live::turn_away(session, verdict, proven));
        state.leaving.spawn(told);
    }

    /// The session's transport is gone; whether somebody comes back is a matter of time.
    fn detach(&self, state: &mut State, end: &TransportEnd) {
        self.log.set_attach(None);
        let now = Instant::now();
        self.status_tx.detached(now);
        let connections = state.live.as_ref().map_or(0, LiveSession::connections);
        state.idle.detached(now, connections > 0);
        let grace = state
            .idle
            .deadline()
            .map_or(0, |deadline| (deadline - now).as_secs());
        if state.live.as_ref().is_some_and(LiveSession::is_over) {
            state.key = None;
            self.log.info("the plugin left", &[("reason", end)]);
        } else {
            self.log.info(
                "the plugin left, waiting for it",
                &[
                    ("reason", end),
                    ("connections", &connections),
                    ("grace", &format_args!("{grace}s")),
                ],
            );
        }
    }
}

/// Waits for a hello that proves the session's secret. Whoever fails is told why.
async fn prove(config: &Config, log: &Log, mut transport: Transport) -> Option<Proven> {
    let Transport {
        reader,
        writer,
        gone,
        lines,
    } = &mut transport;
    let result = tokio::select! {
        result = hello::accept(reader, writer, &config.session, &config.secret) => result,
        () = gone.cancelled() => Err(HelloError::Ended),
    };
    match result {
        Ok(hello) => Some(Proven { transport, hello }),
        Err(error) => {
            let reason = chain(&error);
            let hint = match error {
                HelloError::Version { .. } => {
                    Some("use the release of kubectl-tunnel that started this session")
                }
                HelloError::Refused(_) => Some("start a session of your own"),
                HelloError::NotAHello(_) => Some("only kubectl-tunnel can talk to this agent"),
                HelloError::Altered(_) => Some("something on the path to the API server alters exec data"),
                HelloError::TimedOut | HelloError::Ended | HelloError::Io(_) => None,
            };
            let mut fields: Vec<(&str, &dyn fmt::Display)> = vec![("reason", &reason)];
            fields.extend(hint.as_ref().map(|hint| ("hint", hint as &dyn fmt::Display)));
            log.tell(lines, Level::Warn, "attach refused", &fields);
            None
        }
    }
}

/// The next connection at the entrance; never, while there is none.
async fn knocked(entrance: Option<&Entrance>) -> TcpStream {
    match entrance {
        Some(entrance) => entrance.accept().await,
        None => std::future::pending().await,
    }
}

/// Why the session's transport ended; never, while there is none.
async fn detached(live: Option<&mut LiveSession>) -> TransportEnd {
    match live {
        Some(live) => live.detached().await,
        None => std::future::pending().await,
    }
}

/// Why there is nothing left to wait for, once that is so.
async fn expired(idle: &Idle) -> Expiry {
    loop {
        match idle.deadline() {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
        if let Some(expiry) = idle.expired(Instant::now()) {
            return expiry;
        }
    }
}
