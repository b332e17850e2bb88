//! `--on-demand`: an agent only while somebody uses it.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tunnel_test_target as ports;

use super::expect_http;
use crate::harness::namespace::Namespace;
use crate::harness::plugin::forwarded;
use crate::harness::{notice, poll, run, within};

const READY: Duration = Duration::from_secs(5);
/// From the first connection to its answer.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(3);
/// From the end of the idle time to an empty namespace.
const REMOVED: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn an_agent_comes_with_the_first_connection_and_goes_when_idle() {
    run(async {
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        let echo = format!(":{}", ports::ECHO);
        let arguments = ["svc/web", ":80", &echo, "--on-demand", "--idle-timeout=3s"];
        let mut plugin = namespace.forward(&arguments).start();
        let ready = plugin.event("ready", READY).await;
        assert_eq!(ready["state"], "idle", "{ready}");
        assert_eq!(ready["pod"], serde_json::Value::Null, "{ready}");
        let addresses = forwarded(&ready);
        assert_eq!(namespace.strangers().await.len(), 0);
        for round in 1..=2 {
            let asked = Instant::now();
            expect_http(addresses[0], "the first answer").await;
            let taken = asked.elapsed();
            notice(&format!("round {round}: the first answer came after {taken:?}"));
            assert!(taken < FIRST_ANSWER, "the first answer came after {taken:?}");
            plugin.event("agent-started", Duration::from_secs(1)).await;

            // A connection that says nothing is a use.
            let mut silent = TcpStream::connect(addresses[1]).await.expect("a local port");
            silent.write_all(b"a").await.expect("send");
            assert_eq!(silent.read_u8().await.expect("the echo"), b'a');
            sleep(IDLE + Duration::from_secs(2)).await;
            silent.write_all(b"b").await.expect("send");
            let answer = within(super::ANSWER, "the echo", silent.read_u8()).await;
            assert_eq!(answer.expect("the connection lives"), b'b');
            drop(silent);
            let closed = Instant::now();
            poll(IDLE + REMOVED, "the removal", async || {
                plugin
                    .said()
                    .matches("the agent is removed")
                    .nth(round - 1)
                    .map(drop)
            })
            .await;
            // The last byte may be older than the end of the connection by a moment.
            let early = Duration::from_millis(200);
            assert!(closed.elapsed() + early > IDLE, "too early");
            notice(&format!(
                "round {round}: removed {:?} after the last connection",
                closed.elapsed()
            ));
            assert_eq!(namespace.strangers().await.len(), 0);
        }
        plugin.stop().await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn the_end_of_the_command_leaves_nothing_whatever_the_agent_does() {
    run(async {
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        let echo = format!(":{}", ports::ECHO);
        // The agent waits for a plugin that may come back, longer than a minute while connections are open.
        let arguments = ["svc/web", echo.as_str(), "--on-demand", "--grace=20s"];
        for killed in [false, true] {
            let mut plugin = namespace.forward(&arguments).start();
            let ready = plugin.event("ready", READY).await;
            let mut connection = TcpStream::connect(forwarded(&ready)[0])
                .await
                .expect("a local port");
            connection.write_all(b"a").await.expect("send");
            let answer = within(super::ANSWER, "the echo", connection.read_u8()).await;
            assert_eq!(answer.expect("an answer"), b'a');
            assert_ne!(namespace.strangers().await.len(), 0);
            if killed {
                plugin.kill().await;
                let taken = namespace.wait_empty(MINUTE).await;
                notice(&format!("empty {taken:?} after the kill"));
            } else {
                plugin.stop().await;
                assert_eq!(namespace.strangers().await.len(), 0);
            }
            let end = within(super::ANSWER, "the connection's end", connection.read(&mut [0])).await;
            assert!(end.is_err(), "killed: {killed}: {end:?}");
        }
    });
}
