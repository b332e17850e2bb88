//! A thousand streams at once: one that stands still stops no other, and a thousand that do kill nobody.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{self, StreamExt as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::time::{Instant, timeout};
use tunnel_test_target as ports;
use tunnel_test_target::pattern::Pattern;

use crate::harness::dial::{self, Way};
use crate::harness::namespace::Namespace;
use crate::harness::plugin::Ready;
use crate::harness::{notice, process, run, within};

const COUNT: usize = 1000;
/// What each stream of the crowd sends and gets back.
const LENGTH: usize = 64 << 10;
const ALL_DONE: Duration = Duration::from_secs(60);
/// More than a stream may have in flight before anybody reads, so that it does stand still.
const TOO_MUCH: usize = 1 << 20;
/// A write that takes longer is held back.
const HELD: Duration = Duration::from_millis(500);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_stalled_stream_stops_none_of_a_thousand_others() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        let proxy = ready.proxy();
        let _unread_there = stalled_upload(proxy, &target.name).await;
        let _unread_here = stalled_download(proxy, &target.name).await;

        let started = Instant::now();
        let all_open = Barrier::new(COUNT);
        let crowd = (0..COUNT).map(|_| echo(proxy, &target.name, &all_open));
        within(ALL_DONE, "a thousand echoes", join_all(crowd)).await;
        notice(&format!(
            "{COUNT} streams at once, {LENGTH} bytes each way: {:?}",
            started.elapsed()
        ));
        plugin.stop().await;
    });
}

/// Waits until all are open, then sends and expects the same bytes and the end.
async fn echo(proxy: SocketAddr, host: &str, all_open: &Barrier) {
    let mut connection = dial::connect(proxy, host, ports::ECHO)
        .await
        .expect("the target accepts");
    all_open.wait().await;
    let (mut reader, mut writer) = connection.split();
    let mut bytes = vec![0; LENGTH];
    Pattern::default().fill(&mut bytes);
    let send = async {
        writer.write_all(&bytes).await.expect("send");
        writer.shutdown().await.expect("end our direction");
    };
    let mut echo = Vec::new();
    let ((), read) = tokio::join!(send, reader.read_to_end(&mut echo));
    read.expect("the echo ends by itself");
    assert_eq!(echo.len(), LENGTH);
    Pattern::default().check(&echo).expect("the pattern");
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_thousand_targets_that_do_not_read_do_not_kill_the_agent() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        let stalled = waves((0..COUNT).map(|_| stalled_upload(ready.proxy(), &target.name)));
        let stalled = within(ALL_DONE, "a thousand stalled uploads", stalled).await;
        expect_alive(&namespace, &ready, plugin.pid()).await;
        drop(stalled);
        plugin.stop().await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_thousand_programs_that_do_not_read_do_not_kill_the_agent() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        let stalled = waves((0..COUNT).map(|_| stalled_download(ready.proxy(), &target.name)));
        let stalled = within(ALL_DONE, "a thousand stalled downloads", stalled).await;
        expect_alive(&namespace, &ready, plugin.pid()).await;
        drop(stalled);
        plugin.stop().await;
    });
}

/// All of them in the end, some at a time: the target accepts from a queue of 128 and drops what does not fit.
async fn waves(connections: impl Iterator<Item = impl Future<Output = TcpStream>>) -> Vec<TcpStream> {
    stream::iter(connections).buffer_unordered(64).collect().await
}

/// A connection on which nobody reads what we send.
async fn stalled_upload(proxy: SocketAddr, host: &str) -> TcpStream {
    let mut connection = dial::connect(proxy, host, ports::STALL)
        .await
        .expect("the target accepts");
    let block = vec![0; 16 << 10];
    for _ in 0..TOO_MUCH / block.len() {
        match timeout(HELD, connection.write_all(&block)).await {
            Ok(written) => written.expect("send"),
            Err(tokio::time::error::Elapsed { .. }) => break,
        }
    }
    connection
}

/// A connection on which we do not read what comes, though some has.
async fn stalled_download(proxy: SocketAddr, host: &str) -> TcpStream {
    let connection = dial::connect(proxy, host, ports::SOURCE)
        .await
        .expect("the target accepts");
    let mut first = [0];
    within(ALL_DONE, "the first byte", connection.peek(&mut first))
        .await
        .expect("bytes");
    connection
}

/// The agent is the one that was started, and a new stream works.
async fn expect_alive(namespace: &Namespace, ready: &Ready, plugin: u32) {
    let answer = dial::get(Way::Connect, ready.proxy(), "web", 80, "/").await;
    answer.expect("a new stream works");
    let pod = namespace
        .admin()
        .objects(namespace.name(), "pods")
        .get(&ready.pod)
        .await
        .expect("the pod");
    let container = &pod.data["status"]["containerStatuses"][0];
    assert_eq!(container["restartCount"], 0, "{container}");
    assert!(container["state"]["running"].is_object(), "{container}");
    let agent = process::agent_of(&pod).map(process::peak_kib);
    notice(&format!(
        "{COUNT} stalled: agent {agent:?} KiB, plugin {} KiB",
        process::peak_kib(plugin)
    ));
}
