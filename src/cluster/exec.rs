//! Exec over WebSocket as a byte pipe: one command in the agent's container, its stdin and stdout.
//!
//! Not `Api::exec`, which moves 1 KiB at a time through one select loop. Two tasks of our own over the raw
//! WebSocket: one reads without pause, one writes what it is given. Messages are binary, one channel byte
//! and at most 32 KiB, never fragmented (the API server takes a continuation frame for a new message).
//! The tasks end when both pipes are dropped, on a dead line too, or with the [`Monitor`]. What travels inside is none of this file's business.
//!
//! | channel | is |
//! |---|---|
//! | 0 | stdin, to the agent |
//! | 1 | stdout |
//! | 2 | stderr: the agent's log, line by line |
//! | 3 | the end status, a JSON `Status`; without it the transport was lost, the command did not end |

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::io::StreamReader;
use tokio_util::sync::{CancellationToken, PollSender};

/// Payload of one message: what every hop between API server and runtime passes on uncut.
const MESSAGE: usize = 32 * 1024;

/// Messages that wait between a task and the pipe's user, each way.
const QUEUE: usize = 8;

/// Log lines that wait for their reader; more are dropped rather than stop the data.
const LOG_QUEUE: usize = 256;

/// Longest log line kept, in bytes.
const LOG_LINE: usize = 16 * 1024;

/// How long an exec that is given up may take to say its last and to close.
const LAST_WORDS: Duration = Duration::from_secs(2);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;

/// What to run, and where.
#[derive(Debug, Clone)]
pub struct Command<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod.
    pub pod: &'a str,
    /// The container; always named, since a mesh may have added others.
    pub container: &'a str,
    /// The command and its arguments. They end up in the API server's audit log: no secrets.
    pub arguments: &'a [&'a str],
}

/// How the command ended, as the API server told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEnd {
    /// Status 0.
    Success,
    /// Another status; 137 also when the container itself ended.
    Exited(i32),
    /// The command did not run, or its end is not known.
    Failed {
        /// The machine's word, such as `InternalError`.
        reason: String,
        /// The sentence, such as `container not found ("agent")`.
        message: String,
    },
}

impl ExecEnd {
    /// Whether the container was not running (yet, or any more): the one failure worth a retry.
    #[must_use]
    pub fn is_container_missing(&self) -> bool {
        matches!(self, Self::Failed { message, .. } if message.contains("container not found"))
    }
}

/// A running exec.
#[derive(Debug)]
pub struct Exec {
    /// The command's stdout.
    pub stdout: Stdout,
    /// The command's stdin.
    pub stdin: Stdin,
    /// What happens beside the data.
    pub monitor: Monitor,
}

/// What an exec tells beside its data; owns the two tasks.
#[derive(Debug)]
pub struct Monitor {
    end_rx: watch::Receiver<Option<ExecEnd>>,
    log_rx: mpsc::Receiver<String>,
    _tasks: JoinSet<()>,
}

impl Monitor {
    /// The end status, if it has come.
    #[must_use]
    pub fn end(&self) -> Option<ExecEnd> {
        self.end_rx.borrow().clone()
    }

    /// Waits until the WebSocket is over, and gives the end status if one came: `None` means that the
    /// transport was lost.
    pub async fn ended(&mut self) -> Option<ExecEnd> {
        // The sender is dropped when the reading task ends, with or without a status.
        drop(self.end_rx.wait_for(Option::is_some).await);
        self.end()
    }

    /// The agent's next log line, or `None` when the WebSocket is over.
    pub async fn log_line(&mut self) -> Option<String> {
        self.log_rx.recv().await
    }
}

/// Starts a command and returns its pipes. The handshake succeeds also when the container is not there;
/// that shows as an end of stdout and an [`ExecEnd`].
///
/// # Errors
/// The API server refused the request (rights, no such pod) or could not be reached.
pub async fn exec(client: &kube::Client, command: &Command<'_>) -> Result<Exec, kube::Error> {
    let request = http::Request::get(uri(command))
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    let websocket = client.connect(request).await?.into_stream();
    let (sink, source) = websocket.split();
    let (stdout_tx, stdout_rx) = mpsc::channel(QUEUE);
    let (stdin_tx, stdin_rx) = mpsc::channel(QUEUE);
    let (log_tx, log_rx) = mpsc::channel(LOG_QUEUE);
    let (end_tx, end_rx) = watch::channel(None);
    let mut tasks = JoinSet::new();
    let over = CancellationToken::new();
    let reading_ends = over.clone().drop_guard();
    tasks.spawn(async move {
        let _reading_ends = reading_ends;
        read(source, stdout_tx, log_tx, end_tx).await;
    });
    tasks.spawn(async move {
        // A line that takes nothing more must not keep the socket of an exec that is given up.
        let last_words = async {
            over.cancelled().await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            () = write(sink, stdin_rx) => {}
            () = last_words => {}
        }
    });
    Ok(Exec {
        stdout: StreamReader::new(Chunks(stdout_rx)),
        stdin: Stdin {
            messages: PollSender::new(stdin_tx),
        },
        monitor: Monitor {
            end_rx,
            log_rx,
            _tasks: tasks,
        },
    })
}

fn uri(command: &Command<'_>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("container", command.container);
    // Always with stdin: some runtimes end an exec without it at the first flush of stdout.
    for (name, value) in [
        ("stdin", "true"),
        ("stdout", "true"),
        ("stderr", "true"),
        ("tty", "false"),
    ] {
        query.append_pair(name, value);
    }
    for argument in command.arguments {
        query.append_pair("command", argument);
    }
    format!(
        "/api/v1/namespaces/{}/pods/{}/exec?{}",
        command.namespace,
        command.pod,
        query.finish()
    )
}

async fn read<S>(
    mut source: SplitStream<WebSocketStream<S>>,
    stdout_tx: mpsc::Sender<io::Result<Bytes>>,
    log_tx: mpsc::Sender<String>,
    end_tx: watch::Sender<Option<ExecEnd>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut log = LogLines::default();
    // Once nobody reads any more the log and the status may still come; on a dead line nothing else ends this.
    let nobody_reads = {
        let stdout_tx = stdout_tx.clone();
        async move {
            stdout_tx.closed().await;
            tokio::time::sleep(LAST_WORDS).await;
        }
    };
    let mut nobody_reads = pin!(nobody_reads);
    loop {
        let message = tokio::select! {
            message = source.next() => message,
            () = &mut nobody_reads => break,
        };
        let Some(message) = message else { break };
        let mut payload = match message {
            Ok(Message::Binary(payload)) => payload,
            Ok(Message::Close(_)) => break,
            Ok(_) => continue,
            Err(error) => {
                // Nobody may be left to read it: then the pipe is over anyway.
                drop(stdout_tx.send(Err(transport_error(error))).await);
                break;
            }
        };
        // A channel byte alone only says that the channel exists.
        if payload.len() < 2 {
            continue;
        }
        let channel = payload.split_to(1)[0];
        match channel {
            STDOUT => {
                let sent = stdout_tx.send(Ok(payload)).await;
                if sent.is_err() {
                    break;
                }
            }
            STDERR => log.push(&payload, &log_tx),
            STATUS => {
                end_tx.send_replace(Some(parse_status(&payload)));
            }
            _ => {}
        }
    }
    log.finish(&log_tx);
}

/// In our words where a library's would only puzzle: an end without the closing handshakes of WebSocket and TLS.
fn transport_error(error: Error) -> io::Error {
    let cut = matches!(&error, Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof)
        || matches!(
            error,
            Error::ConnectionClosed
                | Error::AlreadyClosed
                | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
        );
    if cut {
        let text = "the API server or something before it ended the connection";
        return io::Error::new(io::ErrorKind::UnexpectedEof, text);
    }
    if let Error::Io(error) = error {
        error
    } else {
        io::Error::other(error)
    }
}

async fn write<S>(mut sink: SplitSink<WebSocketStream<S>, Message>, mut stdin_rx: mpsc::Receiver<Bytes>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // An error here is seen by the reading task as well, which reports it.
    while let Some(message) = stdin_rx.recv().await {
        if sink.feed(Message::Binary(message)).await.is_err() {
            return;
        }
        // What is at hand goes into one flush.
        while let Ok(message) = stdin_rx.try_recv() {
            if sink.feed(Message::Binary(message)).await.is_err() {
                return;
            }
        }
        if sink.flush().await.is_err() {
            return;
        }
    }
    // The pipe's user let go of stdin: a close frame ends the exec.
    drop(sink.close().await);
}

/// The command's stdout as a reader.
pub type Stdout = StreamReader<Chunks, Bytes>;

/// The pieces behind [`Stdout`].
#[derive(Debug)]
pub struct Chunks(mpsc::Receiver<io::Result<Bytes>>);

impl Stream for Chunks {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

/// The command's stdin as a writer. Dropping it closes the WebSocket.
#[derive(Debug)]
pub struct Stdin {
    messages: PollSender<Bytes>,
}

impl AsyncWrite for Stdin {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.messages.poll_reserve(cx)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        let length = buf.len().min(MESSAGE);
        let mut message = BytesMut::with_capacity(1 + length);
        message.put_u8(STDIN);
        message.put_slice(&buf[..length]);
        self.messages
            .send_item(message.freeze())
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The writing task flushes whenever it has nothing more at hand.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.messages.close();
        Poll::Ready(Ok(()))
    }
}

/// Cuts the agent's stderr into lines.
#[derive(Debug, Default)]
struct LogLines {
    partial: BytesMut,
}

impl LogLines {
    fn push(&mut self, bytes: &[u8], log_tx: &mpsc::Sender<String>) {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line = self.partial.split_to(end + 1);
            // A full queue loses lines, never data.
            drop(log_tx.try_send(String::from_utf8_lossy(line.trim_ascii()).into_owned()));
        }
        if self.partial.len() > LOG_LINE {
            self.partial.clear();
        }
    }

    /// What came last without a line end: a runtime's own complaint has none.
    fn finish(self, log_tx: &mpsc::Sender<String>) {
        if !self.partial.is_empty() {
            drop(log_tx.try_send(String::from_utf8_lossy(self.partial.trim_ascii()).into_owned()));
        }
    }
}

fn parse_status(json: &[u8]) -> ExecEnd {
    let Ok(status) = serde_json::from_slice::<Status>(json) else {
        return ExecEnd::Failed {
            reason: "Unknown".to_owned(),
            message: String::from_utf8_lossy(json).into_owned(),
        };
    };
    if status.status.as_deref() == Some("Success") {
        return ExecEnd::Success;
    }
    let causes = status
        .details
        .and_then(|details| details.causes)
        .unwrap_or_default();
    let code = causes
        .iter()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .and_then(|cause| cause.message.as_deref()?.parse().ok());
    match code {
        Some(code) => ExecEnd::Exited(code),
        None => ExecEnd::Failed {
            reason: status.reason.unwrap_or_else(|| "Unknown".to_owned()),
            message: status.message.unwrap_or_default(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_in_the_query() {
        let command = Command {
            namespace: "dev",
            pod: "p-1",
            container: "agent",
            arguments: &["/tunnel/agent", "attach"],
        };
        assert_eq!(
            uri(&command),
            "/api/v1/namespaces/dev/pods/p-1/exec?container=agent&stdin=true&stdout=true&stderr=true&tty=false\
             &command=%2Ftunnel%2Fagent&command=attach"
        );
    }

    #[test]
    fn statuses_are_told_apart() {
        assert_eq!(parse_status(br#"{"status":"Success"}"#), ExecEnd::Success);
        let exited = br#"{"status":"Failure","reason":"NonZeroExitCode","message":"command terminated",
            "details":{"causes":[{"reason":"ExitCode","message":"137"}]}}"#;
        assert_eq!(parse_status(exited), ExecEnd::Exited(137));
        let missing = br#"{"status":"Failure","reason":"InternalError","code":500,
            "message":"Internal error occurred: unable to upgrade connection: container not found (\"agent\")"}"#;
        assert!(parse_status(missing).is_container_missing());
        assert!(matches!(parse_status(b"<html>"), ExecEnd::Failed { message, .. } if message == "<html>"));
    }

    #[test]
    fn an_end_without_handshakes_is_told_in_our_words() {
        let cut = io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "peer closed connection, see https://example",
        );
        for error in [
            Error::Io(cut),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
        ] {
            let text = transport_error(error).to_string();
            assert!(text.ends_with("ended the connection"), "{text}");
        }
        let reset = Error::Io(io::ErrorKind::ConnectionReset.into());
        assert_eq!(transport_error(reset).kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn log_lines_are_cut_at_line_ends_only() {
        let (log_tx, mut log_rx) = mpsc::channel(4);
        let mut log = LogLines::default();
        log.push(b"{\"level\":", &log_tx);
        log.push(b"\"warn\"}\n{\"second\":1}\nthe end", &log_tx);
        log.finish(&log_tx);
        drop(log_tx);
        assert_eq!(log_rx.recv().await.as_deref(), Some("{\"level\":\"warn\"}"));
        assert_eq!(log_rx.recv().await.as_deref(), Some("{\"second\":1}"));
        assert_eq!(log_rx.recv().await.as_deref(), Some("the end"));
    }

    #[tokio::test]
    async fn writes_become_messages_of_at_most_32_kib() {
        use tokio::io::AsyncWriteExt;
        let (stdin_tx, mut stdin_rx) = mpsc::channel(QUEUE);
        let mut stdin = Stdin {
            messages: PollSender::new(stdin_tx),
        };
        stdin.write_all(&vec![7; 70_000]).await.unwrap();
        stdin.shutdown().await.unwrap();
        drop(stdin);
        let mut lengths = Vec::new();
        while let Some(message) = stdin_rx.recv().await {
            assert_eq!(message[0], STDIN);
            lengths.push(message.len() - 1);
        }
        assert_eq!(lengths, [32_768, 32_768, 4_464]);
    }
}
