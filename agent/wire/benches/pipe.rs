//! How fast the wire is by itself: link, streams and relay over pipes in memory, without sockets and cluster.
//!
//! `make bench-inner` runs it. What the whole way makes of it is measured on a cluster, by `make bench`; here a
//! regression shows in a minute. Both ends share two threads, as laptop and node of a test cluster do.

#![expect(clippy::expect_used, reason = "a bench may fail")]
#![expect(missing_docs, reason = "criterion's macros write functions")]

use std::time::Duration;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunnel_wire::link::{self, LinkHandle};
use tunnel_wire::relay::relay;
use tunnel_wire::session::{self, End, Incoming, Session};
use tunnel_wire::{Open, Protocol, Stream};

/// What the pipe below the link holds each way: about what a pipe and a WebSocket's buffers do.
const PIPE: usize = 256 << 10;

/// Bytes of one iteration.
const TRANSFER: usize = 16 << 20;

/// Bytes of one write or read of a program.
const BLOCK: usize = 64 << 10;

/// Streams opened for one iteration.
const OPENS: usize = 200;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Measures `count` times what `once` does, after a first time that does not count.
async fn timed(count: u64, mut once: impl AsyncFnMut()) -> Duration {
    once().await;
    let started = Instant::now();
    for _ in 0..count {
        once().await;
    }
    started.elapsed()
}

/// Runs both links over one pipe until the tasks are dropped.
fn attach(near: &LinkHandle, far: &LinkHandle) -> JoinSet<()> {
    let (near_io, far_io) = duplex(PIPE);
    let mut tasks = JoinSet::new();
    for (link, io) in [(near, near_io), (far, far_io)] {
        let link = link.clone();
        tasks.spawn(async move {
            let (reader, writer) = tokio::io::split(io);
            let end = link.run(reader, writer, 0).await;
            link.close(end);
        });
    }
    tasks
}

/// Two ends of a session; everything ends with the tasks.
struct Pair {
    near: Session,
    far: Incoming,
    _tasks: JoinSet<()>,
}

fn pair() -> Pair {
    let (near_link, near_io) = link::channel();
    let (far_link, far_io) = link::channel();
    let mut tasks = attach(&near_link, &far_link);
    let (near, _, driver) = session::start(End::Plugin, near_link, near_io);
    tasks.spawn(driver.run());
    let (_, far, driver) = session::start(End::Agent, far_link, far_io);
    tasks.spawn(driver.run());
    Pair {
        near,
        far,
        _tasks: tasks,
    }
}

async fn connect(near: &Session, far: &mut Incoming) -> (Stream, Stream) {
    let open = Open::Dial {
        protocol: Protocol::Tcp,
        patience_ms: 0,
        host: "x".to_owned(),
        port: 80,
    };
    let (opened, accepted) = tokio::join!(near.open(&open), far.accept());
    let (mut near, mut far) = (opened.expect("opened"), accepted.expect("accepted").stream);
    far.accept().await.expect("accepted");
    near.opened().await.expect("opened");
    (near, far)
}

/// Moves this many bytes from one end to the other.
async fn transfer(
    writer: &mut (impl AsyncWrite + Unpin),
    reader: &mut (impl AsyncRead + Unpin),
    length: usize,
) {
    let write = async {
        let block = vec![b'.'; BLOCK];
        for _ in 0..length / BLOCK {
            writer.write_all(&block).await.expect("write");
        }
        writer.flush().await.expect("flush");
    };
    let read = async {
        let mut block = vec![0; BLOCK];
        let mut left = length;
        while left > 0 {
            left -= reader.read(&mut block).await.expect("read");
        }
    };
    tokio::join!(write, read);
}

fn over_the_link(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime) {
    group.bench_function("link", |bencher| {
        bencher.to_async(runtime).iter_custom(|count| async move {
            let (near_link, mut near) = link::channel();
            let (far_link, mut far) = link::channel();
            let _tasks = attach(&near_link, &far_link);
            timed(count, async || {
                let write = async {
                    let block = vec![b'.'; BLOCK];
                    for _ in 0..TRANSFER / BLOCK {
                        near.write_all(&block).await.expect("write");
                    }
                };
                let read = async {
                    let mut block = vec![0; BLOCK];
                    let mut left = TRANSFER;
                    while left > 0 {
                        left -= far.read(&mut block).await.expect("read");
                    }
                };
                tokio::join!(write, read);
            })
            .await
        });
    });
}

fn over_streams(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime, streams: usize) {
    group.bench_function(format!("streams/{streams}"), |bencher| {
        bencher.to_async(runtime).iter_custom(|count| async move {
            let Pair {
                near,
                mut far,
                _tasks,
            } = pair();
            let mut connections = Vec::new();
            for _ in 0..streams {
                connections.push(connect(&near, &mut far).await);
            }
            timed(count, async || {
                let transfers = connections
                    .iter_mut()
                    .map(|(near, far)| transfer(near, far, TRANSFER / streams));
                futures::future::join_all(transfers).await;
            })
            .await
        });
    });
}

fn over_a_relay(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime) {
    group.bench_function("relay", |bencher| {
        bencher.to_async(runtime).iter_custom(|count| async move {
            let ((mut writer, mut a), (mut b, mut reader)) = (duplex(PIPE), duplex(PIPE));
            let mut tasks: JoinSet<()> = JoinSet::new();
            tasks.spawn(async move {
                relay::<DuplexStream, DuplexStream>(&mut a, &mut b).await;
            });
            timed(count, async || transfer(&mut writer, &mut reader, TRANSFER).await).await
        });
    });
}

fn throughput(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("throughput");
    group.throughput(Throughput::Bytes(TRANSFER as u64));
    group.sample_size(20);
    over_the_link(&mut group, &runtime);
    over_streams(&mut group, &runtime, 1);
    over_streams(&mut group, &runtime, 8);
    over_a_relay(&mut group, &runtime);
    group.finish();
}

/// Streams that are opened, answered and dropped one after the other: each is a round trip of both ends.
fn opens(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("opens");
    group.throughput(Throughput::Elements(OPENS as u64));
    group.sample_size(20);
    group.bench_function("one by one", |bencher| {
        bencher.to_async(&runtime).iter_custom(|count| async move {
            let Pair {
                near,
                mut far,
                _tasks,
            } = pair();
            timed(count, async || {
                for _ in 0..OPENS {
                    drop(connect(&near, &mut far).await);
                }
            })
            .await
        });
    });
    group.finish();
}

criterion_group!(benches, throughput, opens);
criterion_main!(benches);
