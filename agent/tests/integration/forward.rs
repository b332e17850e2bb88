//! Streams that the agent dials.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tunnel_agent::config::{ALLOW_TARGETS, HOSTS};
use tunnel_wire::{Open, Protocol, RefusalCode};

use crate::support::{InProcess, config, soon, upstream};

#[tokio::test]
async fn half_close_delivers_the_reply() {
    let agent = InProcess::start(config(&[]));
    let plugin = agent.attach().await;
    let (listener, port) = upstream().await;
    let mut stream = plugin.dial("127.0.0.1", port).await.unwrap();
    let (mut upstream, _) = soon("the dial", listener.accept()).await.unwrap();

    stream.write_all(b"request").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut request = Vec::new();
    soon("the request", upstream.read_to_end(&mut request))
        .await
        .unwrap();
    assert_eq!(request, b"request");

    let reply = vec![b'x'; 1024 * 1024];
    let (sent, received) = tokio::join!(
        async {
            upstream.write_all(&reply).await.unwrap();
            upstream.shutdown().await.unwrap();
        },
        async {
            let mut received = Vec::new();
            soon("the reply", stream.read_to_end(&mut received))
                .await
                .unwrap();
            received
        }
    );
    let () = sent;
    assert!(received == reply, "{} bytes arrived", received.len());
    assert_eq!(
        upstream.read(&mut [0]).await.unwrap(),
        0,
        "a clean end, not a reset"
    );
}

#[tokio::test]
async fn bytes_may_follow_the_open_at_once() {
    let agent = InProcess::start(config(&[]));
    let plugin = agent.attach().await;
    let (listener, port) = upstream().await;
    let mut stream = plugin
        .session
        .open(&Open::Dial {
            protocol: Protocol::Tcp,
            patience_ms: 0,
            host: "127.0.0.1".into(),
            port,
        })
        .await
        .unwrap();
    stream.write_all(b"early").await.unwrap();
    stream.shutdown().await.unwrap();
    let (mut upstream, _) = soon("the dial", listener.accept()).await.unwrap();
    let mut request = String::new();
    soon("the request", upstream.read_to_string(&mut request))
        .await
        .unwrap();
    assert_eq!(request, "early");
}

#[tokio::test]
async fn a_name_of_the_hosts_file_is_dialled() {
    let (listener, port) = upstream().await;
    let path = std::env::temp_dir().join(format!("tunnel-agent-hosts-{}", std::process::id()));
    std::fs::write(&path, "127.0.0.1 web.dev\n").unwrap();
    let agent = InProcess::start(config(&[(HOSTS, path.to_str().unwrap())]));
    std::fs::remove_file(&path).unwrap();
    let plugin = agent.attach().await;
    let _stream = plugin.dial("web.dev", port).await.unwrap();
    soon("the dial", listener.accept()).await.unwrap();
}

#[tokio::test]
async fn refusals_name_the_address_and_the_reason() {
    let agent = InProcess::start(config(&[(ALLOW_TARGETS, "127.0.0.1")]));
    let plugin = agent.attach().await;
    let (listener, port) = upstream().await;
    drop(listener);

    let refused = plugin.dial("127.0.0.1", port).await.unwrap_err();
    assert_eq!(refused.code(), RefusalCode::ConnectionRefused);
    assert_eq!(
        refused.refusal().unwrap().detail,
        format!("dial 127.0.0.1:{port}: connection refused")
    );

    let denied = plugin.dial("127.0.0.2", 80).await.unwrap_err();
    assert_eq!(denied.code(), RefusalCode::NotAllowed);
    assert_eq!(
        denied.refusal().unwrap().detail,
        "dial 127.0.0.2:80: a loopback address is not allowed"
    );

    let accepted = Open::Accepted {
        protocol: Protocol::Tcp,
        listener: 0,
        peer: "127.0.0.1:1".parse().unwrap(),
    };
    assert_eq!(
        plugin.open(&accepted).await.unwrap_err().code(),
        RefusalCode::Unsupported
    );
}

#[tokio::test]
async fn an_upstream_that_resets_aborts_its_stream() {
    let agent = InProcess::start(config(&[]));
    let plugin = agent.attach().await;
    let (listener, port) = upstream().await;
    let mut stream = plugin.dial("127.0.0.1", port).await.unwrap();
    let (mut upstream, _) = soon("the dial", listener.accept()).await.unwrap();
    upstream.write_all(b"half an ans").await.unwrap();
    let mut start = [0; 11];
    soon("the start", stream.read_exact(&mut start)).await.unwrap();
    upstream.set_zero_linger().unwrap();
    drop(upstream);
    let error = soon("the end", stream.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    assert!(error.to_string().contains("connection reset"), "{error}");
}

#[tokio::test]
async fn an_aborted_stream_resets_its_upstream() {
    let agent = InProcess::start(config(&[]));
    let plugin = agent.attach().await;
    let (listener, port) = upstream().await;
    let mut stream = plugin.dial("127.0.0.1", port).await.unwrap();
    let (mut upstream, _) = soon("the dial", listener.accept()).await.unwrap();
    stream.write_all(b"half a req").await.unwrap();
    let mut start = [0; 10];
    soon("the start", upstream.read_exact(&mut start)).await.unwrap();
    stream.abort("the test gives up");
    let error = soon("the end", upstream.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_aborted_stream_resets_even_an_upstream_that_does_not_read() {
    let agent = InProcess::start(config(&[]));
    let plugin = agent.attach().await;
    let (listener, port) = upstream().await;
    let mut stream = plugin.dial("127.0.0.1", port).await.unwrap();
    let (upstream, _) = soon("the dial", listener.accept()).await.unwrap();
    // Until the agent itself is stuck: the kernel's buffers and the stream's window are full.
    let stuck = std::time::Duration::from_millis(300);
    while let Ok(written) = tokio::time::timeout(stuck, stream.write(&[b'x'; 16 * 1024])).await {
        written.unwrap();
    }
    stream.abort("the test gives up");
    let error = soon("the end", async {
        loop {
            upstream.ready(tokio::io::Interest::ERROR).await.unwrap();
            if let Some(error) = upstream.take_error().unwrap() {
                return error;
            }
        }
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn many_streams_do_not_mix_and_a_stalled_one_stops_only_itself() {
    let agent = InProcess::start(config(&[]));
    let plugin = agent.attach().await;
    let (listener, port) = upstream().await;
    let mut upstreams = JoinSet::new();
    upstreams.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let (mut reader, mut writer) = tcp.split();
                drop(tokio::io::copy(&mut reader, &mut writer).await);
                drop(writer.shutdown().await);
            });
        }
    });
    let mut stalled = plugin.dial("127.0.0.1", port).await.unwrap();
    let stuck = std::time::Duration::from_millis(300);
    while let Ok(written) = tokio::time::timeout(stuck, stalled.write(&[b's'; 16 * 1024])).await {
        written.unwrap();
    }
    let mut streams = JoinSet::new();
    for number in 0..100_u8 {
        let mut stream = plugin.dial("127.0.0.1", port).await.unwrap();
        streams.spawn(async move {
            let sent = vec![number; 200_000];
            let (mut reader, mut writer) = tokio::io::split(&mut stream);
            let mut received = Vec::new();
            let (wrote, read) = tokio::join!(
                async {
                    writer.write_all(&sent).await?;
                    writer.shutdown().await
                },
                reader.read_to_end(&mut received)
            );
            wrote.unwrap();
            read.unwrap();
            assert!(received == sent, "stream {number}");
        });
    }
    soon("all streams", async {
        while let Some(stream) = streams.join_next().await {
            stream.unwrap();
        }
    })
    .await;
}
