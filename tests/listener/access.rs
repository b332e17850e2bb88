//! The access log: one line at `-v` for each request or raw connection.

use std::io;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tracing::subscriber::DefaultGuard;
use tunnel_wire::RefusalCode;

use crate::support::{Upstream, World, soon};

/// What is logged on this thread, at the level of `-v`.
pub(crate) struct Log {
    lines: Arc<Lines>,
    _guard: DefaultGuard,
}

#[derive(Default)]
struct Lines {
    text: Mutex<String>,
    more: Notify,
}

impl Log {
    pub(crate) fn start() -> Self {
        let lines = Arc::new(Lines::default());
        let writer = Arc::clone(&lines);
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter("off,kubectl_tunnel=info")
            .with_ansi(false)
            .with_writer(move || Writer(Arc::clone(&writer)))
            .finish();
        Self {
            lines,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    /// The access lines so far, once there are that many.
    pub(crate) async fn lines(&self, count: usize) -> Vec<String> {
        self.lines_with("access", count).await
    }

    /// The lines so far that have this in them, once there are that many.
    pub(crate) async fn lines_with(&self, part: &str, count: usize) -> Vec<String> {
        soon("lines of the access log", async {
            loop {
                let more = self.lines.more.notified();
                let lines: Vec<String> = {
                    let text = self.lines.text.lock().unwrap();
                    text.lines()
                        .filter(|line| line.contains(part))
                        .map(ToOwned::to_owned)
                        .collect()
                };
                if lines.len() >= count {
                    return lines;
                }
                more.await;
            }
        })
        .await
    }
}

impl Lines {
    fn push(&self, bytes: &[u8]) {
        self.text
            .lock()
            .unwrap()
            .push_str(&String::from_utf8_lossy(bytes));
    }
}

struct Writer(Arc<Lines>);

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        self.0.more.notify_one();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn has(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "no {part} in {line}");
    }
}

async fn serve_ok(web: &Upstream) {
    let (mut upstream, _) = web.request().await;
    upstream
        .write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        .await;
}

#[tokio::test]
async fn a_kept_connection_has_a_line_for_each_request() {
    let log = Log::start();
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world.connect().await;
    program
        .write("GET http://u.example@web/ HTTP/1.1\r\nHost: web\r\n\r\n")
        .await;
    program.response().await;
    let mut program = world.connect().await;
    let first = "GET http://web/a?token=secret HTTP/1.1\r\nHost: web\r\nAuthorization: secret\r\n\r\n";
    program.write(first).await;
    let (mut upstream, _) = web.request().await;
    let answer = "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok";
    upstream.write(answer).await;
    program.expect(answer).await;
    let second = "PUT /b?secret HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 3\r\n\r\nabc";
    program.write(second).await;
    upstream.until("abc").await;
    upstream.write(answer).await;
    program.expect(answer).await;
    program
        .write("GET /c HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        .await;
    assert_eq!(program.response().await.status, 421);
    program.shutdown().await;
    program.ends().await;
    let lines = log.lines(4).await;
    assert_eq!(lines.len(), 4, "{lines:?}");
    let text = lines.join("\n");
    assert!(!text.contains("secret") && !text.contains("u.example"), "{text}");
    has(&lines[0], &["method=GET", "status=400", "peer=127.0.0.1:"]);
    has(
        &lines[1],
        &[
            "method=GET",
            "target=web:80",
            "path=/a ",
            "status=201",
            &format!("received={}", first.len()),
            &format!("sent={}", answer.len()),
            "reason=complete",
            "elapsed=",
            "peer=127.0.0.1:",
        ],
    );
    has(
        &lines[2],
        &[
            "method=PUT",
            "target=web:80",
            "path=/b ",
            &format!("received={}", second.len()),
            &format!("sent={}", answer.len()),
        ],
    );
    has(
        &lines[3],
        &[
            "path=/c ",
            "status=421",
            "evil.example",
            "names nothing in the cluster",
        ],
    );
}

#[tokio::test]
async fn raw_connections_have_one_line_at_their_end() {
    let log = Log::start();
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    for (request, answer) in [
        (&b"CONNECT web:80 HTTP/1.1\r\n\r\n"[..], 39),
        (b"\x05\x01\0\x05\x01\0\x03\x03web\0\x50", 12),
        (b"\x04\x01\0\x50\0\0\0\x01\0web\0", 8),
    ] {
        let mut program = world.send(request).await;
        let mut upstream = web.accept().await;
        program.exactly(answer).await;
        program.write("ping").await;
        program.shutdown().await;
        assert_eq!(upstream.rest().await.unwrap(), b"ping");
        upstream.write("hello").await;
        upstream.shutdown().await;
        assert_eq!(program.rest().await.unwrap(), b"hello");
    }
    let lines = log.lines(3).await;
    has(
        &lines[0],
        &[
            "method=CONNECT",
            "target=web:80",
            "upstream=127.0.0.1:",
            "status=200",
            "received=31",
            "sent=44",
            "reason=eof",
        ],
    );
    has(
        &lines[1],
        &[
            "method=SOCKS5",
            "target=web:80",
            "status=connected",
            "received=17",
            "sent=17",
        ],
    );
    has(
        &lines[2],
        &[
            "method=SOCKS4",
            "target=web:80",
            "status=connected",
            "received=17",
            "sent=13",
        ],
    );
}

#[tokio::test]
async fn doors_by_name_have_a_line_too() {
    let log = Log::start();
    let world = World::new().await;
    let (web, tls) = (world.upstream("web:80").await, world.upstream("web:443").await);
    for (request, upstream) in [
        (crate::tls::client_hello("web"), &tls),
        (crate::h2c::opening("web"), &web),
    ] {
        let mut program = world.send(request).await;
        let mut upstream = upstream.accept().await;
        program.shutdown().await;
        upstream.rest().await.unwrap();
        upstream.shutdown().await;
        program.ends().await;
    }
    let mut program = world.send(crate::tls::client_hello("evil.example")).await;
    program.rest().await.unwrap();
    let lines = log.lines(3).await;
    has(
        &lines[0],
        &["method=TLS", "target=web:443", "status=connected", "reason=eof"],
    );
    has(
        &lines[1],
        &["method=h2c", "target=web:80", "path=/ ", "status=connected"],
    );
    has(
        &lines[2],
        &["method=TLS", "status=refused", "evil.example names nothing"],
    );
}

#[tokio::test]
async fn what_went_wrong_is_told() {
    let log = Log::start();
    let mut world = World::new().await;
    world.fails("closed:80", RefusalCode::ConnectionRefused);
    let web = world.upstream("web:80").await;
    let get =
        |name: &str| format!("GET http://{name}/ HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    let mut program = world.send(get("closed")).await;
    assert_eq!(program.response().await.status, 502);
    let mut program = world.send(b"\x05\x01\0\x05\x02\0\x03\x03web\0\x50").await;
    program.rest().await.unwrap();
    let mut program = world.send("nonsense\r\n\r\n").await;
    assert_eq!(program.response().await.status, 400);
    let mut program = world.send(get("web")).await;
    serve_ok(&web).await;
    assert_eq!(program.response().await.body, "ok");
    // Connects, sends nothing, leaves: not a line.
    let mut silent = world.connect().await;
    silent.shutdown().await;
    silent.ends().await;
    let mut cut = world.send("CONNECT web:80 HTTP/1.1\r\n\r\n").await;
    web.accept().await;
    cut.head().await;
    world.abort().await;
    let lines = log.lines(5).await;
    assert_eq!(lines.len(), 5, "{lines:?}");
    has(
        &lines[0],
        &[
            "target=closed:80",
            "status=502",
            "reason=not reached: said by the agent",
        ],
    );
    has(
        &lines[1],
        &["method=SOCKS5", "status=refused", "command 2 is not served"],
    );
    has(&lines[2], &["method=-", "status=400", "not valid HTTP"]);
    has(&lines[3], &["status=200", "reason=complete"]);
    has(
        &lines[4],
        &[
            "method=CONNECT",
            "status=200",
            "reason=cut at the end of the session",
        ],
    );
}
