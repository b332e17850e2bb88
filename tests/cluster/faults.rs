//! The API server goes away: the plugin says so in time, ends, and the namespace is empty when it is back.
//!
//! Surviving such a loss is not promised yet; an honest end is.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::harness::fault;
use crate::harness::namespace::Namespace;
use crate::harness::plugin::{Ended, Plugin};
use crate::harness::{notice, poll, run};

/// The plugin knows by then.
const LOST: Duration = Duration::from_secs(20);
/// It may then try to delete for this long.
const DELETE: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);
/// For a busy machine.
const MARGIN: Duration = Duration::from_secs(2);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_restarted_api_server_ends_the_session_in_order() {
    run(async {
        let Some(fault) = fault::tool() else { return };
        let namespace = Namespace::create().await;
        let (plugin, _) = namespace.expose(&["api", "80:1234"]).ready().await;
        fault.restart_api_server();
        tokio::join!(expect_lost(plugin), fault.api_server_back());
        namespace.wait_empty(MINUTE).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_black_hole_of_20_seconds_ends_the_session_in_order() {
    run(async {
        let Some(fault) = fault::tool() else { return };
        let namespace = Namespace::create().await;
        let (plugin, _) = namespace.expose(&["api", "80:1234"]).ready().await;
        fault.cause(&["blackhole"]);
        let mend = async {
            sleep(Duration::from_secs(20)).await;
            fault.cause(&["mend"]);
        };
        tokio::join!(expect_lost(plugin), mend);
        namespace.wait_empty(MINUTE).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn an_api_server_that_stays_away_leaves_the_name_of_what_is_left() {
    run(async {
        let Some(fault) = fault::tool() else { return };
        let namespace = Namespace::create().await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        fault.cause(&["reset"]);
        let ended = expect_lost(plugin).await;
        let job = format!("tunnel-{}", ready.session);
        ended.expect_said(&[&job, "cleanup"]);
        let leftovers = ended.events.last().expect("an ended event")["leftovers"].to_string();
        assert!(leftovers.contains(&job), "leftovers: {leftovers}");
        fault.cause(&["mend"]);
        namespace.wait_empty(MINUTE).await;
    });
}

/// Told within 20 s, ended within the time for deleting, with code 6.
async fn expect_lost(plugin: Plugin) -> Ended {
    let caused = Instant::now();
    poll(LOST + MARGIN, "the loss being told", async || {
        plugin.said().contains(r#""event":"lost""#).then_some(())
    })
    .await;
    notice(&format!("told after {:?}", caused.elapsed()));
    let ended = plugin.end(DELETE + MARGIN).await;
    ended.expect_code(6).expect_error_events(6);
    notice(&format!("ended after {:?}", caused.elapsed()));
    ended
}
