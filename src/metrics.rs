//! `--metrics`: how a command stands and what it has carried, as `OpenMetrics` text on a port of its own.
//!
//! By hand: a dozen fixed names need no registry. Only `GET /metrics` is answered, and only under a name that no web
//! page can have pointed here: an IP address or `localhost`.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::control::{Seen, Snapshot};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Longest request head, in bytes.
const HEAD: usize = 8 * 1024;

/// How long a request and its answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Scrapes at once; others wait.
const CONNECTIONS: usize = 16;

/// Every state that is shown.
const STATES: [&str; 5] = ["idle", "starting", "ready", "reconnecting", "draining"];

/// Where metrics are wanted: `PORT`, `HOST:PORT` or `[IPV6]:PORT`; loopback where no host is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsAddress(SocketAddr);

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{text}` is not like 127.0.0.1:9464 (port 0 is any free one)");
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let port = port.parse().map_err(|_| wrong())?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let ip = match host {
            "" | "localhost" => Ipv4Addr::LOCALHOST.into(),
            host => bare.unwrap_or(host).parse::<IpAddr>().map_err(|_| wrong())?,
        };
        if ip.is_ipv6() != bare.is_some() {
            return Err(wrong());
        }
        Ok(Self(SocketAddr::new(ip, port)))
    }
}

impl MetricsAddress {
    /// Binds the port.
    ///
    /// # Errors
    /// It cannot be had.
    pub async fn bind(&self) -> io::Result<Metrics> {
        let listener = TcpListener::bind(self.0).await?;
        let address = listener.local_addr()?;
        Ok(Metrics { listener, address })
    }

    /// What errors call it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0
    }
}

/// The bound port; scrapes wait until it is served.
#[derive(Debug)]
pub struct Metrics {
    listener: TcpListener,
    address: SocketAddr,
}

impl Metrics {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether other machines may reach it.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        !self.address.ip().to_canonical().is_loopback()
    }

    /// Answers until it is dropped.
    pub async fn serve(self, seen: Arc<impl Seen>) {
        let mut scrapes = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if scrapes.len() < CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        let seen = Arc::clone(&seen);
                        scrapes.spawn(async move {
                            // Who gives up needs no answer.
                            drop(timeout(PATIENCE, scrape(stream, &*seen)).await);
                        });
                    }
                    Err(error) => {
                        tracing::debug!(%error, "scrape not accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = scrapes.join_next(), if !scrapes.is_empty() => {}
            }
        }
    }
}

async fn scrape(mut stream: TcpStream, seen: &impl Seen) -> io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let answer = respond(&head, || exposition(&seen.snapshot()));
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// The whole answer to a request's head.
fn respond(head: &[u8], body: impl FnOnce() -> String) -> String {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let plain = "text/plain; charset=utf-8";
    let (status, kind, body) = if request.parse(head).is_err() {
        ("400 Bad Request", plain, "not an HTTP request\n".to_owned())
    } else if !host_is_ours(&request) {
        let text = "the Host header must be an IP address or localhost\n";
        ("403 Forbidden", plain, text.to_owned())
    } else if !matches!(request.method, Some("GET" | "HEAD")) {
        ("405 Method Not Allowed", plain, "only GET\n".to_owned())
    } else if request.path.map(|path| path.split('?').next()) != Some(Some("/metrics")) {
        ("404 Not Found", plain, "see /metrics\n".to_owned())
    } else {
        ("200 OK", CONTENT_TYPE, body())
    };
    let length = body.len();
    let body = if request.method == Some("HEAD") { "" } else { &body };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\
         X-Content-Type-Options: nosniff\r\n\r\n{body}"
    )
}

/// A page that rebinds its own name to this address still sends that name.
fn host_is_ours(request: &httparse::Request<'_, '_>) -> bool {
    let mut hosts = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("host"));
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let Ok(host) = std::str::from_utf8(host.value) else {
        return false;
    };
    let host = host.trim();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost") || bare.unwrap_or(name).parse::<IpAddr>().is_ok()
}

/// The text of `OpenMetrics` 1.0.
fn exposition(seen: &Snapshot) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, unit: &str, help: &str, samples: &[(String, String)]| {
        let full = if unit.is_empty() {
            name.to_owned()
        } else {
            format!("{name}_{unit}")
        };
        // Writing to a String cannot fail.
        let _done = writeln!(text, "# TYPE {full} {kind}");
        if !unit.is_empty() {
            let _done = writeln!(text, "# UNIT {full} {unit}");
        }
        let _done = writeln!(text, "# HELP {full} {help}");
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        for (labels, value) in samples {
            let _done = writeln!(text, "{full}{suffix}{labels} {value}");
        }
    };
    let one = |value: u64| [(String::new(), value.to_string())];
    let about = labels(&[
        ("id", &seen.id),
        ("namespace", &seen.namespace),
        ("version", env!("CARGO_PKG_VERSION")),
    ]);
    family(
        "kubectl_tunnel",
        "info",
        "",
        "The command.",
        &[(about, "1".to_owned())],
    );
    let states = STATES.map(|state| {
        let is = u8::from(state == seen.state);
        (labels(&[("kubectl_tunnel_state", state)]), is.to_string())
    });
    family(
        "kubectl_tunnel_state",
        "stateset",
        "",
        "How the session stands.",
        &states,
    );
    let bytes = [
        (labels(&[("direction", "sent")]), seen.sent_bytes.to_string()),
        (
            labels(&[("direction", "received")]),
            seen.received_bytes.to_string(),
        ),
    ];
    let help = "What connections carried; sent is to the cluster.";
    family("kubectl_tunnel_traffic", "counter", "bytes", help, &bytes);
    family(
        "kubectl_tunnel_open_streams",
        "gauge",
        "",
        "Connections and flows open now.",
        &one(seen.streams),
    );
    family(
        "kubectl_tunnel_streams",
        "counter",
        "",
        "Connections and flows so far.",
        &one(seen.streams_total),
    );
    let errors: Vec<_> = seen
        .errors
        .iter()
        .map(|(kind, count)| (labels(&[("kind", kind)]), count.to_string()))
        .collect();
    let help = "Connections that failed, by kind.";
    family("kubectl_tunnel_errors", "counter", "", help, &errors);
    let trips: Vec<_> = seen
        .round_trip_ms
        .iter()
        .map(|millis| (String::new(), (millis / 1000.0).to_string()))
        .collect();
    let help = "To the agent and back.";
    family("kubectl_tunnel_round_trip", "gauge", "seconds", help, &trips);
    let help = "Lost connections to the agent that came back.";
    family(
        "kubectl_tunnel_reconnects",
        "counter",
        "",
        help,
        &one(seen.reconnects),
    );
    let help = "Datagrams lost in the plugin.";
    family(
        "kubectl_tunnel_dropped_datagrams",
        "counter",
        "",
        help,
        &one(seen.dropped_datagrams),
    );
    text.push_str("# EOF\n");
    text
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        })
        .collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(host: &str, path: &str) -> String {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        respond(head.as_bytes(), || "# EOF\n".to_owned())
    }

    #[test]
    fn only_names_that_no_page_can_take_are_answered() {
        for host in [
            "127.0.0.1:9464",
            "localhost:9464",
            "LOCALHOST",
            "[::1]:9464",
            "10.0.0.7",
        ] {
            assert!(get(host, "/metrics").starts_with("HTTP/1.1 200"), "{host}");
        }
        for host in ["evil.example:9464", "localhost.evil.example", ""] {
            assert!(get(host, "/metrics").starts_with("HTTP/1.1 403"), "{host}");
        }
        assert!(respond(b"GET /metrics HTTP/1.1\r\n\r\n", String::new).starts_with("HTTP/1.1 403"));
        assert!(get("127.0.0.1", "/").starts_with("HTTP/1.1 404"));
    }

    #[test]
    fn a_head_has_no_body_but_its_length() {
        let head = b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let answer = respond(head, || "# EOF\n".to_owned());
        assert!(answer.contains("Content-Length: 6\r\n") && answer.ends_with("\r\n\r\n"));
    }

    #[test]
    fn addresses_are_loopback_unless_they_say_otherwise() {
        let parse = |text: &str| {
            text.parse::<MetricsAddress>()
                .map(|address| address.0.to_string())
        };
        assert_eq!(parse("9464").unwrap(), "127.0.0.1:9464");
        assert_eq!(parse(":0").unwrap(), "127.0.0.1:0");
        assert_eq!(parse("localhost:1").unwrap(), "127.0.0.1:1");
        assert_eq!(parse("[::1]:9464").unwrap(), "[::1]:9464");
        assert_eq!(parse("0.0.0.0:9464").unwrap(), "0.0.0.0:9464");
        for wrong in ["", "::1:9464", "host:1", "127.0.0.1:x", "127.0.0.1:70000"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_text_is_open_metrics() {
        let mut seen = crate::control::snapshot_for_tests("abc123");
        seen.namespace = "a\"b".to_owned();
        let text = exposition(&seen);
        for line in [
            "# TYPE kubectl_tunnel_traffic_bytes counter",
            "# UNIT kubectl_tunnel_traffic_bytes bytes",
            "kubectl_tunnel_traffic_bytes_total{direction=\"received\"} 4",
            "kubectl_tunnel_state{kubectl_tunnel_state=\"ready\"} 1",
            "kubectl_tunnel_open_streams 1",
            "kubectl_tunnel_errors_total{kind=\"no-such-host\"} 7",
            "kubectl_tunnel_round_trip_seconds 0.0015",
            "kubectl_tunnel_reconnects_total 5",
            "kubectl_tunnel_dropped_datagrams_total 6",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(text.contains("namespace=\"a\\\"b\""), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
