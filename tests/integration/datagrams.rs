//! `expose` by UDP: what pods send to the Service comes to the program on the laptop, and back.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;
use tunnel_test_target::datagram::Counts;
use tunnel_test_target::udp::{self, Rows};

use crate::support::{DEADLINE, Plugin, Stage};

/// An echo on this machine, as long as the test's process.
fn echo_at(address: SocketAddr) -> SocketAddr {
    let socket = std::net::UdpSocket::bind(address).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || udp::echo(&socket));
    address
}

fn echo() -> SocketAddr {
    echo_at((Ipv4Addr::LOCALHOST, 0).into())
}

/// Calls as a pod does, which blocks.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> T {
    tokio::task::spawn_blocking(call).await.unwrap().unwrap()
}

/// Starts `expose api PORTS` and waits for it.
async fn expose(stage: &Stage, ports: &[&str]) -> Plugin {
    let arguments = [&["expose", "api", "-v"], ports].concat();
    let mut plugin = stage.plugin("expose", &arguments);
    plugin.ready().await;
    plugin
}

fn service(stage: &Stage, port: u16) -> SocketAddr {
    (stage.playground.service_address("dev", "api").unwrap(), port).into()
}

/// How many of these lines the plugin has written.
fn lines(log: &str, parts: &[&str]) -> usize {
    log.lines()
        .filter(|line| parts.iter().all(|part| line.contains(part)))
        .count()
}

#[tokio::test]
async fn datagrams_of_every_size_come_to_the_program_and_their_answers_back() {
    let stage = Stage::start().await;
    let (port, local) = (stage.web_port(), echo());
    let spec = format!("{port}:{}/udp", local.port());
    let plugin = expose(&stage, &[&spec]).await;
    let address = service(&stage, port);
    let sizes = [0, 1, 64, 1_200, 9_000, 27_000, 65_507];
    let result = blocking(move || udp::sizes(address, &sizes)).await;
    assert_eq!(result.equal, sizes, "{result}");
    // Nothing waits for a flow, which has no end, when the user asks for the session's.
    let asked = tokio::time::Instant::now();
    plugin.signal(rustix::process::Signal::INT);
    let (status, stdout, log) = plugin.ended().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert!(
        stdout.contains(&format!("api.dev:{port}/udp -> localhost:{}", local.port())),
        "{stdout}"
    );
    assert!(
        log.contains(&format!(
            "in the cluster: udp api:{port} (from other namespaces udp api.dev:{port})"
        )),
        "{log}"
    );
    let total: usize = sizes.iter().sum();
    let totals = [format!("received={total}"), format!("sent={total}")];
    let closed = [
        "flow closed",
        &totals[0],
        &totals[1],
        "dropped=0",
        "the session ends",
    ];
    assert_eq!(lines(&log, &closed), 1, "{log}");
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn peers_do_not_mix_and_tcp_has_the_same_number() {
    let stage = Stage::start().await;
    let (port, local) = (stage.web_port(), echo());
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let specs = [
        format!("{port}:{}/udp", local.port()),
        format!("{port}:{}", tcp.local_addr().unwrap().port()),
    ];
    let plugin = expose(&stage, &[&specs[0], &specs[1]]).await;
    let address = service(&stage, port);
    let rows: Rows = blocking(move || udp::peers(address, 100, 3, 300)).await;
    assert_eq!((rows.peers, rows.sent, rows.received), (100, 300, 300), "{rows}");
    assert_eq!(rows.counts, Counts::default(), "{rows}");
    // Peers that went away do not keep the drain either, and TCP is what it was.
    let connect = tokio::net::TcpStream::connect(address);
    let (connected, accepted) = timeout(DEADLINE, async { tokio::join!(connect, tcp.accept()) })
        .await
        .expect("the connection comes to the program");
    drop((connected.unwrap(), accepted.unwrap()));
    plugin.stop().await;
    stage.until_nothing_is_left().await;
}

/// Asks until the answer comes, as programs that use datagrams do.
async fn ask(caller: &UdpSocket, question: &[u8]) {
    let mut reply = [0; 16];
    let answered = async {
        loop {
            caller.send(question).await.unwrap();
            let reply = timeout(Duration::from_millis(200), caller.recv(&mut reply)).await;
            if let Ok(length) = reply {
                break length.unwrap();
            }
        }
    };
    let length = timeout(DEADLINE, answered).await.expect("the program answers");
    assert_eq!(&reply[..length], question);
}

#[tokio::test]
async fn a_program_that_is_down_is_said_once_and_may_come_back() {
    let stage = Stage::start().await;
    let port = stage.web_port();
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let local = gone.local_addr().unwrap();
    drop(gone);
    let spec = format!("{port}:127.0.0.1:{}/udp", local.port());
    let plugin = expose(&stage, &[&spec, "--udp-idle", "1s"]).await;
    let caller = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    caller.connect(service(&stage, port)).await.unwrap();
    let mut reply = [0; 16];
    for _ in 0..5 {
        caller.send(b"anybody?").await.unwrap();
        let silence = timeout(Duration::from_millis(100), caller.recv(&mut reply)).await;
        assert!(silence.is_err(), "{silence:?}");
    }
    echo_at(local);
    ask(&caller, b"now?").await;
    // Silence ends the flow; the next datagram begins another, unless it meets the end of the first.
    plugin.until_said("flow closed").await;
    ask(&caller, b"again").await;
    plugin.signal(rustix::process::Signal::INT);
    let (_, _, log) = plugin.ended().await;
    assert_eq!(
        lines(&log, &["datagram not delivered", "connection refused"]),
        1,
        "{log}"
    );
    assert_eq!(lines(&log, &["flow closed", "idle"]), 1, "{log}");
    assert_eq!(lines(&log, &["flow closed"]), 2, "{log}");
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_program_whose_name_leads_nowhere_is_said_and_its_datagrams_are_swallowed() {
    let stage = Stage::start().await;
    let port = stage.web_port();
    let spec = format!("{port}:no.such.invalid:53/udp");
    let plugin = expose(&stage, &[&spec]).await;
    let caller = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    caller.connect(service(&stage, port)).await.unwrap();
    for _ in 0..100 {
        caller.send(b"anybody?").await.unwrap();
    }
    plugin.until_said("flow not reached").await;
    plugin.signal(rustix::process::Signal::INT);
    let (status, _, log) = plugin.ended().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(
        lines(&log, &["flow not reached", "no.such.invalid:53"]),
        1,
        "{log}"
    );
    stage.until_nothing_is_left().await;
}
