//! Messages over a WebSocket: what [`super::exec`] and [`super::port_forward`] have in common.
//!
//! Two tasks over the raw WebSocket: one reads without pause, one writes what it is given. Messages are binary, a head
//! that says what they belong to and at most 32 KiB, never fragmented (the API server takes a continuation frame for a
//! new message). What a channel or a stream means is none of this file's business.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{FutureExt, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::io::StreamReader;
use tokio_util::sync::{CancellationToken, PollSender};

/// Payload of one message: what every hop between API server and runtime passes on uncut.
const MESSAGE: usize = 32 * 1024;

/// Messages that wait between a task and the pipe's user, each way: what comes within a [`REST`].
const QUEUE: usize = 16;

/// How long a WebSocket that is given up may take to say its last and to close.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What is read of one channel.
pub type Incoming = StreamReader<Chunks, Bytes>;

/// Where a reading task puts what it reads of that channel.
pub(super) type IncomingTx = mpsc::Sender<io::Result<Bytes>>;

/// What a message begins with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Head {
    /// The number of a channel.
    Channel(u8),
    /// The head of a data frame of this stream: see [`super::port_forward`].
    Stream(u32),
}

impl Head {
    const MOST: usize = 8;

    fn put(self, length: usize, message: &mut BytesMut) {
        match self {
            Self::Channel(channel) => message.put_u8(channel),
            Self::Stream(stream) => {
                message.put_u32(stream);
                // No flags, and three bytes of length.
                message.put_u32(u32::try_from(length).unwrap_or(u32::MAX) & 0x00ff_ffff);
            }
        }
    }
}

/// Messages that go out beside those of the [`Outgoing`]. They do not keep the WebSocket open.
pub(super) type AsideTx = mpsc::WeakSender<Bytes>;

/// Starts both tasks. What `read` puts into its sender becomes the [`Incoming`], what is written to the [`Outgoing`]
/// goes out under `head`. The tasks end when both are dropped, on a dead line too, or with the `JoinSet`.
pub(super) fn start<S, F>(
    websocket: WebSocketStream<S>,
    head: Head,
    read: impl FnOnce(Source<S>, IncomingTx, AsideTx) -> F,
) -> (Incoming, Outgoing, JoinSet<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (sink, stream) = websocket.split();
    let (incoming_tx, incoming_rx) = mpsc::channel(QUEUE);
    let (outgoing_tx, outgoing_rx) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    let over = CancellationToken::new();
    let reading_ends = over.clone().drop_guard();
    let source = Source::new(stream, incoming_tx.clone());
    let reading = read(source, incoming_tx, outgoing_tx.downgrade());
    tasks.spawn(async move {
        let _reading_ends = reading_ends;
        reading.await;
    });
    tasks.spawn(async move {
        // A line that takes nothing more must not keep the socket of a WebSocket that is given up.
        let last_words = async {
            over.cancelled().await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            () = write(sink, outgoing_rx) => {}
            () = last_words => {}
        }
    });
    let outgoing = Outgoing {
        head,
        messages: PollSender::new(outgoing_tx),
    };
    (StreamReader::new(Chunks(incoming_rx)), outgoing, tasks)
}

/// Both ends of a pipe that is over before it began.
pub(super) fn over() -> (Incoming, Outgoing) {
    let outgoing = Outgoing {
        head: Head::Channel(0),
        messages: PollSender::new(mpsc::channel(1).0),
    };
    (StreamReader::new(Chunks(mpsc::channel(1).1)), outgoing)
}

/// The messages that come.
pub(super) struct Source<S> {
    stream: SplitStream<WebSocketStream<S>>,
    incoming_tx: IncomingTx,
    /// Once nobody reads any more the last messages may still come; on a dead line nothing else ends the reading.
    nobody_reads: Pin<Box<dyn Future<Output = ()> + Send>>,
    haste: Haste,
    closed: bool,
}

/// How much has come of late. Whoever is faster than the line is woken for each record of it: in a bulk transfer that
/// costs more than all that is done with its bytes. Then a rest lets some come together, as a network card does it.
#[derive(Debug)]
struct Haste {
    since: Instant,
    bytes: usize,
    is_bulk: bool,
}

/// How long is looked at, and what has come then in a bulk transfer: 50 MiB a second.
const LOOK: Duration = Duration::from_millis(10);
const BULK: usize = 512 * 1024;

/// How long to rest. The shortest a timer of tokio knows; far below what a person or a flow notices.
const REST: Duration = Duration::from_millis(1);

impl Haste {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            bytes: 0,
            is_bulk: false,
        }
    }

    fn on_message(&mut self, length: usize, now: Instant) {
        self.bytes += length;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= LOOK {
            self.is_bulk = self.bytes >= BULK && elapsed < LOOK * 2;
            self.since = now;
            self.bytes = 0;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Source<S> {
    fn new(stream: SplitStream<WebSocketStream<S>>, incoming_tx: IncomingTx) -> Self {
        let nobody_reads = {
            let incoming_tx = incoming_tx.clone();
            Box::pin(async move {
                incoming_tx.closed().await;
                tokio::time::sleep(LAST_WORDS).await;
            })
        };
        Self {
            stream,
            incoming_tx,
            nobody_reads,
            haste: Haste::new(Instant::now()),
            closed: false,
        }
    }

    /// The next message's channel and payload; `None` as for [`Source::message`].
    pub(super) async fn next(&mut self) -> Option<(u8, Bytes)> {
        loop {
            let mut payload = self.message().await?;
            // A channel byte alone only says that the channel exists.
            if payload.len() >= 2 {
                let channel = payload.split_to(1)[0];
                return Some((channel, payload));
            }
        }
    }

    /// The next message; `None` when it is over, or nobody reads. An error on the way goes to the reader.
    pub(super) async fn message(&mut self) -> Option<Bytes> {
        loop {
            let message = if let Some(message) = self.stream.next().now_or_never() {
                message?
            } else {
                if self.haste.is_bulk {
                    tokio::time::sleep(REST).await;
                }
                tokio::select! {
                    message = self.stream.next() => message?,
                    () = &mut self.nobody_reads => return None,
                }
            };
            match message {
                Ok(Message::Binary(payload)) => {
                    self.haste.on_message(payload.len(), Instant::now());
                    return Some(payload);
                }
                Ok(Message::Close(frame)) => {
                    self.closed = frame.is_none_or(|frame| frame.code == CloseCode::Normal);
                    return None;
                }
                Ok(_) => {}
                Err(error) => {
                    // Nobody may be left to read it: then the pipe is over anyway.
                    drop(self.incoming_tx.send(Err(transport_error(error))).await);
                    return None;
                }
            }
        }
    }

    /// Whether the other side closed it, and not for an error of its own.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}

/// In our words where a library's would only puzzle: an end without the closing handshakes of WebSocket and TLS.
fn transport_error(error: Error) -> io::Error {
    let cut = matches!(&error, Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof)
        || matches!(
            error,
            Error::ConnectionClosed
                | Error::AlreadyClosed
                | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
        );
    if cut {
        let text = "the API server or something before it ended the connection";
        return io::Error::new(io::ErrorKind::UnexpectedEof, text);
    }
    if let Error::Io(error) = error {
        error
    } else {
        io::Error::other(error)
    }
}

async fn write<S>(mut sink: SplitSink<WebSocketStream<S>, Message>, mut outgoing_rx: mpsc::Receiver<Bytes>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // An error here is seen by the reading task as well, which reports it.
    while let Some(message) = outgoing_rx.recv().await {
        if sink.feed(Message::Binary(message)).await.is_err() {
            return;
        }
        // What is at hand goes into one flush.
        while let Ok(message) = outgoing_rx.try_recv() {
            if sink.feed(Message::Binary(message)).await.is_err() {
                return;
            }
        }
        if sink.flush().await.is_err() {
            return;
        }
    }
    // The pipe's user let go of it: a close frame ends the other side.
    drop(sink.close().await);
}

/// The pieces behind [`Incoming`].
#[derive(Debug)]
pub struct Chunks(mpsc::Receiver<io::Result<Bytes>>);

impl Stream for Chunks {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

/// The writer of one channel or stream. Shutting it down or dropping it closes the WebSocket.
#[derive(Debug)]
pub struct Outgoing {
    head: Head,
    messages: PollSender<Bytes>,
}

impl Outgoing {
    /// Puts a message in front of all that is written later.
    pub(super) fn begin(&self, message: Bytes) {
        if let Some(messages) = self.messages.get_ref() {
            // There is room: nothing was written yet.
            drop(messages.try_send(message));
        }
    }
}

impl AsyncWrite for Outgoing {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.messages.poll_reserve(cx)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        let length = buf.len().min(MESSAGE);
        let mut message = BytesMut::with_capacity(Head::MOST + length);
        self.head.put(length, &mut message);
        message.put_slice(&buf[..length]);
        self.messages
            .send_item(message.freeze())
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The writing task flushes whenever it has nothing more at hand.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.messages.close();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_without_handshakes_is_told_in_our_words() {
        let cut = io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "peer closed connection, see https://example",
        );
        for error in [
            Error::Io(cut),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
        ] {
            let text = transport_error(error).to_string();
            assert!(text.ends_with("ended the connection"), "{text}");
        }
        let reset = Error::Io(io::ErrorKind::ConnectionReset.into());
        assert_eq!(transport_error(reset).kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn only_much_in_little_time_is_bulk() {
        let start = Instant::now();
        let mut haste = Haste::new(start);
        for step in 1..=20 {
            haste.on_message(32 * 1024, start + LOOK / 20 * step);
        }
        assert!(haste.is_bulk);
        // The first message after a pause ends it, however much came before.
        haste.on_message(BULK, start + LOOK);
        haste.on_message(100, start + LOOK * 100);
        assert!(!haste.is_bulk);
        for step in 1..100 {
            haste.on_message(16 * 1024, start + LOOK * 100 + LOOK * step);
            assert!(!haste.is_bulk);
        }
    }

    #[tokio::test]
    async fn writes_become_messages_of_at_most_32_kib() {
        use tokio::io::AsyncWriteExt;
        let (outgoing_tx, mut outgoing_rx) = mpsc::channel(QUEUE);
        let mut outgoing = Outgoing {
            head: Head::Channel(7),
            messages: PollSender::new(outgoing_tx),
        };
        outgoing.write_all(&vec![7; 70_000]).await.unwrap();
        outgoing.shutdown().await.unwrap();
        drop(outgoing);
        let mut lengths = Vec::new();
        while let Some(message) = outgoing_rx.recv().await {
            assert_eq!(message[0], 7);
            lengths.push(message.len() - 1);
        }
        assert_eq!(lengths, [32_768, 32_768, 4_464]);
    }
}
