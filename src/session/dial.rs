//! One attempt: a transport, and a hello with its answer. It leaves the link as it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use tunnel_wire::hello::{self, Hello, HelloError, Secret, SessionId};
use tunnel_wire::link::LinkHandle;

use super::{Transport, Transports};

/// What each hello of a link says about its sender.
#[derive(Debug, Clone)]
pub(super) struct Name {
    session: SessionId,
    secret: Secret,
    /// The link's number: an agent tells by it who resumes from who takes over.
    link: u64,
    /// Hellos said so far.
    hellos: Arc<AtomicU32>,
}

impl Name {
    pub(super) fn new(session: SessionId, secret: Secret) -> Self {
        Self {
            session,
            secret,
            link: rand::random(),
            hellos: Arc::default(),
        }
    }
}

/// A transport whose hello was answered.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) transport: Transport,
    pub(super) answer: Hello,
    /// Which transport of the link it is.
    pub(super) number: u32,
}

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum DialError<E> {
    Transport(E),
    Hello(HelloError),
}

/// Connects and says hello. `greeting` is called when the hello is about to go: from
/// then on the agent may have moved over, and giving up costs the transport before.
pub(super) async fn dial<T: Transports>(
    transports: &mut T,
    link: &LinkHandle,
    name: &Name,
    patience: Duration,
    greeting: &(dyn Fn() + Sync),
) -> Result<Dialled, DialError<T::Error>> {
    let mut transport = transports.next(patience).await.map_err(DialError::Transport)?;
    greeting();
    let number = name.hellos.fetch_add(1, Ordering::Relaxed) + 1;
    // An older transport may still deliver: the position is the least there is, which is enough.
    let received = link.progress().received;
    let hello = Hello::plugin(
        name.session.clone(),
        name.secret.clone(),
        name.link,
        number,
        received,
    );
    let exchange = hello::connect(&mut transport.reader, &mut transport.writer, &hello);
    let error = match timeout(patience, exchange).await {
        Ok(Ok(answer)) => {
            transports.attached();
            return Ok(Dialled {
                transport,
                answer,
                number,
            });
        }
        Ok(Err(error)) => error,
        Err(_) => HelloError::TimedOut,
    };
    Err(match transports.explain(&error).await {
        Some(cause) => DialError::Transport(cause),
        None => DialError::Hello(error),
    })
}
