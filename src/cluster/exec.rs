//! Exec over WebSocket as a byte pipe: one command in the agent's container, its stdin and stdout.
//!
//! Not `Api::exec`, which moves 1 KiB at a time through one select loop, but two tasks of our own over the raw
//! WebSocket ([`super::messages`]). They end when both pipes are dropped, on a dead line too, or with the
//! [`Monitor`]. What travels inside is none of this file's business.
//!
//! | channel | is |
//! |---|---|
//! | 0 | stdin, to the agent |
//! | 1 | stdout |
//! | 2 | stderr: the agent's log, line by line |
//! | 3 | the end status, a JSON `Status`; without it the transport was lost, the command did not end |

use bytes::BytesMut;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::messages::{self, Head, Incoming, IncomingTx, Outgoing, Source};
use super::websocket::{self, WebSocket};

/// Log lines that wait for their reader; more are dropped rather than stop the data.
const LOG_QUEUE: usize = 256;

/// Longest log line kept, in bytes.
const LOG_LINE: usize = 16 * 1024;

/// The sub-protocol that an API server passes on to the node without looking inside; measured on 1.35: a quarter faster
/// downloads than by the other, uploads alike. It must be offered alone: beside the other it is not chosen.
pub(super) const PASSED_ON: &str = "v4.channel.k8s.io";

/// The one an API server since 1.31 takes apart and puts together anew.
const TRANSLATED: &str = "v5.channel.k8s.io";

/// What the node answers, in plain text, to an exec that it cannot start.
const NODE_REFUSED: u16 = 500;

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

/// Starts a command and returns its pipes. A container that is not there shows as an end of stdout and an [`ExecEnd`],
/// whether the node says so before the handshake or after it.
///
/// # Errors
/// The API server refused the request (rights, no such pod) or could not be reached.
pub async fn exec(client: &kube::Client, command: &Command<'_>) -> Result<Exec, kube::Error> {
    let websocket = match handshake(client, &uri(command)).await {
        Err(kube::Error::Api(status)) if status.code == NODE_REFUSED => return Ok(refused(&status)),
        answer => answer?,
    };
    let (log_tx, log_rx) = mpsc::channel(LOG_QUEUE);
    let (end_tx, end_rx) = watch::channel(None);
    let (stdout, stdin, tasks) = messages::start(websocket, Head::Channel(STDIN), |source, stdout_tx, _| {
        read(source, stdout_tx, log_tx, end_tx)
    });
    Ok(Exec {
        stdout,
        stdin,
        monitor: Monitor {
            end_rx,
            log_rx,
            _tasks: tasks,
        },
    })
}

async fn handshake(client: &kube::Client, uri: &str) -> Result<WebSocket, kube::Error> {
    let answer = match websocket::open(client, uri, &[PASSED_ON]).await {
        Err(kube::Error::UpgradeConnection(error)) => {
            tracing::debug!(%error, "no exec by {PASSED_ON}");
            websocket::open(client, uri, &[TRANSLATED]).await
        }
        answer => answer,
    };
    answer.map(|(websocket, _)| websocket)
}

/// An exec that ended before it began.
fn refused(status: &kube::core::Status) -> Exec {
    let end = ExecEnd::Failed {
        reason: "InternalError".to_owned(),
        message: status.message.clone(),
    };
    let (stdout, stdin) = messages::over();
    Exec {
        stdout,
        stdin,
        monitor: Monitor {
            end_rx: watch::channel(Some(end)).1,
            log_rx: mpsc::channel(1).1,
            _tasks: JoinSet::new(),
        },
    }
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
    mut source: Source<S>,
    stdout_tx: IncomingTx,
    log_tx: mpsc::Sender<String>,
    end_tx: watch::Sender<Option<ExecEnd>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut log = LogLines::default();
    while let Some((channel, payload)) = source.next().await {
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

/// The command's stdout as a reader.
pub type Stdout = Incoming;

/// The command's stdin as a writer. Dropping it closes the WebSocket.
pub type Stdin = Outgoing;

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
}
