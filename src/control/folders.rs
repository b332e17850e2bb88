//! The user's own folders for running commands: sockets in the runtime directory, logs in the state directory.

use std::io;
use std::path::PathBuf;

use crate::cluster::env::Env;

/// Where the sockets are: `$XDG_RUNTIME_DIR/kubectl-tunnel`, else a folder of this user's below the temporary one.
///
/// # Errors
/// The folder cannot be made, or is another user's.
pub fn runtime(env: &Env) -> io::Result<PathBuf> {
    let folder = match env.os_var("XDG_RUNTIME_DIR") {
        Some(folder) => PathBuf::from(folder).join("kubectl-tunnel"),
        None => std::env::temp_dir().join(format!("kubectl-tunnel-{}", super::system::user())),
    };
    super::system::private_folder(&folder)?;
    Ok(folder)
}

/// The log of a detached command: `$XDG_STATE_HOME/kubectl-tunnel/ID.log`, else below `~/.local/state`.
///
/// # Errors
/// The folder cannot be made, or is another user's, or there is no home directory.
pub fn log_file(env: &Env, id: &str) -> io::Result<PathBuf> {
    let state = match (env.os_var("XDG_STATE_HOME"), env.home()) {
        (Some(folder), _) => PathBuf::from(folder),
        (None, Some(home)) => home.join(".local/state"),
        (None, None) => {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "neither $XDG_STATE_HOME nor a home directory",
            ));
        }
    };
    let folder = state.join("kubectl-tunnel");
    super::system::private_folder(&folder)?;
    Ok(folder.join(format!("{id}.log")))
}
