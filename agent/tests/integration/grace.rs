//! Without a transport: how long the agent stays, and what callers of exposed ports get meanwhile.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tunnel_agent::Exit;
use tunnel_agent::config::{BIND, GRACE, GRACE_OPEN, HOLD};
use tunnel_wire::{Open, Protocol, Stream};

use crate::support::{InProcess, Plugin, address, config, soon, upstream};

const PORT: u16 = 20_000;

/// An agent with a listener, which has lost its transport.
async fn detached(address: IpAddr, vars: &[(&str, &str)]) -> (InProcess, Plugin, Stream) {
    let address = address.to_string();
    let mut vars = vars.to_vec();
    vars.push((BIND, &address));
    let agent = InProcess::start(config(&vars));
    let mut plugin = agent.attach().await;
    let listener = plugin
        .open(&Open::Listen {
            protocol: Protocol::Tcp,
            listener: 5,
            port: PORT,
        })
        .await
        .unwrap();
    plugin.lose_transport().await;
    (agent, plugin, listener)
}

#[tokio::test]
async fn an_open_connection_is_kept_for_its_own_grace_period() {
    let mut agent = InProcess::start(config(&[(GRACE, "7"), (GRACE_OPEN, "70")]));
    let mut plugin = agent.attach().await;
    let (targets, port) = upstream().await;
    let _stream = plugin.dial("127.0.0.1", port).await.unwrap();
    let (mut target, _) = soon("the dial", targets.accept()).await.unwrap();

    tokio::time::pause();
    plugin.lose_transport().await;
    let left = Instant::now();
    let exit = tokio::time::timeout(Duration::from_secs(100), agent.wait()).await;
    assert_eq!(exit.unwrap(), Exit::GraceOver { open: true });
    let stayed = left.elapsed();
    assert!((70..71).contains(&stayed.as_secs()), "{stayed:?}");
    tokio::time::resume();
    let error = soon("the reset", target.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_listener_is_no_connection() {
    let vars = [(GRACE, "7"), (GRACE_OPEN, "70")];
    let (mut agent, _plugin, _listener) = detached(address(), &vars).await;
    tokio::time::pause();
    let left = Instant::now();
    assert_eq!(agent.exit().await, Exit::GraceOver { open: false });
    let stayed = left.elapsed();
    assert!((6..8).contains(&stayed.as_secs()), "{stayed:?}");
}

#[tokio::test]
async fn a_caller_is_held_and_then_reset() {
    let address = address();
    let (_agent, _plugin, _listener) = detached(address, &[(HOLD, "1")]).await;
    let start = Instant::now();
    let mut caller = TcpStream::connect((address, PORT)).await.unwrap();
    let error = soon("the reset", caller.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn callers_that_waited_are_served_and_those_that_left_are_not() {
    let address = address();
    let (agent, mut plugin, _listener) = detached(address, &[]).await;
    drop(TcpStream::connect((address, PORT)).await.unwrap());
    let mut caller = TcpStream::connect((address, PORT)).await.unwrap();
    caller.write_all(b"request").await.unwrap();
    caller.shutdown().await.unwrap();

    plugin.resume(&agent).await.unwrap();
    let (_, peer, mut stream) = plugin.accepted().await;
    assert_eq!(peer, caller.local_addr().unwrap());
    stream.accept().await.unwrap();
    let mut request = String::new();
    soon("the request", stream.read_to_string(&mut request))
        .await
        .unwrap();
    assert_eq!(request, "request");
    stream.write_all(b"reply").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut reply = String::new();
    soon("the reply", caller.read_to_string(&mut reply))
        .await
        .unwrap();
    assert_eq!(reply, "reply");
}
