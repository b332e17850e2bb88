//! Kubeconfigs that reach the API server through a relay of the test's instead of directly.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::namespace::{Namespace, kubectl_config};

/// `host:port` of the API server.
pub(crate) fn api_server(namespace: &Namespace) -> String {
    let (_, server) = cluster_of(&namespace.kubeconfig());
    server.trim_start_matches("https://").to_owned()
}

/// The developer's kubeconfig, called `name`, with the API server at this address.
pub(crate) fn through(namespace: &Namespace, name: &str, address: SocketAddr) -> PathBuf {
    let kubeconfig = namespace.folder().join(name);
    std::fs::copy(namespace.kubeconfig(), &kubeconfig).expect("copy the kubeconfig");
    let (cluster, _) = cluster_of(&kubeconfig);
    let server = format!("--server=https://{address}");
    kubectl_config(&kubeconfig, &["set-cluster", &cluster, &server]);
    kubeconfig
}

/// Makes the kubeconfig trust the authority in this PEM file instead of the cluster's.
pub(crate) fn trust(kubeconfig: &Path, authority: &Path) {
    let (cluster, _) = cluster_of(kubeconfig);
    let authority = format!("--certificate-authority={}", authority.display());
    let arguments = ["set-cluster", &cluster, &authority, "--embed-certs=true"];
    kubectl_config(kubeconfig, &arguments);
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
