//! CONNECT and SOCKS5: an answer after the dial, then raw bytes.

use tunnel_wire::RefusalCode;

use crate::support::{Peer, World};

const CONNECT: &str = "CONNECT web:443 HTTP/1.1\r\nHost: web:443\r\n\r\n";
const CONNECTED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

#[tokio::test]
async fn connect_carries_any_bytes() {
    let world = World::new().await;
    let web = world.upstream("web:443").await;
    let mut program = world.send(CONNECT).await;
    let mut upstream = web.accept().await;
    program.expect(CONNECTED).await;
    // An HTTP/2 preface and a frame, as gRPC sends them, in pieces.
    for piece in [
        &b"PRI * HTTP/2.0\r\n\r\nS"[..],
        b"M\r\n\r\n",
        b"\0\0\0\x04\0\0\0\0\0",
    ] {
        program.write(piece).await;
        assert_eq!(upstream.exactly(piece.len()).await, piece);
    }
    upstream.write(b"\0\0\0\x04\x01\0\0\0\0").await;
    assert_eq!(program.exactly(9).await, b"\0\0\0\x04\x01\0\0\0\0");
}

#[tokio::test]
async fn an_upstream_that_speaks_first_is_heard() {
    let world = World::new().await;
    let web = world.upstream("web:443").await;
    let mut program = world.send(format!("{CONNECT}early")).await;
    let mut upstream = web.accept().await;
    upstream.write("220 hello\r\n").await;
    program.expect(CONNECTED).await;
    program.expect("220 hello\r\n").await;
    upstream.expect("early").await;
}

#[tokio::test]
async fn half_close_delivers_the_reply() {
    let world = World::new().await;
    let web = world.upstream("web:443").await;
    let mut program = world.send(CONNECT).await;
    let mut upstream = web.accept().await;
    program.expect(CONNECTED).await;
    program.write("request").await;
    program.shutdown().await;
    assert_eq!(upstream.rest().await.unwrap(), b"request");
    let reply = vec![7; 1 << 20];
    let send = async {
        upstream.write(&reply).await;
        upstream.shutdown().await;
    };
    let (got, ()) = tokio::join!(program.rest(), send);
    assert!(got.unwrap() == reply);
}

#[tokio::test]
async fn a_reset_is_a_reset_on_the_other_side() {
    let world = World::new().await;
    let web = world.upstream("web:443").await;
    let mut program = world.send(CONNECT).await;
    let mut upstream = web.accept().await;
    program.expect(CONNECTED).await;
    upstream.write("part").await;
    program.expect("part").await;
    upstream.reset();
    program.is_reset().await;

    let mut program = world.send(CONNECT).await;
    let mut upstream = web.accept().await;
    program.expect(CONNECTED).await;
    program.write("part").await;
    upstream.expect("part").await;
    program.reset();
    upstream.is_reset().await;
}

#[tokio::test]
async fn connect_fails_in_http_and_the_connection_goes_on() {
    let world = World::new().await;
    world.fails("closed:443", RefusalCode::ConnectionRefused);
    world.fails("hole:443", RefusalCode::TimedOut);
    world.fails("self:443", RefusalCode::NotAllowed);
    let web = world.upstream("web:443").await;
    let mut program = world.connect().await;
    for (target, status) in [
        ("nobody:443", 502),
        ("closed:443", 502),
        ("hole:443", 504),
        ("self:443", 403),
    ] {
        program
            .write(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"))
            .await;
        assert_eq!(program.response().await.status, status, "{target}");
    }
    program.write(CONNECT).await;
    web.accept().await;
    program.expect(CONNECTED).await;
    assert_eq!(
        world
            .rejected("CONNECT web HTTP/1.1\r\nHost: web\r\n\r\n")
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn connect_takes_addresses() {
    let world = World::new().await;
    for target in ["10.0.0.7:443", "[fd00::7]:443"] {
        let upstream = world.upstream(target).await;
        let mut program = world
            .send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"))
            .await;
        upstream.accept().await;
        program.expect(CONNECTED).await;
    }
}

#[tokio::test]
async fn connect_follows_requests_on_one_connection() {
    let world = World::new().await;
    let (web, tls) = (world.upstream("web:80").await, world.upstream("web:443").await);
    let mut program = world.send("GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n").await;
    let (mut upstream, _) = web.request().await;
    upstream.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    program.head().await;
    program.write(CONNECT).await;
    tls.accept().await;
    program.expect(CONNECTED).await;
    upstream.ends().await;
}

/// A SOCKS5 request for an address field, behind a greeting without authentication.
async fn socks(world: &World, command: u8, address: &[u8], port: u16) -> Peer {
    let mut program = world.send([5, 2, 1, 0]).await;
    assert_eq!(program.exactly(2).await, [5, 0]);
    program
        .write([&[5, command, 0], address, &port.to_be_bytes()].concat())
        .await;
    program
}

fn named(name: &str) -> Vec<u8> {
    [&[3, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat()
}

#[tokio::test]
async fn socks_takes_names_and_both_kinds_of_addresses() {
    let world = World::new().await;
    let v6 = [
        &[4][..],
        &"fd00::7".parse::<std::net::Ipv6Addr>().unwrap().octets(),
    ]
    .concat();
    for (address, target) in [
        (named("web.dev.svc"), "web.dev.svc:5432"),
        (vec![1, 10, 0, 0, 7], "10.0.0.7:5432"),
        (v6, "[fd00::7]:5432"),
        (named("10.0.0.8"), "10.0.0.8:5432"),
    ] {
        let upstream = world.upstream(target).await;
        let mut program = socks(&world, 1, &address, 5432).await;
        let mut upstream = upstream.accept().await;
        assert_eq!(program.exactly(10).await, [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        program.write("ping").await;
        upstream.expect("ping").await;
        upstream.write("pong").await;
        upstream.shutdown().await;
        assert_eq!(program.rest().await.unwrap(), b"pong");
    }
}

#[tokio::test]
async fn socks_may_come_byte_by_byte_and_with_early_data() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world.connect().await;
    program
        .dribble([&[5, 1, 0, 5, 1, 0][..], &named("web"), &[0, 80], b"early"].concat())
        .await;
    let mut upstream = web.accept().await;
    upstream.expect("early").await;
    assert_eq!(program.exactly(12).await[..4], [5, 0, 5, 0]);
}

#[tokio::test]
async fn socks_replies_say_why() {
    let world = World::new().await;
    for (code, reply) in [
        (RefusalCode::NoSuchHost, 4),
        (RefusalCode::ConnectionRefused, 5),
        (RefusalCode::TimedOut, 6),
        (RefusalCode::NotAllowed, 2),
        (RefusalCode::Unreachable, 3),
        (RefusalCode::TooManyStreams, 1),
        (RefusalCode::ShuttingDown, 1),
    ] {
        world.fails("web:80", code);
        let mut program = socks(&world, 1, &named("web"), 80).await;
        assert_eq!(
            program.rest().await.unwrap(),
            [5, reply, 0, 1, 0, 0, 0, 0, 0, 0],
            "{code:?}"
        );
    }
    let before = world.opened();
    for (command, address, port, reply) in [
        (2, named("web"), 80, 7),
        (9, named("web"), 80, 7),
        (1, vec![9, 0, 0], 80, 8),
        (1, named("we b"), 80, 4),
        (1, named(""), 80, 4),
        (1, named("web"), 0, 4),
    ] {
        let mut program = socks(&world, command, &address, port).await;
        assert_eq!(
            program.rest().await.unwrap()[..2],
            [5, reply],
            "{command} {address:?}"
        );
    }
    assert_eq!(world.opened(), before);
}

#[tokio::test]
async fn socks_without_a_method_we_take_is_refused() {
    let world = World::new().await;
    assert_eq!(world.send([5, 1, 2]).await.rest().await.unwrap(), [5, 0xff]);
}
