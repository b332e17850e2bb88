//! One TCP connection of a local port: dialled, relayed, and one line in the log.
//!
//! A connection that does not end as it should is reset, so that a cut is never taken for an end.

use std::io;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::info;
use tunnel_wire::relay::{RelayError, Side, relay};

use super::dial::{Connection, Dial, is_without_session, was_refused};
use super::early::Early;
use super::{Route, Ways};
use crate::listener::{Peer, Socket};

/// Serves one connection to its end.
pub(super) async fn serve(socket: Socket, peer: Peer, route: Arc<Route>, ways: Arc<Ways>) {
    // Whatever ends this task before both ends have said all must not look like an end to the program.
    let prepared = socket.set_nodelay().and_then(|()| socket.reset_on_close(true));
    if let Err(error) = prepared {
        // It is gone already.
        tracing::debug!(%peer, %error, "connection not served");
        return;
    }
    let began = Instant::now();
    let mut local = Early::new(socket);
    let mut counts = Counts::default();
    let outcome = connect_and_relay(&mut local, &route, &ways, &mut counts).await;
    let reason = match &outcome {
        Ok(()) => {
            drop(local.get_ref().reset_on_close(false));
            "eof".to_owned()
        }
        Err(failure) => failure.to_string(),
    };
    match &outcome {
        Err(Failure::NotReached(why)) => route.tell(&ways.say, why),
        Ok(()) | Err(Failure::Upstream(_)) => route.works(),
        // A program that gave up tells nothing of the upstream, and whether there is a session its own lines tell.
        Err(Failure::Local(_) | Failure::NoSession(_)) => {}
    }
    info!(
        %peer, target = route.label, upstream = counts.upstream,
        received = counts.received, sent = counts.sent, elapsed = ?began.elapsed(), reason,
        "connection closed"
    );
}

/// What the log says of a connection.
#[derive(Debug, Default)]
struct Counts {
    upstream: String,
    /// Bytes from the program.
    received: u64,
    /// Bytes to the program.
    sent: u64,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("not reached: {0}")]
    NotReached(String),
    #[error("not reached: {0}")]
    NoSession(io::Error),
    #[error("reset by the program: {0}")]
    Local(io::Error),
    #[error("the upstream's end failed: {0}")]
    Upstream(io::Error),
}

async fn connect_and_relay(
    local: &mut Early<Socket>,
    route: &Arc<Route>,
    ways: &Ways,
    counts: &mut Counts,
) -> Result<(), Failure> {
    let mut dial = Dial::new(route, ways);
    loop {
        let mut connection: Connection = match dial.open().await {
            Ok(connection) => connection,
            Err(error) if is_without_session(&error) => return Err(Failure::NoSession(error)),
            Err(error) => {
                let why = dial.why(&error);
                if dial.may_try_again(&error).await {
                    continue;
                }
                return Err(Failure::NotReached(why));
            }
        };
        let mut counted = ways.door.traffic().counted(&mut connection);
        let end = relay(local, &mut counted).await;
        drop(counted);
        counts.upstream = connection.upstream();
        let error = match end.result {
            Ok(()) => {
                (counts.received, counts.sent) = (end.a_to_b, end.b_to_a);
                return Ok(());
            }
            Err(RelayError {
                side: Side::A,
                source,
            }) => {
                (counts.received, counts.sent) = (end.a_to_b, end.b_to_a);
                connection.abort("the program's end failed");
                ways.door.traffic().failed("reset-by-program");
                return Err(Failure::Local(source));
            }
            Err(RelayError {
                side: Side::B,
                source,
            }) => source,
        };
        drop(connection);
        (counts.received, counts.sent) = (end.a_to_b, end.b_to_a);
        if end.b_to_a > 0 || !was_refused(&error) {
            ways.door.traffic().failed("reset-by-upstream");
            return Err(Failure::Upstream(error));
        }
        let why = dial.why(&error);
        if !local.rewind() || !dial.may_try_again(&error).await {
            ways.door.traffic().failed("not-reached");
            return Err(Failure::NotReached(why));
        }
    }
}
