//! One test a row of what a real cluster (Kubernetes 1.35, containerd) showed for each failure.

use std::time::Duration;

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Event, Pod},
};
use serde_json::{Value, json};

use super::*;

const JOB: &str = "tunnel-x7k2p9";
const JOB_UID: &str = "job-uid";
const POD: &str = "tunnel-x7k2p9-abcde";
const POD_UID: &str = "pod-uid";

fn pod(node: Option<&str>, status: &Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": POD, "uid": POD_UID},
        "spec": {"containers": [{"name": "agent"}], "nodeName": node},
        "status": status,
    }))
    .unwrap()
}

/// A scheduled pod whose agent container is in this state.
fn agent_in(state: &Value) -> Pod {
    pod(
        Some("node"),
        &json!({"phase": "Pending", "containerStatuses": [container("agent", state)]}),
    )
}

fn container(name: &str, state: &Value) -> Value {
    json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state})
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"waiting": {"reason": reason, "message": message}})
}

fn terminated(reason: &str, exit_code: i32, message: &str) -> Value {
    json!({"terminated": {"reason": reason, "exitCode": exit_code, "message": message}})
}

fn event(kind: &str, name: &str, uid: &str, reason: &str, message: &str) -> Event {
    let path = if kind == "Pod" {
        json!("spec.containers{agent}")
    } else {
        Value::Null
    };
    serde_json::from_value(json!({
        "metadata": {"name": "e"},
        "involvedObject": {"kind": kind, "name": name, "uid": uid, "fieldPath": path},
        "reason": reason, "message": message, "count": 1,
        "type": if matches!(reason, "Started" | "Pulling" | "Pulled" | "Created") { "Normal" } else { "Warning" },
    }))
    .unwrap()
}

fn job_event(reason: &str, message: &str) -> Event {
    event("Job", JOB, JOB_UID, reason, message)
}

fn pod_event(reason: &str, message: &str) -> Event {
    event("Pod", POD, POD_UID, reason, message)
}

fn start() -> StartWatch {
    let mut watch = StartWatch::new(JOB);
    watch.job_created(JOB_UID);
    watch
}

#[track_caller]
fn kind(verdict: Verdict) -> FailureKind {
    let Verdict::Failed(failure) = verdict else {
        panic!("expected a failure, got {verdict:?}");
    };
    failure.kind
}

#[test]
fn started_event_means_started_whichever_comes_first() {
    let creating = || agent_in(&waiting("ContainerCreating", ""));
    let mut watch = start();
    assert_eq!(watch.observe_pod(&creating()), Verdict::Waiting);
    assert_eq!(
        watch.observe_event(&pod_event("Started", "Container started")),
        Verdict::Started
    );

    let mut watch = start();
    assert_eq!(
        watch.observe_event(&pod_event("Started", "Container started")),
        Verdict::Waiting
    );
    assert_eq!(watch.observe_pod(&creating()), Verdict::Started);
}

#[test]
fn running_status_means_started_without_events() {
    let running = agent_in(&json!({"running": {}}));
    assert_eq!(start().observe_pod(&running), Verdict::Started);
}

#[test]
fn a_sidecar_that_started_is_not_the_agent() {
    let mut sidecar = pod_event("Started", "Container started");
    sidecar.involved_object.field_path = Some("spec.containers{istio-proxy}".to_owned());
    let mut watch = start();
    watch.observe_pod(&agent_in(&waiting("ContainerCreating", "")));
    assert_eq!(watch.observe_event(&sidecar), Verdict::Waiting);
}

#[test]
fn events_of_others_are_not_ours() {
    let mut watch = start();
    for (kind, name, uid) in [
        ("Pod", "other-pod", "x"),
        ("Pod", "tunnel-x7k2p9-2-abcde", "x"),
        ("Job", "other", "x"),
        // An earlier Job of the same name.
        ("Job", JOB, "other-uid"),
    ] {
        let other = event(
            kind,
            name,
            uid,
            "FailedCreate",
            "pods \"a\" is forbidden: exceeded quota: q",
        );
        assert_eq!(watch.observe_event(&other), Verdict::Waiting, "{kind} {name}");
        let started = event(kind, name, uid, "Started", "");
        assert_eq!(watch.observe_event(&started), Verdict::Waiting, "{kind} {name}");
    }
    assert_eq!(
        watch.observe_pod(&agent_in(&waiting("ContainerCreating", ""))),
        Verdict::Waiting
    );
}

#[test]
fn the_steps_follow_the_start() {
    let mut watch = StartWatch::new(JOB);
    assert_eq!(watch.step(), &StartStep::Creating);
    watch.job_created(JOB_UID);
    assert_eq!(watch.step(), &StartStep::Scheduling);
    watch.observe_pod(&pod(None, &json!({"phase": "Pending"})));
    assert_eq!(watch.step(), &StartStep::Scheduling);
    assert!(watch.pod().is_some_and(|pod| !pod.scheduled));
    watch.observe_pod(&pod(Some("node"), &json!({"phase": "Pending"})));
    assert_eq!(watch.step(), &StartStep::Starting);
    assert!(watch.pod().is_some_and(|pod| pod.scheduled));
    watch.observe_event(&pod_event(
        "Pulling",
        "Pulling image \"registry.k8s.io/pause:3.10\"",
    ));
    assert_eq!(
        watch.step(),
        &StartStep::Pulling {
            image: "registry.k8s.io/pause:3.10".to_owned()
        }
    );
    watch.observe_event(&pod_event("Pulled", "Successfully pulled image"));
    assert_eq!(watch.step(), &StartStep::Starting);
}

#[test]
fn refused_pods_are_known_by_the_jobs_event() {
    for (text, expected) in [
        (
            "Error creating: pods \"tunnel-x7k2p9-\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0",
            FailureKind::Quota,
        ),
        (
            "Error creating: pods \"tunnel-x7k2p9-\" is forbidden: violates PodSecurity \"restricted:latest\": runAsUser=0",
            FailureKind::PodSecurity,
        ),
        (
            "Error creating: pods \"tunnel-x7k2p9-\" is forbidden: error looking up service account a/nope: serviceaccount \"nope\" not found",
            FailureKind::ServiceAccount,
        ),
    ] {
        assert_eq!(
            kind(start().observe_event(&job_event("FailedCreate", text))),
            expected
        );
    }
}

#[test]
fn an_unknown_refusal_gets_a_second_chance() {
    let text = "Error creating: Internal error occurred: failed calling webhook \"x\": timeout";
    let mut watch = start();
    assert_eq!(
        watch.observe_event(&job_event("FailedCreate", text)),
        Verdict::Waiting
    );
    assert_eq!(
        kind(watch.observe_event(&job_event("FailedCreate", text))),
        FailureKind::Webhook("x".to_owned())
    );
}

#[test]
fn unschedulable_tells_architecture_from_room() {
    let unschedulable = |text: &str| {
        let condition =
            json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text});
        kind(start().observe_pod(&pod(
            None,
            &json!({"phase": "Pending", "conditions": [condition]}),
        )))
    };
    assert_eq!(
        unschedulable("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."),
        FailureKind::NoMatchingNode
    );
    assert_eq!(
        unschedulable("0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available"),
        FailureKind::Unschedulable
    );
    assert_eq!(
        unschedulable("0/1 nodes are available: 1 node(s) had untolerated taint {a: b}."),
        FailureKind::Unschedulable
    );
}

#[test]
fn images_that_cannot_be_pulled() {
    for reason in [
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
    ] {
        assert_eq!(
            kind(start().observe_pod(&agent_in(&waiting(reason, "x")))),
            FailureKind::ImagePull
        );
    }
    let text =
        "Failed to pull image \"nope:1\": failed to pull and unpack image \"docker.io/library/nope:1\"";
    assert_eq!(
        kind(start().observe_event(&pod_event("Failed", text))),
        FailureKind::ImagePull
    );
    assert_eq!(
        start().observe_event(&pod_event("Failed", "Error: ErrImagePull")),
        Verdict::Waiting
    );
}

#[test]
fn a_sidecars_image_is_named_as_the_sidecars() {
    let pod = pod(
        Some("node"),
        &json!({"phase": "Pending", "initContainerStatuses": [container("istio-init", &waiting("ErrImagePull", "no"))]}),
    );
    let failure = pod_failure(&pod).unwrap();
    assert_eq!(failure.text, "container istio-init: no");
}

#[test]
fn containers_that_cannot_be_set_up() {
    for text in [
        "container has runAsNonRoot and image will run as root",
        "container has runAsNonRoot and image has non-numeric user (nobody), cannot verify user is non-root",
        "secret \"nope\" not found",
    ] {
        let status = agent_in(&waiting("CreateContainerConfigError", text));
        assert_eq!(kind(start().observe_pod(&status)), FailureKind::ContainerConfig);
        let event = pod_event("Failed", &format!("Error: {text}"));
        assert_eq!(kind(start().observe_event(&event)), FailureKind::ContainerConfig);
    }
    let transient = agent_in(&waiting(
        "CreateContainerConfigError",
        "failed to sync configmap cache: timed out waiting for the condition",
    ));
    assert_eq!(start().observe_pod(&transient), Verdict::Waiting);
}

#[test]
fn binaries_that_cannot_run() {
    let text = "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"/tunnel-agent\": stat /tunnel-agent: no such file or directory: unknown";
    assert_eq!(
        kind(start().observe_event(&pod_event("Failed", &format!("Error: {text}")))),
        FailureKind::CannotRun
    );
    assert_eq!(
        kind(start().observe_pod(&agent_in(&terminated("StartError", 128, text)))),
        FailureKind::CannotRun
    );
    assert_eq!(
        kind(start().observe_pod(&agent_in(&waiting("RunContainerError", "exec format error")))),
        FailureKind::CannotRun
    );
}

#[test]
fn agents_that_end() {
    assert_eq!(
        kind(start().observe_pod(&agent_in(&terminated("Error", 7, "")))),
        FailureKind::Exited {
            code: 7,
            last_log: vec![]
        }
    );
    assert_eq!(
        kind(start().observe_pod(&agent_in(&terminated("OOMKilled", 137, "")))),
        FailureKind::OutOfMemory
    );
    let side = pod(
        Some("node"),
        &json!({"phase": "Pending", "initContainerStatuses": [container("init", &terminated("Completed", 0, ""))]}),
    );
    assert_eq!(start().observe_pod(&side), Verdict::Waiting);
}

#[test]
fn pods_the_cluster_takes_away() {
    let evicted = pod(
        Some("node"),
        &json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
    );
    assert_eq!(kind(start().observe_pod(&evicted)), FailureKind::Evicted);
    let drained = pod(
        Some("node"),
        &json!({"phase": "Running", "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"},
        ]}),
    );
    assert_eq!(kind(start().observe_pod(&drained)), FailureKind::Evicted);
    let full = pod(
        Some("node"),
        &json!({"phase": "Failed", "reason": "OutOfpods", "message": "x"}),
    );
    assert_eq!(kind(start().observe_pod(&full)), FailureKind::Unschedulable);
}

#[test]
fn deleted_meanwhile() {
    let mut pod = agent_in(&waiting("ContainerCreating", ""));
    assert_eq!(kind(start().pod_deleted(&pod)), FailureKind::Deleted);
    pod.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    assert_eq!(kind(start().observe_pod(&pod)), FailureKind::Deleted);
    assert_eq!(
        kind(start().observe_event(&job_event(
            "DeadlineExceeded",
            "Job was active longer than specified"
        ))),
        FailureKind::DeadlineExceeded
    );
}

#[test]
fn a_time_out_says_what_it_waited_for() {
    let mut watch = start();
    let after = Duration::from_secs(60);
    assert_eq!(
        watch.timed_out(after).to_string(),
        "job/tunnel-x7k2p9: not started within 60s: it got no pod"
    );
    watch.observe_pod(&agent_in(&waiting("ContainerCreating", "")));
    let mount = pod_event(
        "FailedMount",
        "MountVolume.SetUp failed for volume \"s\": secret \"nope\" not found",
    );
    assert_eq!(watch.observe_event(&mount), Verdict::Waiting);
    assert_eq!(
        watch.timed_out(after).to_string(),
        "pod/tunnel-x7k2p9-abcde: not started within 60s (FailedMount): MountVolume.SetUp failed for volume \"s\": secret \"nope\" not found"
    );
}

#[test]
fn a_jobs_end_is_its_condition() {
    let job = |conditions: Value| -> Job {
        serde_json::from_value(json!({"metadata": {}, "status": {"conditions": conditions}})).unwrap()
    };
    assert_eq!(job_end(&job(json!([]))), None);
    assert_eq!(
        job_end(&job(json!([{"type": "Suspended", "status": "True"}]))),
        None
    );
    assert_eq!(
        job_end(&job(json!([{"type": "Failed", "status": "False"}]))),
        None
    );
    assert_eq!(
        job_end(&job(
            json!([{"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded"}])
        )),
        Some(("DeadlineExceeded".to_owned(), String::new()))
    );
    assert_eq!(
        job_end(&job(json!([{"type": "Complete", "status": "True"}]))),
        Some(("Complete".to_owned(), String::new()))
    );
}

#[test]
fn the_pod_of_a_predecessor_with_the_same_name_is_not_ours() {
    let owned_by = |uid: &str| {
        let mut pod = agent_in(&terminated("Error", 143, ""));
        let owner = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": JOB, "uid": uid}]);
        pod.metadata.owner_references = serde_json::from_value(owner).unwrap();
        pod
    };
    let mut watch = start();
    assert_eq!(watch.observe_pod(&owned_by("other-uid")), Verdict::Waiting);
    assert_eq!(watch.pod_deleted(&owned_by("other-uid")), Verdict::Waiting);
    assert_eq!(watch.pod(), None);
    assert!(matches!(
        watch.observe_pod(&owned_by(JOB_UID)),
        Verdict::Failed(_)
    ));
}
