//! One session over many transports: what goes on, what a plugin is told that comes too late.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunnel_agent::Exit;
use tunnel_agent::config::{BIND, GRACE};
use tunnel_wire::frame::Frame;
use tunnel_wire::hello::{HelloError, Verdict};
use tunnel_wire::link::TransportEnd;
use tunnel_wire::{Open, Protocol};

use crate::support::{Faults, InProcess, address, config, hello, line, soon, upstream};

const PORT: u16 = 20_000;

/// More than all cuts together let pass in one direction.
const LENGTH: usize = 8 * 1024 * 1024;

/// A hello passes; how much of anything else is chance.
fn faults(seed: &RandomState, cut: u32) -> Faults {
    let bytes = |salt: u32| 200 + seed.hash_one((cut, salt)) % 300_000;
    Faults {
        to_agent: bytes(0),
        to_plugin: bytes(1),
        ..Faults::default()
    }
}

/// Bytes that tell where they belong.
fn pattern() -> Vec<u8> {
    let words = (0u32..).flat_map(u32::to_be_bytes);
    words.take(LENGTH).collect()
}

/// Sends the pattern, ends that direction, and expects the pattern back.
pub(crate) async fn exchange(name: &str, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sent = pattern();
    let mut received = Vec::new();
    let (wrote, read) = tokio::join!(
        async {
            writer.write_all(&sent).await?;
            writer.shutdown().await
        },
        reader.read_to_end(&mut received)
    );
    wrote.unwrap_or_else(|error| panic!("{name}: {error}"));
    read.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(received == sent, "{name}: {} bytes arrived", received.len());
}

#[tokio::test]
async fn transfers_and_a_listener_survive_twenty_cuts() {
    let seed = RandomState::new();
    let address = address();
    let agent = InProcess::start(config(&[(BIND, &address.to_string())]));
    let mut plugin = agent.attach().await;
    let _listener = plugin
        .open(&Open::Listen {
            protocol: Protocol::Tcp,
            listener: 5,
            port: PORT,
        })
        .await
        .unwrap();
    let (targets, port) = upstream().await;

    let mut ends = JoinSet::new();
    ends.spawn(exchange("plugin", plugin.dial("127.0.0.1", port).await.unwrap()));
    let (target, _) = soon("the dial", targets.accept()).await.unwrap();
    ends.spawn(exchange("upstream", target));
    let caller = TcpStream::connect((address, PORT)).await.unwrap();
    ends.spawn(exchange("caller", caller));
    let (_, _, mut stream) = plugin.accepted().await;
    stream.accept().await.unwrap();
    ends.spawn(exchange("exposed", stream));

    for cut in 0..20 {
        let transport = agent.faulty(faults(&seed, cut)).await;
        plugin.resume_over(transport).await.unwrap();
        let end = plugin.ended().await;
        assert!(!end.is_final(), "cut {cut} of {seed:?}: {end}");
    }
    plugin.resume(&agent).await.unwrap();
    soon("all transfers", async {
        while let Some(end) = ends.join_next().await {
            end.unwrap();
        }
    })
    .await;
    let _late = TcpStream::connect((address, PORT)).await.unwrap();
    assert_eq!(plugin.accepted().await.0, 5);
}

#[tokio::test]
async fn a_transport_that_takes_nothing_more_is_replaced_at_once() {
    let agent = InProcess::start(config(&[]));
    let transport = agent
        .faulty(Faults {
            stuck_after: 20_000,
            ..Faults::default()
        })
        .await;
    let stuck = transport.stuck.clone();
    let mut plugin = agent.attach_over(transport).await;
    let (targets, port) = upstream().await;
    let mut ends = JoinSet::new();
    ends.spawn(exchange("plugin", plugin.dial("127.0.0.1", port).await.unwrap()));
    let (target, _) = soon("the dial", targets.accept()).await.unwrap();
    ends.spawn(exchange("upstream", target));

    soon("the stuck transport", stuck.notified()).await;
    let start = Instant::now();
    plugin.resume(&agent).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    soon("both transfers", async {
        while let Some(end) = ends.join_next().await {
            end.unwrap();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn people_read_that_the_session_goes_on() {
    let mut agent = InProcess::start(config(&[(GRACE, "7")]));
    let mut plugin = agent.attach().await;
    plugin.line("attached").await;
    for _ in 0..3 {
        plugin.lose_transport().await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        plugin.resume(&agent).await.unwrap();
        plugin.line("resumed").await;
    }
    plugin.link.goodbye();
    assert_eq!(agent.exit().await, Exit::Goodbye);
}

#[tokio::test(start_paused = true)]
async fn an_older_transport_of_the_session_is_stale() {
    let agent = InProcess::start(config(&[]));
    let mut plugin = agent.attach().await;
    plugin.resume(&agent).await.unwrap();
    let mut late = plugin.hello.clone();
    for number in [1, 2] {
        late.transport = number;
        let mut transport = agent.transport().await;
        let error = transport.hello(&late).await.unwrap_err();
        assert!(matches!(error, HelloError::Refused(Verdict::Stale)), "{error}");
        let told = line(&mut transport.lines, "attach refused").await;
        assert!(told.contains("has a newer connection of this session"), "{told}");
    }
    let refused = plugin.dial("169.254.0.1", 80).await.unwrap_err();
    refused.refusal().expect("the newest transport is served");
}

#[tokio::test(start_paused = true)]
async fn a_past_that_the_agent_does_not_know_cannot_be_resumed() {
    let mut agent = InProcess::start(config(&[]));
    let mut survivor = hello();
    survivor.received = 1;
    // Neither an agent that is new nor one with another session can have the bytes that follow.
    for expected in [Verdict::Over, Verdict::Replaced] {
        let error = agent.transport().await.hello(&survivor).await.unwrap_err();
        assert!(
            matches!(error, HelloError::Refused(verdict) if verdict == expected),
            "{error}"
        );
        let plugin = agent.attach().await;
        plugin.dial("169.254.0.1", 80).await.unwrap_err();
    }
    agent.shutdown.cancel();
    agent.exit().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_broke_is_over_and_a_new_one_may_begin() {
    let agent = InProcess::start(config(&[]));
    let mut hello = hello();
    let mut transport = agent.transport().await;
    transport.hello(&hello).await.unwrap();
    let mut frame = BytesMut::new();
    Frame::Ack { position: u64::MAX }.encode(&mut frame);
    transport.writer.write_all(&frame).await.unwrap();
    soon("the end", async {
        while transport.lines.recv().await.is_some() {}
    })
    .await;

    hello.transport += 1;
    let error = agent.transport().await.hello(&hello).await.unwrap_err();
    assert!(matches!(error, HelloError::Refused(Verdict::Over)), "{error}");
    let mut plugin = agent.attach().await;
    plugin.link.goodbye();
    let end = plugin.ended().await;
    assert!(matches!(end, TransportEnd::Goodbye), "{end}");
}
