//! What people do through a session while something breaks: two transfers, a dialogue, and a call from the cluster.
//!
//! All of it shares one session. Each part is paced, so that it spans the fault, and ends when the test says so; then
//! both ends compare what they sent and received. A part that sees an error, an early end or a wrong byte keeps what
//! it saw until the test asks: [`Traffic::finish`] fails for it, [`Traffic::broken`] expects it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tunnel_test_target as ports;
use tunnel_test_target::exchange::Order;

use super::dial::{self, Way};
use super::namespace::Namespace;
use super::near::{self, Broken, Progress};
use super::plugin::{Launch, Ready};
use super::target::Target;
use super::{poll, within};

/// The exposed Service.
pub(crate) const SERVICE: &str = "api";
/// Bytes a second of each transfer: all of them together leave a small machine its breath.
pub(crate) const RATE: u64 = 512 << 10;
/// From the request to end to the last byte of the slowest transfer.
const FINISH: Duration = Duration::from_secs(30);
/// From a call in the cluster to its connection here.
const CALL: Duration = Duration::from_secs(15);
const DOWNLOAD: &str = "download";
const UPLOAD: &str = "upload";
const CALLED: &str = "call from the cluster";
const DIALOGUE: &str = "dialogue";

/// A namespace, a target in it, and the local program that the session exposes.
pub(crate) struct Stage {
    pub(crate) namespace: Namespace,
    pub(crate) target: Target,
    local: TcpListener,
    exchanges: AtomicU64,
}

impl Stage {
    /// Sets it.
    pub(crate) async fn set() -> Self {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        Self {
            namespace,
            target,
            local: TcpListener::bind(("127.0.0.1", 0)).await.expect("a local port"),
            exchanges: AtomicU64::new(1),
        }
    }

    /// A plugin that exposes the local program as [`SERVICE`] and has a proxy's port.
    pub(crate) fn expose(&self, arguments: &[&str]) -> Launch {
        let port = self.local.local_addr().expect("bound").port();
        let port = format!("80:{port}");
        let both = [SERVICE, &port, "--proxy", "--listen", "127.0.0.1:0"];
        self.namespace.expose(&[&both, arguments].concat())
    }

    /// Begins traffic of this rate through a session that is ready.
    pub(crate) async fn traffic(&self, ready: &Ready, rate: u64) -> Traffic {
        let proxy = ready.proxy();
        let mut traffic = Traffic {
            parts: Vec::new(),
            tasks: JoinSet::new(),
            finish: CancellationToken::new(),
        };
        let download = self.open(Way::Connect, proxy, ports::EXCHANGE).await;
        traffic.exchange(DOWNLOAD, download, self.order(rate), 0);
        let upload = self.open(Way::Socks5, proxy, ports::EXCHANGE).await;
        traffic.exchange(UPLOAD, upload, self.order(0), rate);
        let order = self.order(rate);
        let called = self.called(order.number).await;
        traffic.exchange(CALLED, called, order, rate);
        let dialogue = self.open(Way::Connect, proxy, ports::ECHO).await;
        traffic.dialogue(dialogue);
        let limit = Duration::from_secs(20);
        traffic.flowing_again(Instant::now(), limit).await;
        traffic
    }

    fn order(&self, rate: u64) -> Order {
        let number = self.exchanges.fetch_add(1, Ordering::Relaxed);
        Order { rate, number }
    }

    async fn open(&self, way: Way, proxy: SocketAddr, port: u16) -> TcpStream {
        let opened = dial::open(way, proxy, &self.target.name, port).await;
        opened.expect("the target accepts")
    }

    /// A connection that the target made to the exposed Service.
    async fn called(&self, number: u64) -> TcpStream {
        let path = format!("/call/{number}/{SERVICE}/80");
        assert_eq!(self.ask(&path).await, "calling");
        let accepted = within(CALL, "the call from the cluster", self.local.accept()).await;
        let (connection, _) = accepted.expect("a connection");
        connection.set_nodelay(true).expect("set TCP_NODELAY");
        connection
    }

    /// Expects that the pod's program saw a reset in each of these exchanges, not a short transfer.
    pub(crate) async fn expect_far_resets(&self, exchanges: &[u64], limit: Duration) {
        for exchange in exchanges {
            let verdict = poll(limit, "the far end's verdict", async || {
                let verdict = self.ask(&format!("/exchange/{exchange}")).await;
                Some(verdict).filter(|verdict| verdict != "running")
            });
            let verdict = verdict.await;
            assert!(
                verdict.starts_with("error ConnectionReset"),
                "exchange {exchange}, in the pod: {verdict}"
            );
        }
    }

    /// Asks the target in its pod, not through the session, which may have gone.
    async fn ask(&self, path: &str) -> String {
        let calls = self
            .namespace
            .call_http(&self.target, "GET", "127.0.0.1", ports::HTTP, path, 1);
        let answer = calls.await.remove(0).result.expect("the target answers");
        answer.strip_prefix("200 ").unwrap_or(&answer).trim().to_owned()
    }

    /// Expects a new connection through the proxy within `limit`, and that the target answers on it; tries again
    /// as a person does.
    pub(crate) async fn expect_new_connection(&self, proxy: SocketAddr, limit: Duration) {
        let head = format!("GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", self.target.name);
        let attempt = async || {
            let mut connection = TcpStream::connect(proxy).await?;
            dial::request(&mut connection, &head, b"").await
        };
        let answered = poll(limit, "a new connection through the proxy", async || {
            attempt().await.ok().filter(|answer| answer.status == 200)
        });
        within(limit, "an answer through the proxy", answered).await;
    }

    /// Expects that a pod's call through the exposed Service comes here within `limit`, and both ends agree.
    pub(crate) async fn expect_new_call(&self, limit: Duration) {
        let call = async {
            loop {
                let order = self.order(RATE);
                self.ask(&format!("/call/{}/{SERVICE}/80", order.number)).await;
                // A call that met no agent has failed at once; the next one may meet it.
                let accepted = tokio::time::timeout(Duration::from_millis(500), self.local.accept()).await;
                let Ok(accepted) = accepted else { continue };
                let (connection, _) = accepted.expect("a connection");
                let finish = CancellationToken::new();
                let progress = Arc::new(Progress::default());
                let near = near::exchange(connection, order, RATE, Arc::clone(&progress), finish.clone());
                let moved = async {
                    while progress.moved() < near::ENOUGH {
                        sleep(Duration::from_millis(5)).await;
                    }
                    finish.cancel();
                };
                let (went, ()) = tokio::join!(near, moved);
                return went.expect("a new call works");
            }
        };
        within(limit, "a call from the cluster", call).await;
    }
}

/// One part of the traffic.
struct Part {
    name: &'static str,
    /// The number of its exchange; a dialogue has none.
    exchange: Option<u64>,
    progress: Arc<Progress>,
}

/// Traffic through one session; dropping it ends it.
pub(crate) struct Traffic {
    parts: Vec<Part>,
    tasks: JoinSet<(&'static str, Result<(), Broken>)>,
    finish: CancellationToken,
}

impl Traffic {
    fn exchange(&mut self, name: &'static str, connection: TcpStream, order: Order, rate: u64) {
        let (progress, finish) = (Arc::new(Progress::default()), self.finish.clone());
        let near = near::exchange(connection, order, rate, Arc::clone(&progress), finish);
        self.tasks.spawn(async move { (name, near.await) });
        let exchange = Some(order.number);
        self.parts.push(Part {
            name,
            exchange,
            progress,
        });
    }

    fn dialogue(&mut self, connection: TcpStream) {
        let progress = Arc::new(Progress::default());
        let near = near::dialogue(connection, Arc::clone(&progress), self.finish.clone());
        self.tasks.spawn(async move { (DIALOGUE, near.await) });
        self.parts.push(Part {
            name: DIALOGUE,
            exchange: None,
            progress,
        });
    }

    /// Waits until each part has moved bytes after this instant, and returns how long after.
    pub(crate) async fn flowing_again(&mut self, after: Instant, limit: Duration) -> Duration {
        loop {
            if self.parts.iter().all(|part| part.progress.moved_after(after)) {
                return after.elapsed();
            }
            if let Some(ended) = self.tasks.try_join_next() {
                panic!("ended early: {ended:?}");
            }
            let still = || {
                let still = self.parts.iter().filter(|part| !part.progress.moved_after(after));
                still.map(|part| part.name).collect::<Vec<_>>()
            };
            assert!(after.elapsed() < limit, "not within {limit:?}: {:?}", still());
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// The longest time without an answer in the dialogue so far.
    pub(crate) fn largest_gap(&self) -> Duration {
        let gaps = self.parts.iter().filter(|part| part.name == DIALOGUE);
        gaps.map(|part| part.progress.largest_gap())
            .max()
            .unwrap_or_default()
    }

    /// Bytes that arrived here or were acknowledged, all parts together.
    pub(crate) fn moved(&self) -> u64 {
        self.parts.iter().map(|part| part.progress.moved()).sum()
    }

    /// Ends every part in order; fails if one of them, at either end, saw anything but its own bytes and their end.
    pub(crate) async fn finish(mut self) {
        self.finish.cancel();
        let ended = within(FINISH, "the end of the traffic", async {
            let mut ended = Vec::new();
            while let Some(part) = self.tasks.join_next().await {
                ended.push(part.expect("no part panics"));
            }
            ended
        })
        .await;
        assert!(
            ended.len() == self.parts.len() && ended.iter().all(|(_, went)| went.is_ok()),
            "the traffic: {ended:?}"
        );
    }

    /// Expects that every part is broken within `limit` by a reset, which no program takes for an end; returns the
    /// exchanges, for [`Stage::expect_far_resets`].
    pub(crate) async fn expect_resets(mut self, limit: Duration) -> Vec<u64> {
        let broken = async {
            let mut broken = Vec::new();
            while let Some(part) = self.tasks.join_next().await {
                broken.push(part.expect("no part panics"));
            }
            broken
        };
        let broken = within(limit, "the connections being reset", broken).await;
        for (name, went) in broken {
            let why = went.expect_err("nobody asked it to end");
            assert!(why.is_reset(), "{name}: {why:?}");
        }
        self.parts.iter().filter_map(|part| part.exchange).collect()
    }
}
