//! How many datagrams are lost on the way to a program on the laptop and back, at a rate that a busy resolver has.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::harness::local::udp_echo;
use crate::harness::namespace::Namespace;
use crate::harness::{notice, poll, run};

/// Of ten thousand: 0.1 %.
const MOST_LOST: u64 = 9;

#[test]
#[ignore = "needs a cluster: make e2e"]
fn of_ten_thousand_datagrams_at_two_thousand_a_second_one_in_a_thousand_is_lost_at_most() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("caller").await;
        let local = udp_echo((Ipv4Addr::LOCALHOST, 0)).port();
        let (plugin, _) = namespace
            .expose(&["echo", &format!("7007:{local}/udp"), "-v=4"])
            .ready()
            .await;
        poll(Duration::from_secs(30), "an answer", async || {
            let rows = namespace
                .call_udp(&target, "echo", 7007, &["peers", "1", "1", "64"])
                .await;
            (rows["received"] == 1).then_some(())
        })
        .await;
        let rows = namespace
            .call_udp(&target, "echo", 7007, &["rate", "10000", "2000", "200"])
            .await;
        notice(&format!(
            "10,000 datagrams of 200 bytes at 2,000 a second: {rows}"
        ));
        plugin.signal(rustix::process::Signal::INT);
        let ended = plugin.end(Duration::from_secs(10)).await;
        for flow in ended.said.lines().filter(|line| line.contains("flow closed")) {
            notice(flow);
        }
        assert_eq!(rows["sent"], 10_000, "{rows}");
        assert!(
            rows["lost"].as_u64().is_some_and(|lost| lost <= MOST_LOST),
            "{rows}"
        );
        for name in ["duplicated", "altered", "foreign", "refused"] {
            assert_eq!(rows[name], 0, "{name}: {rows}");
        }
        ended.expect_code(0);
        namespace.wait_empty(Duration::from_secs(5)).await;
    });
}
