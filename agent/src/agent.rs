//! The agent's life: transports come, the newest proven one carries the session, and at some time all is over.
//!
//! ```text
//!   transport --hello proven--> session over it --transport ends--> nobody attached --grace--> exit
//!       | not proven in 5 s         | a newer proven one
//!       v                           v
//!     told why, ended            told, its streams are reset, ended
//! ```
//!
//! A session and the transport under it are two things here: the link below the session is made to be given
//! further transports. It does no I/O of its own: transports arrive over a queue (from `attachments`, or from a
//! test), signals as a token.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tunnel_wire::hello::{self, HELLO_TIMEOUT, Hello, HelloError, Verdict};
use tunnel_wire::link::{self, LinkHandle, TransportEnd};
use tunnel_wire::session::{self, End};

use crate::config::Config;
use crate::idle::{Expiry, Idle};
use crate::log::{Level, LineTx, Log, chain};
use crate::status::{Status, StatusTx};
use crate::streams;

/// Transports whose hello has not proven the secret yet. More are turned away: whoever may exec into the pod
/// could otherwise pile them up.
pub const MAX_UNPROVEN: usize = 4;

/// How long an end by signal waits for the plugin to answer the goodbye. Below the pod's grace period of 1 s.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

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
    GraceOver,
    /// The plugin said goodbye.
    Goodbye,
    /// A signal, or whoever runs the agent in-process.
    Shutdown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NeverAttached => "nobody attached",
            Self::GraceOver => "nobody came back within the grace period",
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
}

/// The newest proven transport and the session over it.
struct Attached {
    link: LinkHandle,
    lines: LineTx,
    /// The one task that runs the session, to its end.
    task: JoinSet<TransportEnd>,
}

/// A transport whose plugin knows the secret.
struct Proven {
    transport: Transport,
    hello: Hello,
}

impl Agent {
    /// An agent that logs to `log` and, once somebody is attached, to them as well.
    pub fn new(config: Config, log: Log) -> Self {
        Self {
            config: Arc::new(config),
            log,
            status_tx: StatusTx::new(Instant::now()),
        }
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
        let mut idle = Idle::new(Instant::now(), self.config.first_attach, self.config.grace);
        let mut unproven = JoinSet::new();
        let mut attached: Option<Attached> = None;
        let exit = loop {
            tokio::select! {
                () = shutdown.cancelled() => break Exit::Shutdown,
                Some(transport) = transports_rx.recv() => self.admit(transport, &mut unproven),
                Some(proof) = unproven.join_next() => {
                    if let Ok(Some(proven)) = proof {
                        self.retire(attached.take());
                        attached = Some(self.attach(proven));
                        idle.attached();
                    }
                }
                end = ended(attached.as_mut()) => {
                    attached = None;
                    self.log.info("the plugin left", &[("reason", &end)]);
                    self.log.set_attach(None);
                    self.status_tx.set(None, Instant::now());
                    idle.detached(Instant::now());
                    if matches!(end, TransportEnd::Goodbye) {
                        break Exit::Goodbye;
                    }
                }
                expiry = expired(&idle) => break match expiry {
                    Expiry::NeverAttached => Exit::NeverAttached,
                    Expiry::GraceOver => Exit::GraceOver,
                },
            }
        };
        self.log.info("the agent ends", &[("reason", &exit)]);
        if let Some(attached) = &mut attached {
            attached.link.goodbye();
            // Without an answer in time the other end is gone, or learns it from the end of the transport.
            drop(tokio::time::timeout(GOODBYE_TIMEOUT, attached.task.join_next()).await);
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
        unproven.spawn(async move { prove(&config, &log, transport).await });
    }

    /// Ends the session over an older transport: its streams are reset, and its people are told why.
    fn retire(&self, older: Option<Attached>) {
        let Some(older) = older else { return };
        self.log.tell(
            &older.lines,
            Level::Warn,
            "replaced by a newer attach of this session",
            &[],
        );
        self.log.set_attach(None);
        older.link.close(TransportEnd::Closed);
    }

    /// Starts the session over a proven transport.
    fn attach(&self, proven: Proven) -> Attached {
        let lines = proven.transport.lines.clone();
        self.log.set_attach(Some(lines.clone()));
        let transport = proven.hello.transport;
        self.log.info(
            "attached",
            &[("plugin", &proven.hello.software), ("transport", &transport)],
        );

        let (link, io) = link::channel();
        let (session, incoming, driver) = session::start(End::Agent, link.clone(), io);
        self.status_tx.set(Some(session.clone()), Instant::now());
        let mut task = JoinSet::new();
        let streams = streams::serve(Arc::clone(&self.config), self.log.clone(), session, incoming);
        task.spawn({
            let (config, link) = (Arc::clone(&self.config), link.clone());
            async move {
                let mut parts = JoinSet::new();
                parts.spawn(driver.run());
                parts.spawn(streams);
                let end = run_transport(&config, &link, proven).await;
                link.close(end.clone());
                end
            }
        });
        Attached { link, lines, task }
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

/// Answers the hello and runs the link over the transport, to its end.
async fn run_transport(config: &Config, link: &LinkHandle, proven: Proven) -> TransportEnd {
    let Proven { transport, hello } = proven;
    let Transport {
        reader,
        mut writer,
        lines: _lines,
        gone,
    } = transport;
    let answer = hello.answer(
        config.session.clone(),
        Verdict::Accepted,
        link.progress().received,
    );
    let run = async {
        match tokio::time::timeout(HELLO_TIMEOUT, answer.write(&mut writer)).await {
            Ok(Ok(())) => link.run(reader, writer, hello.received).await,
            Ok(Err(error)) => TransportEnd::Failed(chain(&error)),
            Err(_) => TransportEnd::Silent,
        }
    };
    tokio::select! {
        end = run => end,
        () = gone.cancelled() => TransportEnd::Ended,
    }
}

/// Why the current transport ended; never, while there is none.
async fn ended(attached: Option<&mut Attached>) -> TransportEnd {
    match attached {
        Some(attached) => match attached.task.join_next().await {
            Some(Ok(end)) => end,
            Some(Err(_)) | None => TransportEnd::Closed,
        },
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
