//! Which cluster and which tools: read from the environment once, `make e2e` sets it.

use std::env;
use std::path::PathBuf;
use std::sync::LazyLock;

/// Everything the environment says.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Kubeconfig of a user who may do everything.
    pub(crate) admin: PathBuf,
    /// Kubeconfig of a user who gets `ClusterRole` `edit` in each test's namespace.
    pub(crate) developer: PathBuf,
    /// Kubeconfig of a user without any rights.
    pub(crate) nobody: Option<PathBuf>,
    /// The plugin.
    pub(crate) plugin: PathBuf,
    /// Image that holds the agent for `--agent-image`, if there is one.
    pub(crate) agent_image: Option<String>,
    /// Image the target program runs on; its user is not root.
    pub(crate) base_image: String,
    /// The target program, a static binary for the nodes' architecture.
    pub(crate) target: PathBuf,
    /// The API server's audit log, if it can be read here.
    pub(crate) audit_log: Option<PathBuf>,
    /// `fault blackhole, reset, mend, restart PART`: breaks the cluster on purpose.
    pub(crate) fault: Option<PathBuf>,
    /// A TCP relay that delays.
    pub(crate) wan: Option<PathBuf>,
}

static SETTINGS: LazyLock<Settings> = LazyLock::new(Settings::read);

impl Settings {
    /// The settings of this run.
    pub(crate) fn get() -> &'static Self {
        &SETTINGS
    }

    fn read() -> Self {
        let path = |name: &str| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let needed = |name: &str| path(name).unwrap_or_else(|| panic!("{name} is not set: run `make e2e`"));
        let built = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/target/x86_64-unknown-linux-musl/agent/tunnel-test-target"
        );
        Self {
            admin: needed("KUBECONFIG"),
            developer: needed("TUNNEL_TEST_DEVELOPER_KUBECONFIG"),
            nobody: path("TUNNEL_TEST_NOBODY_KUBECONFIG"),
            plugin: path("TUNNEL_TEST_PLUGIN")
                .unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_kubectl-tunnel"))),
            agent_image: env::var("TUNNEL_TEST_AGENT_IMAGE")
                .ok()
                .filter(|image| !image.is_empty()),
            base_image: env::var("TUNNEL_TEST_BASE_IMAGE").unwrap_or_else(|_| "cluster/busybox:1".to_owned()),
            target: path("TUNNEL_TEST_TARGET").unwrap_or_else(|| PathBuf::from(built)),
            audit_log: path("TUNNEL_TEST_AUDIT_LOG"),
            fault: path("TUNNEL_TEST_FAULT"),
            wan: path("TUNNEL_TEST_WAN").or_else(|| on_path("wan")),
        }
    }
}

/// The program of this name on PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
