//! A long line between the plugin and the API server: a TCP relay that delays.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use super::namespace::Namespace;
use super::settings::Settings;
use super::{detour, notice, poll};

/// The relay; it ends when dropped.
pub(crate) struct Wan {
    _relay: Child,
    kubeconfig: PathBuf,
}

impl Wan {
    /// Starts a relay with this round-trip time; `None` if there is no tool for it.
    pub(crate) async fn start(namespace: &Namespace, rtt: &str) -> Option<Self> {
        let Some(tool) = &Settings::get().wan else {
            notice("no `wan` tool: long lines are not tried");
            return None;
        };
        let port_file = namespace.folder().join("wan-port");
        let relay = Command::new(tool)
            .args([
                "--listen",
                "127.0.0.1:0",
                "--rtt",
                rtt,
                "--to",
                &detour::api_server(namespace),
            ])
            .arg("--port-file")
            .arg(&port_file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the wan tool runs");
        let address = poll(Duration::from_secs(5), "the wan tool's port", async || {
            std::fs::read_to_string(&port_file)
                .ok()
                .filter(|text| text.contains(':'))
        })
        .await;
        let address = address.trim().parse().expect("an address and a port");
        let kubeconfig = detour::through(namespace, "wan", address);
        Some(Self {
            _relay: relay,
            kubeconfig,
        })
    }

    /// A kubeconfig that goes over the relay.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}
