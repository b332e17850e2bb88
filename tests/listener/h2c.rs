//! HTTP/2 without TLS, by the `:authority` of its first request.

use std::time::Duration;

use tunnel_wire::RefusalCode;

use crate::support::{Peer, World, options};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const ACKNOWLEDGEMENT: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 0];
/// SETTINGS with a window's size, and an update of the connection's window.
const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\x01\0\0\0\0\x04\x08\0\0\0\0\0\0\x01\0\0";

/// HEADERS of a GET on stream 1, the authority as a literal.
fn headers(authority: &str, more: &[u8]) -> Vec<u8> {
    let length = u8::try_from(authority.len()).unwrap();
    let block = [&[0x82, 0x86, 0x84, 0x41, length], authority.as_bytes(), more].concat();
    let length = u8::try_from(block.len()).unwrap();
    [&[0, 0, length, 1, 5, 0, 0, 0, 1], &block[..]].concat()
}

/// All that a program sends which does not wait for the server.
pub(crate) fn opening(authority: &str) -> Vec<u8> {
    [PREFACE, SETTINGS, &headers(authority, &[])].concat()
}

/// The text of a GOAWAY with that code, which must be all there is but the SETTINGS in front of it.
pub(crate) async fn goaway(program: &mut Peer, code: u8) -> String {
    let bytes = program.rest().await.unwrap();
    let goaway = bytes
        .strip_prefix(EMPTY_SETTINGS)
        .expect("a server's first frame is SETTINGS");
    assert_eq!(goaway[3..5], [7, 0], "{goaway:?}");
    assert_eq!(
        goaway[13..17],
        [0, 0, 0, code],
        "{}",
        String::from_utf8_lossy(&goaway[17..])
    );
    let length = usize::from(goaway[1]) << 8 | usize::from(goaway[2]);
    assert_eq!(goaway.len(), 9 + length);
    String::from_utf8(goaway[17..].to_vec()).unwrap()
}

#[tokio::test]
async fn every_byte_goes_to_the_first_authority() {
    let world = World::new().await;
    for (authority, target) in [
        ("web", "web:80"),
        ("api.dev.svc:8080", "api.dev.svc:8080"),
        ("web.localhost:8081", "web:8081"),
    ] {
        let web = world.upstream(target).await;
        let bytes = opening(authority);
        let mut program = world.send(&bytes).await;
        let mut upstream = web.accept().await;
        assert_eq!(upstream.exactly(bytes.len()).await, bytes);
        // The server speaks for itself, and other authorities follow the first.
        upstream.write(EMPTY_SETTINGS).await;
        assert_eq!(program.exactly(9).await, EMPTY_SETTINGS);
        let more = [ACKNOWLEDGEMENT, &headers("other", &[])].concat();
        program.write(&more).await;
        assert_eq!(upstream.exactly(more.len()).await, more);
        program.shutdown().await;
        assert_eq!(upstream.rest().await.unwrap(), b"");
        upstream.write("end").await;
        upstream.shutdown().await;
        assert_eq!(program.rest().await.unwrap(), b"end");
    }
}

#[tokio::test]
async fn it_may_come_byte_by_byte_and_in_huffman() {
    let world = World::new().await;
    // www.example.com in the code of RFC 7541, C.4.1: understood, and nothing of the cluster.
    let block = b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
    let frame = [&[0, 0, 17, 1, 5, 0, 0, 0, 1], &block[..]].concat();
    let mut program = world.send([PREFACE, SETTINGS, &frame].concat()).await;
    let text = goaway(&mut program, 7).await;
    assert!(
        text.contains("`www.example.com` names nothing in the cluster"),
        "{text}"
    );
    let web = world.upstream("web:80").await;
    let mut program = world.connect().await;
    program.dribble(opening("web")).await;
    let mut upstream = web.accept().await;
    let whole = upstream.exactly(opening("web").len()).await;
    assert_eq!(whole, opening("web"));
}

/// As grpc-go does: no request before the server's SETTINGS.
#[tokio::test]
async fn a_program_that_waits_for_settings_gets_some() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    for acknowledged_first in [true, false] {
        let mut program = world.send([PREFACE, SETTINGS].concat()).await;
        assert_eq!(program.exactly(9).await, EMPTY_SETTINGS);
        let request = headers("web", &[]);
        let (first, second) = if acknowledged_first {
            (ACKNOWLEDGEMENT, &request[..])
        } else {
            (&request[..], ACKNOWLEDGEMENT)
        };
        program.write(first).await;
        program.write(second).await;
        let mut upstream = web.accept().await;
        // Without the acknowledgement of SETTINGS that it never sent.
        let bytes = opening("web");
        assert_eq!(upstream.exactly(bytes.len()).await, bytes);
        upstream.write(EMPTY_SETTINGS).await;
        assert_eq!(program.exactly(9).await, EMPTY_SETTINGS);
        program.write(ACKNOWLEDGEMENT).await;
        assert_eq!(upstream.exactly(9).await, ACKNOWLEDGEMENT);
    }
}

#[tokio::test]
async fn names_of_others_and_pages_of_other_sites_get_nothing() {
    let world = World::new().await;
    for authority in [
        "evil.example",
        "127.0.0.1:6080",
        "10.0.0.7",
        "localhost",
        "user@web",
    ] {
        let mut program = world.send(opening(authority)).await;
        let text = goaway(&mut program, 7).await;
        assert!(text.contains("names nothing in the cluster"), "{text}");
    }
    let origin = b"\x00\x06origin\x13http://evil.example";
    let mut program = world
        .send([PREFACE, SETTINGS, &headers("web", origin)].concat())
        .await;
    let text = goaway(&mut program, 7).await;
    assert!(text.contains("a web page of another site"), "{text}");
    assert!(world.opened().is_empty());
}

#[tokio::test]
async fn what_is_not_reached_is_told_in_a_goaway() {
    let world = World::new().await;
    world.fails("closed:80", RefusalCode::ConnectionRefused);
    for (name, reason) in [("nobody", "no such host"), ("closed", "connection refused")] {
        let mut program = world.send(opening(name)).await;
        let text = goaway(&mut program, 10).await;
        assert!(text.contains(reason) && text.contains("next: "), "{text}");
    }
}

#[tokio::test]
async fn what_is_no_opening_is_refused() {
    let world = World::new().await;
    for (bytes, code) in [
        (&b"PRI * HTTP/2.0\r\n\r\nXX"[..], 1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x01\x05\0\0\0\x01", 1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\0\0\x04\0\0\0\0\0", 6),
    ] {
        let mut program = world.send(bytes).await;
        goaway(&mut program, code).await;
    }
    let broken = [PREFACE, SETTINGS, &[0, 0, 1, 1, 5, 0, 0, 0, 1, 0xbe]].concat();
    let mut program = world.send(broken).await;
    goaway(&mut program, 9).await;
    assert!(world.opened().is_empty());
}

#[tokio::test]
async fn a_request_that_does_not_come_ends_the_connection() {
    let mut options = options();
    options.limits.head = Duration::from_millis(200);
    let world = World::with(options).await;
    let mut silent = world.send([PREFACE, SETTINGS].concat()).await;
    let text = goaway(&mut silent, 0).await;
    assert!(text.contains("no request came in time"), "{text}");
    // Our SETTINGS are never acknowledged.
    let mut program = world.send([PREFACE, SETTINGS].concat()).await;
    assert_eq!(program.exactly(9).await, EMPTY_SETTINGS);
    program.write(headers("web", &[])).await;
    let bytes = program.rest().await.unwrap();
    assert_eq!(bytes[3], 7);
    assert_eq!(bytes[9..17], [0, 0, 0, 1, 0, 0, 0, 4]);
    assert!(world.opened().is_empty());
}

#[tokio::test]
async fn a_drain_ends_a_connection_without_requests() {
    let mut world = World::new().await;
    let mut program = world.send([PREFACE, SETTINGS].concat()).await;
    assert_eq!(program.exactly(9).await, EMPTY_SETTINGS);
    world.drain.cancel();
    let bytes = program.rest().await.unwrap();
    assert_eq!((bytes[3], &bytes[13..17]), (7, &[0, 0, 0, 0][..]));
    world.ended().await;
}

/// An upgrade is HTTP/1 until the upstream changes it.
#[tokio::test]
async fn an_upgrade_works_as_before() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let request = "GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                   HTTP2-Settings: AAMAAABk\r\n\r\n";
    let mut program = world.send(request).await;
    let (mut upstream, head) = web.request().await;
    assert_eq!(head, request);
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    upstream.write(answer).await;
    program.expect(answer).await;
    program.write(PREFACE).await;
    assert_eq!(upstream.exactly(PREFACE.len()).await, PREFACE);
}
