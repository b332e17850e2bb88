//! The API's port-forward of one port of one pod as a byte pipe.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::api_error::ApiError;
use super::client::ApiServer;

/// One connection to one port of a pod. A reading error may hold a [`PortForwardError`].
#[derive(Debug)]
pub struct PortForward {}

/// The node could not connect to the port, or lost the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("port {port} of pod {pod}: {message}")]
pub struct PortForwardError {
    /// The pod.
    pub pod: String,
    /// Its port.
    pub port: u16,
    /// The node's words.
    pub message: String,
}

impl PortForwardError {
    /// The one in an error of [`PortForward`], if that is what it is.
    pub fn find(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

/// Asks the API server for a connection to a port of a pod, at most as long as any request may take.
pub async fn connect(
    server: &ApiServer,
    namespace: &str,
    pod: &str,
    port: u16,
) -> Result<PortForward, ApiError> {
    todo!()
}

impl AsyncRead for PortForward {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
}

impl AsyncWrite for PortForward {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        todo!()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
}
