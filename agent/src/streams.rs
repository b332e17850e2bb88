//! The streams of one session: what the plugin asks for, one task each.
//!
//! It owns the tasks; when the session is over they are dropped, and every connection they hold is reset with
//! them. It knows nothing of transports: a session may outlive one.

use std::sync::Arc;

use tokio::task::JoinSet;
use tunnel_wire::session::Accepted;
use tunnel_wire::{Incoming, Open, Refusal, RefusalCode, Session, Stream};

use crate::config::Config;
use crate::dial::dial;
use crate::listen::{Binding, listen};
use crate::log::Log;

/// Serves the streams that the plugin opens until the session is over.
pub(crate) async fn serve(config: Arc<Config>, log: Log, session: Session, mut incoming: Incoming) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = incoming.accept() => match accepted {
                Some(accepted) => {
                    let (config, log, session) = (Arc::clone(&config), log.clone(), session.clone());
                    tasks.spawn(async move { stream(&config, &log, &session, accepted).await });
                }
                None => break,
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn stream(config: &Config, log: &Log, session: &Session, accepted: Accepted) {
    let Accepted { open, stream } = accepted;
    match open {
        Open::Dial { host, port } => dial_and_relay(config, &host, port, stream).await,
        Open::Listen { listener, port } => {
            listen(
                session,
                log,
                Binding {
                    listener,
                    address: config.bind,
                    port,
                },
                stream,
            )
            .await;
        }
        Open::Accepted { .. } => {
            let detail = "only an agent accepts connections for the other end";
            stream
                .refuse(Refusal::new(RefusalCode::Unsupported, detail))
                .await;
        }
    }
}

async fn dial_and_relay(config: &Config, host: &str, port: u16, mut stream: Stream) {
    let dialled = tokio::select! {
        dialled = dial(config, host, port) => dialled,
        // Nobody waits any more: the connection must not come up later on its own.
        () = stream.failed() => return,
    };
    match dialled {
        // When the answer cannot be sent the opener is gone; dropping the connection resets it.
        Ok(edge) => {
            if stream.accept().await.is_ok() {
                edge.relay(stream).await;
            }
        }
        Err(error) => stream.refuse(error.refusal()).await,
    }
}
