//! Programs that listen on loopback in their pod: port-forward on request, and when the agent does not get there.

use tunnel_test_target as ports;

use super::expect_http;
use crate::harness::namespace::Namespace;
use crate::harness::{poll, run};

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_program_on_loopback_is_reached_by_port_forward() {
    run(async {
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        namespace.workload("deploy", "api", 2).await;
        namespace.wait_pods_ready("api").await;
        let number = format!(":{}", ports::LOOPBACK);
        let targets = ["deploy/api", ":inner", "pod/web-pod", &number, "-v=1"];

        let (plugin, ready) = namespace
            .forward(&[&targets[..], &["--via=pod"]].concat())
            .ready()
            .await;
        for address in ready.forwarded() {
            for _ in 0..2 {
                let answer = expect_http(address, "--via=pod").await;
                assert!(answer.body.contains("peer=127.0.0.1"), "{answer:?}");
            }
        }
        assert!(!plugin.said().contains("warning"), "{}", plugin.said());
        plugin.stop().await;

        let (plugin, ready) = namespace.forward(&targets).ready().await;
        for address in ready.forwarded() {
            for _ in 0..3 {
                let answer = expect_http(address, "without a word").await;
                assert!(answer.body.contains("peer=127.0.0.1"), "{answer:?}");
            }
        }
        let warnings = || {
            let said = plugin.said();
            let warnings = said.lines().filter(|line| line.contains("warning"));
            warnings.map(str::to_owned).collect::<Vec<_>>()
        };
        poll(super::ANSWER, "a warning for each", async || {
            (warnings().len() >= 2).then_some(())
        })
        .await;
        for (warning, target) in warnings().iter().zip(["deploy/api:inner", "pod/web-pod"]) {
            for part in [target, "connection refused", "port-forward"] {
                assert!(warning.contains(part), "{part}: {warning}");
            }
        }
        assert_eq!(warnings().len(), 2, "once for each port");
        plugin.stop().await;
        assert_eq!(namespace.strangers().await.len(), 0);
    });
}
