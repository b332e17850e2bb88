//! The unix socket between the container's process and what exec starts in the container.
//!
//! `attach` hands over its stdin and stdout and stays; the pipes behind them become a [`Transport`]. The unix
//! connection stays open as long as both live: log lines go over it, and its end tells either side that the
//! other one has ended. `state` gets one line. The socket is a file in the pod's own memory, so that no other
//! container of the pod can reach it. It proves nobody: the hello over the transport does.
//!
//! ```text
//!   attach --- 'a' + descriptors 0 and 1 --->  serve        state --- 's' --->  serve
//!   attach <-- log lines ... end of file ----  serve        state <-- line ---  serve
//! ```

use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::FileType;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::unix::pipe;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::Task;
use crate::agent::Transport;
use crate::log::{self, Level, Log};
use crate::status::Status;

/// The request of `attach`; its descriptors 0 and 1 come with it.
pub const ATTACH: u8 = b'a';
/// The request of `state`.
pub const STATE: u8 = b's';

/// How long a request may take to arrive, a line to be taken, and the other end to go after the last line.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the end of the agent waits for its attaches to end first, so that exec reports success.
const FAREWELL: Duration = Duration::from_millis(500);

/// Unix connections at once: one attached, a few unproven, a few that ask for the state.
const MAX_CONNECTIONS: usize = 16;

/// Pause after an accept that failed for want of a file descriptor.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The most a pipe may hold without privileges. The default of 64 KiB costs a twentieth of the throughput.
const PIPE_SIZE: usize = 1024 * 1024;

/// The listening unix socket.
#[derive(Debug)]
pub struct Attachments {
    listener: UnixListener,
}

/// What somebody wants.
enum Request {
    Attach { stdin: OwnedFd, stdout: OwnedFd },
    State,
}

/// A request that cannot be served.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("read the request")]
    Read(#[source] io::Error),
    #[error("the connection ended before the request")]
    Ended,
    #[error("unknown request {0}")]
    Unknown(u8),
    #[error("an attach comes with 2 descriptors, not {0}")]
    Descriptors(usize),
    #[error("std{name} is neither a pipe nor a socket; exec needs -i and no -t")]
    NotAPipe { name: &'static str },
    #[error("use std{name}")]
    Use { name: &'static str, source: io::Error },
}

impl Attachments {
    /// Binds the unix socket for this user only. A socket file that an earlier process left is replaced.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(path)?,
            Ok(_) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener })
    }

    /// Serves requests until `stop` is cancelled, then waits briefly for the attaches to end.
    pub async fn run(
        self,
        transports_tx: mpsc::Sender<Transport>,
        status: Status,
        log: Log,
        stop: CancellationToken,
    ) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((connection, _)) => {
                        let (transports_tx, status, log) = (transports_tx.clone(), status.clone(), log.clone());
                        let served: Task =
                            Box::pin(async move { serve(connection, &transports_tx, &status, &log).await });
                        connections.spawn(served);
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                },
            }
        }
        drop(transports_tx);
        let all = async { while connections.join_next().await.is_some() {} };
        drop(timeout(FAREWELL, all).await);
    }
}

async fn serve(
    mut connection: UnixStream,
    transports_tx: &mpsc::Sender<Transport>,
    status: &Status,
    log: &Log,
) {
    let Ok(request) = timeout(PATIENCE, receive(&connection)).await else {
        return;
    };
    let served = match request {
        Ok(Request::Attach { stdin, stdout }) => attach(&mut connection, stdin, stdout, transports_tx).await,
        Ok(Request::State) => write_line(&mut connection, status.line(Instant::now()))
            .await
            .map_err(RequestError::Read),
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        let reason = log::chain(&error);
        log.warn("request over the unix socket refused", &[("reason", &reason)]);
        let line = log::line(Level::Warn, "attach refused", &[("reason", &reason)]);
        // Whoever cannot be told is gone.
        drop(write_line(&mut connection, line).await);
    }
}

/// Turns an attach into a transport and stays with it until either side is done.
async fn attach(
    connection: &mut UnixStream,
    stdin: OwnedFd,
    stdout: OwnedFd,
    transports_tx: &mpsc::Sender<Transport>,
) -> Result<(), RequestError> {
    let reader = reader(stdin)?;
    let writer = writer(stdout)?;
    let (lines, mut lines_rx) = mpsc::channel(log::QUEUE);
    let gone = CancellationToken::new();
    let _gone = gone.clone().drop_guard();
    if transports_tx
        .send(Transport {
            reader,
            writer,
            lines,
            gone,
        })
        .await
        .is_err()
    {
        // The agent is about to end; so does this attach.
        return Ok(());
    }
    let mut ignored = [0; 64];
    loop {
        tokio::select! {
            biased;
            line = lines_rx.recv() => match line {
                Some(line) => if write_line(connection, line).await.is_err() { return Ok(()) },
                None => break,
            },
            // Nothing is sent after the request: this is the end of attach, or somebody who talks nonsense.
            _ = connection.read(&mut ignored) => return Ok(()),
        }
    }
    if connection.shutdown().await.is_ok() {
        // attach ends when it has written the last line; going first would lose that line with the process.
        drop(timeout(PATIENCE, connection.read(&mut ignored)).await);
    }
    Ok(())
}

async fn write_line(connection: &mut UnixStream, mut line: String) -> io::Result<()> {
    line.push('\n');
    timeout(PATIENCE, connection.write_all(line.as_bytes())).await?
}

async fn receive(connection: &UnixStream) -> Result<Request, RequestError> {
    let (length, byte, mut descriptors) = connection
        .async_io(Interest::READABLE, || {
            let mut byte = [0];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let length = recvmsg(
                connection,
                &mut [IoSliceMut::new(&mut byte)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            )?
            .bytes;
            let mut descriptors = Vec::new();
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    descriptors.extend(received);
                }
            }
            Ok((length, byte[0], descriptors))
        })
        .await
        .map_err(RequestError::Read)?;
    match (length, byte) {
        (0, _) => Err(RequestError::Ended),
        (_, STATE) => Ok(Request::State),
        (_, ATTACH) => match (descriptors.pop(), descriptors.pop(), descriptors.len()) {
            (Some(stdout), Some(stdin), 0) => Ok(Request::Attach { stdin, stdout }),
            (last, first, more) => Err(RequestError::Descriptors(
                more + usize::from(last.is_some()) + usize::from(first.is_some()),
            )),
        },
        (_, unknown) => Err(RequestError::Unknown(unknown)),
    }
}

fn reader(stdin: OwnedFd) -> Result<Box<dyn AsyncRead + Send + Unpin>, RequestError> {
    let name = "in";
    match kind(&stdin, name)? {
        FileType::Fifo => {
            let pipe =
                pipe::Receiver::from_owned_fd(stdin).map_err(|source| RequestError::Use { name, source })?;
            Ok(Box::new(pipe))
        }
        FileType::Socket => Ok(Box::new(stream(stdin, name)?)),
        FileType::RegularFile
        | FileType::Directory
        | FileType::Symlink
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Err(RequestError::NotAPipe { name }),
    }
}

fn writer(stdout: OwnedFd) -> Result<Box<dyn AsyncWrite + Send + Unpin>, RequestError> {
    let name = "out";
    match kind(&stdout, name)? {
        FileType::Fifo => {
            let pipe =
                pipe::Sender::from_owned_fd(stdout).map_err(|source| RequestError::Use { name, source })?;
            Ok(Box::new(pipe))
        }
        FileType::Socket => Ok(Box::new(stream(stdout, name)?)),
        FileType::RegularFile
        | FileType::Directory
        | FileType::Symlink
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Err(RequestError::NotAPipe { name }),
    }
}

fn kind(descriptor: &OwnedFd, name: &'static str) -> Result<FileType, RequestError> {
    let status = rustix::fs::fstat(descriptor).map_err(|errno| RequestError::Use {
        name,
        source: errno.into(),
    })?;
    let kind = FileType::from_raw_mode(status.st_mode);
    if kind == FileType::Fifo {
        // Best effort: a user's pipes share 64 MiB, and the default works as well.
        rustix::pipe::fcntl_setpipe_size(descriptor, PIPE_SIZE).ok();
    }
    Ok(kind)
}

fn stream(descriptor: OwnedFd, name: &'static str) -> Result<UnixStream, RequestError> {
    let stream = std::os::unix::net::UnixStream::from(descriptor);
    stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(stream))
        .map_err(|source| RequestError::Use { name, source })
}
