//! `kill -9`: nobody is left to clean up, and yet the namespace is empty within a minute.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::harness::admission::Rule;
use crate::harness::namespace::Namespace;
use crate::harness::wan::Wan;
use crate::harness::{notice, poll, run};

const MINUTE: Duration = Duration::from_secs(60);
const APPEARS: Duration = Duration::from_secs(20);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn killed_while_ready() {
    run(async {
        let namespace = Namespace::create().await;
        let (plugin, _) = namespace.expose(&["api", "80:1234"]).ready().await;
        plugin.kill().await;
        expect_empty(&namespace).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn killed_while_the_image_cannot_be_pulled() {
    run(killed_once_there_is(
        "pods",
        &["--base-image", "cluster/no-such-image:1"],
    ));
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn killed_while_no_node_fits() {
    let patch = r#"{"spec":{"nodeSelector":{"tunnel-test/no-such-node":"true"}}}"#;
    run(killed_once_there_is("pods", &["--patch", patch]));
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn killed_while_the_pod_is_held_back() {
    let patch = r#"{"spec":{"schedulingGates":[{"name":"tunnel-test/gate"}]}}"#;
    run(killed_once_there_is("pods", &["--patch", patch]));
}

async fn killed_once_there_is(plural: &str, arguments: &[&str]) {
    let namespace = Namespace::create().await;
    let plugin = namespace.proxy(arguments).start();
    namespace.wait_stranger(plural, APPEARS).await;
    plugin.kill().await;
    expect_empty(&namespace).await;
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn killed_while_the_job_gets_no_pod() {
    run(async {
        let namespace = Namespace::create().await;
        let _policy = Rule::no_job_pods(&namespace).await;
        let plugin = namespace.proxy(&[]).start();
        namespace.wait_stranger("jobs", APPEARS).await;
        plugin.kill().await;
        expect_empty(&namespace).await;
    });
}

/// The plugin asks before it creates, so the quota comes between its question and the Job.
#[test]
#[ignore = "needs a cluster: make e2e"]
fn killed_while_the_quota_is_full() {
    run(async {
        let namespace = Namespace::create().await;
        let Some(wan) = Wan::start(&namespace, "1s").await else {
            return;
        };
        let plugin = namespace.proxy(&[]).with_kubeconfig(wan.kubeconfig()).start();
        poll(Duration::from_secs(40), "the plugin's first step", async || {
            plugin.said().contains("creating the agent").then_some(())
        })
        .await;
        // The question reaches the API server after half a second, its answer comes back after one.
        sleep(Duration::from_millis(800)).await;
        let quota = json!({
            "apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": {"name": "quota"}, "spec": {"hard": {"pods": "0"}},
        });
        namespace.create_object("resourcequotas", quota).await;
        namespace.wait_stranger("jobs", APPEARS).await;
        plugin.kill().await;
        let strangers = namespace.strangers().await;
        assert!(
            !strangers.iter().any(|name| name.starts_with("pods/")),
            "the quota came too late: {strangers:?}"
        );
        expect_empty(&namespace).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn killed_before_the_config_map() {
    run(async {
        let namespace = Namespace::create().await;
        // The Job's answer is on its way back for half a second; the ConfigMap's end is sent after it.
        let Some(wan) = Wan::start(&namespace, "1s").await else {
            return;
        };
        let plugin = namespace.proxy(&[]).with_kubeconfig(wan.kubeconfig()).start();
        namespace.wait_stranger("jobs", Duration::from_secs(40)).await;
        plugin.kill().await;
        let strangers = namespace.strangers().await;
        assert!(
            !strangers.iter().any(|name| name.starts_with("configmaps/")),
            "too late: {strangers:?}"
        );
        expect_empty(&namespace).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn killed_between_creation_and_hello() {
    run(async {
        let namespace = Namespace::create().await;
        let plugin = namespace.expose(&["api", "80:1234"]).start();
        namespace.wait_stranger("pods", APPEARS).await;
        plugin.kill().await;
        expect_empty(&namespace).await;
    });
}

async fn expect_empty(namespace: &Namespace) {
    let taken = namespace.wait_empty(MINUTE).await;
    notice(&format!("empty {taken:?} after the kill"));
}
