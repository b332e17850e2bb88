//! The start: what it creates, what it asks the API server for, what a program learns when it is ready.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::api::ListParams;

use crate::harness::audit::{self, AuditLog};
use crate::harness::namespace::Namespace;
use crate::harness::settings::Settings;
use crate::harness::{dial, notice, poll, process, run};

const EMPTY: Duration = Duration::from_secs(5);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_session_is_one_pod_one_exec_one_process_and_needs_no_right_but_edit() {
    run(async {
        let namespace = Namespace::create().await;
        let mut log = AuditLog::open();
        let target = namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        dial::get(dial::Way::Absolute, ready.proxy(), &target.name, 80, "/")
            .await
            .expect("the target answers");

        assert_eq!(
            process::children(plugin.pid()),
            Vec::<u32>::new(),
            "child processes"
        );
        let id = &ready.session;
        let strangers = namespace.strangers().await;
        let expected = BTreeSet::from([
            format!("configmaps/tunnel-{id}"),
            format!("jobs/tunnel-{id}"),
            format!("pods/{}", ready.pod),
        ]);
        assert_eq!(strangers, expected);

        plugin.stop().await;
        namespace.wait_empty(EMPTY).await;
        let created = created_pods(&namespace).await;
        assert_eq!(created.len(), 1, "pods created: {created:?}");
        if let Some(log) = &mut log {
            let requests = log.requests(namespace.name());
            assert!(!requests.is_empty(), "the audit log shows the plugin");
            assert_eq!(audit::execs(&requests).len(), 1, "execs: {requests:?}");
            assert_eq!(audit::refused(&requests), Vec::<String>::new());
        }
    });
}

/// The Job's first deadline is 40 s: only its renewing lets a slow start (a large image) take longer.
#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_start_may_take_longer_than_its_first_lease() {
    run(async {
        let namespace = Namespace::create().await;
        let gated = r#"{"spec":{"schedulingGates":[{"name":"tunnel-test/gate"}]}}"#;
        let ended = namespace
            .proxy(&["--patch", gated, "--pod-running-timeout", "50s"])
            .finish(Duration::from_secs(75))
            .await;
        ended.expect_code(5).expect_said(&["not started within 50s"]);
        namespace.wait_empty(EMPTY).await;
    });
}

/// The pods that the Job controller has made, by its events.
async fn created_pods(namespace: &Namespace) -> Vec<String> {
    let events = namespace.events().await;
    events
        .into_iter()
        .filter(|event| event.starts_with("SuccessfulCreate"))
        .collect()
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn every_object_belongs_to_the_job_and_blocks_nothing() {
    run(async {
        let namespace = Namespace::create().await;
        let (plugin, ready) = namespace.expose(&["1234"]).ready().await;
        let job = namespace.admin().objects(namespace.name(), "jobs");
        let job = job
            .get(&format!("tunnel-{}", ready.session))
            .await
            .expect("the Job");
        for plural in ["jobs", "pods", "configmaps", "services"] {
            let list = namespace.admin().objects(namespace.name(), plural);
            let list = list
                .list(&ListParams::default().labels("app.kubernetes.io/name=kubectl-tunnel"))
                .await;
            let list = list.expect("list by our label").items;
            assert_eq!(list.len(), 1, "{plural} with our label");
            let metadata = &list[0].metadata;
            let labels = metadata.labels.as_ref().expect("labels");
            assert_eq!(labels["app.kubernetes.io/instance"], ready.session, "{plural}");
            // The Job controller's own bookkeeping on the pod is not ours.
            let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
            finalizers.retain(|finalizer| finalizer != "batch.kubernetes.io/job-tracking");
            assert_eq!(finalizers, Vec::<String>::new(), "{plural}");
            if plural != "jobs" {
                let owners = metadata.owner_references.clone().unwrap_or_default();
                assert_eq!(owners.len(), 1, "owners of {plural}");
                assert_eq!(
                    Some(&owners[0].uid),
                    job.metadata.uid.as_ref(),
                    "owner of {plural}"
                );
                if plural != "pods" {
                    assert_ne!(owners[0].block_owner_deletion, Some(true), "{plural}");
                }
            }
        }
        plugin.stop().await;
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn the_ready_file_says_what_the_ready_event_says_and_goes_with_the_session() {
    run(async {
        let namespace = Namespace::create().await;
        let file = namespace.folder().join("ready.json");
        let path = file.to_str().expect("a plain path");
        let (plugin, ready) = namespace.proxy(&["--ready-file", path]).ready().await;
        let text = poll(Duration::from_secs(2), "the ready file", async || {
            std::fs::read_to_string(&file).ok()
        })
        .await;
        let written: serde_json::Value = serde_json::from_str(&text).expect("one JSON object");
        assert_eq!(written, ready.event);
        assert_eq!(written["namespace"], namespace.name());
        assert_eq!(written["pid"], plugin.pid());
        plugin.stop().await;
        assert!(!file.exists(), "the ready file stayed");
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn without_json_the_ready_lines_are_kubectls_and_the_end_is_quiet() {
    run(async {
        let namespace = Namespace::create().await;
        let file = namespace.folder().join("ready.json");
        let path = file.to_str().expect("a plain path");
        let launch = namespace.launch(&[
            "expose",
            "api",
            "80:1234",
            "--proxy",
            "--listen",
            "127.0.0.1:0",
            "--ready-file",
            path,
        ]);
        let plugin = launch.start();
        poll(Duration::from_secs(30), "the ready file", async || {
            file.exists().then_some(())
        })
        .await;
        plugin.signal(rustix::process::Signal::TERM);
        let ended = plugin.end(Duration::from_secs(10)).await;
        let forwarding = format!(
            "out Forwarding from api.{}:80 -> localhost:1234",
            namespace.name()
        );
        ended
            .expect_code(0)
            .expect_said(&["out Starting to serve on 127.0.0.1:", &forwarding]);
        assert!(!ended.said.contains("error"), "{}", ended.said);
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn the_agent_runs_from_an_image_without_a_config_map() {
    run(async {
        let Some(image) = &Settings::get().agent_image else {
            return notice("TUNNEL_TEST_AGENT_IMAGE is not set: --agent-image is not tried");
        };
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&["--agent-image", image]).ready().await;
        dial::get(dial::Way::Connect, ready.proxy(), "web", 80, "/")
            .await
            .expect("the target answers");
        let strangers = namespace.strangers().await;
        assert!(
            !strangers.iter().any(|name| name.starts_with("configmaps/")),
            "{strangers:?}"
        );
        plugin.stop().await;
        namespace.wait_empty(EMPTY).await;
    });
}
