//! New connections while there is no transport: held on both sides for as long as `--hold` says, then failed clearly.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::harness::dial::{self, Refused, Way};
use crate::harness::relay::Relay;
use crate::harness::traffic::{SERVICE, Stage};
use crate::harness::{notice, poll, run};

const TOLD: Duration = Duration::from_secs(5);
/// The line is away this long once the session has told so.
const AWAY: Duration = Duration::from_secs(3);
/// From the mended line to connections that work: the kernel's pauses are over within 3 s.
const WORKS: Duration = Duration::from_secs(10);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn connections_of_both_directions_wait_for_the_next_transport() {
    run(async {
        let stage = Stage::set().await;
        let relay = Relay::start(&stage.namespace).await;
        let file = stage.namespace.folder().join("ready");
        let launch = stage.expose(&["--ready-file", file.to_str().expect("a path in UTF-8")]);
        let (mut plugin, ready) = launch.with_kubeconfig(relay.kubeconfig()).ready().await;
        expect_state(&file, "ready").await;

        relay.black_hole();
        relay.cut_all();
        let told = plugin.state("reconnecting", TOLD).await;
        assert!(told["reason"].is_string() && told["attempt"].is_u64(), "{told}");
        let written = expect_state(&file, "reconnecting").await;
        assert_eq!(written["session"], ready.session.as_str());
        assert!(written["reason"].is_string(), "{written}");

        let mended = async {
            sleep(AWAY).await;
            relay.mend();
        };
        let proxied = dial::get(Way::Connect, ready.proxy(), &stage.target.name, 80, "/");
        let (proxied, (), ()) = tokio::join!(proxied, stage.expect_new_call(AWAY + WORKS), mended);
        proxied.expect("held, then answered");
        plugin.state("ready", TOLD).await;
        expect_state(&file, "ready").await;
        plugin.stop().await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn connections_fail_clearly_when_the_hold_is_over() {
    run(async {
        let stage = Stage::set().await;
        let relay = Relay::start(&stage.namespace).await;
        let launch = stage.expose(&["--hold", "1s"]);
        let (mut plugin, ready) = launch.with_kubeconfig(relay.kubeconfig()).ready().await;
        relay.black_hole();
        relay.cut_all();
        plugin.state("reconnecting", TOLD).await;

        let began = Instant::now();
        let proxied = dial::get(Way::Connect, ready.proxy(), &stage.target.name, 80, "/");
        let called = stage
            .namespace
            .call_http(&stage.target, "GET", SERVICE, 80, "/", 1);
        let (proxied, called) = tokio::join!(proxied, called);
        let Err(Refused::Http(refused)) = proxied else {
            panic!("there is no transport: {proxied:?}");
        };
        notice(&format!(
            "refused after {:?}: {} {}",
            began.elapsed(),
            refused.status,
            refused.body
        ));
        assert!((500..600).contains(&refused.status), "{refused:?}");
        let reset = called[0].result.clone().expect_err("there is no transport");
        assert!(reset.starts_with("ConnectionReset"), "{reset}");
        assert!(called[0].millis >= 900, "not held: {called:?}");
        assert!(began.elapsed() < TOLD, "{:?}", began.elapsed());

        relay.mend();
        plugin.state("ready", WORKS).await;
        stage.expect_new_connection(ready.proxy(), WORKS).await;
        plugin.stop().await;
    });
}

/// The ready file is always whole, and soon says this state.
async fn expect_state(file: &Path, state: &str) -> Value {
    poll(TOLD, &format!("`{state}` in the ready file"), async || {
        let text = std::fs::read_to_string(file).expect("the ready file");
        let ready: Value = serde_json::from_str(&text).expect("the ready file is one whole event");
        (ready["state"] == state).then_some(ready)
    })
    .await
}
