//! Which cluster and which programs: read from the environment, `make bench` sets it.

use std::env;
use std::path::PathBuf;

use crate::failure::{Failure, failure};

/// Everything the environment says.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Kubeconfig of a user who may make namespaces.
    pub(crate) admin: PathBuf,
    /// Kubeconfig of the user who does everything that is measured.
    pub(crate) developer: PathBuf,
    /// The plugin.
    pub(crate) plugin: PathBuf,
    /// The target program, a static binary for the nodes' architecture.
    pub(crate) target: PathBuf,
    /// Image the target program runs on; its user is not root.
    pub(crate) base_image: String,
    /// A TCP relay that delays: `--listen`, `--to`, `--rtt`, `--port-file`.
    pub(crate) wan: Option<PathBuf>,
}

impl Settings {
    /// # Errors
    /// Something needed is not set.
    pub(crate) fn read() -> Result<Self, Failure> {
        let path = |name: &str| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let needed = |name: &str| match path(name) {
            Some(path) => Ok(path),
            None => failure(format!("{name} is not set: run `make bench`")),
        };
        Ok(Self {
            admin: needed("KUBECONFIG")?,
            developer: needed("TUNNEL_TEST_DEVELOPER_KUBECONFIG")?,
            plugin: needed("TUNNEL_TEST_PLUGIN")?,
            target: needed("TUNNEL_TEST_TARGET")?,
            base_image: env::var("TUNNEL_TEST_BASE_IMAGE").unwrap_or_else(|_| "cluster/busybox:1".to_owned()),
            wan: path("TUNNEL_TEST_WAN").or_else(|| on_path("wan")),
        })
    }
}

/// The program of this name on PATH.
fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
