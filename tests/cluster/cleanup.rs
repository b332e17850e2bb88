//! `cleanup`: what dead sessions of this user left, and nothing of anybody else.

use std::time::Duration;

use tokio::time::sleep;

use crate::harness::dial::{self, Way};
use crate::harness::namespace::{Namespace, Who};
use crate::harness::plugin::Ready;
use crate::harness::{poll, run};

/// An agent that nobody has been attached to for this long is dead; its grace is longer in these tests.
const DEAD: Duration = Duration::from_secs(20);
const CLEANUP: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn cleanup_takes_the_dead_of_this_user_and_nothing_else() {
    run(async {
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        let second = namespace.second_user().await;
        let long = ["--grace", "10m"];
        let (mine_dead, mine) = namespace.proxy(&long).elsewhere().ready().await;
        let (theirs_dead, theirs) = namespace
            .proxy(&long)
            .elsewhere()
            .with_kubeconfig(&second)
            .ready()
            .await;
        let (living, alive) = namespace.proxy(&long).ready().await;
        let (their_living, _) = namespace.proxy(&long).with_kubeconfig(&second).ready().await;
        mine_dead.kill().await;
        theirs_dead.kill().await;
        let killed = tokio::time::Instant::now();

        // Too early: a plugin may be on its way back.
        let ended = namespace.launch(&["cleanup"]).finish(CLEANUP).await;
        ended.expect_code(0);
        if killed.elapsed() < DEAD {
            assert!(
                has_job(&namespace, &mine).await,
                "removed before it was dead; it said:\n{}",
                ended.said
            );
        }

        // A dry run shows it and removes nothing.
        let id = mine.session.as_str();
        let due = DEAD + Duration::from_secs(2);
        sleep(due.saturating_sub(killed.elapsed())).await;
        let ended = namespace.launch(&["cleanup", "--dry-run"]).finish(CLEANUP).await;
        ended.expect_code(0).expect_said(&["would remove", id]);
        assert!(
            has_job(&namespace, &mine).await,
            "a dry run removed it; it said:\n{}",
            ended.said
        );

        let ended = namespace.launch(&["cleanup"]).finish(CLEANUP).await;
        ended.expect_code(0).expect_said(&[id]);
        poll(Duration::from_secs(5), "the dead session's end", async || {
            (!has_job(&namespace, &mine).await).then_some(())
        })
        .await;
        assert!(
            has_job(&namespace, &theirs).await,
            "somebody else's; it said:\n{}",
            ended.said
        );
        dial::get(Way::Absolute, alive.proxy(), "web", 80, "/")
            .await
            .expect("the living session works");
        // Safe to repeat.
        namespace
            .launch(&["cleanup"])
            .finish(CLEANUP)
            .await
            .expect_code(0);

        living.stop().await;
        their_living.stop().await;
        let ended = namespace
            .launch(&["cleanup"])
            .with_kubeconfig(&second)
            .finish(CLEANUP)
            .await;
        ended.expect_code(0).expect_said(&[&theirs.session]);
        namespace.wait_empty(Duration::from_secs(5)).await;
    });
}

async fn has_job(namespace: &Namespace, ready: &Ready) -> bool {
    let job = format!("jobs/tunnel-{}", ready.session);
    namespace.strangers().await.contains(&job)
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn cleanup_finds_nothing_where_nothing_is() {
    run(async {
        let namespace = Namespace::create().await;
        namespace
            .launch(&["cleanup"])
            .finish(CLEANUP)
            .await
            .expect_code(0);
        let ended = namespace
            .launch(&["cleanup", "-o", "json", "--dry-run"])
            .finish(CLEANUP)
            .await;
        ended.expect_code(0);
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn cleanup_of_all_namespaces_needs_the_right_to_list_them() {
    run(async {
        let namespace = Namespace::create().await;
        let allowed = namespace
            .kubectl(Who::Developer, &["auth", "can-i", "list", "jobs", "-A"])
            .await;
        assert!(!allowed.status.success(), "this developer may list everything");
        let ended = namespace.launch(&["cleanup", "-A"]).finish(CLEANUP).await;
        ended.expect_code(4).expect_said(&["list", "jobs"]);
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn force_takes_a_session_that_cannot_be_judged() {
    run(async {
        let namespace = Namespace::create().await;
        // Held back for ever: no pod runs that could be asked, and the start's lease is not over.
        let patch = r#"{"spec":{"schedulingGates":[{"name":"tunnel-test/gate"}]}}"#;
        let plugin = namespace.proxy(&["--patch", patch]).elsewhere().start();
        let pod = namespace.wait_stranger("pods", Duration::from_secs(20)).await;
        plugin.kill().await;
        let kept = namespace.launch(&["cleanup"]).finish(CLEANUP).await;
        kept.expect_code(0);
        let name = pod.name.expect("a pod has a name");
        assert!(
            namespace.strangers().await.contains(&format!("pods/{name}")),
            "{}",
            kept.said
        );
        namespace
            .launch(&["cleanup", "--force"])
            .finish(CLEANUP)
            .await
            .expect_code(0);
        namespace.wait_empty(Duration::from_secs(5)).await;
    });
}
