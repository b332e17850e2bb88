//! Transports that break, take nothing, or tell when they were written to.

use futures::AsyncWriteExt as _;

use super::*;
use crate::frame::Frame;

/// Fails each write, as a pipe without a reader does.
struct Broken;

impl AsyncWrite for Broken {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Remembers when something was written to it.
struct Clocked(Arc<Mutex<Vec<Instant>>>);

impl AsyncWrite for Clocked {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().unwrap().push(Instant::now());
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// When three messages go out that are written while other tasks run in between.
async fn sent_at(crowd: bool) -> Vec<Duration> {
    let (link, mut stream) = channel();
    let writes = Arc::default();
    let (_near, far) = tokio::io::duplex(64);
    let mut running = pin!(link.run(far, Clocked(Arc::clone(&writes)), 0));
    let talk = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        writes.lock().unwrap().clear();
        if crowd {
            for _ in 0..20 {
                link.note_stream(20);
            }
        }
        let start = Instant::now();
        for _ in 0..3 {
            stream.write_all(b"open").await.unwrap();
            stream.flush().await.unwrap();
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        start
    };
    let start = tokio::select! {
        end = &mut running => panic!("{end}"),
        start = talk => start,
    };
    let writes = writes.lock().unwrap();
    writes.iter().map(|at| *at - start).collect()
}

#[tokio::test(start_paused = true)]
async fn in_a_crowd_what_comes_together_goes_together() {
    let alone = sent_at(false).await;
    assert_eq!(alone, [Duration::ZERO; 3]);
    let crowd = sent_at(true).await;
    assert_eq!(crowd, [REST]);
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_is_heard_although_writing_fails() {
    let (mut near, far) = tokio::io::duplex(64);
    let (link, _stream) = channel();
    let late = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut goodbye = BytesMut::new();
        Frame::Goodbye { position: 0 }.encode(&mut goodbye);
        near.write_all(&goodbye).await.unwrap();
        drop(near);
    };
    let (end, ()) = tokio::join!(link.run(far, Broken, 0), late);
    assert!(matches!(end, TransportEnd::Goodbye), "{end}");
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_takes_nothing_and_says_nothing_ends_soon() {
    let (_near, far) = tokio::io::duplex(64);
    let (link, _stream) = channel();
    let start = Instant::now();
    let end = link.run(far, Broken, 0).await;
    assert!(matches!(end, TransportEnd::Failed(_)), "{end}");
    assert_eq!(start.elapsed(), LAST_WORDS);
}
