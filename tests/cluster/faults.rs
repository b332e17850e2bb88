//! The cluster breaks: its API server, its kubelet or the line to it go away and come back, and nobody notices.
//!
//! These faults hit every session, so this runs alone; what one session's line suffers is in `survive`.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::harness::fault;
use crate::harness::namespace::Namespace;
use crate::harness::traffic::{RATE, Stage};
use crate::harness::{notice, run, run_for};

const RESTARTS: u32 = 10;
/// From a mended cluster to streams that flow, on a machine that is also the node.
const FLOWING: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn an_api_server_restarted_ten_times_in_a_row() {
    run_for(Duration::from_secs(420), async {
        let Some(fault) = fault::tool() else { return };
        let stage = Stage::set().await;
        let (plugin, ready) = stage.expose(&[]).ready().await;
        let mut traffic = stage.traffic(&ready, RATE).await;
        for _ in 0..RESTARTS {
            fault.restart_api_server();
            fault.api_server_back().await;
            let time = traffic.flowing_again(Instant::now(), FLOWING).await;
            notice(&format!("flowing {time:?} after the API server was back"));
        }
        traffic.finish().await;
        plugin.stop().await;
        settled().await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn black_holes_and_resets_that_are_mended() {
    run_for(Duration::from_secs(300), async {
        let Some(fault) = fault::tool() else { return };
        let stage = Stage::set().await;
        let (plugin, ready) = stage.expose(&[]).ready().await;
        let mut traffic = stage.traffic(&ready, RATE).await;
        for (what, seconds) in [
            ("blackhole", 7),
            ("reset", 5),
            ("blackhole", 20),
            ("blackhole", 70),
        ] {
            fault.cause(&[what]);
            sleep(Duration::from_secs(seconds)).await;
            fault.cause(&["mend"]);
            let time = traffic.flowing_again(Instant::now(), FLOWING).await;
            notice(&format!("{what} of {seconds} s: flowing after {time:?}"));
        }
        traffic.finish().await;
        plugin.stop().await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_restarted_kubelet() {
    run(async {
        let Some(fault) = fault::tool() else { return };
        let stage = Stage::set().await;
        let (mut plugin, ready) = stage.expose(&[]).ready().await;
        let mut traffic = stage.traffic(&ready, RATE).await;
        fault.cause(&["restart", "kubelet"]);
        // The kubelet carries the exec: it is cut, and comes back with it.
        plugin.state("reconnecting", MINUTE).await;
        let back = plugin.state("ready", MINUTE).await;
        let time = traffic.flowing_again(Instant::now(), FLOWING).await;
        notice(&format!("{back}, everything flowing {time:?} later"));
        traffic.finish().await;
        plugin.stop().await;
        settled().await;
    });
}

/// The node starts pods again: what comes next is not about this fault any more.
async fn settled() {
    Namespace::create().await.target("settled").await;
}

/// Who does not want to reconnect is told the truth about what is left.
#[test]
#[ignore = "needs a cluster: make e2e"]
fn an_api_server_that_stays_away_leaves_the_name_of_what_is_left() {
    run(async {
        let Some(fault) = fault::tool() else { return };
        let namespace = Namespace::create().await;
        let launch = namespace.proxy(&["--reconnect-max", "0"]);
        let (mut plugin, ready) = launch.ready().await;
        fault.cause(&["reset"]);
        plugin.event("lost", Duration::from_secs(22)).await;
        let ended = plugin.end(Duration::from_secs(12)).await;
        ended.expect_code(6).expect_error_events(6);
        let job = format!("tunnel-{}", ready.session);
        ended.expect_said(&[&job, "cleanup"]);
        let leftovers = ended.events.last().expect("an ended event")["leftovers"].to_string();
        assert!(leftovers.contains(&job), "leftovers: {leftovers}");
        fault.cause(&["mend"]);
        namespace.wait_empty(MINUTE).await;
        settled().await;
    });
}
