//! A pipe without half-close that ends by itself, some time after its program has ended its direction.
//!
//! The API server's port-forward cannot tell the pod that the program has ended, and mostly the program is gone
//! altogether, which nothing here can see. The pod's program would keep the connection for ever. One that still
//! answers is heard to its end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How long the pod may be silent once the program has ended.
pub(super) const LINGER: Duration = Duration::from_secs(30);

/// The pipe.
#[derive(Debug)]
pub(super) struct Lingering<P> {
    pipe: P,
    /// Until when the other end may say something, once this one has ended.
    until: Option<Pin<Box<Sleep>>>,
}

impl<P> Lingering<P> {
    pub(super) fn new(pipe: P) -> Self {
        Self { pipe, until: None }
    }
}

impl<P: AsyncRead + Unpin> AsyncRead for Lingering<P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.pipe).poll_read(cx, buf);
        let Some(until) = &mut this.until else {
            return read;
        };
        if buf.filled().len() > before {
            until.as_mut().reset(Instant::now() + LINGER);
        }
        if read.is_pending() && until.as_mut().poll(cx).is_ready() {
            let text =
                "the program has ended, which a port-forward cannot tell, and the pod has said nothing since";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
        }
        read
    }
}

impl<P: AsyncWrite + Unpin> AsyncWrite for Lingering<P> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.until.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_nothing_comes_after_the_programs_end() {
        let (near, mut far) = duplex(1024);
        let mut pipe = Lingering::new(near);
        pipe.shutdown().await.unwrap();
        let began = Instant::now();
        let pod = async {
            for _ in 0..3 {
                sleep(LINGER / 2).await;
                far.write_all(b"x").await.unwrap();
            }
        };
        let mut heard = Vec::new();
        let (read, ()) = tokio::join!(pipe.read_to_end(&mut heard), pod);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(heard, b"xxx");
        assert_eq!(began.elapsed(), LINGER * 3 / 2 + LINGER);
    }

    #[tokio::test(start_paused = true)]
    async fn before_that_it_may_be_silent_for_as_long_as_it_likes() {
        let (near, mut far) = duplex(1024);
        let mut pipe = Lingering::new(near);
        let pod = async {
            sleep(LINGER * 10).await;
            far.write_all(b"x").await.unwrap();
        };
        let mut heard = [0];
        let (read, ()) = tokio::join!(pipe.read_exact(&mut heard), pod);
        read.unwrap();
    }
}
