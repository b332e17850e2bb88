//! What the control socket needs of the system: unix sockets, owners and modes of files, leaving a terminal. On
//! Windows, where tokio has no unix sockets, nothing is served and nothing found.

pub use self::inner::{Server, is_available, leave_terminal};
pub(super) use self::inner::{Stream, connect, private_folder, user};

#[cfg(unix)]
mod inner {
    use std::io;
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use tokio::net::{UnixListener, UnixStream};
    use tokio::task::JoinSet;

    use super::super::{Seen, answer, socket_path};
    use crate::cluster::env::Env;

    pub(in super::super) type Stream = UnixStream;

    /// Answers at once, so it needs no more.
    const CONNECTIONS: usize = 32;

    /// Whether commands can be seen and stopped from outside here.
    #[must_use]
    pub fn is_available() -> bool {
        true
    }

    pub(in super::super) fn user() -> String {
        rustix::process::getuid().as_raw().to_string()
    }

    pub(in super::super) fn private_folder(folder: &Path) -> io::Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        // Not followed: a link that somebody else put there leads to a folder of theirs.
        let found = std::fs::symlink_metadata(folder)?;
        if !found.is_dir() || found.uid() != rustix::process::getuid().as_raw() {
            let text = format!("{} is not a folder of yours", folder.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        if found.mode() & 0o077 != 0 {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    pub(in super::super) async fn connect(path: &Path) -> io::Result<Stream> {
        UnixStream::connect(path).await
    }

    /// Leaves the terminal's session, so that neither its keys nor its end reach this process.
    ///
    /// # Errors
    /// The process leads a group already.
    pub fn leave_terminal() -> io::Result<()> {
        rustix::process::setsid()?;
        Ok(())
    }

    /// The socket of this process; the file goes with it.
    #[derive(Debug)]
    pub struct Server {
        path: PathBuf,
        _tasks: JoinSet<()>,
    }

    impl Server {
        /// Listens under this id.
        ///
        /// # Errors
        /// The socket cannot be made.
        pub fn start(env: &Env, id: &str, seen: Arc<impl Seen>) -> io::Result<Self> {
            let path = socket_path(env, id)?;
            let listener = UnixListener::bind(&path)?;
            // The folder keeps everybody else out already, and did before this.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                let mut answers = JoinSet::new();
                loop {
                    tokio::select! {
                        accepted = listener.accept(), if answers.len() < CONNECTIONS => match accepted {
                            Ok((stream, _)) => {
                                let seen = Arc::clone(&seen);
                                answers.spawn(async move {
                                    if let Err(error) = answer(stream, &*seen).await {
                                        tracing::debug!(%error, "control request not answered");
                                    }
                                });
                            }
                            Err(error) => {
                                tracing::debug!(%error, "control connection not accepted");
                                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                            }
                        },
                        Some(_) = answers.join_next(), if !answers.is_empty() => {}
                    }
                }
            });
            Ok(Self { path, _tasks: tasks })
        }

        /// Is not found any more from now on, while those who wait for the end still do.
        pub fn hide(&self) {
            // Gone already: nothing else is wanted.
            drop(std::fs::remove_file(&self.path));
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.hide();
        }
    }
}

#[cfg(not(unix))]
mod inner {
    use std::io;
    use std::path::Path;
    use std::sync::Arc;

    use super::super::Seen;
    use crate::cluster::env::Env;

    pub(in super::super) type Stream = tokio::io::DuplexStream;

    #[must_use]
    pub fn is_available() -> bool {
        false
    }

    pub(in super::super) fn user() -> String {
        "user".to_owned()
    }

    pub(in super::super) fn private_folder(folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder)
    }

    #[expect(clippy::unused_async, reason = "it is on other systems")]
    pub(in super::super) async fn connect(_: &Path) -> io::Result<Stream> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn leave_terminal() -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[derive(Debug)]
    pub struct Server;

    impl Server {
        pub fn start(_: &Env, _: &str, _: Arc<impl Seen>) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub fn hide(&self) {}
    }
}
