//! The traffic over lines that do nothing to it: when this fails, the other tests of `survive` mean nothing.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::harness::plugin::Launch;
use crate::harness::relay::Relay;
use crate::harness::tls_relay::{Harm, TlsRelay};
use crate::harness::traffic::{RATE, Stage};
use crate::harness::{notice, run};

#[test]
#[ignore = "needs a cluster: make e2e"]
fn traffic_flows_and_ends_in_order_over_any_relay() {
    run(async {
        let stage = Stage::set().await;
        expect_flow(&stage, stage.expose(&[])).await;
        let relay = Relay::start(&stage.namespace).await;
        expect_flow(&stage, stage.expose(&[]).with_kubeconfig(relay.kubeconfig())).await;
        let relay = TlsRelay::start(&stage.namespace, Harm::Alter(u64::MAX)).await;
        expect_flow(&stage, stage.expose(&[]).with_kubeconfig(relay.kubeconfig())).await;
        assert_eq!(relay.altered(), (0, 0));
    });
}

async fn expect_flow(stage: &Stage, launch: Launch) {
    let (plugin, ready) = launch.ready().await;
    let mut traffic = stage.traffic(&ready, RATE).await;
    sleep(Duration::from_secs(3)).await;
    traffic
        .flowing_again(Instant::now(), Duration::from_secs(2))
        .await;
    notice(&format!(
        "{} bytes, largest gap {:?}",
        traffic.moved(),
        traffic.largest_gap()
    ));
    assert!(traffic.moved() > 2 * RATE, "{} bytes", traffic.moved());
    traffic.finish().await;
    plugin.stop().await;
    stage.namespace.wait_empty(Duration::from_secs(5)).await;
}
