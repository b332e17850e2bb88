//! One attempt at the second way, beside a transport by exec: everything up to the hello, which moves the session.
//!
//! Dropping it gives it up without a trace: the agent has heard proofs and echoes, and the session knows nothing of it.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tunnel_wire::entrance::{self, ECHO_TIMEOUT, EntranceError};
use tunnel_wire::link::{LinkHandle, TransportEnd};

use super::Times;
use crate::session::dial::Name;
use crate::session::{Transport, TransportError, Transports, Way};

/// Rounds of bytes over each way; the best one counts, since a busy moment makes only some slow.
const ROUNDS: usize = 3;

/// Why `--transport=port-forward` cannot be had, other than for want of a transport.
#[derive(Debug, thiserror::Error)]
pub enum SecondError {
    /// The agent listens nowhere.
    #[error("the agent has no entrance for port-forward")]
    NoEntrance,
    /// What answers there is not this session's agent, or does not answer.
    #[error(transparent)]
    Entrance(#[from] EntranceError),
    /// The transport by exec did not last so long.
    #[error("{0}")]
    Lost(TransportEnd),
}

/// A transport that only the hello is missing on.
#[derive(Debug)]
pub(in crate::session) struct Prepared {
    pub(in crate::session) transport: Transport,
    /// What was measured, if anything was.
    pub(in crate::session) times: Option<Times>,
}

/// Why the session stays where it is.
#[derive(Debug)]
pub(in crate::session) enum Setback<E> {
    Transport(E),
    Entrance(EntranceError),
    Worse(Times),
}

impl<E: TransportError> Setback<E> {
    /// Whether there is no use in trying again in this session.
    pub(in crate::session) fn is_lasting(&self) -> bool {
        matches!(self, Self::Transport(error) if error.rules_out_second())
    }
}

impl<E: TransportError> std::fmt::Display for Setback<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Transport(error) => write!(f, "{error}"),
            Self::Entrance(error) => write!(f, "{error}"),
            Self::Worse(times) => write!(f, "it is slower, {times}"),
        }
    }
}

/// Says in the log that the session is on another way than `before`, and what was measured if that was why.
pub(in crate::session) fn say_moved(before: Way, way: Way, times: Option<Times>) {
    match (before, way, times) {
        (_, Way::PortForward, Some(times)) => {
            tracing::info!("the session moved to port-forward ({times})");
        }
        (_, Way::PortForward, None) => tracing::info!("the session moved to port-forward"),
        (Way::PortForward, Way::Exec, _) => tracing::info!("the session is back on exec"),
        (Way::Exec, Way::Exec, _) => {}
    }
}

/// Connects, proves the secret both ways, and measures if it is to be compared.
pub(in crate::session) async fn prepare<T: Transports>(
    transports: &mut T,
    link: &LinkHandle,
    name: &Name,
    port: u16,
    compare: bool,
    patience: Duration,
) -> Result<Prepared, Setback<T::Error>> {
    if compare {
        // The bytes that check the first transport. Where they do not come back in time, that is what counts below.
        drop(timeout(ECHO_TIMEOUT, link.probed()).await);
    }
    let mut transport = transports
        .second(port, patience)
        .await
        .map_err(Setback::Transport)?;
    let key = name.key();
    let Transport { reader, writer } = &mut transport;
    entrance::knock(reader, writer, &key, &rand::random())
        .await
        .map_err(Setback::Entrance)?;
    let times = if compare {
        let times = measure(&mut transport, link).await.map_err(Setback::Entrance)?;
        if !times.is_better() {
            return Err(Setback::Worse(times));
        }
        Some(times)
    } else {
        None
    };
    Ok(Prepared { transport, times })
}

/// The best of some rounds over both, one after the other, so that neither finds a quieter machine. What a transfer on
/// exec delays is delayed: the next connection would be as well.
async fn measure(transport: &mut Transport, link: &LinkHandle) -> Result<Times, EntranceError> {
    let mut best = Times {
        exec: ECHO_TIMEOUT,
        port_forward: ECHO_TIMEOUT,
    };
    for _ in 0..ROUNDS {
        let began = Instant::now();
        entrance::echo(&mut transport.reader, &mut transport.writer).await?;
        best.port_forward = best.port_forward.min(began.elapsed());
        // One that was not answered in time may be on its way: the next round would meet its bytes.
        if !link.probe_unanswered() {
            let began = Instant::now();
            link.start_probe();
            if timeout(ECHO_TIMEOUT, link.probed()).await.is_ok() {
                best.exec = best.exec.min(began.elapsed());
            }
        }
    }
    Ok(best)
}
