//! Dead or alive, from objects and from an agent's answer.

use serde_json::{Value, json};

use super::*;

const CREATED: &str = "2026-01-01T00:00:00Z";

fn job(status: &Value) -> Job {
    serde_json::from_value(json!({
        "metadata": {"name": "tunnel-x7k2p9", "uid": "job-uid", "creationTimestamp": CREATED},
        "status": status,
    }))
    .unwrap()
}

fn pod(owner: &str, state: &Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "tunnel-x7k2p9-abcde",
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": owner}],
        },
        "spec": {"containers": [
            {"name": "istio-proxy", "command": ["envoy"]},
            {"name": "agent", "command": ["/tunnel/agent", "serve"]},
        ]},
        "status": {"containerStatuses": [
            {"name": "agent", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": state},
        ]},
    }))
    .unwrap()
}

fn after(seconds: i64) -> Timestamp {
    let created: Timestamp = CREATED.parse().unwrap();
    Timestamp::from_second(created.as_second() + seconds).unwrap()
}

fn settled(job: &Job, pods: &[Pod], seconds: i64) -> Liveness {
    match judge(job, pods, after(seconds)) {
        Judgement::Settled(liveness) => liveness,
        Judgement::Ask(pod) => panic!("{} would be asked", pod.name_any()),
    }
}

#[test]
fn a_finished_job_is_dead_whatever_its_pod_does() {
    let finished = job(&json!({"conditions": [{"type": "Failed", "status": "True"}]}));
    let pods = [pod("job-uid", &json!({"running": {}}))];
    assert_eq!(settled(&finished, &pods, 1), Liveness::Dead(DeadReason::Finished));
}

#[test]
fn without_a_pod_it_is_dead_when_its_start_is_over() {
    let others = [pod("other-uid", &json!({"running": {}}))];
    assert!(matches!(
        settled(&job(&json!({})), &others, 40),
        Liveness::Unknown(_)
    ));
    assert_eq!(
        settled(&job(&json!({})), &others, 41),
        Liveness::Dead(DeadReason::NeverStarted)
    );
}

#[test]
fn a_pod_that_does_not_run_is_left_to_its_lease() {
    let pods = [pod(
        "job-uid",
        &json!({"waiting": {"reason": "ImagePullBackOff"}}),
    )];
    for seconds in [10, 100] {
        assert!(matches!(
            settled(&job(&json!({})), &pods, seconds),
            Liveness::Unknown(_)
        ));
    }
}

#[test]
fn a_pod_that_has_ended_is_dead_before_its_job_says_so() {
    let mut ended = pod("job-uid", &json!({"terminated": {"exitCode": 0}}));
    ended.status.get_or_insert_default().phase = Some("Succeeded".to_owned());
    assert_eq!(
        settled(&job(&json!({})), &[ended], 5),
        Liveness::Dead(DeadReason::Finished)
    );
}

#[test]
fn a_running_agent_is_asked() {
    let pods = [pod("job-uid", &json!({"running": {}}))];
    let asked = match judge(&job(&json!({})), &pods, after(1000)) {
        Judgement::Ask(pod) => agent_pod("dev", pod),
        Judgement::Settled(liveness) => panic!("{liveness:?}"),
    };
    assert_eq!(asked.command, ["/tunnel/agent", "state"]);
    assert_eq!(
        (asked.container, asked.pod_name.as_str()),
        ("agent", "tunnel-x7k2p9-abcde")
    );
}

#[test]
fn its_answer_decides() {
    let judged = |line: &str| judge_state(AgentState::parse(line).unwrap());
    assert_eq!(
        judged(r#"{"attached":true,"seconds":9999,"streams":0}"#),
        Liveness::Alive
    );
    assert_eq!(
        judged(r#"{"attached":false,"seconds":20,"streams":3,"later":1}"#),
        Liveness::Dead(DeadReason::Abandoned { seconds: 20 })
    );
    assert!(matches!(
        judged("{\"attached\":false,\"seconds\":19,\"streams\":0}\n"),
        Liveness::Unknown(_)
    ));
    assert!(AgentState::parse("not json").is_err());
}

fn found(session: &str, generation: u32, age: u64, liveness: Liveness) -> Found {
    Found {
        namespace: "dev".to_owned(),
        session: session.to_owned(),
        generation,
        job_name: format!("{session}-{generation}"),
        job_uid: format!("uid-{generation}"),
        older: Vec::new(),
        command: None,
        user: None,
        expires_at: None,
        age: Duration::from_secs(age),
        liveness,
    }
}

#[test]
fn a_session_with_several_jobs_is_one_and_lives_while_one_does() {
    let dead = || Liveness::Dead(DeadReason::Finished);
    let starting = Liveness::Unknown("it may still be starting".to_owned());
    let sessions = by_session(vec![
        found("b", 1, 50, dead()),
        found("a", 3, 10, starting.clone()),
        found("a", 1, 90, dead()),
        found("a", 2, 40, dead()),
        found("c", 2, 5, dead()),
        found("c", 1, 6, Liveness::Alive),
    ]);
    let told: Vec<_> = sessions
        .iter()
        .map(|found| (found.job_name.as_str(), found.older.len(), found.age.as_secs()))
        .collect();
    assert_eq!(told, [("a-3", 2, 90), ("b-1", 0, 50), ("c-2", 1, 6)]);
    assert_eq!(sessions[0].liveness, starting);
    assert_eq!(sessions[1].liveness, dead());
    assert_eq!(sessions[2].liveness, Liveness::Alive);
    assert_eq!(sessions[0].older[1].uid.as_deref(), Some("uid-2"));
}
