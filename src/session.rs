//! The plugin's end of a session: takes transports as they are given and keeps the session above them.
//!
//! It knows no Kubernetes: the caller hands it "a way to get the next transport" ([`Transports`]), an exec
//! in life and an in-process agent in tests. It publishes its state on a watch; the commands wait for its end.
//!
//! ```text
//!   Ready -> Closed
//! ```

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tunnel_wire::hello::{self, Hello, HelloError, Secret, SessionId};
use tunnel_wire::link::{self, LinkHandle, TransportEnd};
use tunnel_wire::session::{End, Incoming, Session};

/// The reading half of a transport.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// The writing half of a transport.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

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

/// A way to get the next transport.
pub trait Transports {
    /// Why there is none.
    type Error;

    /// Connects once. Called again only when the one before has ended.
    fn next(&mut self) -> impl Future<Output = Result<Transport, Self::Error>> + Send;

    /// The transport just given did not lead to an agent of ours: what else is known about it, such as an
    /// end status? `None` when the hello's own words are all there is.
    fn explain(&mut self, error: &HelloError) -> impl Future<Output = Option<Self::Error>> + Send;
}

/// Where a session stands.
#[derive(Debug, Clone)]
pub enum State {
    /// Streams can be opened.
    Ready,
    /// Over, and why.
    Closed(TransportEnd),
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
}

/// A session that is up. Its tasks end when it is dropped.
#[derive(Debug)]
pub struct Running {
    /// Opens streams.
    pub session: Session,
    /// Streams that the agent opens; taken by whoever serves them.
    pub incoming: Option<Incoming>,
    /// The agent's software version.
    pub agent_version: Arc<str>,
    link: LinkHandle,
    state_rx: watch::Receiver<State>,
    _tasks: JoinSet<()>,
}

/// Connects to the agent and brings the session up.
///
/// # Errors
/// There is no transport, or what is at its other end is not this session's agent.
pub async fn connect<T: Transports>(
    transports: &mut T,
    id: &SessionId,
    secret: &Secret,
) -> Result<Running, ConnectError<T::Error>> {
    let mut transport = transports.next().await.map_err(ConnectError::Transport)?;
    let hello = Hello::plugin(id.clone(), secret.clone(), rand::random(), 1, 0);
    let answer = match hello::connect(&mut transport.reader, &mut transport.writer, &hello).await {
        Ok(answer) => answer,
        Err(error) => {
            return Err(match transports.explain(&error).await {
                Some(cause) => ConnectError::Transport(cause),
                None => ConnectError::Hello(error),
            });
        }
    };
    let (link, stream) = link::channel();
    let (session, incoming, driver) = tunnel_wire::session::start(End::Plugin, link.clone(), stream);
    let (state_tx, state_rx) = watch::channel(State::Ready);
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run());
    link.start_probe();
    let running = link.clone();
    tasks.spawn(async move {
        let end = running
            .run(transport.reader, transport.writer, answer.received)
            .await;
        running.close(end.clone());
        state_tx.send_replace(State::Closed(end));
    });
    Ok(Running {
        session,
        incoming: Some(incoming),
        agent_version: answer.software.into(),
        link,
        state_rx,
        _tasks: tasks,
    })
}

impl Running {
    /// Waits until the session is over, and tells why.
    pub async fn closed(&self) -> TransportEnd {
        let mut state_rx = self.state_rx.clone();
        match state_rx
            .wait_for(|state| matches!(state, State::Closed(_)))
            .await
            .as_deref()
        {
            Ok(State::Closed(end)) => end.clone(),
            Ok(State::Ready) | Err(_) => TransportEnd::Closed,
        }
    }

    /// Whether the transport ended before the path had shown that it leaves bytes alone.
    #[must_use]
    pub fn path_suspect(&self) -> bool {
        self.link.probe_unanswered()
    }

    /// Says goodbye and waits for the agent's; the caller bounds the wait.
    pub async fn goodbye(&self) {
        self.link.goodbye();
        self.closed().await;
    }
}
