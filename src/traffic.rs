//! What a command has carried so far: connections, bytes, errors by kind, datagrams lost, reconnects.
//!
//! One [`Traffic`] for a command's whole life, over all its sessions. The edges count into it where bytes pass
//! ([`Counted`]); `status` and the metrics read it. Nothing here waits: the data path pays one relaxed addition for
//! each read and write.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tunnel_wire::RefusalCode;

/// The counters. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Traffic(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    open: AtomicU64,
    begun: AtomicU64,
    to_cluster: AtomicU64,
    from_cluster: AtomicU64,
    dropped: AtomicU64,
    reconnects: AtomicU64,
    errors: Mutex<BTreeMap<&'static str, u64>>,
}

/// The counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections and flows open now.
    pub open: u64,
    /// Connections and flows there have been.
    pub begun: u64,
    /// Bytes that went to the cluster.
    pub to_cluster: u64,
    /// Bytes that came from the cluster.
    pub from_cluster: u64,
    /// Datagrams that were lost in this program.
    pub dropped: u64,
    /// How often a lost connection to the agent came back.
    pub reconnects: u64,
    /// Connections that failed, by kind; only kinds that occurred.
    pub errors: BTreeMap<&'static str, u64>,
}

impl Traffic {
    /// The stream of one connection or flow, counted for as long as it lives.
    pub fn counted<S>(&self, stream: S) -> Counted<S> {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        Counted {
            stream,
            traffic: self.clone(),
        }
    }

    /// Datagrams were lost here.
    pub fn dropped(&self, datagrams: u64) {
        self.0.dropped.fetch_add(datagrams, Ordering::Relaxed);
    }

    /// A connection to the agent that was lost is back.
    pub fn reconnected(&self) {
        self.0.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection failed in this way.
    pub fn failed(&self, kind: &'static str) {
        let mut errors = self.0.errors.lock().unwrap_or_else(PoisonError::into_inner);
        *errors.entry(kind).or_default() += 1;
    }

    /// The counters now.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            open: read(&self.0.open),
            begun: read(&self.0.begun),
            to_cluster: read(&self.0.to_cluster),
            from_cluster: read(&self.0.from_cluster),
            dropped: read(&self.0.dropped),
            reconnects: read(&self.0.reconnects),
            errors: self
                .0
                .errors
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}

/// What a refusal is called in the counters.
#[must_use]
pub fn kind(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::NoSuchHost => "no-such-host",
        RefusalCode::ResolveFailed => "resolve-failed",
        RefusalCode::ConnectionRefused => "connection-refused",
        RefusalCode::TimedOut => "timed-out",
        RefusalCode::Unreachable => "unreachable",
        RefusalCode::NotAllowed => "not-allowed",
        RefusalCode::TooManyStreams => "too-many-streams",
        RefusalCode::ResourceExhausted => "resource-exhausted",
        RefusalCode::AddressInUse => "address-in-use",
        RefusalCode::ShuttingDown => "shutting-down",
        RefusalCode::Unsupported => "unsupported",
        RefusalCode::Other => "other",
    }
}

/// A stream to the cluster whose bytes are counted: what is read came from there, what is written went there.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    traffic: Traffic,
}

impl<S> Counted<S> {
    /// The stream itself.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The stream itself, past the counters.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl<S> Drop for Counted<S> {
    fn drop(&mut self) {
        self.traffic.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let came = (buf.filled().len() - before) as u64;
        self.traffic.0.from_cluster.fetch_add(came, Ordering::Relaxed);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(length)) = &written {
            self.traffic
                .0
                .to_cluster
                .fetch_add(*length as u64, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn bytes_count_by_direction_and_a_connection_for_as_long_as_it_lives() {
        let traffic = Traffic::default();
        let (near, mut far) = duplex(64);
        let mut counted = traffic.counted(near);
        counted.write_all(b"question").await.unwrap();
        far.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        counted.read_exact(&mut answer).await.unwrap();
        assert_eq!(traffic.totals().open, 1);
        drop(counted);
        let totals = traffic.totals();
        assert_eq!((totals.open, totals.begun), (0, 1));
        assert_eq!((totals.to_cluster, totals.from_cluster), (8, 6));
    }

    #[test]
    fn errors_count_by_kind() {
        let traffic = Traffic::default();
        traffic.failed(kind(RefusalCode::NoSuchHost));
        traffic.failed(kind(RefusalCode::NoSuchHost));
        traffic.failed("held");
        let errors = traffic.totals().errors;
        assert_eq!(errors, BTreeMap::from([("held", 1), ("no-such-host", 2)]));
    }
}
