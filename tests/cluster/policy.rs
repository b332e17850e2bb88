//! Namespaces with rules: what a session fits into by itself, and how it says that it does not fit.

use std::time::Duration;

use serde_json::json;

use crate::harness::admission::Rule;
use crate::harness::namespace::Namespace;
use crate::harness::{notice, run};

const EMPTY: Duration = Duration::from_secs(5);
/// The cluster knows within half a second; the rest is for a busy machine.
const TOLD: Duration = Duration::from_secs(8);

pub(crate) async fn quota(namespace: &Namespace, hard: serde_json::Value) {
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "quota"}, "spec": {"hard": hard},
    });
    namespace.create_object("resourcequotas", quota).await;
    // A quota refuses nothing, or everything, until its controller has counted.
    let quotas = namespace.admin().objects(namespace.name(), "resourcequotas");
    crate::harness::poll(Duration::from_secs(20), "the quota's count", async || {
        let quota = quotas.get("quota").await.expect("the quota");
        quota.data["status"]["used"]
            .as_object()
            .filter(|used| !used.is_empty())
            .map(drop)
    })
    .await;
}

async fn limit_range(namespace: &Namespace, name: &str, limit: serde_json::Value) {
    let range = json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": name}, "spec": {"limits": [limit]},
    });
    namespace.create_object("limitranges", range).await;
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_quota_that_demands_requests_and_limits_is_met_with_flags() {
    run(async {
        let namespace = Namespace::create().await;
        let hard =
            json!({"requests.cpu": "1", "requests.memory": "1Gi", "limits.cpu": "2", "limits.memory": "2Gi"});
        quota(&namespace, hard).await;
        let (plugin, _) = namespace.proxy(&["--limits", "cpu=1"]).ready().await;
        plugin.stop().await;
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn an_exceeded_quota_is_told_with_its_name() {
    run(async {
        let namespace = Namespace::create().await;
        quota(&namespace, json!({"pods": "0"})).await;
        let ended = namespace.proxy(&[]).finish(TOLD).await;
        ended
            .expect_code(5)
            .expect_said(&["exceeded quota", "quota", "pods"])
            .expect_error_events(5);
        notice(&format!("told after {:?}", ended.after));
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_limit_range_with_a_minimum_is_followed_once() {
    run(async {
        let namespace = Namespace::create().await;
        let limit =
            json!({"type": "Container", "min": {"cpu": "50m", "memory": "64Mi"}, "max": {"memory": "1Gi"}});
        limit_range(&namespace, "range", limit).await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        let pod = namespace
            .admin()
            .objects(namespace.name(), "pods")
            .get(&ready.pod)
            .await
            .expect("the pod");
        let requests = &pod.data["spec"]["containers"][0]["resources"]["requests"];
        assert_eq!(
            (&requests["cpu"], &requests["memory"]),
            (&json!("50m"), &json!("64Mi"))
        );
        plugin.stop().await;
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_limit_range_that_cannot_be_met_is_told() {
    run(async {
        let namespace = Namespace::create().await;
        // No value is right for both.
        limit_range(
            &namespace,
            "low",
            json!({"type": "Container", "max": {"memory": "20Mi"}}),
        )
        .await;
        limit_range(
            &namespace,
            "high",
            json!({"type": "Container", "min": {"memory": "512Mi"}}),
        )
        .await;
        let ended = namespace.proxy(&[]).finish(TOLD).await;
        ended
            .expect_code(5)
            .expect_said(&["memory usage per Container"])
            .expect_error_events(5);
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn what_pod_security_refuses_is_told_in_its_words() {
    run(async {
        let namespace = Namespace::create().await;
        let patch = r#"{"spec":{"hostNetwork":true}}"#;
        let ended = namespace.proxy(&["--patch", patch]).finish(TOLD).await;
        ended
            .expect_code(5)
            .expect_said(&["PodSecurity", "hostNetwork"])
            .expect_error_events(5);
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn an_image_that_does_not_exist_is_told_in_seconds() {
    run(async {
        let namespace = Namespace::create().await;
        let image = "cluster/no-such-image:1";
        let ended = namespace.proxy(&["--base-image", image]).finish(TOLD).await;
        ended.expect_code(5).expect_said(&[image]).expect_error_events(5);
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_pod_that_fits_no_node_is_told_in_seconds() {
    run(async {
        let namespace = Namespace::create().await;
        let patch = r#"{"spec":{"nodeSelector":{"tunnel-test/no-such-node":"true"}}}"#;
        let ended = namespace.proxy(&["--patch", patch]).finish(TOLD).await;
        ended.expect_code(5).expect_said(&["node"]).expect_error_events(5);
        namespace.wait_empty(EMPTY).await;
        let ended = namespace.proxy(&["--requests", "cpu=1000"]).finish(TOLD).await;
        ended.expect_code(5).expect_said(&["cpu"]).expect_error_events(5);
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn an_agent_that_crashes_is_told_with_its_last_words() {
    run(async {
        let namespace = Namespace::create().await;
        // Without a place for its unix socket the agent cannot work, says so and ends.
        let patch =
            r#"{"spec":{"containers":[{"name":"agent","volumeMounts":[{"name":"run","readOnly":true}]}]}}"#;
        let ended = namespace.proxy(&["--patch", patch]).finish(TOLD).await;
        ended
            .expect_code(5)
            .expect_said(&["exited", "unix socket", "read-only"])
            .expect_error_events(5);
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_job_that_gets_no_pod_is_told() {
    run(async {
        let namespace = Namespace::create().await;
        let _policy = Rule::no_job_pods(&namespace).await;
        let ended = namespace.proxy(&[]).finish(TOLD).await;
        ended
            .expect_code(5)
            .expect_said(&[Rule::MESSAGE])
            .expect_error_events(5);
        namespace.wait_empty(EMPTY).await;
    });
}
