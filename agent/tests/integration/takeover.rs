//! Two plugins and one agent: the newer one wins once it has proven the secret, and never before.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tunnel_agent::Exit;
use tunnel_agent::config::BIND;
use tunnel_wire::hello::{HelloError, Secret, Verdict};
use tunnel_wire::link::TransportEnd;
use tunnel_wire::{Open, Protocol};

use crate::support::{Faults, InProcess, address, config, hello, soon, upstream};

const PORT: u16 = 20_000;

#[tokio::test]
async fn a_newer_plugin_wins_and_the_older_ones_streams_are_reset() {
    let address = address();
    let agent = InProcess::start(config(&[(BIND, &address.to_string())]));
    let mut older = agent.attach().await;
    let listen = Open::Listen {
        protocol: Protocol::Tcp,
        listener: 5,
        port: PORT,
    };
    let _listener = older.open(&listen).await.unwrap();
    let mut caller = TcpStream::connect((address, PORT)).await.unwrap();
    let (_, _, mut exposed) = older.accepted().await;
    exposed.accept().await.unwrap();
    let (targets, port) = upstream().await;
    let mut stream = older.dial("127.0.0.1", port).await.unwrap();
    let (mut target, _) = soon("the dial", targets.accept()).await.unwrap();

    let mut thief = hello();
    thief.secret = Secret::new([8; 32]);
    let error = agent.transport().await.hello(&thief).await.unwrap_err();
    assert!(matches!(error, HelloError::Refused(Verdict::Secret)), "{error}");
    let mut echo = [0; 4];
    stream.write_all(b"ping").await.unwrap();
    soon("a ping", target.read_exact(&mut echo)).await.unwrap();
    caller.write_all(b"ping").await.unwrap();
    soon("a ping", exposed.read_exact(&mut echo)).await.unwrap();

    let mut newer = agent.attach().await;
    older.line("taken over by another plugin").await;
    let end = older.ended().await;
    assert!(matches!(end, TransportEnd::Evicted), "{end}");
    soon("the stream's end", stream.read(&mut echo))
        .await
        .unwrap_err();
    for edge in [&mut target, &mut caller] {
        let error = soon("the reset", edge.read(&mut echo)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    let _listener = newer.open(&listen).await.unwrap();
    let _caller = TcpStream::connect((address, PORT)).await.unwrap();
    assert_eq!(newer.accepted().await.0, 5);
}

#[tokio::test(start_paused = true)]
async fn an_evicted_plugin_cannot_come_back() {
    let mut agent = InProcess::start(config(&[]));
    let mut older = hello();
    drop(agent.transport().await.hello(&older).await.unwrap());
    let newer = agent.attach().await;
    // Like a plugin that is new, it has not received a byte.
    older.transport += 1;
    let error = agent.transport().await.hello(&older).await.unwrap_err();
    assert!(matches!(error, HelloError::Refused(Verdict::Replaced)), "{error}");
    newer.link.goodbye();
    assert_eq!(agent.exit().await, Exit::Goodbye);
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_takes_nothing_more_is_evicted_all_the_same() {
    let agent = InProcess::start(config(&[]));
    let mut dead = hello();
    dead.transport = 3;
    let hello_length = dead.encode().len();
    let mut older = agent
        .faulty(Faults {
            stuck_after: hello_length,
            ..Faults::default()
        })
        .await;
    older.hello(&dead).await.unwrap();
    soon("the stuck transport", older.stuck.notified()).await;
    let start = Instant::now();
    let newer = agent.attach().await;
    let refused = newer.dial("169.254.0.1", 80).await.unwrap_err();
    refused.refusal().expect("the newer one is served");
    assert!(
        start.elapsed() < Duration::from_millis(100),
        "{:?}",
        start.elapsed()
    );
    soon("the end", async { while older.lines.recv().await.is_some() {} }).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}
