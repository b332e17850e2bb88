//! The stream that carries a connection's requests to one target, kept while the next request goes there too.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::head::RESPONSE_HEAD_LIMIT;
use crate::listener::connection::{Shared, no_answer};
use crate::listener::local::READ;
use crate::listener::target::Target;
use crate::listener::{Connect, DialError};

/// An open stream and the target it leads to. Dropped without [`Upstream::end`], the stream is aborted.
#[derive(Debug)]
pub(crate) struct Upstream<S> {
    pub(crate) target: Target,
    /// The address that was chosen for it, where that is known.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) read: ReadHalf<S>,
    pub(crate) write: WriteHalf<S>,
    /// Read and not yet passed on.
    pub(crate) buf: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Upstream<S> {
    /// Opens a stream and sends the first bytes along, without waiting for the dial; then waits for it.
    pub(crate) async fn open<C>(shared: &Shared<C>, target: &Target, first: &[u8]) -> Result<Self, DialError>
    where
        C: Connect<Stream = S>,
    {
        let limit = shared.options.limits.dial;
        let opened = timeout(limit, async {
            let mut stream = shared.connector.open(target).await?;
            let written = send(&mut stream, first).await;
            // Asked first: a refusal is also why a write failed.
            shared.connector.opened(&mut stream).await?;
            written.map(|()| stream).map_err(|error| DialError {
                code: tunnel_wire::RefusalCode::Other,
                detail: format!("the connection was lost at once: {error}"),
            })
        });
        let stream = opened.await.unwrap_or_else(|_| Err(no_answer(limit)))?;
        let address = shared.connector.upstream(&stream);
        let (read, write) = tokio::io::split(stream);
        Ok(Self {
            target: target.clone(),
            address,
            read,
            write,
            buf: BytesMut::new(),
        })
    }

    /// Whether another request for this target may go here. Bytes that nobody asked for could be taken for
    /// the answer to the next request, so they end the stream.
    pub(crate) fn serves(&self, target: &Target) -> bool {
        self.buf.is_empty() && self.target == *target
    }

    /// Resolves when an idle stream is of no more use: it ended, failed, or sent what nobody asked for.
    pub(crate) async fn spoiled(&mut self) {
        // One byte is enough to know, and an idle stream holds no buffer.
        let mut byte = [0];
        match self.read.read(&mut byte).await {
            Ok(length) => self.buf.extend_from_slice(&byte[..length]),
            Err(error) => tracing::trace!(%error, target = %self.target, "an idle stream failed"),
        }
    }

    /// Ends the stream as a program does that has no more requests: says so, and leaves the upstream a
    /// moment to do the same, since what is dropped earlier is aborted. In the background: the next request
    /// does not wait for it.
    pub(crate) fn end<C>(mut self, shared: &Shared<C>)
    where
        S: Send + 'static,
    {
        let limit = shared.options.limits.linger;
        let ended = async move {
            self.write.shutdown().await?;
            loop {
                self.buf.clear();
                if fill(&mut self.read, &mut self.buf).await? == 0 {
                    return io::Result::Ok(());
                }
            }
        };
        shared.ending.spawn(async move {
            if let Ok(Err(error)) = timeout(limit, ended).await {
                tracing::trace!(%error, "an idle stream failed");
            }
        });
    }

    /// The stream as a whole again, and what was read from it.
    pub(crate) fn into_raw(self) -> (S, BytesMut) {
        (self.read.unsplit(self.write), self.buf)
    }
}

/// Writes and flushes.
pub(crate) async fn send<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8]) -> io::Result<()> {
    writer.write_all(bytes).await?;
    writer.flush().await
}

/// Reads more into `buf`; 0 is the end. Nothing is lost when dropped before it is done.
pub(crate) async fn fill<R: AsyncRead + Unpin>(reader: &mut R, buf: &mut BytesMut) -> io::Result<usize> {
    debug_assert!(buf.len() <= RESPONSE_HEAD_LIMIT + READ, "bounded by its readers");
    buf.reserve(READ);
    reader.read_buf(buf).await
}
