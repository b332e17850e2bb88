//! Programs on the laptop that `expose` brings connections to: they write down what arrives.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tunnel_test_target::pattern::Pattern;

use super::dial::read_head;

/// What the echo asks of the kernel for datagrams that wait. With the default up to 86 of 1,000 datagrams were lost in
/// its own socket when 200 callers sent 1,200 bytes at once.
const UDP_BUFFER: usize = 1 << 20;

/// An echo for datagrams at `address`, as long as the test's process.
pub(crate) fn udp_echo(address: impl Into<SocketAddr>) -> SocketAddr {
    let socket = UdpSocket::bind(address.into()).expect("a local port");
    let address = socket.local_addr().expect("bound");
    socket2::SockRef::from(&socket)
        .set_recv_buffer_size(UDP_BUFFER)
        .expect("it gives what it may");
    std::thread::spawn(move || tunnel_test_target::udp::echo(&socket));
    address
}

/// A local program; dropping it ends it and its connections.
pub(crate) struct Local {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinSet<()>,
}

impl Local {
    /// An HTTP program that answers every request with `answer` and the request's own first line.
    pub(crate) async fn http(answer: &'static str) -> Self {
        Self::http_at(([127, 0, 0, 1], 0).into(), answer).await
    }

    /// The same on a given address.
    pub(crate) async fn http_at(address: SocketAddr, answer: &'static str) -> Self {
        Self::start(address, move |mut connection, heads| async move {
            // A caller that leaves early is its own affair; what it got is asserted at its end.
            let Ok(head) = read_head(&mut connection).await else {
                return;
            };
            let first = head.lines().next().unwrap_or_default().to_owned();
            heads.lock().expect("no panics while locked").push(head);
            let body = format!("{answer} {first}");
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            if connection.write_all(answer.as_bytes()).await.is_ok() {
                drop(connection.shutdown().await);
            }
        })
        .await
    }

    /// A program that reads to the end, checks the pattern, and only then answers with 1 MiB of it.
    pub(crate) async fn half_close() -> Self {
        Self::start(([127, 0, 0, 1], 0).into(), |mut connection, heads| async move {
            let mut request = Vec::new();
            if connection.read_to_end(&mut request).await.is_err() {
                return;
            }
            let verdict = Pattern::default()
                .check(&request)
                .map_or_else(|wrong| wrong.to_string(), |()| "ok".to_owned());
            heads
                .lock()
                .expect("no panics while locked")
                .push(format!("{} {verdict}", request.len()));
            let mut reply = vec![0; usize::try_from(tunnel_test_target::HALF_CLOSE_REPLY).expect("1 MiB")];
            Pattern::default().fill(&mut reply);
            if connection.write_all(&reply).await.is_ok() {
                drop(connection.shutdown().await);
            }
        })
        .await
    }

    async fn start<F>(
        address: SocketAddr,
        serve: impl Fn(TcpStream, Arc<Mutex<Vec<String>>>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.expect("a local port");
        let address = listener.local_addr().expect("bound");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let mut task = JoinSet::new();
        let shared = Arc::clone(&heads);
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.spawn(serve(connection, Arc::clone(&shared)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, heads, task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// What arrived so far: request heads.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no panics while locked").clone()
    }

    /// Ends the program: its port is closed when this returns.
    pub(crate) async fn stop(mut self) {
        self.task.shutdown().await;
    }
}
