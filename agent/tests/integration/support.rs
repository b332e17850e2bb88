//! A plugin's side of the wire, and agents to talk to. Every wait has a deadline; no test sleeps for a state.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, WriteHalf};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tunnel_agent::{Config, Exit, Transport, config, serve};
use tunnel_wire::hello::{self, Hello, HelloError, Secret};
use tunnel_wire::link::{self, LinkHandle, TransportEnd};
use tunnel_wire::session::{self, End};
use tunnel_wire::{Incoming, Open, OpenError, Protocol, Session, Stream};

pub(crate) const SESSION: &str = "k7x2pq";

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Fails the test instead of hanging it.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} takes more than {PATIENCE:?}"))
}

pub(crate) fn secret() -> Secret {
    Secret::new([7; 32])
}

/// A loopback address of its own for each caller, so that fixed ports do not meet.
pub(crate) fn address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [low, high, ..] = std::process::id().to_le_bytes();
    IpAddr::from([127, 8 + high % 240, low, NEXT.fetch_add(1, Ordering::Relaxed)])
}

/// The environment of an agent; `vars` come first.
pub(crate) fn environment(vars: &[(&str, &str)]) -> Vec<(String, String)> {
    let digest = secret().digest().to_string();
    let required = [
        (config::SESSION, SESSION),
        (config::SECRET_SHA256, digest.as_str()),
        (config::ALLOW_TARGETS, "127.0.0.0/8"),
    ];
    let all = vars.iter().chain(&required);
    all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

pub(crate) fn config(vars: &[(&str, &str)]) -> Config {
    let vars = environment(vars);
    let var = |name: &str| {
        vars.iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
    };
    Config::from_env(var, |path| std::fs::read_to_string(path)).unwrap()
}

/// An agent in this process.
pub(crate) struct InProcess {
    transports_tx: mpsc::Sender<Transport>,
    pub(crate) shutdown: CancellationToken,
    running: JoinSet<Exit>,
}

impl InProcess {
    pub(crate) fn start(config: Config) -> Self {
        let (transports_tx, transports_rx) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(serve(config, transports_rx, shutdown.clone()));
        Self {
            transports_tx,
            shutdown,
            running,
        }
    }

    /// A new transport to the agent: what an exec is in life.
    pub(crate) async fn transport(&self) -> PluginTransport {
        self.faulty(Faults::default()).await
    }

    /// A new transport that fails in these ways.
    pub(crate) async fn faulty(&self, faults: Faults) -> PluginTransport {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (reader, writer) = tokio::io::split(far);
        let (lines, lines_rx) = mpsc::channel(64);
        let gone = CancellationToken::new();
        let stuck = Arc::new(Notify::new());
        let transport = Transport {
            reader: Box::new(reader.take(faults.to_agent)),
            writer: Box::new(Sticky {
                writer,
                left: faults.stuck_after,
                stuck: Arc::clone(&stuck),
            }),
            lines,
            gone: gone.clone(),
        };
        self.transports_tx.send(transport).await.unwrap();
        let (reader, writer) = tokio::io::split(near);
        PluginTransport {
            reader: Box::new(reader.take(faults.to_plugin)),
            writer,
            lines: lines_rx,
            gone,
            stuck,
        }
    }

    /// A plugin with a session over a new transport.
    pub(crate) async fn attach(&self) -> Plugin {
        let transport = self.transport().await;
        self.attach_over(transport).await
    }

    /// A plugin with a session over this transport.
    pub(crate) async fn attach_over(&self, transport: PluginTransport) -> Plugin {
        let mut plugin = soon("the hello", connect(transport.reader, transport.writer))
            .await
            .unwrap();
        plugin.lines = Some(transport.lines);
        plugin
    }

    pub(crate) async fn exit(&mut self) -> Exit {
        soon("the agent's end", self.wait()).await
    }

    /// Like [`InProcess::exit`], for those who have a deadline of their own.
    pub(crate) async fn wait(&mut self) -> Exit {
        self.running.join_next().await.unwrap().unwrap()
    }
}

/// The plugin's end of a transport without a hello yet.
pub(crate) struct PluginTransport {
    pub(crate) reader: Box<dyn AsyncRead + Send + Unpin>,
    pub(crate) writer: WriteHalf<DuplexStream>,
    pub(crate) lines: mpsc::Receiver<String>,
    pub(crate) gone: CancellationToken,
    /// Told when the agent's writing gets stuck.
    pub(crate) stuck: Arc<Notify>,
}

/// How a transport fails, in bytes it carries before it does.
pub(crate) struct Faults {
    /// It ends for the agent.
    pub(crate) to_agent: u64,
    /// It ends for the plugin.
    pub(crate) to_plugin: u64,
    /// It takes nothing more from the agent, and says nothing of it: a dead exec.
    pub(crate) stuck_after: usize,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            to_agent: u64::MAX,
            to_plugin: u64::MAX,
            stuck_after: usize::MAX,
        }
    }
}

/// A writer that blocks for ever at some byte.
struct Sticky {
    writer: WriteHalf<DuplexStream>,
    left: usize,
    stuck: Arc<Notify>,
}

impl AsyncWrite for Sticky {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.left == 0 {
            self.stuck.notify_one();
            return Poll::Pending;
        }
        let length = bytes.len().min(self.left);
        let written = Pin::new(&mut self.writer).poll_write(cx, &bytes[..length]);
        if let Poll::Ready(Ok(length)) = written {
            self.left -= length;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

impl PluginTransport {
    pub(crate) async fn hello(&mut self, hello: &Hello) -> Result<Hello, HelloError> {
        soon(
            "the hello",
            hello::connect(&mut self.reader, &mut self.writer, hello),
        )
        .await
    }
}

/// A plugin's side of a session.
pub(crate) struct Plugin {
    pub(crate) session: Session,
    pub(crate) incoming: Incoming,
    pub(crate) link: LinkHandle,
    pub(crate) lines: Option<mpsc::Receiver<String>>,
    /// The last hello said, without the position.
    pub(crate) hello: Hello,
    /// The port of the agent's entrance, as the last answer told it.
    pub(crate) entrance: u16,
    transport: JoinSet<TransportEnd>,
    _driver: JoinSet<()>,
}

/// The first hello of a new plugin.
pub(crate) fn hello() -> Hello {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let link = NEXT.fetch_add(1, Ordering::Relaxed);
    Hello::plugin(SESSION.parse().unwrap(), secret(), link, 1, 0)
}

/// Says hello and starts a session.
pub(crate) async fn connect<R, W>(reader: R, writer: W) -> Result<Plugin, HelloError>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let (link, io) = link::channel();
    let (session, incoming, driver) = session::start(End::Plugin, link.clone(), io);
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run());
    let mut plugin = Plugin {
        session,
        incoming,
        link,
        lines: None,
        hello: hello(),
        entrance: 0,
        transport: JoinSet::new(),
        _driver: tasks,
    };
    plugin.carry(reader, writer).await?;
    Ok(plugin)
}

impl Plugin {
    /// Says the hello and runs the link over this transport; the one before works until that is accepted.
    async fn carry<R, W>(&mut self, mut reader: R, mut writer: W) -> Result<(), HelloError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        self.hello.received = self.link.progress().received;
        let answer = hello::connect(&mut reader, &mut writer, &self.hello).await?;
        self.entrance = answer.entrance;
        self.transport.shutdown().await;
        let link = self.link.clone();
        self.transport.spawn(async move {
            let end = link.run(reader, writer, answer.received).await;
            if end.is_final() {
                link.close(end.clone());
            }
            end
        });
        Ok(())
    }

    /// Goes on over a new transport.
    pub(crate) async fn resume(&mut self, agent: &InProcess) -> Result<(), HelloError> {
        let transport = agent.transport().await;
        self.resume_over(transport).await
    }

    /// Goes on over this transport.
    pub(crate) async fn resume_over(&mut self, transport: PluginTransport) -> Result<(), HelloError> {
        self.resume_with(transport.reader, transport.writer).await?;
        self.lines = Some(transport.lines);
        Ok(())
    }

    /// Goes on over a transport of these two ends.
    pub(crate) async fn resume_with<R, W>(&mut self, reader: R, writer: W) -> Result<(), HelloError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        self.hello.transport += 1;
        soon("the hello", self.carry(reader, writer)).await
    }

    /// Loses the transport, and waits until the agent knows.
    pub(crate) async fn lose_transport(&mut self) {
        self.transport.shutdown().await;
        let lines = self.lines.as_mut().expect("the agent is in this process");
        soon("the end of the log", async {
            while lines.recv().await.is_some() {}
        })
        .await;
    }

    /// Opens a stream to a target and waits for the answer.
    pub(crate) async fn dial(&self, host: &str, port: u16) -> Result<Stream, OpenError> {
        self.open(&Open::Dial {
            protocol: Protocol::Tcp,
            patience_ms: 0,
            host: host.to_owned(),
            port,
        })
        .await
    }

    pub(crate) async fn open(&self, open: &Open) -> Result<Stream, OpenError> {
        soon("the open", async {
            let mut stream = self.session.open(open).await?;
            stream.opened().await?;
            Ok(stream)
        })
        .await
    }

    /// The next connection that a listener accepted.
    pub(crate) async fn accepted(&mut self) -> (u16, SocketAddr, Stream) {
        let accepted = soon("an accepted connection", self.incoming.accept())
            .await
            .expect("the session lives");
        match accepted.open {
            Open::Accepted { listener, peer, .. } => (listener, peer, accepted.stream),
            open @ (Open::Dial { .. } | Open::Listen { .. }) => panic!("the agent wants {open:?}"),
        }
    }

    /// Why the transport ended.
    pub(crate) async fn ended(&mut self) -> TransportEnd {
        soon("the transport's end", self.transport.join_next())
            .await
            .unwrap()
            .unwrap()
    }

    /// Waits for a log line with this text.
    pub(crate) async fn line(&mut self, text: &str) -> String {
        line(self.lines.as_mut().expect("the agent is in this process"), text).await
    }
}

/// Waits for a log line with this text.
pub(crate) async fn line(lines: &mut mpsc::Receiver<String>, text: &str) -> String {
    loop {
        let line = soon("a log line", lines.recv()).await;
        let line = line.unwrap_or_else(|| panic!("the log ended without a line with '{text}'"));
        if line.contains(text) {
            return line;
        }
    }
}

/// An upstream at a free port of 127.0.0.1.
pub(crate) async fn upstream() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}
