//! `expose` by UDP: the cluster sends datagrams to a program on the laptop, and gets its answers.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::harness::local::{Local, udp_echo};
use crate::harness::namespace::Namespace;
use crate::harness::target::Target;
use crate::harness::{notice, poll, run};

const EMPTY: Duration = Duration::from_secs(5);

/// Where a local port is free.
const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// Nothing that came was not meant for who got it, as it was sent, once.
#[track_caller]
fn assert_nothing_else(rows: &Value) {
    let counts = ["duplicated", "altered", "foreign", "refused"].map(|name| &rows[name]);
    assert!(counts.iter().all(|count| **count == 0), "{rows}");
}

/// A node learns of a UDP port in its own time, which no check of the plugin's waits for.
async fn until_answered(namespace: &Namespace, target: &Target, service: &str, port: u16) {
    poll(Duration::from_secs(30), "an answer", async || {
        let rows = namespace
            .call_udp(target, service, port, &["peers", "1", "1", "64"])
            .await;
        if rows["received"] != 1 {
            notice(&format!("{service}:{port} not yet: {rows}"));
        }
        (rows["received"] == 1).then_some(())
    })
    .await;
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn datagrams_of_every_size_come_back_beside_tcp_on_the_same_number() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("caller").await;
        let (datagrams, http) = (udp_echo(ANY_PORT), Local::http("by tcp").await);
        let ports = [
            format!("53:{}/udp", datagrams.port()),
            format!("53:{}/tcp", http.port()),
        ];
        let (plugin, ready) = namespace.expose(&["dns", &ports[0], &ports[1]]).ready().await;
        let exposed = ready.event["services"][0]["ports"].as_array().expect("ports");
        let exposed: Vec<_> = exposed
            .iter()
            .map(|port| (&port["port"], &port["protocol"]))
            .collect();
        assert_eq!(
            exposed,
            [(&json!(53), &json!("udp")), (&json!(53), &json!("tcp"))]
        );

        let names = [
            "dns".to_owned(),
            format!("dns.{}.svc.cluster.local", namespace.name()),
        ];
        for name in &names {
            let sizes = namespace
                .call_udp(&target, name, 53, &["sizes", "64,1200,9000,27000"])
                .await;
            assert_eq!(sizes["equal"], json!([64, 1200, 9000, 27000]), "{name}: {sizes}");
            let calls = namespace.call_http(&target, "GET", name, 53, "/", 1).await;
            assert_eq!(calls[0].result, Ok("200 by tcp GET / HTTP/1.1".to_owned()));
        }
        // A flow has no end, and the session's does not wait for one.
        let asked = tokio::time::Instant::now();
        plugin.stop().await;
        assert!(asked.elapsed() < EMPTY, "{:?}", asked.elapsed());
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn two_hundred_peers_at_once_get_their_own_answers() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("caller").await;
        let local = udp_echo(ANY_PORT).port().to_string();
        let (plugin, _) = namespace
            .expose(&["echo", &format!("7007:{local}/udp"), "-v=4"])
            .ready()
            .await;
        until_answered(&namespace, &target, "echo", 7007).await;
        // As small as fit into a socket's default buffer all at once: what the kernel drops is no test of ours.
        let rows = namespace
            .call_udp(&target, "echo", 7007, &["peers", "200", "5", "64"])
            .await;
        notice(&format!("200 peers, 5 datagrams each: {rows}"));
        assert_eq!(
            (&rows["peers"], &rows["silent"]),
            (&json!(200), &json!(0)),
            "{rows}"
        );
        assert_eq!(
            (&rows["received"], &rows["lost"]),
            (&json!(1000), &json!(0)),
            "{rows}"
        );
        assert_nothing_else(&rows);
        plugin.stop().await;
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_local_program_that_is_down_is_said_once_and_may_come_back() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("caller").await;
        let gone = UdpSocket::bind("127.0.0.1:0").expect("a local port");
        let local = gone.local_addr().expect("bound");
        drop(gone);
        let (plugin, _) = namespace
            .expose(&["echo", &format!("7007:127.0.0.1:{}/udp", local.port()), "-v=4"])
            .ready()
            .await;
        let down = || {
            let said = plugin.said();
            said.matches("datagram not delivered").count()
        };
        // From one socket, so that it is one flow; repeated only if the node did not know the port yet.
        let rows = poll(Duration::from_secs(30), "the program's absence", async || {
            let rows = namespace
                .call_udp(&target, "echo", 7007, &["rate", "20", "50", "64"])
                .await;
            (down() > 0).then_some(rows)
        })
        .await;
        assert_eq!(
            (&rows["sent"], &rows["received"]),
            (&json!(20), &json!(0)),
            "{rows}"
        );
        assert_eq!(down(), 1, "said once a flow");
        assert!(
            plugin.said().contains("connection refused"),
            "the reason is missing"
        );

        udp_echo(local);
        let rows = namespace
            .call_udp(&target, "echo", 7007, &["rate", "20", "50", "64"])
            .await;
        assert_eq!(rows["received"], 20, "{rows}");
        plugin.stop().await;
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn another_agent_answers_new_callers_at_the_same_name() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("caller").await;
        let local = udp_echo(ANY_PORT).port().to_string();
        let (mut plugin, ready) = namespace
            .expose(&["echo", &format!("7007:{local}/udp")])
            .ready()
            .await;
        until_answered(&namespace, &target, "echo", 7007).await;
        namespace
            .admin()
            .objects(namespace.name(), "pods")
            .delete(&ready.pod, &DeleteParams::default().grace_period(0))
            .await
            .expect("the agent's pod");
        plugin.event("agent-replaced", Duration::from_secs(30)).await;
        // A new socket each time: the node may still lead the old one's port to the pod that is gone.
        until_answered(&namespace, &target, "echo", 7007).await;
        plugin.stop().await;
        namespace.wait_empty(EMPTY).await;
    });
}
