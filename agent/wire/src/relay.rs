//! Copies bytes both ways between two ends until both directions have ended.
//!
//! Each direction ends on its own: the end of one is passed on as a half-close and the other goes on. An
//! error at either end ends both directions at once, and the caller is told which end it was, so that it
//! can reset the other. Nothing is buffered for an idle direction; what one write did not take is kept,
//! at most [`CHUNK`] bytes a direction.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes moved by one read: what fills one message of a stream. A few bytes more would be a second message each time.
pub const CHUNK: usize = crate::message::MAX_DATA;

/// How much is moved before other tasks get their turn.
const TURN: usize = 8 * CHUNK;

/// One of the two ends of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first argument.
    A,
    /// The second argument.
    B,
}

/// The end at which a relay failed.
#[derive(Debug)]
pub struct RelayError {
    /// Which end failed.
    pub side: Side,
    /// How.
    pub source: io::Error,
}

impl fmt::Display for RelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::A => "first",
            Side::B => "second",
        };
        write!(f, "the {side} end of a relay failed")
    }
}

impl std::error::Error for RelayError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// What a relay did and how it ended.
#[derive(Debug)]
pub struct RelayEnd {
    /// Bytes taken from A and given to B.
    pub a_to_b: u64,
    /// Bytes taken from B and given to A.
    pub b_to_a: u64,
    /// Both directions ended, or the end at which the relay failed.
    pub result: Result<(), RelayError>,
}

/// Relays between `a` and `b` until both directions have ended or one end fails.
pub async fn relay<A, B>(a: &mut A, b: &mut B) -> RelayEnd
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut a_to_b = Direction::default();
    let mut b_to_a = Direction::default();
    let result = poll_fn(|cx| {
        let forward = a_to_b
            .poll(cx, a, b)
            .map_err(|error| error.on(Side::A, Side::B))?;
        let backward = b_to_a
            .poll(cx, b, a)
            .map_err(|error| error.on(Side::B, Side::A))?;
        if forward.is_ready() && backward.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await;
    RelayEnd {
        a_to_b: a_to_b.moved,
        b_to_a: b_to_a.moved,
        result,
    }
}

enum DirectionError {
    Read(io::Error),
    Write(io::Error),
}

impl DirectionError {
    fn on(self, reader: Side, writer: Side) -> RelayError {
        match self {
            Self::Read(source) => RelayError { side: reader, source },
            Self::Write(source) => RelayError { side: writer, source },
        }
    }
}

#[derive(Default)]
struct Direction {
    moved: u64,
    /// What a write did not take, from `offset` on.
    rest: Vec<u8>,
    offset: usize,
    unflushed: bool,
    ended: bool,
    done: bool,
}

impl Direction {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<(), DirectionError>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        let mut turn = 0;
        // Only while it is polled: an idle connection keeps none.
        let mut scratch = Vec::new();
        loop {
            while self.offset < self.rest.len() {
                let Poll::Ready(written) = Pin::new(&mut *writer).poll_write(cx, &self.rest[self.offset..])
                else {
                    return Self::watch(cx, reader);
                };
                let length = written.map_err(DirectionError::Write)?;
                self.count(length)?;
                self.offset += length;
            }
            if !self.rest.is_empty() {
                self.rest = Vec::new();
                self.offset = 0;
            }
            if self.ended {
                ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(DirectionError::Write)?;
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            if turn >= TURN {
                cx.waker().wake_by_ref();
                return self.flush(cx, writer);
            }
            scratch.reserve_exact(CHUNK);
            let mut buffer = ReadBuf::uninit(scratch.spare_capacity_mut());
            match Pin::new(&mut *reader).poll_read(cx, &mut buffer) {
                Poll::Pending => return self.flush(cx, writer),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(DirectionError::Read(error))),
                Poll::Ready(Ok(())) => {}
            }
            let bytes = buffer.filled();
            if bytes.is_empty() {
                self.ended = true;
                continue;
            }
            turn += bytes.len();
            match Pin::new(&mut *writer).poll_write(cx, bytes) {
                Poll::Ready(Ok(length)) => {
                    self.count(length)?;
                    self.rest.extend_from_slice(&bytes[length..]);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(DirectionError::Write(error))),
                Poll::Pending => {
                    self.rest.extend_from_slice(bytes);
                    return Self::watch(cx, reader);
                }
            }
        }
    }

    /// The writer takes nothing: a reader that fails meanwhile still ends the relay, or whatever it is part of
    /// would live for as long as the writer stalls. Nothing is read.
    fn watch<R: AsyncRead + Unpin>(cx: &mut Context<'_>, reader: &mut R) -> Poll<Result<(), DirectionError>> {
        match Pin::new(reader).poll_read(cx, &mut ReadBuf::new(&mut [])) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(DirectionError::Read(error))),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    fn count(&mut self, written: usize) -> Result<(), DirectionError> {
        if written == 0 {
            return Err(DirectionError::Write(io::ErrorKind::WriteZero.into()));
        }
        self.moved += written as u64;
        self.unflushed = true;
        Ok(())
    }

    /// Nothing more to read for the moment: what was written must not wait in a buffer.
    fn flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<Result<(), DirectionError>> {
        if self.unflushed {
            ready!(Pin::new(writer).poll_flush(cx)).map_err(DirectionError::Write)?;
            self.unflushed = false;
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn half_close_delivers_the_reply() {
        let (mut left, mut a) = duplex(1000);
        let (mut b, mut right) = duplex(1000);
        let ends = async {
            left.write_all(b"request").await.unwrap();
            left.shutdown().await.unwrap();
            let mut request = Vec::new();
            right.read_to_end(&mut request).await.unwrap();
            assert_eq!(request, b"request");
            let reply = vec![7; 100_000];
            let write = async {
                right.write_all(&reply).await.unwrap();
                right.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            tokio::join!(write, async { left.read_to_end(&mut got).await.unwrap() });
            assert_eq!(got, reply);
        };
        let (end, ()) = tokio::join!(relay(&mut a, &mut b), ends);
        assert!(end.result.is_ok());
        assert_eq!((end.a_to_b, end.b_to_a), (7, 100_000));
    }

    #[tokio::test]
    async fn the_failing_side_is_named() {
        struct Broken;
        impl AsyncRead for Broken {
            fn poll_read(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                _: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
        }
        impl AsyncWrite for Broken {
            fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                Poll::Ready(Ok(buf.len()))
            }
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }
        let (mut near, _far) = duplex(10);
        let end = relay(&mut near, &mut Broken).await;
        assert_eq!(end.result.unwrap_err().side, Side::B);
        let end = relay(&mut Broken, &mut near).await;
        assert_eq!(end.result.unwrap_err().side, Side::A);
    }

    #[tokio::test]
    async fn a_stalled_direction_does_not_stop_the_other() {
        let (mut left, mut a) = duplex(16);
        let (mut b, mut right) = duplex(16);
        let ends = async {
            // Nobody reads on the right, so left-to-right stalls.
            left.write_all(&[1; 16]).await.unwrap();
            for round in 0..100u8 {
                right.write_all(&[round; 8]).await.unwrap();
                let mut back = [0; 8];
                left.read_exact(&mut back).await.unwrap();
                assert_eq!(back, [round; 8]);
            }
        };
        tokio::select! {
            _ = relay(&mut a, &mut b) => panic!("nothing ended"),
            () = ends => {}
        }
    }
}
