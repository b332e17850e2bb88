//! The cluster of a listener's test: names, what becomes of an open to each, and streams with the session's habits.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use kubectl_tunnel::listener::{Connect, DialError, Target};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tunnel_wire::RefusalCode;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    At(SocketAddr),
    Fails(RefusalCode),
    /// The open is never answered.
    Silent,
    /// The open is a defect of ours.
    Panics,
}

/// The names of a test's cluster, and which of them were opened.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cluster {
    places: Arc<Mutex<HashMap<String, Place>>>,
    opened: Arc<Mutex<Vec<String>>>,
}

impl Cluster {
    pub(crate) fn place(&self, name: &str, place: Place) {
        self.places.lock().unwrap().insert(name.to_owned(), place);
    }

    /// What was opened so far.
    pub(crate) fn opened(&self) -> Vec<String> {
        self.opened.lock().unwrap().clone()
    }

    async fn reach(&self, name: String) -> Result<TestStream, DialError> {
        let place = self.places.lock().unwrap().get(&name).copied();
        self.opened.lock().unwrap().push(name);
        match place {
            Some(Place::At(address)) => Ok(TestStream::new(TcpStream::connect(address).await.unwrap())),
            Some(Place::Fails(code @ (RefusalCode::TooManyStreams | RefusalCode::ShuttingDown))) => {
                Err(DialError {
                    code,
                    detail: "no more".to_owned(),
                })
            }
            Some(Place::Fails(code)) => Ok(TestStream::refused(code)),
            Some(Place::Silent) => Ok(TestStream {
                tcp: None,
                refusal: None,
                shut: false,
            }),
            Some(Place::Panics) => panic!("on purpose"),
            None => Ok(TestStream::refused(RefusalCode::NoSuchHost)),
        }
    }
}

impl Connect for Cluster {
    fn dropped(&self, _: u64) {}

    type Stream = TestStream;

    async fn open(&self, target: &Target) -> Result<TestStream, DialError> {
        self.reach(target.to_string()).await
    }

    /// The places of datagrams are named `udp host:port`.
    async fn open_flow(&self, target: &Target) -> Result<TestStream, DialError> {
        self.reach(format!("udp {target}")).await
    }

    fn upstream(&self, stream: &TestStream) -> Option<SocketAddr> {
        stream.tcp.as_ref()?.peer_addr().ok()
    }

    async fn opened(&self, stream: &mut TestStream) -> Result<(), DialError> {
        match (&stream.tcp, stream.refusal) {
            (Some(_), _) => Ok(()),
            (None, Some(code)) => Err(DialError {
                code,
                detail: "said by the agent".to_owned(),
            }),
            (None, None) => std::future::pending().await,
        }
    }
}

/// A stream with the session's habits: dropped without a shutdown it is aborted, and one that was refused
/// takes bytes all the same.
#[derive(Debug)]
pub(crate) struct TestStream {
    tcp: Option<TcpStream>,
    refusal: Option<RefusalCode>,
    shut: bool,
}

impl TestStream {
    fn new(tcp: TcpStream) -> Self {
        Self {
            tcp: Some(tcp),
            refusal: None,
            shut: false,
        }
    }

    fn refused(code: RefusalCode) -> Self {
        Self {
            tcp: None,
            refusal: Some(code),
            shut: false,
        }
    }

    fn tcp(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.tcp
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::ConnectionReset.into())
    }
}

impl Drop for TestStream {
    fn drop(&mut self) {
        if let (false, Some(tcp)) = (self.shut, &self.tcp) {
            tcp.set_zero_linger().unwrap();
        }
    }
}

impl AsyncRead for TestStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.tcp()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for TestStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.tcp.is_none() {
            return Poll::Ready(Ok(bytes.len()));
        }
        self.tcp()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.tcp.is_none() {
            return Poll::Ready(Ok(()));
        }
        self.tcp()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        self.tcp()?.poll_shutdown(cx)
    }
}
