//! The proxy's way to targets: streams of whatever session there is.
//!
//! Joins [`crate::listener`], which knows no session, and the session's door, which knows no listener.

use std::net::SocketAddr;

use tunnel_wire::{Open, Protocol, RefusalCode, Stream};

use crate::listener::{Connect, DialError, Target};
use crate::session::{Door, DoorError};
use crate::traffic::Counted;

/// The listener's way to targets: streams of whatever session there is.
#[derive(Debug, Clone)]
pub struct SessionConnector(pub Door);

impl SessionConnector {
    async fn dial(&self, protocol: Protocol, target: &Target) -> Result<Counted<Stream>, DialError> {
        let open = Open::Dial {
            protocol,
            patience_ms: 0,
            host: target.host.clone(),
            port: target.port,
        };
        let stream = self.0.open(&open).await.map_err(|error| dial_error(&error))?;
        Ok(self.0.traffic().counted(stream))
    }
}

impl Connect for SessionConnector {
    type Stream = Counted<Stream>;

    async fn open(&self, target: &Target) -> Result<Counted<Stream>, DialError> {
        self.dial(Protocol::Tcp, target).await
    }

    async fn open_flow(&self, target: &Target) -> Result<Counted<Stream>, DialError> {
        self.dial(Protocol::Udp, target).await
    }

    async fn opened(&self, stream: &mut Counted<Stream>) -> Result<(), DialError> {
        self.0
            .opened(stream.get_mut())
            .await
            .map_err(|error| dial_error(&error))
    }

    fn upstream(&self, stream: &Counted<Stream>) -> Option<SocketAddr> {
        stream.get_ref().upstream()
    }

    fn dropped(&self, datagrams: u64) {
        self.0.traffic().dropped(datagrams);
    }
}

fn dial_error(error: &DoorError) -> DialError {
    DialError {
        code: match error {
            DoorError::Open(error) => error.code(),
            DoorError::Held { .. } => RefusalCode::TimedOut,
            DoorError::NotStarted(_) => RefusalCode::ShuttingDown,
        },
        detail: error.to_string(),
    }
}
