//! A transport of known life is replaced before its end, without a pause.

use std::time::Duration;

use tokio::time::sleep;

use crate::harness::audit::{self, AuditLog};
use crate::harness::traffic::{RATE, Stage};
use crate::harness::{notice, run};

const LASTS: Duration = Duration::from_secs(20);
const GAP: Duration = Duration::from_secs(1);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_transport_at_its_age_is_replaced_without_a_pause() {
    run(async {
        let stage = Stage::set().await;
        let audit = AuditLog::open();
        let (mut plugin, ready) = stage.expose(&["--transport-max-age", "5s"]).ready().await;
        let traffic = stage.traffic(&ready, RATE).await;
        sleep(LASTS).await;
        let gap = traffic.largest_gap();
        traffic.finish().await;
        let events = plugin.events_so_far();
        let transports = match audit {
            Some(mut audit) => audit::execs(&audit.requests(stage.namespace.name())).len() as u64,
            None => events
                .iter()
                .filter_map(|event| event["transport"].as_u64())
                .max()
                .unwrap_or(1),
        };
        notice(&format!("{transports} transports, largest gap {gap:?}"));
        assert!(transports >= 3, "{events:?}");
        assert!(gap < GAP, "a pause of {gap:?}");
        assert!(
            events.iter().all(|event| event["state"] != "reconnecting"),
            "a loss was told: {events:?}"
        );
        plugin.stop().await;
    });
}
