//! A path that harms what passes through exec: repaired where that is possible, named where it is not.

use std::time::Duration;

use crate::harness::namespace::Namespace;
use crate::harness::tls_relay::{Harm, TlsRelay};
use crate::harness::traffic::{RATE, Stage};
use crate::harness::{notice, poll, run};

const EVERY: u64 = 10 << 20;
/// Fast enough to pass some tens of mebibytes within the test's time.
const FAST: u64 = 4 * RATE;
/// Altered bytes, both ways together, before the transfer may end.
const ALTERED: u64 = 6;
const MINUTE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn altered_bytes_are_never_delivered() {
    run(async {
        let stage = Stage::set().await;
        let relay = TlsRelay::start(&stage.namespace, Harm::Alter(EVERY)).await;
        let launch = stage.expose(&[]).with_kubeconfig(relay.kubeconfig());
        let (mut plugin, ready) = launch.ready().await;
        let traffic = stage.traffic(&ready, FAST).await;
        poll(MINUTE, "some altered bytes", async || {
            let (up, down) = relay.altered();
            (up > 0 && down > 0 && up + down >= ALTERED).then_some(())
        })
        .await;
        traffic.finish().await;
        let (up, down) = relay.altered();
        let events = plugin.events_so_far();
        let last = events.iter().rev().find_map(|event| event["transport"].as_u64());
        notice(&format!(
            "{up} + {down} altered bytes, transport {last:?} at the end"
        ));
        assert!(
            last.is_some_and(|last| last > 2),
            "no transport was replaced: {events:?}"
        );
        plugin.stop().await;
    });
}

/// Nothing can be repaired over such a path: three transports end at the same position.
#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_path_that_cuts_what_is_sent_is_named() {
    run(async {
        let namespace = Namespace::create().await;
        let relay = TlsRelay::start(&namespace, Harm::CutStdin(1 << 10)).await;
        let launch = namespace.proxy(&[]).with_kubeconfig(relay.kubeconfig());
        let ended = launch.finish(MINUTE).await;
        ended.expect_code(6).expect_said(&["path"]).expect_error_events(6);
        namespace.wait_empty(MINUTE).await;
    });
}
