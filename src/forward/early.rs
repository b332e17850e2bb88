//! A local connection whose first bytes can be said again.
//!
//! They travel with the open, so that a new connection costs one round trip. When the dial then fails, nobody has seen
//! them, and another upstream can have them. Once an upstream is connected they are forgotten.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tunnel_wire::relay::CHUNK;
use tunnel_wire::window::INITIAL_WINDOW;

/// More is read only once an upstream is connected: a stream's first credit, and one read that is waiting for more.
const LIMIT: usize = INITIAL_WINDOW as usize + CHUNK;

/// A connection that remembers.
#[derive(Debug)]
pub(super) struct Early<S> {
    inner: S,
    /// What was read since the beginning; `None` once it is forgotten.
    said: Option<BytesMut>,
    /// What is to be said again.
    again: BytesMut,
}

impl<S> Early<S> {
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner,
            said: Some(BytesMut::new()),
            again: BytesMut::new(),
        }
    }

    pub(super) fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Begins again with the first byte; `false` when that is forgotten.
    pub(super) fn rewind(&mut self) -> bool {
        match &self.said {
            Some(said) => {
                self.again = said.clone();
                true
            }
            None => false,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Early<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.again.is_empty() && buf.remaining() > 0 {
            let length = this.again.len().min(buf.remaining());
            buf.put_slice(&this.again[..length]);
            this.again.advance(length);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        let news = &buf.filled()[before..];
        if let Some(said) = &mut this.said {
            if said.len() + news.len() > LIMIT {
                // So much is taken only by an upstream that is connected.
                this.said = None;
            } else {
                said.extend_from_slice(news);
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Early<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // An upstream that answers is connected.
        self.said = None;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.said = None;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    #[tokio::test]
    async fn what_was_said_early_is_said_again_and_again() {
        let (mut program, near) = duplex(1024);
        let mut early = Early::new(near);
        program.write_all(b"hello").await.unwrap();
        for _ in 0..3 {
            let mut said = [0; 5];
            early.read_exact(&mut said).await.unwrap();
            assert_eq!(&said, b"hello");
            assert!(early.rewind());
        }
        program.write_all(b" world").await.unwrap();
        program.shutdown().await.unwrap();
        let mut all = String::new();
        early.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "hello world");
    }

    #[tokio::test]
    async fn an_answer_or_too_much_forgets_it() {
        let (mut program, near) = duplex(1024);
        let mut early = Early::new(near);
        program.write_all(b"x").await.unwrap();
        early.read_exact(&mut [0]).await.unwrap();
        early.write_all(b"y").await.unwrap();
        assert!(!early.rewind());

        let (mut program, near) = duplex(2 * LIMIT);
        let mut early = Early::new(near);
        program.write_all(&vec![0; LIMIT + 1]).await.unwrap();
        early.read_exact(&mut vec![0; LIMIT + 1]).await.unwrap();
        assert!(!early.rewind());
    }
}
