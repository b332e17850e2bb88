//! The API's port-forward: one connection to one port of one pod as a byte pipe.
//!
//! It reaches what listens on the pod's loopback too, and carries TCP only. Not `Api::portforward`, which moves 1 KiB
//! at a time and forgets the errors of an ended connection.
//!
//! Two sub-protocols are offered. An API server since 1.31 takes the first, in which SPDY travels ([`tunnel`]); older
//! ones the second, `v4.channel.k8s.io`, which is here:
//!
//! | channel | is |
//! |---|---|
//! | 0 | data, both ways |
//! | 1 | the node's complaint: nobody listens, the pod is gone |
//!
//! The first message of each channel is the port, 2 bytes, low byte first; only then data follows. Measured on 1.35:
//! the handshake succeeds whoever listens, so "connection refused" comes as a complaint; an offer of
//! `v5.channel.k8s.io` alone gets 403. A program in the pod that ends or resets its connection is a clean close here:
//! the API does not tell which.
//!
//! **There is no half-close.** [`AsyncWrite::poll_shutdown`] sends nothing, and a program that answers only after the
//! end of its input never answers; what it still sends can be read until the pipe is dropped.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::api_error::{ApiError, Call, shorten};
use super::client::ApiServer;
use super::messages::{self, Head, Incoming, IncomingTx, Outgoing, Source};
use super::websocket::{self, WebSocket};

mod tunnel;

/// The sub-protocol of numbered channels.
const CHANNELS: &str = "v4.channel.k8s.io";

const DATA: u8 = 0;
const COMPLAINT: u8 = 1;

/// The system's words for a port nobody listens at.
const REFUSED: &str = "connection refused";

/// One connection to one port of a pod. A reading error may hold a [`PortForwardError`].
///
/// Dropping it closes the connection after what was written: the tasks outlive it for the few seconds that takes.
#[derive(Debug)]
pub struct PortForward {
    incoming: Incoming,
    outgoing: Outgoing,
}

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
    /// Whether the program in the pod may have seen bytes.
    pub connected: bool,
}

/// Words of container runtimes, in lower case, that come before there is a connection in the pod. Others may be those
/// of a connection that broke.
const NOT_CONNECTED: [&str; 6] = [
    REFUSED,
    "failed to connect",
    "is not running",
    "not found",
    "network namespace for sandbox",
    "no such",
];

impl PortForwardError {
    /// The one in an error of [`PortForward`], if that is what it is.
    pub fn find(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

/// Asks the API server for a connection to a port of a pod, at most as long as any request may take. Whether anybody
/// listens there shows when it is read.
///
/// # Errors
/// The API server refused the request (rights, no such pod) or could not be reached.
pub async fn connect(
    server: &ApiServer,
    namespace: &str,
    pod: &str,
    port: u16,
) -> Result<PortForward, ApiError> {
    let granted = server
        .request(call(namespace, pod), handshake(server, namespace, pod, port))
        .await;
    begin(granted, pod, port)
}

/// [`connect`] with another deadline.
///
/// # Errors
/// As for [`connect`].
pub async fn connect_within(
    limit: Duration,
    server: &ApiServer,
    namespace: &str,
    pod: &str,
    port: u16,
) -> Result<PortForward, ApiError> {
    let handshake = handshake(server, namespace, pod, port);
    let granted = server
        .request_within(limit, call(namespace, pod), handshake)
        .await;
    begin(granted, pod, port)
}

fn call(namespace: &str, pod: &str) -> Call {
    Call::new("get", "pods/portforward")
        .named(pod)
        .in_namespace(namespace)
}

async fn handshake(server: &ApiServer, namespace: &str, pod: &str, port: u16) -> kube::Result<Granted> {
    let uri = format!("/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}");
    websocket::open(&server.client(), &uri, &[tunnel::PROTOCOL, CHANNELS]).await
}

/// A WebSocket, and the sub-protocol on it.
type Granted = (WebSocket, &'static str);

fn begin(granted: Result<Granted, ApiError>, pod: &str, port: u16) -> Result<PortForward, ApiError> {
    let (websocket, protocol) = granted.map_err(name_verb)?;
    let pod = pod.to_owned();
    let complaint = move |words: &Bytes| complaint(pod, port, words);
    let (incoming, outgoing, mut tasks) = if protocol == tunnel::PROTOCOL {
        let head = Head::Stream(tunnel::DATA);
        let started = messages::start(websocket, head, |source, incoming_tx, aside_tx| {
            tunnel::read(source, incoming_tx, aside_tx, complaint)
        });
        started.1.begin(tunnel::opening(port));
        started
    } else {
        messages::start(websocket, Head::Channel(DATA), |source, incoming_tx, _| {
            read(source, incoming_tx, complaint)
        })
    };
    // They end by themselves, and what was written still goes out.
    tasks.detach_all();
    Ok(PortForward { incoming, outgoing })
}

impl PortForward {
    /// Both directions, for those who use them apart. The connection is closed once both are dropped, or the second
    /// one is shut down.
    pub fn into_split(self) -> (Incoming, Outgoing) {
        (self.incoming, self.outgoing)
    }
}

/// The upgrade is a `get`, and the handler also asks for `create`: a refusal of that ends without words.
fn name_verb(mut error: ApiError) -> ApiError {
    if let ApiError::Forbidden { call, message } = &mut error
        && message.ends_with(':')
    {
        call.verb = "create";
    }
    error
}

async fn read<S>(
    mut source: Source<S>,
    incoming_tx: IncomingTx,
    complaint: impl FnOnce(&Bytes) -> PortForwardError + Send,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut announced = [false; 2];
    while let Some((channel, payload)) = source.next().await {
        let Some(announced) = announced.get_mut(usize::from(channel)) else {
            continue;
        };
        if !std::mem::replace(announced, true) {
            continue;
        }
        if channel == COMPLAINT {
            let error = complaint(&payload);
            drop(incoming_tx.send(Err(io::Error::other(error))).await);
            return;
        }
        if incoming_tx.send(Ok(payload)).await.is_err() {
            return;
        }
    }
    if !source.is_closed() {
        // After an error of the transport this second one is never read.
        drop(incoming_tx.send(Err(cut())).await);
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection to the pod was cut")
}

fn complaint(pod: String, port: u16, words: &Bytes) -> PortForwardError {
    let text = String::from_utf8_lossy(words);
    tracing::debug!(words = %text, "port-forward failed");
    let lower = text.to_lowercase();
    PortForwardError {
        pod,
        port,
        message: cause(&text),
        connected: !NOT_CONNECTED.iter().any(|known| lower.contains(known)),
    }
}

/// What to show of the node's words, which name the sandbox and its network namespace several times before the cause.
fn cause(text: &str) -> String {
    // Every runtime puts it differently, but the system's own words are in there.
    for known in [REFUSED, "connection reset by peer", "broken pipe"] {
        if text.contains(known) {
            return known.to_owned();
        }
    }
    shorten(text)
}

impl AsyncRead for PortForward {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.incoming).poll_read(cx, buf)
    }
}

impl AsyncWrite for PortForward {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.outgoing).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.outgoing).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

#[cfg(test)]
mod tests;
