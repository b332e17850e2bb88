//! The API's own channels without a program around them: what the way itself can carry.
//!
//! Exec runs the target's `pipe` (64 KiB writes to stdout); port-forward leads to the target's ports. Uploads are
//! messages of 32 KiB, never flushed one by one. See `src/cluster/exec.rs` and `port_forward.rs` for what the
//! channels mean; nothing of the plugin is used here, so that it is not measured against itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::contender::Contender;
use crate::failure::{Failure, failure};
use crate::flow::{Counter, Flow, Totals, Way};

/// Payload of one message of an upload.
const MESSAGE: usize = 32 << 10;

/// Bytes before the data of a port-forward's channel: the port.
const PORT_LENGTH: usize = 2;

/// Channel numbers of one kind of WebSocket.
#[derive(Debug, Clone, Copy)]
struct Channels {
    /// Carries what we send.
    out: u8,
    /// Carries blocks.
    blocks: u8,
    /// Carries the totals of what we sent.
    totals: u8,
    /// Bytes at the beginning of each that are none of the program's.
    header: usize,
}

/// stdin, stdout, stderr.
const EXEC: Channels = Channels {
    out: 0,
    blocks: 1,
    totals: 2,
    header: 0,
};

/// One channel for data.
const PORT_FORWARD: Channels = Channels {
    out: 0,
    blocks: 0,
    totals: 0,
    header: PORT_LENGTH,
};

/// The pod that is reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pod<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) container: &'a str,
    /// The target program's path in it.
    pub(crate) program: &'a str,
}

/// Flows these ways at once; each has a WebSocket of its own, except that exec takes both ways in one.
pub(crate) async fn flows(
    contender: Contender,
    client: &kube::Client,
    pod: Pod<'_>,
    ways: &[Way],
) -> Result<Vec<Flow>, Failure> {
    match (contender, ways) {
        (Contender::RawExec, [way]) => Ok(vec![single(
            connect(client, &exec_uri(pod, &["pipe", way.word()])).await?,
            EXEC,
            *way,
        )]),
        (Contender::RawExec, [Way::Down, Way::Up]) => {
            let (sink, stream) = connect(client, &exec_uri(pod, &["pipe", "both"])).await?.split();
            let (mut down, mut up) = (JoinSet::new(), JoinSet::new());
            let (received, counted) = (Counter::default(), Counter::default());
            down.spawn(read(stream, EXEC, Arc::clone(&received), Arc::clone(&counted)));
            up.spawn(write(sink, EXEC.out));
            Ok(vec![
                Flow {
                    arrived: received,
                    tasks: down,
                },
                Flow {
                    arrived: counted,
                    tasks: up,
                },
            ])
        }
        (Contender::RawPortForward, ways) => {
            let mut flows = Vec::new();
            for way in ways {
                let Pod { namespace, name, .. } = pod;
                let port = way.port();
                let uri = format!("/api/v1/namespaces/{namespace}/pods/{name}/portforward?ports={port}");
                flows.push(single(connect(client, &uri).await?, PORT_FORWARD, *way));
            }
            Ok(flows)
        }
        _ => failure("no such raw flow"),
    }
}

/// Runs the target program with these words in its pod, and returns all that it says on stdout.
pub(crate) async fn run(client: &kube::Client, pod: Pod<'_>, words: &[&str]) -> Result<String, Failure> {
    let mut stream = connect(client, &exec_uri(pod, words)).await?;
    let mut said = Vec::new();
    while let Some(message) = stream.next().await {
        let message = message?;
        if message.is_close() {
            break;
        }
        if let Message::Binary(payload) = message
            && payload.first() == Some(&EXEC.blocks)
        {
            said.extend(&payload[1..]);
        }
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

async fn connect(
    client: &kube::Client,
    uri: &str,
) -> Result<WebSocketStream<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>, Failure> {
    let request = http::Request::get(uri).body(Vec::new())?;
    Ok(client.connect(request).await?.into_stream())
}

fn exec_uri(pod: Pod<'_>, words: &[&str]) -> String {
    let Pod {
        namespace,
        name,
        container,
        program,
    } = pod;
    let mut uri = format!(
        "/api/v1/namespaces/{namespace}/pods/{name}/exec?container={container}&stdin=true&stdout=true&stderr=true\
         &command={program}"
    );
    for word in words {
        uri.push_str("&command=");
        uri.push_str(word);
    }
    uri
}

fn single<S>(websocket: WebSocketStream<S>, channels: Channels, way: Way) -> Flow
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, stream) = websocket.split();
    let arrived = Counter::default();
    let mut tasks = JoinSet::new();
    match way {
        Way::Down => {
            tasks.spawn(read(stream, channels, Arc::clone(&arrived), Counter::default()));
            // The WebSocket lasts as long as both its halves.
            tasks.spawn(async move {
                std::future::pending::<()>().await;
                drop(sink);
                Ok(())
            });
        }
        Way::Up => {
            // On one channel for both, what comes are totals.
            let blocks = Channels {
                blocks: u8::MAX,
                ..channels
            };
            tasks.spawn(read(stream, blocks, Counter::default(), Arc::clone(&arrived)));
            tasks.spawn(write(sink, channels.out));
        }
    }
    Flow { arrived, tasks }
}

async fn read<S>(
    mut stream: SplitStream<WebSocketStream<S>>,
    channels: Channels,
    received: Arc<AtomicU64>,
    counted: Arc<AtomicU64>,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut totals = Totals::default();
    let mut headers = [channels.header; 4];
    while let Some(message) = stream.next().await {
        let Message::Binary(payload) = message? else {
            continue;
        };
        let Some((channel, mut payload)) = payload.split_first() else {
            continue;
        };
        // The header of a channel is a message of its own, in every version so far.
        if let Some(header) = headers.get_mut(usize::from(*channel)) {
            let skipped = (*header).min(payload.len());
            *header -= skipped;
            payload = &payload[skipped..];
        }
        if payload.is_empty() {
            continue;
        }
        if *channel == channels.blocks {
            received.fetch_add(payload.len() as u64, Ordering::Relaxed);
        } else if *channel == channels.totals {
            totals.push(payload, &counted);
        } else {
            return failure(String::from_utf8_lossy(payload));
        }
    }
    failure("the WebSocket ended")
}

async fn write<S>(mut sink: SplitSink<WebSocketStream<S>, Message>, channel: u8) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut message = vec![b'.'; 1 + MESSAGE];
    message[0] = channel;
    let message = Bytes::from(message);
    loop {
        sink.feed(Message::Binary(message.clone())).await?;
    }
}
