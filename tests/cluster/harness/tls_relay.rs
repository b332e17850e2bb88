//! A relay that ends TLS and harms what passes through exec, as inspecting proxies and broken gateways do.
//!
//! The client trusts its authority; the API server sees the developer's own certificate. Everything but the frames of
//! upgraded connections passes as it is.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kube::client::ConfigExt as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::detour;
use super::frames::Frames;
use super::namespace::Namespace;

const BLOCK: usize = 64 << 10;
/// A request or answer head is far smaller.
const HEAD: usize = 64 << 10;

/// What the relay does to the payload of binary frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// One byte in this many is altered, each way.
    Alter(u64),
    /// On each connection, what the client sends behind this many bytes vanishes.
    CutStdin(u64),
}

/// The relay; dropping it ends its connections.
pub(crate) struct TlsRelay {
    kubeconfig: PathBuf,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

struct Shared {
    harm: Harm,
    server: String,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    up: Direction,
    down: Direction,
}

/// Payload of all connections together.
#[derive(Default)]
struct Direction {
    passed: AtomicU64,
    altered: AtomicU64,
}

/// What the two directions of one connection tell each other.
#[derive(Default)]
struct Upgrade {
    asked: AtomicBool,
    done: AtomicBool,
}

impl TlsRelay {
    /// Starts it in front of the API server.
    pub(crate) async fn start(namespace: &Namespace, harm: Harm) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a local port");
        let address = listener.local_addr().expect("bound");
        let kubeconfig = detour::through(namespace, "tls-relay", address);
        let (authority, server_config) = server_config();
        let authority_file = namespace.folder().join("tls-relay.pem");
        std::fs::write(&authority_file, authority).expect("write the authority");
        detour::trust(&kubeconfig, &authority_file);
        let shared = Arc::new(Shared {
            harm,
            server: detour::api_server(namespace),
            acceptor: TlsAcceptor::from(Arc::new(server_config)),
            connector: TlsConnector::from(Arc::new(client_config(namespace).await)),
            up: Direction::default(),
            down: Direction::default(),
        });
        let mut accepting = JoinSet::new();
        let relay = Arc::clone(&shared);
        accepting.spawn(async move {
            let mut relayed = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let relay = Arc::clone(&relay);
                // A connection that fails is the plugin's finding.
                relayed.spawn(async move { drop(relay.relay(near).await) });
                while relayed.try_join_next().is_some() {}
            }
        });
        Self {
            kubeconfig,
            shared,
            _accepting: accepting,
        }
    }

    /// A kubeconfig that goes through the relay and trusts it.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Bytes altered on the way to the API server, and from it.
    pub(crate) fn altered(&self) -> (u64, u64) {
        let [up, down] = [&self.shared.up, &self.shared.down];
        (
            up.altered.load(Ordering::Relaxed),
            down.altered.load(Ordering::Relaxed),
        )
    }
}

impl Shared {
    async fn relay(&self, near: TcpStream) -> std::io::Result<()> {
        near.set_nodelay(true)?;
        let near = self.acceptor.accept(near).await?;
        let far = TcpStream::connect(&self.server).await?;
        far.set_nodelay(true)?;
        let host = self
            .server
            .rsplit_once(':')
            .map_or(self.server.as_str(), |(host, _)| host);
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        let far = self.connector.connect(name, far).await?;
        let (near_reader, near_writer) = split(near);
        let (far_reader, far_writer) = split(far);
        let upgrade = Upgrade::default();
        // Whichever ends first ends both: nothing here is half-closed.
        tokio::select! {
            up = self.upward(near_reader, far_writer, &upgrade) => up,
            down = self.downward(far_reader, near_writer, &upgrade) => down,
        }
    }

    async fn upward(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        upgrade: &Upgrade,
    ) -> std::io::Result<()> {
        let mut frames = Frames::default();
        let mut block = vec![0; BLOCK];
        let mut passed = 0;
        loop {
            let count = from.read(&mut block).await?;
            if count == 0 {
                return to.shutdown().await;
            }
            let bytes = &mut block[..count];
            if upgrade.done.load(Ordering::Acquire) {
                frames.binary(bytes, |payload, first| {
                    passed += payload.len() as u64;
                    self.up.harm(self.harm, payload, first);
                });
            } else {
                let head = String::from_utf8_lossy(bytes).to_lowercase();
                if head.starts_with("get ") && head.contains("\r\nupgrade: websocket\r\n") {
                    upgrade.asked.store(true, Ordering::Release);
                }
            }
            if !matches!(self.harm, Harm::CutStdin(after) if passed > after) {
                to.write_all(bytes).await?;
                to.flush().await?;
            }
        }
    }

    async fn downward(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        upgrade: &Upgrade,
    ) -> std::io::Result<()> {
        let mut frames = Frames::default();
        let mut block = vec![0; BLOCK];
        let mut head = Vec::new();
        loop {
            let count = from.read(&mut block).await?;
            if count == 0 {
                return to.shutdown().await;
            }
            let bytes = &mut block[..count];
            if upgrade.done.load(Ordering::Acquire) {
                frames.binary(bytes, |payload, first| self.down.harm(self.harm, payload, first));
            } else if upgrade.asked.load(Ordering::Acquire) {
                head.extend_from_slice(bytes);
                if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                    // The bytes behind the head are frames already; they are a part of `bytes`.
                    let behind = (head.len() - end - 4).min(count);
                    let switched = head.starts_with(b"HTTP/1.1 101 ");
                    upgrade.asked.store(false, Ordering::Release);
                    head.clear();
                    if switched {
                        frames.binary(&mut bytes[count - behind..], |_, _| {});
                        upgrade.done.store(true, Ordering::Release);
                    }
                }
                assert!(head.len() < HEAD, "an answer without an end of its head");
            }
            to.write_all(bytes).await?;
            to.flush().await?;
        }
    }
}

impl Direction {
    /// Counts these bytes of payload, and alters one where it is due; `first`: they begin a message.
    fn harm(&self, harm: Harm, payload: &mut [u8], first: bool) {
        let count = payload.len() as u64;
        let before = self.passed.fetch_add(count, Ordering::Relaxed);
        let Harm::Alter(every) = harm else { return };
        let due = (before + count) / every > self.altered.load(Ordering::Relaxed);
        // The first byte names the channel: the last one is data.
        let least = if first { 2 } else { 1 };
        if due && payload.len() >= least {
            let last = payload.len() - 1;
            payload[last] ^= 1;
            self.altered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An authority of the relay's own, as PEM, and a server that it vouches for.
fn server_config() -> (String, ServerConfig) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(authority, key).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST).to_string();
    let server = CertificateParams::new(vec![address]).expect("an address is a name");
    let server = server.signed_by(&key, &authority).expect("a certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key)
        .expect("a certificate and its key");
    (authority.pem(), config)
}

/// As kube itself would connect with the developer's kubeconfig.
async fn client_config(namespace: &Namespace) -> ClientConfig {
    let kubeconfig = kube::config::Kubeconfig::read_from(namespace.kubeconfig()).expect("a kubeconfig");
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let config = config.expect("a kubeconfig that works");
    config.rustls_client_config().expect("certificates that work")
}
