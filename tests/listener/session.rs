//! The listener over a real session: what the stand-in streams of the other tests leave out.

use std::time::Duration;

use kubectl_tunnel::forward::SessionConnector;
use kubectl_tunnel::listener::{Bound, Listener};
use kubectl_tunnel::session::StandingTx;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tunnel_wire::link;
use tunnel_wire::session::{Accepted, End, Incoming, Session};
use tunnel_wire::{Open, Refusal, RefusalCode, relay};

use crate::support::{Peer, Upstream, options};

/// A listener on one end of a session, and on the other an agent that dials loopback whatever the name.
struct Tunnel {
    address: std::net::SocketAddr,
    _standing_tx: StandingTx,
    links: [link::LinkHandle; 2],
    _tasks: JoinSet<()>,
}

fn side(
    end: End,
    transport: tokio::io::DuplexStream,
    tasks: &mut JoinSet<()>,
) -> (Session, Incoming, link::LinkHandle) {
    let (link, stream) = link::channel();
    let (session, incoming, driver) = tunnel_wire::session::start(end, link.clone(), stream);
    tasks.spawn(driver.run());
    let running = link.clone();
    tasks.spawn(async move {
        let (reader, writer) = tokio::io::split(transport);
        let end = running.run(reader, writer, 0).await;
        running.close(end);
    });
    (session, incoming, link)
}

async fn agent(mut incoming: Incoming) {
    let mut streams = JoinSet::new();
    while let Some(Accepted { open, mut stream }) = incoming.accept().await {
        let Open::Dial { host, port, .. } = open else {
            panic!("only dials are asked for")
        };
        streams.spawn(async move {
            if host != "web" {
                stream
                    .refuse(Refusal::new(
                        RefusalCode::NoSuchHost,
                        format!("resolve {host}: no such host"),
                    ))
                    .await;
                return;
            }
            let mut upstream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.accept().await.unwrap();
            if relay(&mut stream, &mut upstream).await.result.is_err() {
                upstream.set_zero_linger().unwrap();
            }
        });
    }
}

impl Tunnel {
    async fn new() -> Self {
        let bound: Bound = Listener::bind(options()).await.unwrap();
        let address = bound.addresses()[0].tcp().unwrap();
        let mut tasks = JoinSet::new();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (session, _, near) = side(End::Plugin, near, &mut tasks);
        let (_, incoming, far) = side(End::Agent, far, &mut tasks);
        tasks.spawn(agent(incoming));
        let standing_tx = StandingTx::default();
        standing_tx.set_session(session);
        standing_tx.complete(Duration::ZERO);
        let connector = SessionConnector(standing_tx.door(Duration::from_secs(10)));
        tasks.spawn(bound.serve(connector, CancellationToken::new()));
        Self {
            address,
            _standing_tx: standing_tx,
            links: [near, far],
            _tasks: tasks,
        }
    }

    async fn send(&self, bytes: impl AsRef<[u8]>) -> Peer {
        let mut peer = Peer::connect(self.address).await;
        peer.write(bytes).await;
        peer
    }
}

#[tokio::test]
async fn requests_follow_each_other_on_one_stream_and_end_it_properly() {
    let tunnel = Tunnel::new().await;
    let (web, other) = (Upstream::new().await, Upstream::new().await);
    let request = |upstream: &Upstream| {
        format!(
            "GET http://web:{0}/ HTTP/1.1\r\nHost: web:{0}\r\n\r\n",
            upstream.port()
        )
    };
    let ok = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n";
    let mut program = tunnel.send(request(&web)).await;
    let (mut upstream, _) = web.request().await;
    upstream.write(ok).await;
    program.expect(ok).await;
    program.write(request(&web)).await;
    upstream.head().await;
    upstream.write(ok).await;
    program.expect(ok).await;

    program.write(request(&other)).await;
    let (mut second, _) = other.request().await;
    // An end, not an abort: servers log a reset of an idle connection as an error.
    upstream.ends().await;
    drop(upstream);
    second.write(ok).await;
    program.expect(ok).await;
    drop(program);
    second.ends().await;
}

#[tokio::test]
async fn a_refusal_is_told_in_the_agents_words() {
    let tunnel = Tunnel::new().await;
    let mut program = tunnel
        .send("POST http://api/ HTTP/1.1\r\nHost: api\r\nContent-Length: 3\r\n\r\nabc")
        .await;
    let response = program.response().await;
    assert_eq!(response.status, 502);
    assert!(
        response
            .body
            .contains("cannot reach api:80: resolve api: no such host\n"),
        "{}",
        response.body
    );
    program.write("CONNECT api:443 HTTP/1.1\r\n\r\n").await;
    assert_eq!(program.response().await.status, 502);
}

#[tokio::test]
async fn bodies_pass_both_ways_at_once() {
    let tunnel = Tunnel::new().await;
    let web = Upstream::new().await;
    let body: Vec<u8> = (0..2_000_000_u32)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    let head = format!(
        "POST http://web:{}/ HTTP/1.1\r\nHost: web\r\nContent-Length: {}\r\n\r\n",
        web.port(),
        body.len()
    );
    let mut program = tunnel.send(head).await;
    let (mut upstream, _) = web.request().await;
    upstream
        .write(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ))
        .await;
    program.head().await;
    let (got, given) = tokio::join!(
        upstream.exchange(&body, body.len()),
        program.exchange(&body, body.len())
    );
    assert!(got == body && given == body);
}

#[tokio::test]
async fn the_end_of_the_session_resets_connections_and_is_503_for_new_ones() {
    let tunnel = Tunnel::new().await;
    let web = Upstream::new().await;
    let mut program = tunnel
        .send(format!("CONNECT web:{} HTTP/1.1\r\n\r\n", web.port()))
        .await;
    let mut upstream = web.accept().await;
    program.head().await;
    upstream.write("part").await;
    program.expect("part").await;
    for link in &tunnel.links {
        link.close(link::TransportEnd::Goodbye);
    }
    program.is_reset().await;
    let mut late = tunnel.send("GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n").await;
    let response = late.response().await;
    assert_eq!(response.status, 503);
    assert!(
        response.body.contains("cannot reach web:80: the session ended\n"),
        "{}",
        response.body
    );
}
