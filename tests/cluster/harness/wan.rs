//! A long line between the plugin and the API server: a TCP relay that delays.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use super::namespace::{Namespace, kubectl_config};
use super::settings::Settings;
use super::{notice, poll};

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
        let kubeconfig = namespace.folder().join("wan");
        std::fs::copy(namespace.kubeconfig(), &kubeconfig).expect("copy the kubeconfig");
        let (cluster, server) = cluster_of(&kubeconfig);
        let port_file = namespace.folder().join("wan-port");
        let relay = Command::new(tool)
            .args([
                "--listen",
                "127.0.0.1:0",
                "--rtt",
                rtt,
                "--to",
                server.trim_start_matches("https://"),
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
        let server = format!("--server=https://{}", address.trim());
        kubectl_config(&kubeconfig, &["set-cluster", &cluster, &server]);
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

/// Name and server of the current context's cluster.
fn cluster_of(kubeconfig: &Path) -> (String, String) {
    let read = kube::config::Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let context = read
        .contexts
        .iter()
        .find(|context| Some(&context.name) == read.current_context.as_ref());
    let name = context
        .and_then(|context| context.context.as_ref())
        .map(|context| context.cluster.clone());
    let name = name.expect("a current context");
    let cluster = read.clusters.iter().find(|cluster| cluster.name == name);
    let server = cluster
        .and_then(|cluster| cluster.cluster.as_ref())
        .and_then(|cluster| cluster.server.clone());
    (name, server.expect("a server"))
}
