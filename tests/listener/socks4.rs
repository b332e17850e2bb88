//! SOCKS4 and `SOCKS4a`: the answer after the dial, then raw bytes.

use std::time::Duration;

use tunnel_wire::RefusalCode;

use crate::support::{World, options};

const GRANTED: [u8; 8] = [0, 0x5a, 0, 0, 0, 0, 0, 0];
const REJECTED: [u8; 8] = [0, 0x5b, 0, 0, 0, 0, 0, 0];

#[tokio::test]
async fn connects_by_address_and_by_name() {
    let world = World::new().await;
    for (request, target) in [
        (&b"\x04\x01\x15\x38\x0a\0\0\x07\0"[..], "10.0.0.7:5432"),
        (b"\x04\x01\x15\x38\x0a\0\0\x08ann\0", "10.0.0.8:5432"),
        (
            b"\x04\x01\x15\x38\0\0\0\x01ann\0web.dev.svc\0",
            "web.dev.svc:5432",
        ),
    ] {
        let upstream = world.upstream(target).await;
        let mut program = world.connect().await;
        program.dribble(request).await;
        let mut upstream = upstream.accept().await;
        assert_eq!(program.exactly(8).await, GRANTED);
        program.write("ping").await;
        upstream.expect("ping").await;
        upstream.write("pong").await;
        upstream.shutdown().await;
        assert_eq!(program.rest().await.unwrap(), b"pong");
    }
}

#[tokio::test]
async fn early_data_is_passed_on_after_the_answer() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world.send(b"\x04\x01\0\x50\0\0\0\x01\0web\0early").await;
    let mut upstream = web.accept().await;
    upstream.expect("early").await;
    assert_eq!(program.exactly(8).await, GRANTED);
}

#[tokio::test]
async fn what_is_not_reached_or_not_served_is_rejected() {
    let world = World::new().await;
    world.fails("closed:80", RefusalCode::ConnectionRefused);
    for name in ["nobody", "closed"] {
        let request = [&b"\x04\x01\0\x50\0\0\0\x01\0"[..], name.as_bytes(), b"\0"].concat();
        assert_eq!(
            world.send(request).await.rest().await.unwrap(),
            REJECTED,
            "{name}"
        );
    }
    let before = world.opened();
    let long = [&b"\x04\x01\0\x50\0\0\0\x01"[..], &[b'x'; 300]].concat();
    for request in [
        &b"\x04\x02\0\x50\x0a\0\0\x07\0"[..],
        b"\x04\x01\0\0\x0a\0\0\x07\0",
        b"\x04\x01\0\x50\0\0\0\x01\0we b\0",
        &long,
    ] {
        assert_eq!(
            world.send(request).await.rest().await.unwrap(),
            REJECTED,
            "{request:?}"
        );
    }
    assert_eq!(world.opened(), before);
}

#[tokio::test]
async fn a_request_that_does_not_come_whole_ends_the_connection() {
    let mut options = options();
    options.limits.head = Duration::from_millis(50);
    let world = World::with(options).await;
    assert!(
        world
            .send(b"\x04\x01\0\x50\0\0\0\x01ann")
            .await
            .rest()
            .await
            .is_err()
    );
}
