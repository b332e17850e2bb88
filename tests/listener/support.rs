//! Both ends of a connection through the listener, driven by one test: a program at the local port, and
//! upstreams behind a `Connect` of ours (`cluster`). Every wait has a deadline.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use kubectl_tunnel::listener::{Bound, Limits, Listener, LocalAddress, Options};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tunnel_wire::RefusalCode;

use crate::cluster::{Cluster, Place};

/// Longer than anything here takes; reached only by a test that fails.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("waited too long: {what}"))
}

/// A listener that runs, and the cluster behind it.
pub(crate) struct World {
    /// Its TCP port; port 0 of a listener that has none.
    pub(crate) address: SocketAddr,
    pub(crate) drain: CancellationToken,
    cluster: Cluster,
    serving: JoinSet<()>,
}

pub(crate) fn options() -> Options {
    Options {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        credentials: None,
        cluster_domain: "cluster.local".to_owned(),
        namespace: "dev".to_owned(),
        limits: Limits::default(),
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(options()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        Self::serve(Listener::bind(options).await.unwrap())
    }

    pub(crate) fn serve(bound: Bound) -> Self {
        let cluster = Cluster::default();
        let drain = CancellationToken::new();
        let address = bound
            .addresses()
            .iter()
            .find_map(LocalAddress::tcp)
            .unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
        let mut serving = JoinSet::new();
        serving.spawn(bound.serve(cluster.clone(), drain.clone()));
        Self {
            address,
            drain,
            cluster,
            serving,
        }
    }

    /// An upstream under that `host:port`.
    pub(crate) async fn upstream(&self, name: &str) -> Upstream {
        let upstream = Upstream::new().await;
        self.place(name, Place::At(upstream.0.local_addr().unwrap()));
        upstream
    }

    /// An upstream that is not reached.
    pub(crate) fn fails(&self, name: &str, code: RefusalCode) {
        self.place(name, Place::Fails(code));
    }

    /// An upstream of which nothing is heard.
    pub(crate) fn silent(&self, name: &str) {
        self.place(name, Place::Silent);
    }

    /// An upstream whose open panics.
    pub(crate) fn panics(&self, name: &str) {
        self.place(name, Place::Panics);
    }

    fn place(&self, name: &str, place: Place) {
        self.cluster.place(name, place);
    }

    /// What was opened so far.
    pub(crate) fn opened(&self) -> Vec<String> {
        self.cluster.opened()
    }

    /// A program that connects to the local port.
    pub(crate) async fn connect(&self) -> Peer {
        Peer::connect(self.address).await
    }

    /// A program that sends these bytes.
    pub(crate) async fn send(&self, bytes: impl AsRef<[u8]>) -> Peer {
        let mut peer = self.connect().await;
        peer.write(bytes).await;
        peer
    }

    /// What a request is answered with when it must not reach anything.
    pub(crate) async fn rejected(&self, request: impl AsRef<[u8]>) -> Response {
        let before = self.opened();
        let mut peer = self.send(request).await;
        let response = peer.response().await;
        assert_eq!(self.opened(), before, "something was dialled");
        response
    }

    /// Waits until the listener's future is done.
    pub(crate) async fn ended(&mut self) {
        soon("the listener's end", self.serving.join_next())
            .await
            .unwrap()
            .unwrap();
    }

    /// Drops the listener's future, as the end of the session does.
    pub(crate) async fn abort(&mut self) {
        self.serving.shutdown().await;
    }
}

pub(crate) struct Upstream(TcpListener);

impl Upstream {
    /// On a free port of loopback.
    pub(crate) async fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    pub(crate) async fn accept(&self) -> Peer {
        Peer::new(self.accept_stream().await)
    }

    pub(crate) async fn accept_stream(&self) -> TcpStream {
        let accepted = soon("a connection to the upstream", self.0.accept()).await;
        accepted.unwrap().0
    }

    /// Accepts, and reads a request head.
    pub(crate) async fn request(&self) -> (Peer, String) {
        let mut peer = self.accept().await;
        let head = peer.head().await;
        (peer, head)
    }
}

/// One end of a connection.
pub(crate) struct Peer {
    stream: End,
    buf: Vec<u8>,
}

/// The two kinds of connections as one stream.
enum End {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

trait Both: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Both for S {}

impl End {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut (dyn Both + '_)> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream),
        }
    }
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream: End::Tcp(stream),
            buf: Vec::new(),
        }
    }

    #[cfg(unix)]
    pub(crate) async fn unix(path: &std::path::Path) -> Self {
        let stream = soon(
            "a connection to the socket",
            tokio::net::UnixStream::connect(path),
        );
        Self {
            stream: End::Unix(stream.await.unwrap()),
            buf: Vec::new(),
        }
    }

    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::new(
            soon("a connection to the listener", TcpStream::connect(address))
                .await
                .unwrap(),
        )
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        soon("a write", self.stream.write_all(bytes.as_ref()))
            .await
            .unwrap();
    }

    /// Writes until the other end takes no more, or fails.
    pub(crate) async fn flood(&mut self, total: usize) -> io::Result<()> {
        soon("a flood", self.stream.write_all(&vec![b'x'; total])).await
    }

    /// Each byte as a write of its own.
    pub(crate) async fn dribble(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            self.write([*byte]).await;
            tokio::task::yield_now().await;
        }
    }

    /// Ends the own direction.
    pub(crate) async fn shutdown(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        match self.stream {
            End::Tcp(stream) => stream.set_zero_linger().unwrap(),
            #[cfg(unix)]
            End::Unix(_) => panic!("a unix socket has no reset"),
        }
    }

    async fn fill(&mut self, what: &str) -> io::Result<usize> {
        soon(what, self.stream.read_buf(&mut self.buf)).await
    }

    /// What comes up to and with `end`.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self
                .buf
                .windows(end.len())
                .position(|window| window == end.as_bytes())
            {
                return String::from_utf8(self.buf.drain(..at + end.len()).collect()).unwrap();
            }
            let read = self.fill(end).await.unwrap();
            assert_ne!(
                read,
                0,
                "ended before {end:?}: {:?}",
                String::from_utf8_lossy(&self.buf)
            );
        }
    }

    pub(crate) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    pub(crate) async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.buf.len() < length {
            assert_ne!(self.fill("more bytes").await.unwrap(), 0, "ended early");
        }
        self.buf.drain(..length).collect()
    }

    /// Sends and receives at once.
    pub(crate) async fn exchange(&mut self, bytes: &[u8], length: usize) -> Vec<u8> {
        let mut got = std::mem::take(&mut self.buf);
        let (mut read, mut write) = tokio::io::split(&mut self.stream);
        let receive = async {
            while got.len() < length {
                assert_ne!(read.read_buf(&mut got).await.unwrap(), 0, "ended early");
            }
        };
        let (sent, ()) = soon("an exchange", async {
            tokio::join!(write.write_all(bytes), receive)
        })
        .await;
        sent.unwrap();
        got
    }

    pub(crate) async fn expect(&mut self, text: &str) {
        assert_eq!(String::from_utf8_lossy(&self.exactly(text.len()).await), text);
    }

    /// A response with a Content-Length.
    pub(crate) async fn response(&mut self) -> Response {
        let head = self.head().await;
        let status = head[9..12].parse().unwrap();
        let length = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        let body = String::from_utf8(self.exactly(length).await).unwrap();
        Response { status, head, body }
    }

    /// All to the end, or the error instead of the end.
    pub(crate) async fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill("the end").await? > 0 {}
        Ok(std::mem::take(&mut self.buf))
    }

    /// Asserts a proper end with nothing before it.
    pub(crate) async fn ends(&mut self) {
        assert_eq!(String::from_utf8_lossy(&self.rest().await.unwrap()), "");
    }

    /// Asserts that the connection is reset, not ended.
    pub(crate) async fn is_reset(&mut self) {
        let error = self.rest().await.expect_err("a proper end instead of a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
