//! The framing over an in-memory WebSocket: what the node sends, what is read.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::*;

/// A pipe to port 81 and the node at its other end, which has announced both channels.
async fn pair() -> (PortForward, WebSocketStream<DuplexStream>) {
    let (near, far) = tokio::io::duplex(256 * 1024);
    let near = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    let mut node = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
    for channel in [DATA, COMPLAINT] {
        send(&mut node, &[channel, 81, 0]).await;
    }
    let complaint = |words: &Bytes| complaint("web-0".to_owned(), 81, words);
    let (incoming, outgoing, mut tasks) = messages::start(near, Head::Channel(DATA), |source, tx, _| {
        read(source, tx, complaint)
    });
    tasks.detach_all();
    (PortForward { incoming, outgoing }, node)
}

async fn send(node: &mut WebSocketStream<DuplexStream>, message: &[u8]) {
    let message = Message::Binary(Bytes::copy_from_slice(message));
    node.send(message).await.unwrap();
}

#[tokio::test]
async fn bytes_go_both_ways_without_the_ports() {
    let (mut pipe, mut node) = pair().await;
    pipe.write_all(b"ping").await.unwrap();
    assert_eq!(
        node.next().await.unwrap().unwrap().into_data().as_ref(),
        b"\0ping"
    );
    // Two bytes that are data, since the port was announced before.
    send(&mut node, b"\0\x51\0").await;
    send(&mut node, b"\0pong").await;
    node.close(None).await.unwrap();
    let mut text = Vec::new();
    pipe.read_to_end(&mut text).await.unwrap();
    assert_eq!(text, b"\x51\0pong");
}

#[tokio::test]
async fn a_complaint_is_an_error_and_no_end() {
    let (mut pipe, mut node) = pair().await;
    send(&mut node, b"\0half").await;
    let words = b"\x01error forwarding port 81 to pod 130c, uid : failed to connect to localhost:81, \
        IPv4: dial tcp4 127.0.0.1:81: connect: connection refused IPv6 no suitable address found ";
    send(&mut node, words).await;
    node.close(None).await.unwrap();
    let mut text = Vec::new();
    let error = pipe.read_to_end(&mut text).await.unwrap_err();
    assert_eq!(text, b"half");
    let error = PortForwardError::find(&error).expect("a complaint of the node");
    assert_eq!(error.to_string(), "port 81 of pod web-0: connection refused");
}

#[tokio::test]
async fn a_cut_line_is_an_error_and_no_end() {
    let close = |code| {
        Some(CloseFrame {
            code,
            reason: "".into(),
        })
    };
    for frame in [None, close(CloseCode::Error)] {
        let (mut pipe, mut node) = pair().await;
        send(&mut node, b"\0half").await;
        if frame.is_some() {
            node.close(frame).await.unwrap();
        }
        drop(node);
        let mut text = Vec::new();
        let error = pipe.read_to_end(&mut text).await.unwrap_err();
        assert_eq!(
            (text.as_slice(), error.kind()),
            (b"half".as_slice(), io::ErrorKind::UnexpectedEof)
        );
    }
}

#[tokio::test]
async fn after_the_shutdown_the_answer_can_be_read() {
    let (mut pipe, mut node) = pair().await;
    pipe.write_all(b"ask").await.unwrap();
    pipe.shutdown().await.unwrap();
    assert_eq!(node.next().await.unwrap().unwrap().into_data().as_ref(), b"\0ask");
    let quiet = tokio::time::timeout(Duration::from_millis(50), node.next()).await;
    assert!(quiet.is_err(), "the shutdown sends nothing: {quiet:?}");
    send(&mut node, b"\0answer").await;
    node.close(None).await.unwrap();
    let mut text = String::new();
    pipe.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "answer");
}

#[tokio::test]
async fn what_was_written_goes_out_although_the_pipe_is_dropped() {
    let (mut pipe, mut node) = pair().await;
    let sent = vec![7; 200_000];
    pipe.write_all(&sent).await.unwrap();
    drop(pipe);
    let mut received = 0;
    while let Some(Ok(message)) = node.next().await {
        match message {
            Message::Binary(message) => received += message.len() - 1,
            Message::Close(_) => break,
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
    assert_eq!(received, sent.len());
}

#[test]
fn a_refusal_names_the_verb_that_is_missing() {
    for (message, verb) in [
        (
            "pods \"x\" is forbidden: User \"u\" cannot get resource \"pods/portforward\"",
            "get",
        ),
        ("pods \"x\" is forbidden:", "create"),
    ] {
        let error = name_verb(ApiError::Forbidden {
            call: Call::new("get", "pods/portforward"),
            message: message.to_owned(),
        });
        assert!(
            matches!(error, ApiError::Forbidden { call, .. } if call.verb == verb),
            "{message}"
        );
    }
}

/// Only then may another pod have the bytes.
#[test]
fn only_a_connection_that_never_was_may_be_tried_again() {
    for (words, connected) in [
        (
            "failed to execute portforward in network namespace \"/x\": failed to connect to localhost:81 inside \
             namespace \"y\", IPv4: dial tcp4 127.0.0.1:81: connect: connection refused",
            false,
        ),
        (
            "failed to connect to localhost:7070 inside namespace a1b2: i/o timeout",
            false,
        ),
        ("failed to find sandbox \"x\" in store: not found", false),
        ("sandbox container \"x\" is not running", false),
        ("network namespace for sandbox \"x\" is closed", false),
        ("No such container: x", false),
        ("write tcp4 127.0.0.1:1->127.0.0.1:81: write: broken pipe", true),
        (
            "read tcp4 127.0.0.1:1->127.0.0.1:81: read: connection reset by peer",
            true,
        ),
        ("something else", true),
    ] {
        let error = complaint("web-0".to_owned(), 81, &Bytes::from(words));
        assert_eq!(error.connected, connected, "{words}");
    }
}
