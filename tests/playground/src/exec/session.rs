//! One exec: a process whose stdin, stdout and stderr are channels of a WebSocket.
//!
//! ```text
//! client -> message [0, bytes] -> stdin      [255, 0] closes stdin (v5)
//! client <- message [1, bytes] <- stdout     [3, Status] when all is over, then close
//! client <- message [2, bytes] <- stderr
//! ```
//! As measured on a real node: a client that goes closes stdin, nothing more, and what the process
//! still writes is drained; when the last writer of stdout or of stderr closes, stdin ends; the
//! status waits for the process and for both outputs; the end of the container kills the process.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStdin;
use tokio::sync::Mutex;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

use super::{exit_status, internal_error};
use crate::kubelet::Sandbox;
use crate::processes::{Process, Program, exit_code};
use crate::world::World;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;

/// Largest payload of one message to the client, as from a real API server.
const MESSAGE: usize = 32 * 1024;

/// Largest message from the client, as a real API server takes it.
const CLIENT_MESSAGE: usize = 32 * 1024 * 1024;

/// How long the client may take to answer the close.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Which channels were asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

pub(super) struct Session {
    pub(super) world: Arc<World>,
    /// None while the container was never set up.
    pub(super) sandbox: Option<Arc<Sandbox>>,
    pub(super) container: String,
    pub(super) command: Vec<String>,
    pub(super) streams: Streams,
    /// Whether the client may close stdin alone.
    pub(super) half_close: bool,
}

/// The way to the client, until it is gone.
struct Outbound {
    sink: Mutex<Option<SplitSink<Socket, Message>>>,
}

impl Session {
    pub(super) async fn run(self, connection: Upgraded) {
        let config = WebSocketConfig::default()
            .max_message_size(Some(CLIENT_MESSAGE))
            .max_frame_size(Some(CLIENT_MESSAGE));
        let socket =
            WebSocketStream::from_raw_socket(TokioIo::new(connection), Role::Server, Some(config)).await;
        let (sink, mut inbound) = socket.split();
        let outbound = Outbound {
            sink: Mutex::new(Some(sink)),
        };
        let first = match self.streams {
            Streams { stdout: true, .. } => STDOUT,
            Streams { stderr: true, .. } => STDERR,
            Streams { .. } => STATUS,
        };
        outbound.send(first, &[]).await;
        let status = match self.start().await {
            Ok((process, sandbox)) => {
                let code = self.serve(process, &sandbox, &mut inbound, &outbound).await;
                exit_status(code)
            }
            Err(message) => internal_error(&message),
        };
        outbound.finish(&status).await;
        // Unread bytes at the close of a TCP connection turn it into a reset, which would take the status along.
        let drain = async { while let Some(Ok(_)) = inbound.next().await {} };
        if tokio::time::timeout(CLOSE_WAIT, drain).await.is_err() {
            tracing::debug!("the client of an exec did not close its side");
        }
    }

    async fn start(&self) -> Result<(Process, Arc<Sandbox>), String> {
        let missing = || {
            format!(
                "unable to upgrade connection: container not found ({:?})",
                self.container
            )
        };
        let sandbox = super::running(self.sandbox.as_ref(), &self.container).ok_or_else(missing)?;
        let path = sandbox.resolve(&self.command[0]);
        let program = Program {
            path: &path,
            arguments: &self.command[1..],
            environment: sandbox.environment(),
            folder: sandbox.folder(),
        };
        let either = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
        let stdio = || {
            Ok([
                either(self.streams.stdin),
                either(self.streams.stdout),
                either(self.streams.stderr),
            ])
        };
        let process = self.world.processes.start(&program, stdio).await.map_err(|error| {
            format!(
                "error executing command in container: failed to exec in container: failed to start exec: \
                 OCI runtime exec failed: exec failed: unable to start container process: exec: {:?}: {error}: unknown",
                self.command[0]
            )
        })?;
        Ok((process, Arc::clone(sandbox)))
    }

    /// Moves bytes until the process and its outputs have ended; returns the exit code.
    async fn serve(
        &self,
        mut process: Process,
        sandbox: &Sandbox,
        inbound: &mut SplitStream<Socket>,
        outbound: &Outbound,
    ) -> i32 {
        let stdin = process.child.stdin.take();
        let stdout = process.child.stdout.take();
        let stderr = process.child.stderr.take();
        // An output that ends takes stdin with it.
        let output_ended = CancellationToken::new();
        let wait = async {
            tokio::select! {
                status = process.wait() => status.map_or(-1, exit_code),
                () = sandbox.ended().cancelled() => {
                    process.kill();
                    process.wait().await.map_or(-1, exit_code)
                }
            }
        };
        let over = async {
            let out = copy_out(stdout, STDOUT, outbound, &output_ended);
            let err = copy_out(stderr, STDERR, outbound, &output_ended);
            tokio::join!(wait, out, err).0
        };
        let copy_in = async {
            receive(inbound, stdin, self.half_close, &output_ended).await;
            outbound.client_gone().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            code = over => code,
            () = copy_in => unreachable!("pending for ever"),
        }
    }
}

/// Client to stdin, until the client is gone. Keeps reading when stdin is closed, to answer pings.
async fn receive(
    inbound: &mut SplitStream<Socket>,
    mut stdin: Option<ChildStdin>,
    half_close: bool,
    output_ended: &CancellationToken,
) {
    loop {
        let message = tokio::select! {
            message = inbound.next() => message,
            () = output_ended.cancelled(), if stdin.is_some() => {
                stdin = None;
                continue;
            }
        };
        let Some(Ok(message)) = message else { return };
        let data = match message {
            Message::Binary(data) => data,
            Message::Close(_) => return,
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        match data.split_first() {
            Some((&STDIN, bytes)) => {
                let Some(pipe) = &mut stdin else { continue };
                let written = tokio::select! {
                    written = pipe.write_all(bytes) => written.is_ok(),
                    () = output_ended.cancelled() => false,
                };
                if !written {
                    stdin = None;
                }
            }
            Some((&CLOSE, [STDIN])) if half_close => stdin = None,
            Some(_) | None => {}
        }
    }
}

/// One output to the client; drained when the client is gone.
async fn copy_out(
    output: Option<impl AsyncRead + Unpin>,
    channel: u8,
    outbound: &Outbound,
    output_ended: &CancellationToken,
) {
    let Some(mut output) = output else { return };
    let mut buffer = vec![0; MESSAGE];
    loop {
        match output.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => outbound.send(channel, &buffer[..length]).await,
        }
    }
    output_ended.cancel();
}

impl Outbound {
    /// Sends one message. Without a client the bytes go nowhere.
    async fn send(&self, channel: u8, payload: &[u8]) {
        let mut sink = self.sink.lock().await;
        let Some(open) = sink.as_mut() else { return };
        let message = Bytes::from([&[channel], payload].concat());
        if open.send(Message::Binary(message)).await.is_err() {
            *sink = None;
        }
    }

    async fn client_gone(&self) {
        *self.sink.lock().await = None;
    }

    /// The status, then a regular close.
    async fn finish(&self, status: &Value) {
        self.send(STATUS, status.to_string().as_bytes()).await;
        let Some(mut sink) = self.sink.lock().await.take() else {
            return;
        };
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        if let Err(error) = sink.send(Message::Close(Some(frame))).await {
            tracing::debug!(%error, "exec connection ended before its close");
        }
    }
}
