//! What exec starts in the container: `attach` and `state`, the two short programs at the unix socket.
//!
//! `attach` hands its stdin and stdout to the container's process and then only stays: the exec lasts as long as
//! it does, and its stdin ends when the last holder of stdout or stderr closes one of them. So it never closes,
//! duplicates or reads them. Neither program needs a runtime: each blocks on one connection.

use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::time::Instant;

use crate::attachments::{ATTACH, STATE};

/// How long the container's process may take to listen. Exec may come before its first instruction.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(10);

/// How long the container's process may take to answer `state`.
const STATE_TIMEOUT: Duration = Duration::from_secs(5);

/// The container's process cannot be reached, or does not answer.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Nothing listens at the unix socket.
    #[error("connect to the agent at {}", path.display())]
    Connect {
        /// Where it was expected.
        path: PathBuf,
        /// The last attempt's failure.
        source: io::Error,
    },
    /// The request could not be sent.
    #[error("send the request to the agent")]
    Send(#[source] io::Error),
    /// No answer came.
    #[error("read the agent's answer")]
    Receive(#[source] io::Error),
    /// The connection ended without an answer.
    #[error("the agent gave no answer")]
    NoAnswer,
}

/// Hands `stdin` and `stdout` over, then copies the agent's log lines to `stderr` until the agent is done.
pub fn attach(
    socket: &Path,
    stdin: &impl AsFd,
    stdout: &impl AsFd,
    stderr: &mut impl Write,
) -> Result<(), AttachError> {
    let connection = connect(socket)?;
    let descriptors = [stdin.as_fd(), stdout.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fits = ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    debug_assert!(fits, "the space is made for two descriptors");
    sendmsg(
        &connection,
        &[IoSlice::new(&[ATTACH])],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .map_err(|errno| AttachError::Send(errno.into()))?;

    let mut lines = BufReader::new(connection);
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line) {
            // A reset means the same as an end: the agent is gone, and exec's reader sees the rest.
            Ok(0) | Err(_) => return Ok(()),
            // A stderr that nobody takes is no reason to end what holds the exec open.
            Ok(_) => drop(stderr.write_all(&line)),
        }
    }
}

/// Asks for the agent's state: one line of JSON with its line feed.
pub fn state(socket: &Path) -> Result<String, AttachError> {
    let mut connection = connect(socket)?;
    connection
        .set_read_timeout(Some(STATE_TIMEOUT))
        .map_err(AttachError::Receive)?;
    connection.write_all(&[STATE]).map_err(AttachError::Send)?;
    let mut line = String::new();
    BufReader::new(connection)
        .read_line(&mut line)
        .map_err(AttachError::Receive)?;
    if line.ends_with('\n') {
        Ok(line)
    } else {
        Err(AttachError::NoAnswer)
    }
}

fn connect(path: &Path) -> Result<UnixStream, AttachError> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    loop {
        match UnixStream::connect(path) {
            Ok(connection) => return Ok(connection),
            Err(source) if Instant::now() >= deadline => {
                return Err(AttachError::Connect {
                    path: path.to_owned(),
                    source,
                });
            }
            Err(_) => {
                #[expect(clippy::disallowed_methods, reason = "this program has no runtime to block")]
                std::thread::sleep(CONNECT_PAUSE);
            }
        }
    }
}
