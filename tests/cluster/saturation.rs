//! Both directions as full as they get, on a machine that has other things to do: nothing ever stands still.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tunnel_test_target as ports;
use tunnel_test_target::pattern::Pattern;

use crate::harness::dial::{self, Way};
use crate::harness::namespace::Namespace;
use crate::harness::process::Burners;
use crate::harness::{notice, run, within};

const STREAMS: usize = 16;
const LENGTH: Duration = Duration::from_secs(60);
/// A stream without a byte for this long stands still. The link would be declared dead after 15 s.
const STALL: Duration = Duration::from_secs(5);
/// What is on its way when a direction ends may still have to arrive.
const DRAIN: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn saturated_both_ways_never_stalls() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        let proxy = ready.proxy();
        let burners = Burners::start(2);
        let stop = CancellationToken::new();
        let mut streams = JoinSet::new();
        let mut counts = Vec::new();
        for index in 0..2 * STREAMS {
            let count = Arc::new(AtomicU64::new(0));
            counts.push(Arc::clone(&count));
            let (name, stop) = (target.name.clone(), stop.clone());
            if index % 2 == 0 {
                streams.spawn(async move { download(proxy, &name, &count, stop).await });
            } else {
                streams.spawn(async move { upload(proxy, &name, &count, stop).await });
            }
        }
        let slowest = watch(proxy, &counts).await;
        stop.cancel();
        within(DRAIN, "the end of all streams", streams.join_all()).await;
        drop(burners);
        let total: u64 = counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        notice(&format!(
            "{} MiB in {LENGTH:?}; a new connection took {slowest:?} at most",
            total >> 20
        ));
        plugin.stop().await;
    });
}

/// Looks at every stream each second, and opens a new one; returns how long the slowest of those took.
async fn watch(proxy: SocketAddr, counts: &[Arc<AtomicU64>]) -> Duration {
    let started = Instant::now();
    let mut moved = vec![(0, started); counts.len()];
    let mut slowest = Duration::ZERO;
    while started.elapsed() < LENGTH {
        sleep(Duration::from_secs(1)).await;
        for (index, (count, (last, since))) in counts.iter().zip(&mut moved).enumerate() {
            let now = count.load(Ordering::Relaxed);
            if now > *last {
                (*last, *since) = (now, Instant::now());
            }
            let stood = since.elapsed();
            assert!(
                stood < STALL,
                "stream {index} has stood still at byte {now} for {stood:?}"
            );
        }
        let opened = Instant::now();
        dial::get(Way::Connect, proxy, "web", 80, "/")
            .await
            .expect("a new stream works");
        slowest = slowest.max(opened.elapsed());
    }
    slowest
}

async fn download(proxy: SocketAddr, host: &str, count: &AtomicU64, stop: CancellationToken) {
    let mut connection = dial::connect(proxy, host, ports::SOURCE)
        .await
        .expect("the target accepts");
    let mut pattern = Pattern::default();
    let mut block = vec![0; 64 << 10];
    while let Some(read) = stop.run_until_cancelled(connection.read(&mut block)).await {
        let read = read.expect("bytes");
        assert_ne!(read, 0, "the target never ends");
        pattern.check(&block[..read]).expect("the pattern");
        count.store(pattern.position(), Ordering::Relaxed);
    }
}

async fn upload(proxy: SocketAddr, host: &str, count: &AtomicU64, stop: CancellationToken) {
    let mut connection = dial::connect(proxy, host, ports::SINK)
        .await
        .expect("the target accepts");
    let mut pattern = Pattern::default();
    let mut block = vec![0; 64 << 10];
    while !stop.is_cancelled() {
        pattern.fill(&mut block);
        connection.write_all(&block).await.expect("send");
        count.store(pattern.position(), Ordering::Relaxed);
    }
    connection.shutdown().await.expect("end our direction");
    let mut answer = String::new();
    connection
        .read_to_string(&mut answer)
        .await
        .expect("the target's verdict");
    assert_eq!(answer, format!("{} ok\n", pattern.position()));
}
