//! How a running command is seen and stopped from another terminal: a unix socket for each in the user's runtime
//! directory, which answers one JSON line to one JSON line.
//!
//! It owns the protocol and the socket files. What a command tells of itself is in [`Snapshot`]; who fills it in is
//! `command/`. A file that nobody answers at was left by a killed plugin. What differs between systems is in
//! [`system`].

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use crate::cluster::env::Env;

pub mod folders;
mod system;

pub use self::system::{Server, is_available, leave_terminal};

/// The version of what is said over the socket; it grows with every change that an older end would misread.
pub const VERSION: u32 = 1;

/// How long a running command may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest line, in bytes: three hundred forwards fit.
const LONGEST: u64 = 1 << 20;

/// What is asked of a running command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// How it stands.
    Status,
    /// To end; the socket closes when it has.
    Stop,
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    version: u32,
    request: Verb,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Box<Snapshot>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// How a running command stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// What `status` and `stop` call it; the session's id, but for `--on-demand`.
    pub id: String,
    /// The session's id in the cluster; none while there is no agent.
    pub session: Option<String>,
    /// The namespace of its objects.
    pub namespace: String,
    /// The API server's host and port.
    pub server: String,
    /// The kubeconfig's context.
    pub context: Option<String>,
    /// The command line without secrets.
    pub command: String,
    /// Its process.
    pub pid: u32,
    /// `idle`, `starting`, `ready`, `reconnecting` or `draining`.
    pub state: String,
    /// Why it is not ready.
    pub reason: Option<String>,
    /// What carries the session: `exec` or `port-forward`.
    pub transport: Option<String>,
    /// The agent's pod.
    pub pod: Option<String>,
    /// The local ports, as in the ready event.
    pub listeners: Vec<serde_json::Value>,
    /// The Services, as in the ready event.
    pub services: Vec<serde_json::Value>,
    /// The lines that stdout got when all was ready; none before.
    pub ready_lines: Vec<String>,
    /// Where metrics are served.
    pub metrics: Option<String>,
    /// Connections and flows open now.
    pub streams: u64,
    /// Connections and flows there have been.
    pub streams_total: u64,
    /// Bytes that went to the cluster.
    pub sent_bytes: u64,
    /// Bytes that came from the cluster.
    pub received_bytes: u64,
    /// To the agent and back, in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// How often a lost connection to the agent came back.
    pub reconnects: u64,
    /// Datagrams that were lost in the plugin.
    pub dropped_datagrams: u64,
    /// Connections that failed, by kind.
    pub errors: BTreeMap<String, u64>,
    /// When it began, in RFC 3339.
    pub started_at: String,
    /// When `--max-lifetime` is over, in RFC 3339.
    pub expires_at: Option<String>,
    /// Where a detached command writes what it says.
    pub log: Option<String>,
}

/// What stands behind a socket file.
#[derive(Debug)]
pub enum Found {
    /// A running command.
    Running(Box<Snapshot>),
    /// Its plugin was killed.
    Dead {
        /// From the file's name.
        id: String,
    },
    /// It listens but does not answer as it should.
    Mute {
        /// From the file's name.
        id: String,
        /// What happened instead.
        reason: String,
    },
}

/// All commands of this user on this machine, killed ones included.
pub async fn list(env: &Env) -> Vec<Found> {
    let Ok(folder) = folders::runtime(env) else {
        return Vec::new();
    };
    let Ok(entries) = std::fs::read_dir(&folder) else {
        return Vec::new();
    };
    let mut ids: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".sock")?.to_owned()))
        .collect();
    ids.sort();
    let looks = ids.into_iter().map(|id| look(env, id));
    futures::future::join_all(looks)
        .await
        .into_iter()
        .flatten()
        .collect()
}

/// What stands behind this id, if there is a file of it.
pub async fn look(env: &Env, id: String) -> Option<Found> {
    let path = socket_path(env, &id).ok()?;
    match ask(&path, Verb::Status).await {
        Ok((snapshot, _)) => Some(match snapshot {
            Some(snapshot) => Found::Running(snapshot),
            None => Found::Mute {
                id,
                reason: "it did not tell how it stands".to_owned(),
            },
        }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Some(Found::Dead { id }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Found::Mute {
            id,
            reason: error.to_string(),
        }),
    }
}

/// Asks a running command to end, and waits until it has, for at most `limit`.
///
/// # Errors
/// Nobody answers, or it has not ended by then.
pub async fn stop(env: &Env, id: &str, limit: Duration) -> io::Result<()> {
    let (_, mut connection) = ask(&socket_path(env, id)?, Verb::Stop).await?;
    // The system closes it with the process.
    let mut rest = Vec::new();
    match timeout(limit, connection.read_to_end(&mut rest)).await {
        // A reset is an end as well.
        Ok(Ok(_) | Err(_)) => Ok(()),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Removes the file of a killed plugin.
pub fn bury(env: &Env, id: &str) {
    if let Ok(path) = socket_path(env, id) {
        // It may be gone already; if it cannot be removed it is found dead again.
        drop(std::fs::remove_file(path));
    }
}

fn socket_path(env: &Env, id: &str) -> io::Result<PathBuf> {
    Ok(folders::runtime(env)?.join(format!("{id}.sock")))
}

type Connection = BufReader<system::Stream>;

async fn ask(path: &Path, request: Verb) -> io::Result<(Option<Box<Snapshot>>, Connection)> {
    let exchange = async {
        let mut connection = BufReader::new(system::connect(path).await?);
        let request = Request {
            version: VERSION,
            request,
        };
        write_line(connection.get_mut(), &request).await?;
        let mut line = String::new();
        (&mut connection).take(LONGEST).read_line(&mut line).await?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let answer: Answer = serde_json::from_str(&line).map_err(io::Error::other)?;
        if let Some(error) = answer.error {
            return Err(io::Error::other(error));
        }
        Ok((answer.status, connection))
    };
    timeout(ANSWER_TIMEOUT, exchange)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// What a running command does when it is asked.
pub trait Seen: Send + Sync + 'static {
    /// How it stands.
    fn snapshot(&self) -> Snapshot;

    /// It is to end, as after the first Ctrl-C.
    fn stop(&self);
}

/// Answers one connection. After a stop it is held for as long as the process lives.
#[cfg_attr(not(unix), expect(dead_code, reason = "nothing is served there"))]
async fn answer(stream: system::Stream, seen: &impl Seen) -> io::Result<()> {
    let mut connection = BufReader::new(stream);
    let mut line = String::new();
    let mut limited = (&mut connection).take(LONGEST);
    timeout(ANSWER_TIMEOUT, limited.read_line(&mut line))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let mut answer = Answer {
        version: VERSION,
        status: None,
        error: None,
    };
    let request = match serde_json::from_str::<Request>(&line) {
        Ok(request) if request.version == VERSION => Some(request.request),
        Ok(request) => {
            answer.error = Some(format!(
                "version {} was asked for, this plugin speaks version {VERSION}",
                request.version
            ));
            None
        }
        Err(error) => {
            answer.error = Some(format!("not understood: {error}"));
            None
        }
    };
    if request == Some(Verb::Status) {
        answer.status = Some(Box::new(seen.snapshot()));
    }
    write_line(connection.get_mut(), &answer).await?;
    if request == Some(Verb::Stop) {
        seen.stop();
        std::future::pending::<()>().await;
    }
    Ok(())
}

async fn write_line(stream: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await
}

#[cfg(all(test, unix))]
mod tests;

#[cfg(all(test, unix))]
pub(crate) use self::tests::snapshot as snapshot_for_tests;
