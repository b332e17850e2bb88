//! Every message, to fixed bytes and back, in any pieces; and what is none.

use super::*;

fn all() -> Vec<Message> {
    vec![
        open(Protocol::Tcp),
        Message::Open(Open::Listen {
            protocol: Protocol::Tcp,
            listener: 1,
            port: 20_001,
        }),
        Message::Open(Open::Accepted {
            protocol: Protocol::Tcp,
            listener: 1,
            peer: "10.1.2.3:4567".parse().unwrap(),
        }),
        Message::Open(Open::Accepted {
            protocol: Protocol::Udp,
            listener: 2,
            peer: "[fd00::1]:4567".parse().unwrap(),
        }),
        Message::Seen,
        Message::Opened(None),
        Message::Refused(Refusal::new(
            RefusalCode::ConnectionRefused,
            "dial 10.0.0.1:9: connection refused",
        )),
        Message::Data(Bytes::from_static(b"bytes")),
        Message::Grant(65_536),
        Message::End,
        Message::Abort("gone".to_owned()),
        open(Protocol::Udp),
        Message::Open(Open::Listen {
            protocol: Protocol::Udp,
            listener: 1,
            port: 20_001,
        }),
        Message::Opened(Some("10.0.0.7:80".parse().unwrap())),
        Message::Opened(Some("[fd00::1]:80".parse().unwrap())),
    ]
}

fn open(protocol: Protocol) -> Message {
    Message::Open(Open::Dial {
        protocol,
        host: "web.dev".to_owned(),
        port: 80,
        patience_ms: 2_500,
    })
}

fn encode(message: &Message) -> BytesMut {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    out
}

#[test]
fn fixed_vectors() {
    let hex = |message: &Message| crate::hex(&encode(message));
    let all = all();
    assert_eq!(hex(&all[0]), "0100000c01005009c47765622e646576");
    assert_eq!(hex(&all[1]), "010000050200014e21");
    assert_eq!(hex(&all[2]), "0100000903000111d70a010203");
    assert_eq!(hex(&all[4]), "02000000");
    assert_eq!(hex(&all[7]), "050000056279746573");
    assert_eq!(hex(&all[8]), "0600000400010000");
    assert_eq!(hex(&all[10]), "08000004676f6e65");
    assert_eq!(hex(&all[11]), "0100000c04005009c47765622e646576");
    assert_eq!(hex(&all[12]), "010000050500014e21");
    assert_eq!(hex(&all[13]), "0300000600500a000007");
}

#[test]
fn messages_survive_any_split() {
    let wire: Vec<u8> = all().iter().flat_map(encode).collect();
    for chunk in 1..=wire.len() {
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for piece in wire.chunks(chunk) {
            decoder.push(Bytes::copy_from_slice(piece));
            while let Some(message) = decoder.decode().unwrap() {
                seen.push(message);
            }
        }
        assert_eq!(seen, all(), "in pieces of {chunk}");
    }
}

#[test]
fn nonsense_is_an_error_and_never_a_panic() {
    for bad in [
        &[0u8, 0, 0, 0][..],
        &[9, 0, 0, 0],
        &[2, 0, 0, 1],
        &[5, 0, 0, 0],
        &[5, 0xff, 0xff, 0xff],
        &[6, 0, 0, 3],
        &[1, 0, 0, 5, 9, 0, 0, 0, 0],
        &[1, 0, 0, 6, 3, 0, 0, 0, 0, 0],
        &[1, 0, 0, 5, 7, 0, 0, 0, 0],
        &[3, 0, 0, 5],
        &[8, 0, 0, 1, 0xff],
    ] {
        let mut decoder = Decoder::default();
        decoder.push(Bytes::copy_from_slice(bad));
        assert!(decoder.decode().is_err(), "{bad:?}");
    }
    // Every short input, exhaustively in its first bytes: decoding ends without a panic.
    for kind in 0..=255u8 {
        for length in 0..24u8 {
            for fill in [0u8, 1, 2, 3, 255] {
                let mut bytes = vec![kind, 0, 0, length];
                bytes.extend(std::iter::repeat_n(fill, 24));
                let mut decoder = Decoder::default();
                decoder.push(Bytes::from(bytes));
                while let Ok(Some(_)) = decoder.decode() {}
            }
        }
    }
}
