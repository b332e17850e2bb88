//! The life of a Job: pod, events, end, deadline, TTL, and what goes with it.

use serde_json::{Value, json};
use std::time::Duration;

use crate::support::{Stage, background};
use kube::api::{Patch, PatchParams};
use tokio::time::Instant;

#[tokio::test]
async fn a_job_runs_its_pod_completes_and_expires_with_all_it_owns() {
    let stage = Stage::start().await;
    let job = stage
        .create_job(
            "j",
            &["/bin/sh", "-c", "echo said; sleep 0.5"],
            &json!({"ttlSecondsAfterFinished": 1}),
        )
        .await;
    stage
        .create_owned_config_map("m", job.metadata.uid.as_deref().unwrap())
        .await;
    let pod = stage.pod_in("j", "Running").await;
    assert!(pod.starts_with("j-"), "{pod}");
    let events = stage.events().await;
    for reason in ["SuccessfulCreate", "Scheduled", "Pulled", "Created", "Started"] {
        assert!(
            events.iter().any(|event| event.reason.as_deref() == Some(reason)),
            "{reason} in {events:?}"
        );
    }
    let log = stage
        .pods()
        .logs(&pod, &kube::api::LogParams::default())
        .await
        .unwrap();
    assert_eq!(log, "said\n");
    stage.pod_in("j", "Succeeded").await;
    stage.until_empty().await;
    stage.until_no_process().await;
}

#[tokio::test]
async fn a_job_whose_pod_fails_is_failed_with_exit_code_and_reason() {
    let stage = Stage::start().await;
    stage
        .create_job("j", &["/bin/sh", "-c", "exit 7"], &Value::Null)
        .await;
    stage.pod_in("j", "Failed").await;
    stage
        .until("Failed", |all| {
            all.iter().any(|(_, o)| {
                o["status"]["conditions"].as_array().is_some_and(|list| {
                    list.iter()
                        .any(|c| c["type"] == "Failed" && c["reason"] == "BackoffLimitExceeded")
                })
            })
        })
        .await;
    let pod = stage
        .pods()
        .list(&kube::api::ListParams::default().labels("job-name=j"))
        .await
        .unwrap()
        .items
        .remove(0);
    let state = pod
        .status
        .unwrap()
        .container_statuses
        .unwrap()
        .remove(0)
        .state
        .unwrap();
    assert_eq!(state.terminated.unwrap().exit_code, 7);
}

#[tokio::test]
async fn the_deadline_is_a_lease_that_a_patch_renews_and_that_ends_the_pod() {
    let stage = Stage::start().await;
    let start = Instant::now();
    stage
        .create_job(
            "j",
            &["/bin/sleep", "60"],
            &json!({"activeDeadlineSeconds": 60, "ttlSecondsAfterFinished": 0}),
        )
        .await;
    stage.pod_in("j", "Running").await;
    let lease = json!({"spec": {"activeDeadlineSeconds": 2}});
    stage
        .jobs()
        .patch("j", &PatchParams::default(), &Patch::Merge(&lease))
        .await
        .unwrap();
    stage.until_empty().await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    stage.until_no_process().await;
}

#[tokio::test]
async fn deleting_the_job_ends_the_process_by_sigterm_and_then_by_sigkill() {
    let stage = Stage::start().await;
    let deaf = "trap '' TERM; while :; do sleep 0.1; done";
    stage
        .create_job("j", &["/bin/sh", "-c", deaf], &Value::Null)
        .await;
    stage.pod_in("j", "Running").await;
    let start = Instant::now();
    stage.jobs().delete("j", &background()).await.unwrap();
    stage.until_empty().await;
    assert!(
        start.elapsed() >= Duration::from_secs(1),
        "the grace period was cut: {:?}",
        start.elapsed()
    );
    stage.until_no_process().await;
}

#[tokio::test]
async fn an_object_of_an_absent_owner_is_collected() {
    let stage = Stage::start().await;
    stage
        .create_owned_config_map("m", "00000000-0000-4000-8000-000000000000")
        .await;
    stage.until_empty().await;
}

#[tokio::test]
async fn a_job_deleted_without_propagation_leaves_its_pod_as_a_real_one_does() {
    let stage = Stage::start().await;
    stage.create_job("j", &["/bin/sleep", "60"], &Value::Null).await;
    stage.pod_in("j", "Running").await;
    stage
        .jobs()
        .delete("j", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    stage
        .until("no job", |all| {
            !all.iter()
                .any(|(key, _)| key.resource == tunnel_playground::Resource::Job)
        })
        .await;
    stage.pod_in("j", "Running").await;
}

#[tokio::test]
async fn start_failures_are_told_where_a_real_cluster_tells_them() {
    let stage = Stage::start().await;
    let image =
        |image: &str| json!({"template": {"spec": {"containers": [{"name": "agent", "image": image}]}}});
    let waiting = |reason: &'static str| {
        move |o: &Value| o["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
    };
    stage.create_job("pull", &[], &image("missing/x:1")).await;
    stage
        .until("ErrImagePull", |all| {
            all.iter().any(|(_, o)| waiting("ErrImagePull")(o))
        })
        .await;
    stage.create_job("root", &[], &image("root/x:1")).await;
    stage
        .until("config error", |all| {
            all.iter().any(|(_, o)| waiting("CreateContainerConfigError")(o))
        })
        .await;
    stage.create_job("absent", &["/no/such/file"], &Value::Null).await;
    stage
        .until("StartError", |all| {
            all.iter().any(|(_, o)| {
                let state = &o["status"]["containerStatuses"][0]["state"]["terminated"];
                state["reason"] == "StartError" && state["exitCode"] == 128
            })
        })
        .await;
    stage
        .create_job(
            "arch",
            &["/bin/true"],
            &json!({"template": {"spec": {"nodeSelector": {"kubernetes.io/arch": "s390x"}}}}),
        )
        .await;
    stage
        .until("Unschedulable", |all| {
            all.iter()
                .any(|(_, o)| o["status"]["conditions"][0]["reason"] == "Unschedulable")
        })
        .await;
    let volumes = json!({"template": {"spec": {"volumes": [{"name": "v", "configMap": {"name": "none"}}]}}});
    stage.create_job("mount", &["/bin/true"], &volumes).await;
    stage
        .until("FailedMount", |all| {
            all.iter().any(|(_, o)| o["reason"] == "FailedMount")
        })
        .await;
    stage.playground.faults().forbid_pods(Some("exceeded quota: q"));
    stage.create_job("quota", &["/bin/true"], &Value::Null).await;
    stage
        .until("FailedCreate", |all| {
            all.iter().any(|(_, o)| {
                o["reason"] == "FailedCreate"
                    && o["message"]
                        .as_str()
                        .unwrap()
                        .ends_with("is forbidden: exceeded quota: q")
            })
        })
        .await;
    for job in stage
        .jobs()
        .list(&kube::api::ListParams::default())
        .await
        .unwrap()
    {
        stage
            .jobs()
            .delete(job.metadata.name.as_deref().unwrap(), &background())
            .await
            .unwrap();
    }
    stage.until_empty().await;
}

#[tokio::test]
async fn dropping_the_playground_kills_its_processes() {
    let stage = Stage::start().await;
    stage.create_job("j", &["/bin/sleep", "60"], &Value::Null).await;
    stage.pod_in("j", "Running").await;
    let process = stage.playground.processes()[0];
    let path = format!("/proc/{process}/stat");
    drop(stage);
    let gone = async {
        // A zombie that only waits to be reaped is dead.
        while std::fs::read_to_string(&path).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(crate::support::DEADLINE, gone)
        .await
        .expect("the process lives on");
}
