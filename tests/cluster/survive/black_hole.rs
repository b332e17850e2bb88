//! Nothing passes for a while and nobody is told: how soon streams flow again, and what ends in order when it lasts.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::harness::relay::Relay;
use crate::harness::traffic::{RATE, Stage};
use crate::harness::{notice, run, run_for};

/// Outages whose median recovery is promised.
const SHORT: [u64; 7] = [2, 3, 5, 8, 12, 20, 30];
const MEDIAN: Duration = Duration::from_secs(2);
/// One beyond them.
const LONG: u64 = 45;
const BEYOND: Duration = Duration::from_secs(6);
/// For a machine that is also the cluster's node and runs other tests.
const MARGIN: Duration = Duration::from_secs(1);
const AT_ALL: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn streams_flow_within_two_seconds_of_a_mended_line() {
    run_for(Duration::from_secs(300), async {
        let mut times = recoveries(&SHORT).await;
        times.sort_unstable();
        let median = times[times.len() / 2];
        assert!(median <= MEDIAN + MARGIN, "the median of {times:?}");
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn streams_flow_within_six_seconds_after_a_long_outage() {
    run(async {
        let times = recoveries(&[LONG]).await;
        assert!(times[0] <= BEYOND + MARGIN, "{times:?}");
    });
}

/// From each mending to bytes in every part of the traffic.
async fn recoveries(outages: &[u64]) -> Vec<Duration> {
    let stage = Stage::set().await;
    let relay = Relay::start(&stage.namespace).await;
    let launch = stage.expose(&[]).with_kubeconfig(relay.kubeconfig());
    let (plugin, ready) = launch.ready().await;
    let mut traffic = stage.traffic(&ready, RATE).await;
    let mut times = Vec::new();
    for seconds in outages {
        relay.black_hole();
        sleep(Duration::from_secs(*seconds)).await;
        relay.mend();
        let time = traffic.flowing_again(Instant::now(), AT_ALL).await;
        notice(&format!("{seconds} s of black hole: flowing after {time:?}"));
        times.push(time);
    }
    traffic.finish().await;
    plugin.stop().await;
    times
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_black_hole_beyond_the_limit_ends_in_order_on_both_sides() {
    run(async {
        let stage = Stage::set().await;
        let relay = Relay::start(&stage.namespace).await;
        let launch = stage.expose(&["--reconnect-max", "8s", "--grace", "5s"]);
        let (mut plugin, ready) = launch.with_kubeconfig(relay.kubeconfig()).ready().await;
        let traffic = stage.traffic(&ready, RATE).await;
        relay.black_hole();
        // 15 s until silence counts as a loss, then 8 s of trying.
        let lost = plugin
            .event("lost", Duration::from_secs(15 + 8) + MARGIN * 5)
            .await;
        assert!(lost["reason"].is_string(), "{lost}");
        let ended = plugin.end(Duration::from_secs(20)).await;
        let job = format!("tunnel-{}", ready.session);
        ended
            .expect_code(6)
            .expect_error_events(6)
            .expect_said(&["reconnect-max", &job]);
        let exchanges = traffic.expect_resets(Duration::from_secs(5)).await;
        // The line stays broken: the agent ends by itself.
        stage.namespace.wait_empty(MINUTE).await;
        stage.expect_far_resets(&exchanges, MINUTE).await;
    });
}
