//! One attempt: a transport, and a hello with its answer. It leaves the link as it is.
//!
//! Over exec the hello carries the secret. By the second way both ends have proven it already ([`super::second`]), and
//! it does not travel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use tunnel_wire::entrance::Key;
use tunnel_wire::hello::{self, Hello, HelloError, Secret, SessionId};
use tunnel_wire::link::LinkHandle;

use super::second::attempt::Prepared;
use super::{Transport, Transports, Way};

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

    /// What is proven where no secret is sent.
    pub(super) fn key(&self) -> Key {
        Key {
            session: self.session.clone(),
            link: self.link,
            secret: self.secret.clone(),
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
    pub(super) way: Way,
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
    let transport = transports.next(patience).await.map_err(DialError::Transport)?;
    greeting();
    let error = match greet(transport, Way::Exec, link, name, patience).await {
        Ok(dialled) => {
            transports.attached();
            return Ok(dialled);
        }
        Err(error) => error,
    };
    Err(match transports.explain(&error).await {
        Some(cause) => DialError::Transport(cause),
        None => DialError::Hello(error),
    })
}

/// The same over a transport by the second way that only the hello is missing on.
pub(super) async fn dial_prepared(
    prepared: Prepared,
    link: &LinkHandle,
    name: &Name,
    patience: Duration,
    greeting: &(dyn Fn() + Sync),
) -> Result<Dialled, HelloError> {
    greeting();
    greet(prepared.transport, Way::PortForward, link, name, patience).await
}

async fn greet(
    mut transport: Transport,
    way: Way,
    link: &LinkHandle,
    name: &Name,
    patience: Duration,
) -> Result<Dialled, HelloError> {
    let number = name.hellos.fetch_add(1, Ordering::Relaxed) + 1;
    // An older transport may still deliver: the position is the least there is, which is enough.
    let received = link.progress().received;
    let secret = match way {
        Way::Exec => name.secret.clone(),
        Way::PortForward => Secret::new([0; 32]),
    };
    let hello = Hello::plugin(name.session.clone(), secret, name.link, number, received);
    let exchange = hello::connect(&mut transport.reader, &mut transport.writer, &hello);
    let answer = timeout(patience, exchange)
        .await
        .map_err(|_| HelloError::TimedOut)??;
    Ok(Dialled {
        transport,
        answer,
        number,
        way,
    })
}
