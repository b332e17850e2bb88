//! The frames, and a node that speaks them at the other end of an in-memory WebSocket.

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::super::super::messages::{self, Head, Incoming, Outgoing};
use super::*;

fn data(stream: u32, last: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap();
    let mut out = stream.to_be_bytes().to_vec();
    out.extend((u32::from(last) << 24 | length).to_be_bytes());
    out.extend(bytes);
    out
}

fn control(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = VERSION.to_be_bytes().to_vec();
    out.extend(kind.to_be_bytes());
    out.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    out.extend(payload);
    out
}

/// All parts, with the data of neighbours joined.
fn parts(wire: &[u8], piece: usize) -> Vec<Part> {
    let mut frames = Frames::new();
    let mut out: Vec<Part> = Vec::new();
    for piece in wire.chunks(piece) {
        frames.push(Bytes::copy_from_slice(piece));
        while let Some(part) = frames.next() {
            match (out.last_mut(), part) {
                (
                    Some(Part::Data { stream, bytes }),
                    Part::Data {
                        stream: same,
                        bytes: more,
                    },
                ) if *stream == same => *bytes = Bytes::from([bytes.as_ref(), more.as_ref()].concat()),
                (_, part) => out.push(part),
            }
        }
    }
    out
}

#[test]
fn frames_are_understood_however_they_are_cut() {
    let wire = [
        control(4, b""),
        control(2, &[0, 0, 0, 3, 1, 2, 3, 4, 5]),
        data(DATA, 0, b"one"),
        control(PING, &[0, 0, 0, 2]),
        data(DATA, 0, b""),
        data(ERROR, 1, b""),
        data(DATA, 1, b"two"),
        control(RST_STREAM, &[0, 0, 0, 3, 0, 0, 0, 1]),
        control(GOAWAY, &[0; 8]),
    ]
    .concat();
    let expected = [
        Part::Data {
            stream: DATA,
            bytes: Bytes::from_static(b"one"),
        },
        Part::Ping { id: 2 },
        Part::End { stream: ERROR },
        Part::Data {
            stream: DATA,
            bytes: Bytes::from_static(b"two"),
        },
        Part::End { stream: DATA },
        Part::Reset { stream: DATA },
        Part::GoAway,
    ];
    for piece in 1..=wire.len() {
        assert_eq!(parts(&wire, piece), expected, "in pieces of {piece}");
    }
}

/// Taken from a node of 1.35, which reads it: both streams with their headers as stored blocks.
#[test]
fn the_opening_is_what_a_node_understands() {
    let opening = opening(7007);
    let mut expected = control(SYN_STREAM, &[0; 10]);
    expected[11] = 1;
    let headers = [
        [0, 0, 0, 3, 0, 0, 0, 10].as_slice(),
        b"streamtype\0\0\0\x05error\0\0\0\x04port\0\0\0\x047007\0\0\0\x09requestid\0\0\0\x010",
    ]
    .concat();
    let length = u16::try_from(headers.len()).unwrap();
    expected.extend(ZLIB_HEAD);
    expected.push(0);
    expected.extend(length.to_le_bytes());
    expected.extend((!length).to_le_bytes());
    expected.extend(headers);
    expected.extend(ZLIB_FLUSH);
    let rest = expected.len() - HEAD;
    expected[4..8].copy_from_slice(&u32::try_from(rest).unwrap().to_be_bytes());
    assert_eq!(opening[..expected.len()], expected);
    assert_eq!(opening[expected.len()..][..HEAD], data(ERROR, LAST, b""));
    let second = &opening[expected.len() + HEAD..];
    assert_eq!(second[..4], [0x80, 3, 0, 1]);
    assert_eq!(second[HEAD..][..4], DATA.to_be_bytes());
    // The zlib stream goes on: it has one head.
    assert_eq!(second[HEAD + 10], 0);
}

type Node = WebSocketStream<DuplexStream>;

async fn pair() -> (Incoming, Outgoing, Node) {
    let (near, far) = tokio::io::duplex(256 * 1024);
    let near = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    let node = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
    let complaint = |words: &Bytes| super::super::complaint("web-0".to_owned(), 81, words);
    let (incoming, outgoing, mut tasks) = messages::start(near, Head::Stream(DATA), |source, tx, aside| {
        read(source, tx, aside, complaint)
    });
    tasks.detach_all();
    (incoming, outgoing, node)
}

async fn send(node: &mut Node, message: Vec<u8>) {
    node.send(Message::Binary(message.into())).await.unwrap();
}

async fn receive(node: &mut Node) -> Vec<u8> {
    node.next().await.unwrap().unwrap().into_data().to_vec()
}

#[tokio::test]
async fn bytes_go_both_ways_and_pings_are_answered() {
    let (mut incoming, mut outgoing, mut node) = pair().await;
    outgoing.write_all(b"ping").await.unwrap();
    assert_eq!(receive(&mut node).await, data(DATA, 0, b"ping"));
    send(&mut node, control(PING, &[0, 0, 0, 2])).await;
    assert_eq!(receive(&mut node).await, control(PING, &[0, 0, 0, 2]));
    // An answer to a ping of ours is none that wants one.
    send(&mut node, control(PING, &[0, 0, 0, 1])).await;
    let pong = data(DATA, 0, b"pong");
    for byte in pong {
        send(&mut node, vec![byte]).await;
    }
    send(
        &mut node,
        [data(DATA, LAST, b"!"), data(ERROR, LAST, b"")].concat(),
    )
    .await;
    let mut text = Vec::new();
    incoming.read_to_end(&mut text).await.unwrap();
    assert_eq!(text, b"pong!");
}

#[tokio::test(start_paused = true)]
async fn a_complaint_may_come_behind_the_end_of_the_data() {
    for cut in [1, 20, 400] {
        let (mut incoming, _outgoing, mut node) = pair().await;
        let words = b"error forwarding port 81 to pod 130c, uid : dial tcp4 127.0.0.1:81: connect: connection refused";
        let wire = [
            data(DATA, LAST, b""),
            data(ERROR, 0, words),
            data(ERROR, LAST, b""),
        ]
        .concat();
        for piece in wire.chunks(cut) {
            send(&mut node, piece.to_vec()).await;
        }
        let error = incoming.read_u8().await.unwrap_err();
        let error = PortForwardError::find(&error).expect("a complaint of the node");
        assert_eq!(error.to_string(), "port 81 of pod web-0: connection refused");
    }
}

/// Without a second stream's end there may be a complaint still; with it, in either order, nothing is waited for.
#[tokio::test(start_paused = true)]
async fn an_end_of_the_data_is_an_end() {
    let (all, none) = (data(DATA, LAST, b"all"), data(ERROR, LAST, b""));
    for (wire, wait) in [
        ([all.clone(), none.clone()].concat(), Duration::ZERO),
        ([none, all.clone()].concat(), Duration::ZERO),
        (all, COMPLAINT_WAIT),
    ] {
        let (mut incoming, _outgoing, mut node) = pair().await;
        let start = tokio::time::Instant::now();
        send(&mut node, wire).await;
        let mut text = Vec::new();
        incoming.read_to_end(&mut text).await.unwrap();
        assert_eq!(text, b"all");
        assert_eq!(start.elapsed(), wait);
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_is_an_error_and_no_end() {
    for last in [
        control(RST_STREAM, &[0, 0, 0, 3, 0, 0, 0, 1]),
        control(GOAWAY, &[0; 8]),
        Vec::new(),
    ] {
        let (mut incoming, _outgoing, mut node) = pair().await;
        send(&mut node, data(DATA, 0, b"half")).await;
        if last.is_empty() {
            node.close(None).await.unwrap();
        } else {
            send(&mut node, last).await;
        }
        let mut text = Vec::new();
        let error = incoming.read_to_end(&mut text).await.unwrap_err();
        assert_eq!(
            (text.as_slice(), error.kind()),
            (b"half".as_slice(), io::ErrorKind::UnexpectedEof)
        );
    }
}
