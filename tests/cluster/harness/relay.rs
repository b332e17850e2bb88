//! A TCP relay between plugin and API server that loses, cuts and holds connections: what happens to a laptop's line.
//!
//! It looks into nothing: TLS goes through it, and is verified as without it. `tls_relay` is the one that looks.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::namespace::Namespace;
use super::{detour, poll};

/// Bytes each way since the last cut by which the exec's connection is told from those of plain requests.
const BUSY: u64 = 16 << 10;
const BLOCK: usize = 64 << 10;
/// The kernel's pause before data is sent again for the first time, on a short line.
const FIRST_DATA: Duration = Duration::from_millis(200);
/// The same for a connection's first segment.
const FIRST_SYN: Duration = Duration::from_secs(1);

/// The relay; dropping it resets all its connections.
pub(crate) struct Relay {
    kubeconfig: PathBuf,
    lines: Arc<Lines>,
    _accepting: JoinSet<()>,
}

/// What the test changes and the connections see.
struct Lines {
    /// Nothing passes while this is true.
    hole: watch::Sender<bool>,
    live: Mutex<BTreeMap<u64, Arc<Line>>>,
}

/// One relayed connection.
#[derive(Default)]
struct Line {
    /// Bytes to the API server since the last cut of any line.
    up: AtomicU64,
    /// Bytes from it.
    down: AtomicU64,
    cut: CancellationToken,
}

impl Relay {
    /// Starts it in front of the API server.
    pub(crate) async fn start(namespace: &Namespace) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a local port");
        let address = listener.local_addr().expect("bound");
        let server = detour::api_server(namespace);
        let (hole, _) = watch::channel(false);
        let lines = Arc::new(Lines {
            hole,
            live: Mutex::default(),
        });
        let mut accepting = JoinSet::new();
        let shared = Arc::clone(&lines);
        accepting.spawn(async move {
            let mut relayed = JoinSet::new();
            let mut number = 0;
            while let Ok((near, _)) = listener.accept().await {
                let (shared, server) = (Arc::clone(&shared), server.clone());
                relayed.spawn(async move { shared.relay(number, near, &server).await });
                while relayed.try_join_next().is_some() {}
                number += 1;
            }
        });
        Self {
            kubeconfig: detour::through(namespace, "relay", address),
            lines,
            _accepting: accepting,
        }
    }

    /// A kubeconfig that goes through the relay.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// From here on nothing passes, and nobody is told: connections stay open, new ones get no answer.
    pub(crate) fn black_hole(&self) {
        self.lines.hole.send_replace(true);
    }

    /// Everything passes again; what was held, when it would be sent again.
    pub(crate) fn mend(&self) {
        self.lines.hole.send_replace(false);
    }

    /// Resets every connection.
    pub(crate) fn cut_all(&self) {
        for line in self.lines.all() {
            line.cut.cancel();
        }
    }

    /// Resets the connection that carries the exec, once there is one that carries something.
    pub(crate) async fn cut_exec(&self, limit: Duration) {
        let busiest = poll(limit, "an exec's connection that moves bytes", async || {
            self.lines.all().into_iter().find(|line| line.least() > BUSY)
        })
        .await;
        busiest.cut.cancel();
        for line in self.lines.all() {
            line.up.store(0, Ordering::Relaxed);
            line.down.store(0, Ordering::Relaxed);
        }
    }
}

impl Line {
    fn least(&self) -> u64 {
        let [up, down] = [&self.up, &self.down].map(|count| count.load(Ordering::Relaxed));
        up.min(down)
    }
}

impl Lines {
    fn all(&self) -> Vec<Arc<Line>> {
        let live = self.live.lock().expect("no panics while locked");
        live.values()
            .filter(|line| !line.cut.is_cancelled())
            .cloned()
            .collect()
    }

    /// Carries one connection to its end or its cut; either way both sides see it.
    async fn relay(&self, number: u64, mut near: TcpStream, server: &str) {
        let line = Arc::new(Line::default());
        let live = || self.live.lock().expect("no panics while locked");
        live().insert(number, Arc::clone(&line));
        let far = tokio::select! {
            () = line.cut.cancelled() => None,
            far = self.dial(server) => far.ok(),
        };
        if let Some(mut far) = far {
            let (near_reader, near_writer) = near.split();
            let (far_reader, far_writer) = far.split();
            let carried = async {
                tokio::try_join!(
                    self.copy(near_reader, far_writer, &line.up),
                    self.copy(far_reader, near_writer, &line.down),
                )
            };
            let in_order = tokio::select! {
                () = line.cut.cancelled() => false,
                ended = carried => ended.is_ok(),
            };
            if !in_order {
                drop((near.set_zero_linger(), far.set_zero_linger()));
            }
        }
        live().remove(&number);
    }

    async fn dial(&self, server: &str) -> io::Result<TcpStream> {
        self.passed(FIRST_SYN).await;
        let far = TcpStream::connect(server).await?;
        far.set_nodelay(true)?;
        Ok(far)
    }

    /// Copies one direction; what came when the hole opened waits for its end.
    async fn copy(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, moved: &AtomicU64) -> io::Result<()> {
        let mut block = vec![0; BLOCK];
        loop {
            let count = from.read(&mut block).await?;
            self.passed(FIRST_DATA).await;
            if count == 0 {
                return to.shutdown().await;
            }
            to.write_all(&block[..count]).await?;
            moved.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    /// Returns at once while there is no hole. What meets one passes when the kernel would have sent it again: the
    /// pause before each retransmission is twice the one before, whether the line is mended meanwhile or not.
    async fn passed(&self, first: Duration) {
        let mut hole = self.hole.subscribe();
        let met = Instant::now();
        while *hole.borrow_and_update() {
            // The sender lives in this value.
            drop(hole.wait_for(|hole| !hole).await);
            let mut sent_again = first;
            while sent_again < met.elapsed() {
                sent_again = sent_again * 2 + first;
            }
            sleep_until(met + sent_again).await;
        }
    }
}
