//! The laptop sleeps: a stopped process notices nothing until it goes on, and then has to tell a nap from a night.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::harness::traffic::{RATE, Stage};
use crate::harness::{notice, run};

const NAP: Duration = Duration::from_secs(60);
/// From waking up to streams that flow, or a new session that works.
const AWAKE: Duration = Duration::from_secs(10);
/// Silence until the agent knows, its grace, and what the cluster needs to remove a finished Job.
const NIGHT: Duration = Duration::from_secs(90);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_nap_within_the_grace_is_not_noticed() {
    run(async {
        let stage = Stage::set().await;
        let (plugin, ready) = stage.expose(&["--grace", "90s"]).ready().await;
        let mut traffic = stage.traffic(&ready, RATE).await;
        plugin.signal(Signal::STOP);
        sleep(NAP).await;
        plugin.signal(Signal::CONT);
        let time = traffic.flowing_again(Instant::now(), AWAKE).await;
        notice(&format!("flowing {time:?} after waking up"));
        traffic.finish().await;
        plugin.stop().await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_night_beyond_the_grace_starts_the_session_anew() {
    run(async {
        let stage = Stage::set().await;
        let (mut plugin, ready) = stage.expose(&["--grace", "3s"]).ready().await;
        let traffic = stage.traffic(&ready, RATE).await;
        plugin.signal(Signal::STOP);
        let gone = stage.namespace.wait_empty(NIGHT).await;
        notice(&format!(
            "the cluster was clean {gone:?} after the laptop fell asleep"
        ));
        plugin.signal(Signal::CONT);
        let woken = Instant::now();
        let replaced = plugin.event("agent-replaced", AWAKE).await;
        plugin.state("ready", AWAKE).await;
        notice(&format!(
            "a new session {:?} after waking up: {replaced}",
            woken.elapsed()
        ));
        assert!(woken.elapsed() < AWAKE, "{:?}", woken.elapsed());
        let exchanges = traffic.expect_resets(AWAKE).await;
        let job = format!("jobs/tunnel-{}", ready.session);
        let strangers = stage.namespace.strangers().await;
        assert!(strangers.contains(&job), "not the same session: {strangers:?}");
        // The listener was never closed, and the Service is there again.
        stage.expect_new_connection(ready.proxy(), AWAKE).await;
        stage.expect_new_call(AWAKE).await;
        stage.expect_far_resets(&exchanges, AWAKE).await;
        plugin.stop().await;
        stage.namespace.wait_empty(Duration::from_secs(5)).await;
    });
}
