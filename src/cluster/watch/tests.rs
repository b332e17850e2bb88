//! Which end Job and pod tell of, as a real cluster shows them.

use serde_json::{Value, json};

use super::*;
use crate::cluster::options::{Architecture, Resources};

fn agent() -> Agent {
    Agent {
        namespace: "dev".to_owned(),
        session: "x7k2p9".parse().unwrap(),
        generation: 1,
        job_name: "tunnel-x7k2p9".to_owned(),
        job_uid: "job-uid".to_owned(),
        pod_name: "tunnel-x7k2p9-abcde".to_owned(),
        pod_uid: "pod-uid".to_owned(),
        architecture: Architecture::Amd64,
        resources: Resources::standard(),
        port_forward: true,
        binary: "/tunnel/agent",
        service: None,
    }
}

fn job(uid: &str, deleted: Option<&str>, ended: Option<(&str, &str, &str)>) -> Job {
    let conditions: Vec<Value> = ended
        .into_iter()
        .map(|(kind, reason, at)| {
            json!({"type": kind, "status": "True", "reason": reason, "lastTransitionTime": at})
        })
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": "tunnel-x7k2p9", "uid": uid, "deletionTimestamp": deleted},
        "status": {"conditions": conditions},
    }))
    .unwrap()
}

fn pod(deleted: bool, status: &Value) -> Pod {
    let at = deleted.then_some("2026-01-01T00:00:00Z");
    serde_json::from_value(json!({
        "metadata": {"name": "tunnel-x7k2p9-abcde", "uid": "pod-uid", "deletionTimestamp": at},
        "status": status,
    }))
    .unwrap()
}

fn ended(reason: &str, code: i32) -> Value {
    json!({"phase": "Failed", "containerStatuses": [{
        "name": "agent", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"reason": reason, "exitCode": code}},
    }]})
}

fn running() -> Job {
    job("job-uid", None, None)
}

#[track_caller]
fn failed(end: Option<AgentEnd>) -> String {
    match end {
        Some(AgentEnd::Failed(failure)) => failure.to_string(),
        other => panic!("expected a failure, got {other:?}"),
    }
}

#[test]
fn a_running_agent_has_no_end() {
    let pod = pod(false, &json!({"phase": "Running"}));
    assert_eq!(fate(&agent(), Some(&running()), Some(&pod)), None);
}

#[test]
fn a_job_that_is_gone_or_going_was_deleted() {
    let gone = Some(AgentEnd::JobDeleted { gone: true });
    assert_eq!(fate(&agent(), None, None), gone);
    let others = job("other-uid", None, None);
    assert_eq!(fate(&agent(), Some(&others), None), gone);
    let going = job("job-uid", Some("2026-01-01T00:00:00Z"), None);
    assert_eq!(
        fate(&agent(), Some(&going), None),
        Some(AgentEnd::JobDeleted { gone: false })
    );
}

#[test]
fn a_job_that_goes_after_its_end_was_not_deleted_by_anybody() {
    let complete = ("Complete", "CompletionsReached", "2026-01-01T00:00:00Z");
    let expired = job("job-uid", Some("2026-01-01T00:00:05Z"), Some(complete));
    assert_eq!(fate(&agent(), Some(&expired), None), Some(AgentEnd::PodDeleted));
    // A foreground deletion ends the pod, and with it the Job.
    let deleted = job("job-uid", Some("2026-01-01T00:00:00Z"), Some(complete));
    assert_eq!(
        fate(&agent(), Some(&deleted), None),
        Some(AgentEnd::JobDeleted { gone: false })
    );
}

#[test]
fn the_pod_tells_how_it_ended() {
    let at = "2026-01-01T00:00:00Z";
    let backoff = job("job-uid", None, Some(("Failed", "BackoffLimitExceeded", at)));
    for job in [&running(), &backoff] {
        let end = |pod: &Pod| fate(&agent(), Some(job), Some(pod));
        assert_eq!(
            failed(end(&pod(false, &ended("OOMKilled", 137)))),
            "pod/tunnel-x7k2p9-abcde: the agent was killed for using too much memory (OOMKilled): exit code 137"
        );
        assert_eq!(
            failed(end(&pod(false, &ended("Error", 3)))),
            "pod/tunnel-x7k2p9-abcde: the agent exited with code 3 (Error)"
        );
        assert_eq!(end(&pod(true, &ended("Error", 143))), Some(AgentEnd::PodDeleted));
        let drained = json!({"phase": "Running", "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"},
        ]});
        assert!(failed(end(&pod(true, &drained))).contains("(EvictionByEvictionAPI)"));
        assert_eq!(fate(&agent(), Some(job), None), Some(AgentEnd::PodDeleted));
    }
}

#[test]
fn the_lease_is_named_before_the_pod_it_deleted() {
    let at = "2026-01-01T00:00:00Z";
    let expired = job("job-uid", None, Some(("FailureTarget", "DeadlineExceeded", at)));
    let end = fate(&agent(), Some(&expired), Some(&pod(true, &ended("Error", 143))));
    assert_eq!(
        failed(end),
        "job/tunnel-x7k2p9: its deadline was over (DeadlineExceeded)"
    );
}
