//! The plugin's end of a session with one agent: keeps it alive over as many transports as it takes.
//!
//! It knows no Kubernetes: the caller hands it "a way to get the next transport" ([`Transports`]), an exec
//! in life and an in-process agent in tests. The second way, by port-forward, is tried beside it and taken where it is
//! better ([`second`]); nothing depends on that. It publishes where it stands ([`standing`]); it ends ([`Over`])
//! when there is nothing left to keep, and does not start agents.
//!
//! ```text
//!                       .-- suspect, aged, woken, better: the next beside it ------.
//!                       v                                                          |
//!   Connecting ------> Ready ---- the transport ends ----> Reconnecting ----> Ready
//!       |                |                                      |
//!       |                v                                      v
//!       '----------> Draining ---------> Closed <-- given up, agent gone, evicted, bad path
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tunnel_wire::hello::{HelloError, Secret, SessionId, Verdict};
use tunnel_wire::link::{self, LinkHandle, TransportEnd};
use tunnel_wire::session::{End, Incoming, Session};

mod backoff;
mod care;
mod clock;
mod dial;
pub mod door;
mod keeper;
mod lifetime;
mod path;
mod search;
mod second;
pub mod standing;

pub use self::clock::WallClock;
pub use self::door::{Door, DoorError};
pub use self::path::BadPath;
pub use self::second::attempt::SecondError;
pub use self::standing::{Phase, Standing, StandingTx};

use self::care::{Alive, Attached, Care};
use self::dial::{DialError, Name, dial};
use self::keeper::Keeper;

/// The reading half of a transport.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// The writing half of a transport.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// How long the first transport may take to its hello's answer.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// One connected byte pipe to the agent.
pub struct Transport {
    /// From the agent.
    pub reader: Reader,
    /// To the agent.
    pub writer: Writer,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

/// How a transport comes to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The first way, always possible.
    Exec,
    /// The second: to the agent's entrance.
    PortForward,
}

impl Way {
    /// As the command line spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::PortForward => "port-forward",
        }
    }
}

/// What is wanted of the second way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SecondWay {
    /// Nothing.
    #[default]
    Off,
    /// The session moves over when it is better.
    IfBetter,
    /// The session moves over when it can be had.
    Preferred,
    /// The same, and there is no session without.
    Required,
}

/// A way to get the next transport.
pub trait Transports: Send + 'static {
    /// Why there is none.
    type Error: TransportError;

    /// Connects once, with credentials as they are now. Dialling may take `patience`; reading credentials has
    /// bounds of its own. The transport before it may still be in use.
    fn next(&mut self, patience: Duration) -> impl Future<Output = Result<Transport, Self::Error>> + Send;

    /// Connects once by the second way, to this port of the agent's loopback; the rest as for [`Transports::next`].
    fn second(
        &mut self,
        port: u16,
        patience: Duration,
    ) -> impl Future<Output = Result<Transport, Self::Error>> + Send;

    /// The agent has answered on the transport just given, so it was there.
    fn attached(&mut self);

    /// The transport just given did not lead to an agent of ours: what else is known about it, such as an
    /// end status? `None` when the hello's own words are all there is.
    fn explain(&mut self, error: &HelloError) -> impl Future<Output = Option<Self::Error>> + Send;
}

/// Why there is no transport.
pub trait TransportError: std::error::Error + Send + 'static {
    /// Whether trying again is of no use: the agent is gone.
    fn is_final(&self) -> bool;

    /// Whether the second way will never be there in this session: no right, or something on the way that cannot.
    fn rules_out_second(&self) -> bool;
}

/// How hard to try.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a loss may last, counted while awake and trying; zero never reconnects.
    pub reconnect_max: Duration,
    /// The age at which a transport is replaced.
    pub transport_max_age: Option<Duration>,
    /// What is wanted of the second way.
    pub second: SecondWay,
    /// The time of day.
    pub clock: WallClock,
}

/// Why a session with one agent is over.
#[derive(Debug, thiserror::Error)]
pub enum Over<E> {
    /// The agent said goodbye.
    #[error("the agent said goodbye")]
    Goodbye,
    /// Another process has proven the session's secret.
    #[error("another process has taken the session over")]
    Evicted,
    /// The agent does not accept this plugin any more.
    #[error("{}", HelloError::Refused(*.0))]
    Refused(Verdict),
    /// The path alters or cuts what passes through it.
    #[error(transparent)]
    BadPath(BadPath),
    /// `--reconnect-max` is over.
    #[error("no connection to the agent for {}, which is --reconnect-max ({reason})", humantime::format_duration(*.after))]
    GaveUp {
        /// How long was tried.
        after: Duration,
        /// Why the last attempt failed, or the transport ended.
        reason: String,
    },
    /// There will be no transport.
    #[error(transparent)]
    Transport(E),
    /// The link cannot go on.
    #[error("{0}")]
    Link(TransportEnd),
}

impl<E> Over<E> {
    /// Whether another process has the session now.
    #[must_use]
    pub fn is_takeover(&self) -> bool {
        matches!(self, Self::Evicted | Self::Refused(Verdict::Replaced))
    }
}

/// Why a session did not come up.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError<E> {
    /// There was no transport.
    #[error("no way to the agent")]
    Transport(E),
    /// The other end of the transport is not this session's agent.
    #[error("the agent did not answer as it should")]
    Hello(#[source] HelloError),
    /// There is an agent, but the second way to it is required and cannot be had.
    #[error("no port-forward to the agent")]
    Second(#[source] SecondError),
}

/// A session that is up. Its tasks end when it is dropped.
#[derive(Debug)]
pub struct Running<E> {
    /// Opens streams.
    pub session: Session,
    /// Streams that the agent opens; taken by whoever serves them.
    pub incoming: Option<Incoming>,
    /// The agent's software version.
    pub agent_version: Arc<str>,
    link: LinkHandle,
    alive: Alive,
    keeper: JoinSet<Over<E>>,
    _driver: JoinSet<()>,
}

/// Connects to the agent and brings the session up. `transports` comes back when that fails.
///
/// # Errors
/// There is no transport, or what is at its other end is not this session's agent.
pub async fn connect<T: Transports>(
    mut transports: T,
    id: &SessionId,
    secret: &Secret,
    settings: &Settings,
    standing_tx: &StandingTx,
) -> Result<Running<T::Error>, (T, ConnectError<T::Error>)> {
    let name = Name::new(id.clone(), secret.clone());
    let (link, stream) = link::channel();
    let began = tokio::time::Instant::now();
    let dialled = match dial(&mut transports, &link, &name, FIRST_PATIENCE, &|| ()).await {
        Ok(dialled) => dialled,
        Err(DialError::Transport(error)) => return Err((transports, ConnectError::Transport(error))),
        Err(DialError::Hello(error)) => return Err((transports, ConnectError::Hello(error))),
    };
    let (session, incoming, driver) = tunnel_wire::session::start(End::Plugin, link.clone(), stream);
    let mut drivers = JoinSet::new();
    drivers.spawn(driver.run());
    link.start_probe();
    let agent_version = dialled.answer.software.as_str().into();
    let entrance = dialled.answer.entrance;
    tracing::debug!(port = entrance, "the agent's entrance");
    let mut attached = Attached::start(&link, dialled);
    standing_tx.set_session(session.clone());
    standing_tx.set_link(link.clone());
    let alive = Alive::new(settings.clock.clone());
    let care = Care::new(
        link.clone(),
        name,
        settings.clone(),
        standing_tx.clone(),
        alive.clone(),
        began.elapsed(),
        entrance,
    );
    let mut keeper = Keeper { transports, care };
    if settings.second == SecondWay::Required {
        attached = match keeper.move_at_once(attached, FIRST_PATIENCE).await {
            Ok(attached) => attached,
            Err(error) => return Err((keeper.transports, error)),
        };
    }
    let mut keeping = JoinSet::new();
    keeping.spawn(keeper.keep(attached));
    Ok(Running {
        session,
        incoming: Some(incoming),
        agent_version,
        link,
        alive,
        keeper: keeping,
        _driver: drivers,
    })
}

impl<E: Send + 'static> Running<E> {
    /// Waits until the session with this agent is over, and tells why. Streams have failed by then.
    pub async fn over(&mut self) -> Over<E> {
        match self.keeper.join_next().await {
            Some(Ok(over)) => over,
            // A panic, or asked twice: nothing keeps the link any more.
            Some(Err(_)) | None => Over::Link(TransportEnd::Closed),
        }
    }

    /// How long ago the agent was last known to be there, sleep included.
    #[must_use]
    pub fn unheard(&self) -> Duration {
        self.alive.unheard()
    }

    /// What the session travels on, for whoever measures it.
    #[must_use]
    pub fn link(&self) -> &LinkHandle {
        &self.link
    }

    /// Whether the transport ended before the path had shown that it leaves bytes alone.
    #[must_use]
    pub fn path_suspect(&self) -> bool {
        self.link.path_unchecked()
    }

    /// Says goodbye and waits for the agent's, or for what else ends the session; the caller bounds the wait.
    pub async fn goodbye(&mut self) -> Over<E> {
        self.link.goodbye();
        self.over().await
    }

    /// Ends every stream at once, and keeps nothing any more.
    pub fn close(&mut self) {
        self.keeper.abort_all();
        self.link.close(TransportEnd::Closed);
    }
}

#[cfg(test)]
mod tests;
