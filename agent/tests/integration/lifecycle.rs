//! Who may attach, who replaces whom, and when the agent ends. The clock is paused: there is no real I/O here.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use tunnel_agent::Exit;
use tunnel_agent::config::{FIRST_ATTACH, GRACE};
use tunnel_wire::hello::{HELLO_TIMEOUT, Hello, HelloError, Secret, Verdict};
use tunnel_wire::link::TransportEnd;
use tunnel_wire::version::WIRE_VERSION;

use crate::support::{InProcess, SESSION, config, hello, line};

fn is_about(elapsed: Duration, expected: Duration) -> bool {
    (expected..expected + Duration::from_millis(100)).contains(&elapsed)
}

#[tokio::test(start_paused = true)]
async fn agent_exits_when_nobody_attaches() {
    let start = Instant::now();
    let mut agent = InProcess::start(config(&[]));
    assert_eq!(agent.exit().await, Exit::NeverAttached);
    assert!(is_about(start.elapsed(), FIRST_ATTACH), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_unproven_attach_does_not_count() {
    let start = Instant::now();
    let mut agent = InProcess::start(config(&[]));
    let mut transport = agent.transport().await;
    let wrong = Hello::plugin(SESSION.parse().unwrap(), Secret::new([8; 32]), 1, 1, 0);
    assert!(matches!(
        transport.hello(&wrong).await,
        Err(HelloError::Refused(Verdict::Secret))
    ));
    assert_eq!(agent.exit().await, Exit::NeverAttached);
    assert!(is_about(start.elapsed(), FIRST_ATTACH), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn agent_exits_a_grace_period_after_the_last_one_left() {
    let mut agent = InProcess::start(config(&[(GRACE, "7")]));
    let plugin = agent.attach().await;
    tokio::time::sleep(FIRST_ATTACH * 10).await;
    let left = Instant::now();
    drop(plugin);
    assert_eq!(agent.exit().await, Exit::GraceOver { open: false });
    assert!(
        is_about(left.elapsed(), Duration::from_secs(7)),
        "{:?}",
        left.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn coming_back_within_the_grace_period_keeps_the_agent() {
    let mut agent = InProcess::start(config(&[(GRACE, "7")]));
    drop(agent.attach().await);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let plugin = agent.attach().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    plugin.link.goodbye();
    assert_eq!(agent.exit().await, Exit::Goodbye);
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_is_answered_and_ends_the_agent_at_once() {
    let start = Instant::now();
    let mut agent = InProcess::start(config(&[]));
    let mut plugin = agent.attach().await;
    plugin.link.goodbye();
    let end = plugin.ended().await;
    assert!(matches!(end, TransportEnd::Goodbye), "{end}");
    assert_eq!(agent.exit().await, Exit::Goodbye);
    assert!(
        start.elapsed() < Duration::from_millis(100),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_says_goodbye_to_the_plugin() {
    let mut agent = InProcess::start(config(&[]));
    let mut plugin = agent.attach().await;
    agent.shutdown.cancel();
    let end = plugin.ended().await;
    assert!(matches!(end, TransportEnd::Goodbye), "{end}");
    assert_eq!(agent.exit().await, Exit::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_plugin_that_is_frozen() {
    let mut agent = InProcess::start(config(&[]));
    let mut transport = agent.transport().await;
    transport.hello(&hello()).await.unwrap();
    let start = Instant::now();
    agent.shutdown.cancel();
    assert_eq!(agent.exit().await, Exit::Shutdown);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_is_gone_counts_as_left() {
    let mut agent = InProcess::start(config(&[(GRACE, "7")]));
    let mut transport = agent.transport().await;
    transport.hello(&hello()).await.unwrap();
    let left = Instant::now();
    transport.gone.cancel();
    assert_eq!(agent.exit().await, Exit::GraceOver { open: false });
    assert!(
        is_about(left.elapsed(), Duration::from_secs(7)),
        "{:?}",
        left.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn silent_peer_is_declared_dead_in_time() {
    let mut agent = InProcess::start(config(&[(GRACE, "7")]));
    let mut transport = agent.transport().await;
    transport.hello(&hello()).await.unwrap();
    let start = Instant::now();
    assert_eq!(agent.exit().await, Exit::GraceOver { open: false });
    assert!(
        is_about(start.elapsed(), Duration::from_secs(15 + 7)),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_is_refused_is_told_why() {
    let agent = InProcess::start(config(&[]));
    let mut newer = hello();
    newer.version += 1;
    let newer_text = format!(
        "wire version {} at the other end, {WIRE_VERSION} here",
        newer.version
    );
    let mut stranger = hello();
    stranger.session = "other1".parse().unwrap();
    let mut thief = hello();
    thief.secret = Secret::new([8; 32]);
    for (hello, verdict, reason) in [
        (newer, Verdict::Version, newer_text.as_str()),
        (stranger, Verdict::Session, "belongs to another session"),
        (thief, Verdict::Secret, "the secret is not this session's"),
    ] {
        let mut transport = agent.transport().await;
        let error = transport.hello(&hello).await.unwrap_err();
        assert!(
            matches!(error, HelloError::Refused(told) if told == verdict),
            "{error}"
        );
        let told = line(&mut transport.lines, "attach refused").await;
        assert!(told.contains(reason) && told.contains("hint"), "{told}");
        assert_eq!(transport.lines.recv().await, None, "that attach has ended");
        assert_eq!(transport.reader.read(&mut [0]).await.unwrap(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fifth_unproven_attach_is_turned_away_and_the_four_get_5_s() {
    let agent = InProcess::start(config(&[]));
    let start = Instant::now();
    let mut unproven = Vec::new();
    for _ in 0..4 {
        unproven.push(agent.transport().await);
    }
    let mut fifth = agent.transport().await;
    assert!(
        line(&mut fifth.lines, "attach refused")
            .await
            .contains("try again")
    );
    for transport in &mut unproven {
        assert!(
            line(&mut transport.lines, "attach refused")
                .await
                .contains("no hello within 5 s")
        );
    }
    assert!(is_about(start.elapsed(), HELLO_TIMEOUT), "{:?}", start.elapsed());
    agent.attach().await;
}
