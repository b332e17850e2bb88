//! Binding, many and slow connections, deadlines, and the end.

use std::time::Duration;

use kubectl_tunnel::listener::{BindError, Bound, Listener, LocalAddress, Warning};

use crate::support::{Peer, World, options, soon};

const GET: &str = "GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn listening(on: &[&str]) -> kubectl_tunnel::listener::Options {
    let mut options = options();
    options.listen = on.iter().map(|address| address.parse().unwrap()).collect();
    options
}

fn tcp(bound: &Bound) -> Vec<std::net::SocketAddr> {
    bound.addresses().iter().filter_map(LocalAddress::tcp).collect()
}

#[tokio::test]
async fn a_busy_port_says_what_to_type() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = Listener::bind(listening(&["127.0.0.1:0", &address.to_string()]))
        .await
        .unwrap_err();
    assert!(matches!(error, BindError::InUse { address: busy } if busy == address));
    assert_eq!(
        error.hint().unwrap(),
        "take the next free port with `--listen 127.0.0.1:0`"
    );
    assert_eq!(
        error.to_string(),
        format!("listen on {address}: the port is in use by another program")
    );
}

#[tokio::test]
async fn several_addresses_are_served() {
    let bound = Listener::bind(listening(&["127.0.0.1:0", "127.0.0.1:0"]))
        .await
        .unwrap();
    let addresses = tcp(&bound);
    assert!(bound.warnings().is_empty());
    let world = World::serve(bound);
    let web = world.upstream("web:80").await;
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        let mut program = Peer::connect(address).await;
        program.write(GET).await;
        let (mut upstream, _) = web.request().await;
        upstream.write(OK).await;
        program.expect(OK).await;
    }
}

#[tokio::test]
async fn localhost_is_both_loopback_addresses() {
    let bound = Listener::bind(listening(&["localhost:0"])).await.unwrap();
    let addresses = tcp(&bound);
    assert!(addresses.iter().all(|address| address.ip().is_loopback()));
    assert!(
        addresses
            .iter()
            .all(|address| address.port() == addresses[0].port())
    );
    let has_v6 = tokio::net::TcpListener::bind("[::1]:0").await.is_ok();
    assert_eq!(addresses.len(), if has_v6 { 2 } else { 1 });
}

#[tokio::test]
async fn other_machines_are_let_in_only_with_a_warning() {
    let bound = Listener::bind(listening(&["0.0.0.0:0"])).await.unwrap();
    let address = tcp(&bound)[0];
    assert_eq!(
        bound.warnings(),
        [Warning::Reachable {
            address,
            guarded: false
        }]
    );
    assert!(bound.warnings()[0].to_string().contains("--auth-file"));
}

#[tokio::test]
async fn slow_and_silent_programs_do_not_stop_others() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut waiting = Vec::new();
    for start in [
        "",
        "GET http://web",
        "\u{5}",
        "\u{5}\u{1}",
        "POST http://web/ HTTP/1.1\r\nHost: web\r\nContent-Length: 9\r\n\r\n",
    ] {
        for _ in 0..20 {
            waiting.push(world.send(start).await);
        }
    }
    for _ in 0..20 {
        web.accept().await;
    }
    // One that never reads what it asked for.
    let _full = world.send(GET).await;
    let (mut upstream, _) = web.request().await;
    upstream
        .write("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        .await;
    tokio::select! {
        _ = upstream.flood(100_000_000) => panic!("all of it was taken though nobody read it"),
        () = async {
            for _ in 0..10 {
                let mut program = world.send("GET http://api/ HTTP/1.1\r\nHost: api\r\n\r\n").await;
                assert_eq!(program.response().await.status, 502);
            }
        } => {}
    }
}

#[tokio::test]
async fn more_connections_than_there_is_room_for_wait() {
    let mut options = options();
    options.limits.connections = 1;
    let world = World::with(options).await;
    let mut first = world
        .send("GET http://nobody/ HTTP/1.1\r\nHost: nobody\r\n\r\n")
        .await;
    assert_eq!(first.response().await.status, 502);
    let mut second = world
        .send("GET http://nobody/ HTTP/1.1\r\nHost: nobody\r\n\r\n")
        .await;
    assert!(
        tokio::time::timeout(Duration::from_millis(50), second.response())
            .await
            .is_err()
    );
    drop(first);
    assert_eq!(second.response().await.status, 502);
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    let mut options = options();
    options.limits.first_byte = Duration::from_millis(50);
    options.limits.head = Duration::from_millis(50);
    options.limits.idle = Duration::from_millis(50);
    let world = World::with(options).await;
    world.connect().await.ends().await;
    assert_eq!(world.send("GET http://w").await.response().await.status, 408);
    assert!(world.send([5, 1]).await.rest().await.is_err());
    let mut idle = world
        .send("GET http://nobody/ HTTP/1.1\r\nHost: nobody\r\n\r\n")
        .await;
    assert_eq!(idle.response().await.status, 502);
    idle.ends().await;
}

#[tokio::test]
async fn a_drain_ends_idle_connections_and_lets_the_others_finish() {
    let mut world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut idle = world.send(GET).await;
    let (mut upstream, _) = web.request().await;
    upstream.write(OK).await;
    idle.expect(OK).await;
    let mut fresh = world.connect().await;
    let mut busy = world.send(GET).await;
    let (mut upstream, _) = web.request().await;

    world.drain.cancel();
    idle.ends().await;
    fresh.ends().await;
    upstream.write(OK).await;
    busy.expect(OK).await;
    busy.ends().await;
    world.ended().await;
    let refused = soon("a refusal", tokio::net::TcpStream::connect(world.address)).await;
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn the_end_of_the_session_resets_what_still_runs() {
    let mut world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world.send("CONNECT web:80 HTTP/1.1\r\n\r\n").await;
    let mut upstream = web.accept().await;
    program.head().await;
    upstream.write("part").await;
    program.expect("part").await;
    let mut download = world.send(GET).await;
    let (mut other, _) = web.request().await;
    other.write("HTTP/1.1 200 OK\r\n\r\npart").await;
    download.until("part").await;
    world.abort().await;
    program.is_reset().await;
    download.is_reset().await;
    upstream.is_reset().await;
}
