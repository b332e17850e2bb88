//! The forward direction: the local port's way to targets is a stream of the session.
//!
//! Joins [`crate::listener`], which knows no session, and the wire's session, which knows no listener.

use tunnel_wire::{Open, OpenError, Session, Stream};

use crate::listener::{Connect, DialError, Target};

/// The listener's way to targets: streams of the session.
#[derive(Debug, Clone)]
pub struct SessionConnector(pub Session);

impl Connect for SessionConnector {
    type Stream = Stream;

    async fn open(&self, target: &Target) -> Result<Stream, DialError> {
        let open = Open::Dial {
            host: target.host.clone(),
            port: target.port,
        };
        self.0.open(&open).await.map_err(|error| dial_error(&error))
    }

    async fn opened(&self, stream: &mut Stream) -> Result<(), DialError> {
        stream.opened().await.map_err(|error| dial_error(&error))
    }
}

fn dial_error(error: &OpenError) -> DialError {
    DialError {
        code: error.code(),
        detail: error.to_string(),
    }
}
