//! The line is cut: streams go on over the next transport, unless the user wants none.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::relay::Relay;
use crate::harness::traffic::{RATE, Stage};
use crate::harness::{notice, run};

const CUTS: usize = 100;
/// From a cut to a transport that has moved bytes: the first back-off is 0.2 s.
const NEXT: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_hundred_cuts_of_the_exec_in_one_transfer() {
    run(async {
        let stage = Stage::set().await;
        let relay = Relay::start(&stage.namespace).await;
        let launch = stage.expose(&[]).with_kubeconfig(relay.kubeconfig());
        let (mut plugin, ready) = launch.ready().await;
        let mut traffic = stage.traffic(&ready, RATE).await;
        let started = Instant::now();
        for _ in 0..CUTS {
            relay.cut_exec(NEXT).await;
        }
        traffic.flowing_again(Instant::now(), NEXT).await;
        notice(&format!(
            "{CUTS} cuts in {:?}, {} bytes, largest gap {:?}",
            started.elapsed(),
            traffic.moved(),
            traffic.largest_gap()
        ));
        traffic.finish().await;
        let events = plugin.events_so_far();
        // Two changes at once may be told as one, but each connection has its number.
        let connections = events
            .iter()
            .filter_map(|event| event["transport"].as_u64())
            .max();
        assert!(
            connections.is_some_and(|number| number > CUTS as u64),
            "{events:?}"
        );
        plugin.stop().await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn without_reconnecting_the_first_loss_ends_the_session() {
    run(async {
        let stage = Stage::set().await;
        let relay = Relay::start(&stage.namespace).await;
        let launch = stage.expose(&["--reconnect-max", "0"]);
        let (plugin, ready) = launch.with_kubeconfig(relay.kubeconfig()).ready().await;
        let traffic = stage.traffic(&ready, RATE).await;
        relay.cut_all();
        let ended = plugin.end(Duration::from_secs(15)).await;
        ended.expect_code(6).expect_error_events(6);
        assert!(
            ended.events.iter().any(|event| event["event"] == "lost"),
            "the loss is not told: {}",
            ended.said
        );
        let exchanges = traffic.expect_resets(Duration::from_secs(5)).await;
        stage.namespace.wait_empty(MINUTE).await;
        stage.expect_far_resets(&exchanges, MINUTE).await;
    });
}
