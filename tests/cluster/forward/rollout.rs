//! Pods come and go under a target: new connections do not notice.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tunnel_test_target as ports;

use super::{expect_http, get};
use crate::harness::namespace::Namespace;
use crate::harness::{notice, run, within};

const TARGETS: [&str; 3] = ["deploy/api", "svc/api", "deploy/api via pod"];
/// Between two connections.
const EVERY: Duration = Duration::from_millis(20);
/// No connection after this may fail; those before it may have met a pod at the wrong moment.
const GRACE: Duration = Duration::from_secs(1);
/// A rollout ends with the old pods, and nobody tells when the last trace of them is gone.
const AFTERWARDS: Duration = Duration::from_secs(4);
const ROLLOUT: Duration = Duration::from_secs(90);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_rollout_fails_no_new_connection() {
    run(async {
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        namespace.workload("deploy", "api", 2).await;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "api"},
            "spec": {"selector": {"app": "api"}, "ports": [{"port": 80, "targetPort": ports::HTTP}]},
        });
        namespace.create_object("services", service).await;
        namespace.wait_pods_ready("api").await;
        let by_port_forward = "- {target: deploy/api, ports: ':http', via: pod}\n";
        let file = namespace.folder().join("targets.yaml");
        std::fs::write(&file, by_port_forward).expect("write the targets");
        let file = file.display().to_string();
        let targets = ["deploy/api", ":http", "svc/api", ":80", "-f", &file, "-v=1"];
        let (plugin, ready) = namespace.forward(&targets).ready().await;
        for address in ready.forwarded() {
            expect_http(address, "before the rollout").await;
        }
        let stop = CancellationToken::new();
        let began = Instant::now();
        let callers = ready
            .forwarded()
            .into_iter()
            .map(|address| call(address, began, &stop));
        let callers = futures::future::join_all(callers);
        let rollout = async {
            namespace.kubectl_ok(&["rollout", "restart", "deploy/api"]).await;
            let status = ["rollout", "status", "deploy/api", "--timeout=80s"];
            within(ROLLOUT, "the rollout", namespace.kubectl_ok(&status)).await;
            sleep(AFTERWARDS).await;
            stop.cancel();
            began.elapsed()
        };
        let (calls, took) = tokio::join!(callers, rollout);
        for (target, calls) in TARGETS.into_iter().zip(calls) {
            notice(&format!(
                "{target}: {} connections in {took:?}, {} failed: {:?}; slowest {:?}",
                calls.count,
                calls.failed.len(),
                calls.failed,
                calls.slowest
            ));
            let late: Vec<_> = calls.failed.iter().filter(|(at, _)| *at > GRACE).collect();
            assert!(late.is_empty(), "{target}: {late:?}");
        }
        assert!(!plugin.said().contains("warning"), "{}", plugin.said());
        plugin.stop().await;
    });
}

/// New connections, one after the other.
#[derive(Default)]
struct Calls {
    count: usize,
    /// When, and why.
    failed: Vec<(Duration, String)>,
    slowest: Duration,
}

async fn call(address: SocketAddr, began: Instant, stop: &CancellationToken) -> Calls {
    let mut calls = Calls::default();
    while !stop.is_cancelled() {
        let asked = Instant::now();
        match within(super::ANSWER, "an answer", get(address)).await {
            Ok(answer) => assert_eq!(answer.status, 200),
            Err(error) => calls.failed.push((asked - began, error.to_string())),
        }
        calls.count += 1;
        calls.slowest = calls.slowest.max(asked.elapsed());
        sleep(EVERY).await;
    }
    calls
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_connection_waits_for_the_first_pod() {
    run(async {
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        namespace.workload("deploy", "api", 0).await;
        let (plugin, ready) = namespace.forward(&["deploy/api", ":http", "-v=1"]).ready().await;
        let address = ready.forwarded()[0];
        let waiting = (0..5).map(|_| expect_http(address, "a connection that waits"));
        let scale = async {
            sleep(Duration::from_millis(300)).await;
            namespace
                .kubectl_ok(&["scale", "deploy/api", "--replicas=1"])
                .await;
        };
        tokio::join!(futures::future::join_all(waiting), scale);
        plugin.stop().await;
    });
}
