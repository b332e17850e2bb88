//! The normal end, whoever asks for it, and what ends a session against its will.

use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunnel_test_target as ports;

use crate::harness::dial;
use crate::harness::namespace::{Namespace, Who};
use crate::harness::{poll, run, within};

const EMPTY: Duration = Duration::from_secs(5);
/// From a deletion on purpose to the session's end: 5 s, and a margin for a busy machine.
const TOLD: Duration = Duration::from_secs(7);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn every_signal_that_asks_for_the_end_leaves_nothing() {
    run(async {
        let namespace = Namespace::create().await;
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            let (plugin, ready) = namespace.expose(&["api", "80:1234"]).ready().await;
            assert!(
                namespace
                    .strangers()
                    .await
                    .contains(&format!("jobs/tunnel-{}", ready.session))
            );
            plugin.signal(signal);
            let ended = plugin.end(EMPTY).await;
            ended.expect_code(0);
            let last = ended.events.last().expect("an ended event");
            assert_eq!(
                (&last["event"], &last["code"]),
                (&"ended".into(), &0.into()),
                "{signal:?}: {last}"
            );
            assert_eq!(last["leftovers"], serde_json::json!([]), "{signal:?}");
            // It waited for that itself, so there is nothing to wait for.
            assert_eq!(namespace.strangers().await.len(), 0, "{signal:?}");
        }
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_transfer_may_finish_while_the_session_drains() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        let opened = dial::connect(ready.proxy(), &target.name, ports::ECHO).await;
        let mut connection = opened.expect("the target accepts");
        connection.write_all(b"before").await.expect("send");
        let mut echo = [0; 6];
        connection.read_exact(&mut echo).await.expect("the echo");
        plugin.signal(Signal::INT);
        // Within the 2 s of the drain.
        tokio::time::sleep(Duration::from_millis(200)).await;
        connection.write_all(b"during").await.expect("send");
        connection.shutdown().await.expect("end our direction");
        let mut rest = String::new();
        let read = within(
            Duration::from_secs(5),
            "the echo's end",
            connection.read_to_string(&mut rest),
        )
        .await;
        read.expect("the connection ends in order");
        assert_eq!(rest, "during");
        plugin.end(EMPTY).await.expect_code(0);
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_second_signal_leaves_at_once_and_still_deletes() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        // An open connection, so that the drain takes its whole time.
        let _held = dial::connect(ready.proxy(), &target.name, ports::STALL)
            .await
            .expect("the target accepts");
        plugin.signal(Signal::INT);
        tokio::time::sleep(Duration::from_millis(300)).await;
        plugin.signal(Signal::INT);
        plugin.end(Duration::from_secs(2)).await.expect_code(130);
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_deleted_job_ends_the_session_with_its_reason() {
    run(async {
        let namespace = Namespace::create().await;
        let (plugin, ready) = namespace.expose(&["api", "80:1234"]).ready().await;
        let job = format!("tunnel-{}", ready.session);
        let deleted = namespace
            .kubectl(Who::Developer, &["delete", "job", &job, "--wait=false"])
            .await;
        assert!(deleted.status.success());
        let ended = plugin.end(TOLD).await;
        ended
            .expect_code(6)
            .expect_said(&[&job, "deleted"])
            .expect_error_events(6);
        namespace.wait_empty(Duration::from_secs(60)).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_deleted_namespace_is_not_held_up_and_is_told() {
    run(async {
        let namespace = Namespace::create().await;
        let (plugin, _) = namespace.expose(&["api", "80:1234"]).ready().await;
        namespace
            .kubectl_ok(&["delete", "namespace", namespace.name(), "--wait=false"])
            .await;
        let ended = plugin.end(Duration::from_secs(30)).await;
        ended
            .expect_code(6)
            .expect_said(&["namespace", namespace.name()])
            .expect_error_events(6);
        let timeout = Duration::from_secs(40);
        within(timeout, "the namespace's deletion", namespace.wait_gone()).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn the_maximum_age_ends_the_session() {
    run(async {
        let namespace = Namespace::create().await;
        let (plugin, _) = namespace.proxy(&["--max-lifetime", "15s"]).ready().await;
        let ended = plugin.end(Duration::from_secs(40)).await;
        ended
            .expect_code(6)
            .expect_said(&["--max-lifetime"])
            .expect_error_events(6);
        assert!(ended.after > Duration::from_secs(10), "{ended:?}");
        namespace.wait_empty(Duration::from_secs(60)).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn keep_leaves_the_job_for_a_look_and_says_so() {
    run(async {
        let namespace = Namespace::create().await;
        let (plugin, ready) = namespace.proxy(&["--keep"]).ready().await;
        plugin.signal(Signal::INT);
        let job = format!("tunnel-{}", ready.session);
        plugin
            .end(Duration::from_secs(10))
            .await
            .expect_code(0)
            .expect_said(&[&job]);
        let strangers = namespace.strangers().await;
        assert!(strangers.contains(&format!("jobs/{job}")), "{strangers:?}");
        poll(Duration::from_secs(10), "the agent's log", async || {
            let log = namespace
                .kubectl(Who::Developer, &["logs", &format!("job/{job}")])
                .await;
            log.status.success().then_some(())
        })
        .await;
        // The Job is complete when the kubelet has reported its pod's end.
        let jobs = namespace.admin().objects(namespace.name(), "jobs");
        poll(Duration::from_secs(10), "the Job's end", async || {
            let job = jobs.get(&job).await.expect("the kept Job");
            job.data["status"]["completionTime"].is_string().then_some(())
        })
        .await;
        let removed = namespace
            .launch(&["cleanup"])
            .finish(Duration::from_secs(20))
            .await;
        removed.expect_code(0).expect_said(&["removed", &ready.session]);
        namespace.wait_empty(EMPTY).await;
    });
}
