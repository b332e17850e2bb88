//! `--transport`: the session moves to port-forward and back under traffic, and does without it where it has to.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::harness::audit::{self, AuditLog};
use crate::harness::dial::{self, Way};
use crate::harness::namespace::Namespace;
use crate::harness::plugin::Plugin;
use crate::harness::relay::Relay;
use crate::harness::traffic::{RATE, Stage};
use crate::harness::{notice, poll, run, within};
use crate::refuse::user_with_rules;

/// From ready to what follows half a second later, on a busy machine.
const MOVED: Duration = Duration::from_secs(15);
/// The first comparison may meet a busy moment; the next two come after half a minute and a minute.
const COMPARED: Duration = Duration::from_secs(120);
/// From a cut to bytes over the next transport.
const NEXT: Duration = Duration::from_secs(10);
/// A move that takes longer is a pause.
const GAP: Duration = Duration::from_secs(1);
const LASTS: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_secs(60);
const TOLD: Duration = Duration::from_secs(5);

/// Waits until the session says that this carries it.
async fn until_on(plugin: &mut Plugin, kind: &str) -> Value {
    let told = async {
        loop {
            let event = plugin.event("state", MOVED).await;
            if event["state"] == "ready" && event["transportKind"] == kind {
                return event;
            }
        }
    };
    within(MOVED, kind, told).await
}

async fn until_said(plugin: &Plugin, words: &str) {
    poll(MOVED, words, async || plugin.said().contains(words).then_some(())).await;
}

/// Requests for a port-forward, if the log can be read.
fn port_forwards(audit: Option<&mut AuditLog>, namespace: &Namespace) -> Option<usize> {
    let requests = audit?.requests(namespace.name());
    let asked = requests
        .iter()
        .filter(|entry| entry["objectRef"]["subresource"] == "portforward");
    Some(asked.count())
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_session_moves_to_port_forward_under_traffic_without_a_pause() {
    run(async {
        let stage = Stage::set().await;
        // Without a comparison, which a busy machine may lose.
        let launch = stage.expose(&["--transport=port-forward", "--transport-max-age", "4s"]);
        let (mut plugin, ready) = launch.ready().await;
        let traffic = stage.traffic(&ready, RATE).await;
        // Each planned renewal goes by exec, and from there to port-forward again.
        sleep(LASTS).await;
        let (gap, moved) = (traffic.largest_gap(), traffic.moved());
        traffic.finish().await;
        let events = plugin.events_so_far();
        let moves = events
            .iter()
            .filter(|event| event["transportKind"] == "port-forward")
            .count();
        notice(&format!("{moves} moves in {moved} bytes, largest gap {gap:?}"));
        assert!(moves >= 3, "{events:?}");
        assert!(gap < GAP, "a pause of {gap:?}");
        assert!(
            events.iter().all(|event| event["state"] != "reconnecting"),
            "a loss was told: {events:?}"
        );
        plugin.stop().await;
        stage.namespace.wait_empty(MINUTE).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_session_moves_by_itself_when_port_forward_is_no_slower() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        let (mut plugin, ready) = namespace.proxy(&["-v"]).ready().await;
        assert_eq!(ready.event["transportKind"], "exec");
        poll(COMPARED, "the move to port-forward", async || {
            let said = plugin.said();
            let moved = |line: &&str| line.contains("the session moved to port-forward (");
            said.lines().find(moved).map(notice)
        })
        .await;
        until_on(&mut plugin, "port-forward").await;
        let answer = dial::get(Way::Absolute, ready.proxy(), &target.name, 80, "/").await;
        assert_eq!(answer.expect("the proxy reaches it").status, 200);
        plugin.stop().await;
        namespace.wait_empty(MINUTE).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_port_forward_that_is_cut_is_replaced_by_exec_and_nothing_is_lost() {
    run(async {
        let stage = Stage::set().await;
        let relay = Relay::start(&stage.namespace).await;
        let launch = stage.expose(&["--transport=port-forward"]);
        let (mut plugin, ready) = launch.with_kubeconfig(relay.kubeconfig()).ready().await;
        let mut traffic = stage.traffic(&ready, RATE).await;
        // It is the one connection that moves bytes both ways.
        relay.cut_exec(NEXT).await;
        let cut = Instant::now();
        let took = traffic.flowing_again(cut, NEXT).await;
        let back = until_on(&mut plugin, "exec").await;
        notice(&format!("flowing again after {took:?}: {back}"));
        until_said(&plugin, "by exec; port-forward is tried again").await;
        traffic.finish().await;
        plugin.stop().await;
        stage.namespace.wait_empty(MINUTE).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn port_forward_can_be_had_from_the_start() {
    run(async {
        let stage = Stage::set().await;
        let audit = AuditLog::open();
        let (plugin, ready) = stage.expose(&["--transport=port-forward"]).ready().await;
        assert_eq!(ready.event["transportKind"], "port-forward", "{}", ready.event);
        notice(&format!("ready over port-forward after {:?}", ready.after));
        let traffic = stage.traffic(&ready, RATE).await;
        traffic.finish().await;
        if let Some(mut audit) = audit {
            let requests = audit.requests(stage.namespace.name());
            assert_eq!(audit::execs(&requests).len(), 1, "exec carries the secret, once");
        }
        plugin.stop().await;
        stage.namespace.wait_empty(MINUTE).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn without_the_right_the_session_stays_on_exec_and_port_forward_cannot_be_asked_for() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        let mut audit = AuditLog::open();
        let rules = json!([
            {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["*"]},
            {"apiGroups": [""], "resources": ["pods", "pods/exec", "pods/log", "configmaps", "events"], "verbs": ["*"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["*"]},
        ]);
        let limited = user_with_rules(&namespace, "limited", &rules).await;
        let (plugin, ready) = namespace.proxy(&["-v"]).with_kubeconfig(&limited).ready().await;
        until_said(
            &plugin,
            "the session stays on exec, port-forward is not allowed here",
        )
        .await;
        assert_eq!(ready.event["transportKind"], "exec");
        let answer = dial::get(Way::Absolute, ready.proxy(), &target.name, 80, "/").await;
        assert_eq!(answer.expect("the proxy reaches it").status, 200);
        assert!(!plugin.said().contains("warning:"), "{}", plugin.said());
        plugin.stop().await;
        namespace.wait_empty(MINUTE).await;
        if let Some(asked) = port_forwards(audit.as_mut(), &namespace) {
            assert_eq!(asked, 0, "it was asked for all the same");
        }

        let launch = namespace.proxy(&["--transport=port-forward"]);
        let ended = launch.with_kubeconfig(&limited).finish(TOLD).await;
        ended.expect_code(4).expect_error_events(4);
        ended.expect_said(&["create pods/portforward", "kubectl auth can-i get pods"]);
        let events = namespace.strangers().await;
        assert!(events.is_empty(), "{events:?}");
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn in_the_hosts_network_there_is_no_entrance() {
    const HOST: &str = r#"{"spec":{"hostNetwork":true}}"#;
    run(async {
        let namespace = Namespace::create().await;
        let audit = &mut AuditLog::open();
        let enforce = "pod-security.kubernetes.io/enforce=privileged";
        let name = namespace.name();
        namespace
            .kubectl_ok(&["label", "namespace", name, enforce, "--overwrite"])
            .await;
        let (plugin, ready) = namespace.proxy(&["--patch", HOST, "-v=3"]).ready().await;
        assert!(
            plugin.said().contains("the agent's entrance port=0"),
            "{}",
            plugin.said()
        );
        let pod = namespace
            .kubectl_ok(&["get", "pod", &ready.pod, "-o", "yaml"])
            .await;
        assert!(pod.contains("hostNetwork: true") && !pod.contains("TUNNEL_ENTRANCE"));
        plugin.stop().await;
        if let Some(asked) = port_forwards(audit.as_mut(), &namespace) {
            assert_eq!(asked, 0, "there is nothing to forward to");
        }

        let launch = namespace.proxy(&["--patch", HOST, "--transport=port-forward"]);
        let ended = launch.finish(MINUTE).await;
        ended.expect_code(5).expect_error_events(5);
        ended.expect_said(&["no entrance", "leave `--transport=port-forward` out"]);
        namespace.wait_empty(MINUTE).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn the_entrance_is_shut_for_other_pods() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&["-v=3"]).ready().await;
        let said = plugin.said();
        let port = said.split("the agent's entrance port=").nth(1);
        let port: String = port
            .unwrap_or_else(|| panic!("{said}"))
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        let port: u16 = port.parse().expect("a port");
        assert_ne!(port, 0);
        // The status follows the container's start by a second.
        let address = poll(MINUTE, "the pod's address", async || {
            let path = ["get", "pod", &ready.pod, "-o", "jsonpath={.status.podIP}"];
            let address = namespace.kubectl_ok(&path).await;
            (!address.is_empty()).then_some(address)
        })
        .await;
        let mut calls = namespace.call_http(&target, "GET", &address, port, "/", 1).await;
        let refused = calls.remove(0).result.expect_err("nobody listens for others");
        assert!(refused.to_lowercase().contains("refused"), "{refused}");
        plugin.stop().await;
    });
}
