//! A unix socket as the local port: its file, who may open it, and what a dead process left there.
//!
//! The file is the user's alone (mode 0600) before anything can connect: its mode is set between the bind
//! and the listen. A socket file that nobody answers at is taken over, a live one is in use, and a file of
//! another kind is never touched. The file goes with the listener.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};

use super::address::BindError;
use super::socket::Port;

/// Only the user who runs this may connect.
const MODE: u32 = 0o600;

/// Connections the system keeps for us, as tokio's own listeners do.
const BACKLOG: i32 = 1024;

/// Binds a unix socket.
pub(super) async fn bind(path: &Path) -> Result<Port, BindError> {
    make_room(path).await?;
    let (listener, file) = listen(path).map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            // Somebody was faster.
            BindError::SocketInUse {
                path: path.to_owned(),
            }
        } else {
            other(path, source)
        }
    })?;
    Ok(Port::unix(listener, file))
}

fn other(path: &Path, source: io::Error) -> BindError {
    BindError::Socket {
        path: path.to_owned(),
        source,
    }
}

fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::of(path)?;
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = std::os::unix::net::UnixListener::from(OwnedFd::from(socket));
    Ok((UnixListener::from_std(listener)?, file))
}

/// Removes the socket file of a process that is no more.
async fn make_room(path: &Path) -> Result<(), BindError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(other(path, error)),
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket {
            path: path.to_owned(),
        });
    }
    match UnixStream::connect(path).await {
        // The one answer that means that no process has it open to listen.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(other(path, error)),
        // A full queue is one of them.
        Ok(_) | Err(_) => {
            return Err(BindError::SocketInUse {
                path: path.to_owned(),
            });
        }
    }
    // Not the file of another start that took it over since it was looked at.
    let same = fs::symlink_metadata(path).is_ok_and(|now| identity(&now) == identity(&found));
    if same {
        tracing::debug!(path = %path.display(), "a socket file that nobody listens at is removed");
        fs::remove_file(path).map_err(|source| other(path, source))?;
    }
    Ok(())
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// The file of a socket of ours; removed with it, unless another took its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(&fs::symlink_metadata(path)?),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|now| identity(&now) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "a socket file was not removed");
        }
    }
}
