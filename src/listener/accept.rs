//! The accept loop of one local port, whatever its connections are for.
//!
//! It owns the connections' tasks. A connection's error ends that connection only, and no error of an accept ends the
//! loop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::socket::{Peer, Port, Socket};

/// First and longest pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Accepts connections, each with a permit, and runs what `serve` makes of them, until `drain` is cancelled; returns
/// when the last has ended. Dropping the future drops the connections that still run.
pub(crate) async fn accept<T>(
    port: Port,
    permits: Arc<Semaphore>,
    drain: CancellationToken,
    serve: impl Fn(Socket, Peer) -> T,
) where
    T: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut pause = ACCEPT_PAUSE.0;
    loop {
        let accepted = tokio::select! {
            () = drain.cancelled() => break,
            Some(ended) = connections.join_next() => {
                log_panic(ended);
                continue;
            }
            accepted = next(&port, &permits) => accepted,
        };
        match accepted {
            Ok((socket, peer, permit)) => {
                pause = ACCEPT_PAUSE.0;
                let served = serve(socket, peer);
                connections.spawn(async move {
                    served.await;
                    drop(permit);
                });
            }
            // A connection that was gone before it was accepted.
            Err(error) if is_of_one_connection(&error) => {
                tracing::debug!(%error, "a connection was not accepted");
            }
            Err(error) => {
                tracing::warn!(address = %port.address(), %error, ?pause, "connections cannot be accepted; trying again");
                tokio::select! {
                    () = drain.cancelled() => break,
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(ACCEPT_PAUSE.1),
                }
            }
        }
    }
    drop(port);
    while let Some(ended) = connections.join_next().await {
        log_panic(ended);
    }
}

type Accepted = (Socket, Peer, OwnedSemaphorePermit);

/// The next connection, once there is room for it.
async fn next(port: &Port, permits: &Arc<Semaphore>) -> io::Result<Accepted> {
    let permit = Arc::clone(permits)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, peer) = port.accept().await?;
    Ok((stream, peer, permit))
}

fn is_of_one_connection(error: &io::Error) -> bool {
    [
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::ConnectionRefused,
    ]
    .contains(&error.kind())
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}
