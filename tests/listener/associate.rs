//! SOCKS5 UDP ASSOCIATE: real UDP sockets at the program's end, streams of datagrams at the other.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use kubectl_tunnel::listener::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tunnel_wire::RefusalCode;
use tunnel_wire::datagram::{self, Record};

use crate::access::{Log, has};
use crate::support::{Peer, Upstream, World, options, soon};

/// A name as SOCKS5 writes it, with port 53.
fn named(host: &str) -> Vec<u8> {
    let length = u8::try_from(host.len()).unwrap();
    [&[3, length], host.as_bytes(), &[0, 53]].concat()
}

/// A program that has an association.
struct Program {
    control: Peer,
    socket: UdpSocket,
    /// Where its datagrams go.
    to: SocketAddr,
}

impl Program {
    async fn new(world: &World) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        Self::with(world.connect().await, socket, 0).await
    }

    /// Asks for an association, with `port` for where the datagrams will come from.
    async fn with(mut control: Peer, socket: UdpSocket, port: u16) -> Self {
        control.write([5, 1, 0]).await;
        assert_eq!(control.exactly(2).await, [5, 0]);
        Self::request(control, socket, port).await
    }

    async fn request(mut control: Peer, socket: UdpSocket, port: u16) -> Self {
        let request = [&[5, 3, 0, 1, 0, 0, 0, 0][..], &port.to_be_bytes()].concat();
        control.write(request).await;
        let reply = control.exactly(10).await;
        assert_eq!(
            reply[..8],
            [5, 0, 0, 1, 127, 0, 0, 1],
            "on loopback, like the listener"
        );
        let to = SocketAddr::from(([127, 0, 0, 1], u16::from_be_bytes([reply[8], reply[9]])));
        assert_ne!(to.port(), 0);
        Self { control, socket, to }
    }

    async fn send(&self, target: &[u8], data: &[u8]) {
        self.send_raw(&[&[0, 0, 0], target, data].concat()).await;
    }

    async fn send_raw(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.to).await.unwrap();
    }

    async fn receive(&self) -> Vec<u8> {
        let mut room = vec![0; 65_536];
        let (length, from) = soon("a datagram", self.socket.recv_from(&mut room))
            .await
            .unwrap();
        assert_eq!(from, self.to);
        room.truncate(length);
        room
    }

    /// Sends, and expects the same data back behind the same target.
    async fn echoes(&self, target: &[u8], data: &[u8]) {
        self.send(target, data).await;
        let expected = [&[0, 0, 0], target, data].concat();
        assert!(self.receive().await == expected, "{} bytes", data.len());
    }

    /// Sends again and again, until `done` is; datagrams may be dropped, and then there is nothing to wait for.
    async fn knocks<T>(&self, target: &[u8], done: impl Future<Output = T>) -> T {
        let knock = async {
            let mut pause = interval(Duration::from_millis(50));
            loop {
                pause.tick().await;
                self.send(target, b"knock").await;
            }
        };
        soon("an answer to the knocks", async {
            tokio::select! {
                () = knock => unreachable!("knocks for ever"),
                done = done => done,
            }
        })
        .await
    }
}

/// Sends each datagram back, on every stream.
async fn echo(upstream: Upstream) {
    let mut streams = JoinSet::new();
    loop {
        streams.spawn(echo_stream(upstream.accept_stream().await));
    }
}

async fn echo_stream(mut stream: TcpStream) {
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    while stream.read_buf(&mut input).await.is_ok_and(|length| length > 0) {
        while let Some(Record::Datagram(data)) = datagram::decode(&mut input).unwrap() {
            datagram::encode(&data, &mut out);
        }
        if stream.write_all_buf(&mut out).await.is_err() {
            break;
        }
    }
}

/// Serves an echo at each of these names, port 53.
async fn echoes_at(world: &World, hosts: &[&str]) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for host in hosts {
        let upstream = world.upstream(&format!("udp {host}:53")).await;
        tasks.spawn(echo(upstream));
    }
    tasks
}

async fn limited(change: impl FnOnce(&mut Limits)) -> World {
    let mut options = options();
    change(&mut options.limits);
    World::with(options).await
}

#[tokio::test]
async fn several_targets_share_one_association() {
    let world = World::new().await;
    let _echoes = echoes_at(&world, &["dns", "10.0.0.7", "[fd00::7]"]).await;
    let program = Program::new(&world).await;
    let v6 = [
        &[4, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7][..],
        &[0, 53],
    ]
    .concat();
    for target in [named("dns"), vec![1, 10, 0, 0, 7, 0, 53], v6] {
        for length in [0_usize, 64, 1200, 9000, 27_000] {
            let data: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
            program.echoes(&target, &data).await;
        }
    }
    assert_eq!(
        world.opened(),
        ["udp dns:53", "udp 10.0.0.7:53", "udp [fd00::7]:53"],
        "one stream for each target"
    );
}

#[tokio::test]
async fn only_the_owner_may_send() {
    let log = Log::start();
    let world = World::new().await;
    let _echoes = echoes_at(&world, &["dns"]).await;
    let mut program = Program::new(&world).await;
    // Garbage pins nothing.
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.send_to(b"garbage", program.to).await.unwrap();
    program.echoes(&named("dns"), b"mine").await;
    let theirs = [&[0, 0, 0], &named("dns")[..], b"theirs"].concat();
    stranger.send_to(&theirs, program.to).await.unwrap();
    program.echoes(&named("dns"), b"mine again").await;
    assert!(
        timeout(Duration::from_millis(100), stranger.recv(&mut [0; 64]))
            .await
            .is_err()
    );
    program.control.shutdown().await;
    program.control.ends().await;
    let lines = log.lines_with("datagrams dropped", 1).await;
    has(&lines[0], &["strangers=1", "malformed=1", "fragments=0"]);
    let lines = log.lines(2).await;
    has(
        &lines[0],
        &[
            "method=UDP",
            "target=dns:53",
            "upstream=127.0.0.1:",
            "status=connected",
            "received=14",
            "sent=14",
            "dropped=0",
            "reason=its association ended",
            "peer=127.0.0.1:",
        ],
    );
    has(
        &lines[1],
        &["method=ASSOCIATE", "status=connected", "dropped=2", "reason=eof"],
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_port_of_the_request_counts_and_so_does_the_address() {
    let world = World::new().await;
    let _echoes = echoes_at(&world, &["dns"]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let elsewhere = UdpSocket::bind(("127.0.0.2", port)).await.unwrap();
    let program = Program::with(world.connect().await, socket, port).await;
    let theirs = [&[0, 0, 0], &named("other")[..], b"theirs"].concat();
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for socket in [elsewhere, stranger] {
        socket.send_to(&theirs, program.to).await.unwrap();
    }
    program.echoes(&named("dns"), b"mine").await;
    assert_eq!(world.opened(), ["udp dns:53"]);
}

#[tokio::test]
async fn fragments_and_garbage_are_dropped() {
    let log = Log::start();
    let world = World::new().await;
    let _echoes = echoes_at(&world, &["dns"]).await;
    let program = Program::new(&world).await;
    for datagram in [
        &[&[0, 0, 1], &named("dns")[..], b"part"].concat()[..],
        b"",
        b"\0\0\0\x03\x03dn",
        b"\0\x01\0\x03\x03dns\0\x35reserved",
        b"\0\0\0\x03\x03dns\0\0no port",
        b"\0\0\0\x03\x04we b\0\x35no name",
    ] {
        program.send_raw(datagram).await;
    }
    program.echoes(&named("dns"), b"whole").await;
    assert_eq!(world.opened(), ["udp dns:53"]);
    drop(program);
    let lines = log.lines_with("datagrams dropped", 1).await;
    has(&lines[0], &["strangers=0", "malformed=5", "fragments=1"]);
}

#[tokio::test]
async fn it_ends_with_its_connection_whatever_is_sent_there() {
    let world = World::new().await;
    let upstream = world.upstream("udp dns:53").await;
    let mut program = Program::new(&world).await;
    program.send(&named("dns"), b"x").await;
    let mut flow = upstream.accept().await;
    assert_eq!(flow.exactly(3).await, b"\0\x01x");
    program.control.flood(300_000).await.unwrap();
    flow.write(b"\0\x01y").await;
    assert!(program.receive().await.ends_with(b"y"));
    program.control.shutdown().await;
    program.control.ends().await;
    flow.is_reset().await;
    // The port is free when the connection is closed.
    UdpSocket::bind(program.to).await.unwrap();
}

#[tokio::test]
async fn drain_and_abort_end_associations() {
    for drain in [true, false] {
        let mut world = World::new().await;
        let upstream = world.upstream("udp dns:53").await;
        let mut program = Program::new(&world).await;
        program.send(&named("dns"), b"x").await;
        let mut flow = upstream.accept().await;
        flow.exactly(3).await;
        if drain {
            world.drain.cancel();
            world.ended().await;
            program.control.ends().await;
        } else {
            world.abort().await;
            program.control.is_reset().await;
        }
        flow.is_reset().await;
        UdpSocket::bind(program.to).await.unwrap();
    }
}

#[tokio::test]
async fn an_idle_flow_ends_and_the_next_datagram_begins_another() {
    let log = Log::start();
    let world = limited(|limits| limits.udp_idle = Duration::from_millis(100)).await;
    let upstream = world.upstream("udp dns:53").await;
    let program = Program::new(&world).await;
    program.send(&named("dns"), b"x").await;
    let mut flow = upstream.accept().await;
    flow.exactly(3).await;
    flow.ends().await;
    let lines = log.lines(1).await;
    has(&lines[0], &["method=UDP", "received=1", "sent=0", "reason=idle"]);
    let mut next = program.knocks(&named("dns"), upstream.accept()).await;
    next.exactly(7).await;
}

#[tokio::test]
async fn a_target_that_is_not_reached_is_tried_once_a_second() {
    let log = Log::start();
    let world = World::new().await;
    world.fails("udp nobody:53", RefusalCode::NoSuchHost);
    let _echoes = echoes_at(&world, &["dns"]).await;
    let mut program = Program::new(&world).await;
    program.send(&named("nobody"), b"x").await;
    log.lines(1).await;
    for _ in 0..10 {
        program.send(&named("nobody"), b"swallowed").await;
    }
    program.echoes(&named("dns"), b"others go on").await;
    assert_eq!(world.opened(), ["udp nobody:53", "udp dns:53"]);
    // It recovers.
    let found = world.upstream("udp nobody:53").await;
    program.knocks(&named("nobody"), found.accept()).await;
    program.control.shutdown().await;
    program.control.ends().await;
    let lines = log.lines(4).await;
    has(
        &lines[0],
        &[
            "method=UDP",
            "target=nobody:53",
            "status=failed",
            "dropped=1",
            "reason=not reached: said by the agent",
        ],
    );
    assert!(!lines[0].contains("upstream="), "{}", lines[0]);
    let dropped = log.lines_with("datagrams dropped", 1).await;
    assert!(!dropped[0].contains("swallowed=0"), "{}", dropped[0]);
}

#[tokio::test]
async fn a_panic_in_one_flow_ends_no_other() {
    let world = World::new().await;
    world.panics("udp broken:53");
    let _echoes = echoes_at(&world, &["dns"]).await;
    let program = Program::new(&world).await;
    program.echoes(&named("dns"), b"before").await;
    program.send(&named("broken"), b"x").await;
    program.echoes(&named("dns"), b"after").await;
    assert_eq!(world.opened(), ["udp dns:53", "udp broken:53"]);
}

#[tokio::test]
async fn the_flow_that_was_idle_longest_makes_room() {
    let log = Log::start();
    let world = limited(|limits| limits.flows_each = 2).await;
    let _echoes = echoes_at(&world, &["a", "b"]).await;
    let third = world.upstream("udp c:53").await;
    let program = Program::new(&world).await;
    program.echoes(&named("a"), b"1").await;
    program.echoes(&named("b"), b"2").await;
    // Both are busy: no room, for now.
    program.send(&named("c"), b"dropped").await;
    program.echoes(&named("b"), b"3").await;
    assert_eq!(world.opened(), ["udp a:53", "udp b:53"]);
    program.knocks(&named("c"), third.accept()).await;
    let lines = log.lines(1).await;
    has(&lines[0], &["target=a:53", "reason=made room for another flow"]);
}

#[tokio::test]
async fn all_associations_together_are_bounded() {
    let world = limited(|limits| limits.flows = 1).await;
    let _echoes = echoes_at(&world, &["a"]).await;
    let other = world.upstream("udp b:53").await;
    let (mut first, second) = (Program::new(&world).await, Program::new(&world).await);
    first.echoes(&named("a"), b"1").await;
    second.send(&named("b"), b"dropped").await;
    first.echoes(&named("a"), b"2").await;
    first.control.shutdown().await;
    first.control.ends().await;
    second.knocks(&named("b"), other.accept()).await;
    assert_eq!(world.opened(), ["udp a:53", "udp b:53"]);
}

#[tokio::test]
async fn a_password_is_asked_for_on_the_connection_alone() {
    let world = crate::auth::guarded().await;
    let _echoes = echoes_at(&world, &["dns"]).await;
    let mut control = world.send(b"\x05\x01\x02\x01\x03ann\x07s3:cret").await;
    assert_eq!(control.exactly(4).await, [5, 2, 1, 0]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let program = Program::request(control, socket, 0).await;
    program.echoes(&named("dns"), b"x").await;

    let mut control = world.send(b"\x05\x01\x02\x01\x03ann\x05wrong").await;
    assert_eq!(control.rest().await.unwrap(), [5, 2, 1, 1]);
    let mut control = world.send([5, 1, 0]).await;
    assert_eq!(control.rest().await.unwrap(), [5, 0xff]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_has_none() {
    let log = Log::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tunnel.sock");
    let mut options = options();
    options.listen = vec![format!("unix:{}", path.display()).parse().unwrap()];
    let _world = World::with(options).await;
    let mut program = Peer::unix(&path).await;
    program.write(b"\x05\x01\0\x05\x03\0\x01\0\0\0\0\0\0").await;
    assert_eq!(
        program.rest().await.unwrap(),
        [5, 0, 5, 7, 0, 1, 0, 0, 0, 0, 0, 0]
    );
    let lines = log.lines(1).await;
    has(
        &lines[0],
        &["method=ASSOCIATE", "status=refused", "needs a TCP port"],
    );
}
