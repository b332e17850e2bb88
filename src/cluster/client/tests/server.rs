//! A small API server and a small proxy for the client's tests, on loopback ports of their own.
//!
//! They speak as much HTTP/1.1 as the tests need and record what they saw. Dropping them ends them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// What the server does with a request.
pub(super) enum Answer {
    /// Status, further header lines, body.
    Http(u16, &'static str, &'static str),
    /// Never answers.
    Hang,
    /// Grants the WebSocket and echoes its bytes.
    WebSocket,
}

pub(super) struct TestServer {
    pub(super) address: SocketAddr,
    /// The authority that signed its certificate; empty without TLS.
    pub(super) ca_pem: String,
    seen: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl TestServer {
    /// Without TLS.
    pub(super) async fn http(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(None, answer).await
    }

    /// With a certificate for this name, valid in this year and the next.
    pub(super) async fn https(
        name: &str,
        year: i32,
        answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(certificate(name, year)), answer).await
    }

    async fn start(
        tls: Option<(ServerConfig, String)>,
        answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, connections) = <(Arc<Mutex<Vec<String>>>, Arc<AtomicUsize>)>::default();
        let (config, ca_pem) = tls.unzip();
        let acceptor = config.map(|config| TlsAcceptor::from(Arc::new(config)));
        let answer = Arc::new(answer);
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let (seen, connections) = (seen.clone(), connections.clone());
            async move {
                let mut connected = JoinSet::new();
                while let Ok((tcp, _peer)) = listener.accept().await {
                    connections.fetch_add(1, Ordering::SeqCst);
                    let (answer, seen, acceptor) = (answer.clone(), seen.clone(), acceptor.clone());
                    connected.spawn(async move {
                        match acceptor {
                            Some(acceptor) => {
                                if let Ok(tls) = acceptor.accept(tcp).await {
                                    serve(tls, &*answer, &seen).await;
                                }
                            }
                            None => serve(tcp, &*answer, &seen).await,
                        }
                    });
                }
            }
        });
        Self {
            address,
            ca_pem: ca_pem.unwrap_or_default(),
            seen,
            connections,
            _tasks: tasks,
        }
    }

    /// The heads of all requests so far.
    pub(super) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// How many TCP connections were made so far.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve<S>(mut io: S, answer: &(dyn Fn(&str) -> Answer + Sync), seen: &Mutex<Vec<String>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(head) = read_head(&mut io).await {
        seen.lock().unwrap().push(head.clone());
        let length: usize = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        io.read_exact(&mut vec![0; length]).await.unwrap();
        match answer(&head) {
            Answer::Http(status, headers, body) => {
                let text = format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}\r\n{body}",
                    body.len()
                );
                io.write_all(text.as_bytes()).await.unwrap();
            }
            Answer::Hang => std::future::pending().await,
            Answer::WebSocket => {
                let accept = derive_accept_key(header(&head, "sec-websocket-key").unwrap().as_bytes());
                let text = format!(
                    "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
                );
                io.write_all(text.as_bytes()).await.unwrap();
                let (mut reader, mut writer) = tokio::io::split(io);
                tokio::io::copy(&mut reader, &mut writer).await.ok();
                return;
            }
        }
    }
    io.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.ok();
}

/// A proxy that knows CONNECT and passes everything on to `target`, whatever was asked for; or refuses it.
pub(super) struct TestProxy {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl TestProxy {
    pub(super) async fn start(target: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let seen = seen.clone();
            async move {
                let mut connected = JoinSet::new();
                while let Ok((mut tcp, _peer)) = listener.accept().await {
                    let seen = seen.clone();
                    connected.spawn(async move {
                        let Some(head) = read_head(&mut tcp).await else {
                            return;
                        };
                        seen.lock().unwrap().push(head);
                        let Some(target) = target else {
                            tcp.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap();
                            return;
                        };
                        let mut upstream = TcpStream::connect(target).await.unwrap();
                        tcp.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                        tokio::io::copy_bidirectional(&mut tcp, &mut upstream).await.ok();
                    });
                }
            }
        });
        Self {
            address,
            seen,
            _tasks: tasks,
        }
    }

    /// The heads of all CONNECT requests so far.
    pub(super) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// `None` at the end of the stream.
async fn read_head<S: AsyncRead + Unpin>(io: &mut S) -> Option<String> {
    let mut head = Vec::new();
    // A TLS hello is no HTTP.
    while !head.starts_with(&[0x16]) && !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.ok()?);
    }
    (head[0] != 0x16).then(|| String::from_utf8(head).unwrap())
}

/// A header's value from a head as text.
pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// A server's TLS with a certificate for `name`, and its authority as PEM.
fn certificate(name: &str, year: i32) -> (ServerConfig, String) {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    leaf.not_before = rcgen::date_time_ymd(year, 1, 1);
    leaf.not_after = rcgen::date_time_ymd(year + 1, 12, 31);
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let chain = vec![CertificateDer::from(leaf)];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    (
        ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap(),
        ca_pem,
    )
}
