//! Port-forward over WebSocket: one connection to one port of a pod, as a real node answers it (one port a WebSocket;
//! kubectl asks for no more either).
//!
//! ```text
//! client <- [0, port] [1, port]      first, each port 2 bytes, low byte first
//! client -> [0, bytes] -> pod        no half-close: the end of the WebSocket ends the connection
//! client <- [0, bytes] <- pod        the pod's end is a close
//! client <- [1, text]                the connection failed, then a close
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::SplitSink;
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use crate::addresses::loopback_of;
use crate::http::status::Refusal;
use crate::http::{Answer, Call};
use crate::kubelet::Sandbox;
use crate::line::Upgrade;
use crate::object;
use crate::resource::Resource;
use crate::store::Key;
use crate::websocket::{V4, negotiate, switching_protocols};
use crate::world::World;

const DATA: u8 = 0;
const COMPLAINT: u8 = 1;

/// Largest payload of one message to the client.
const MESSAGE: usize = 32 * 1024;

/// How long the client may take to answer the close.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Answers a port-forward request; the connection runs as a task of its own.
pub(crate) fn upgrade(world: &Arc<World>, call: Call) -> Answer {
    let key = Key::new(Resource::Pod, &call.route.namespace, &call.route.name);
    let pod = world
        .store
        .get(&key)
        .ok_or_else(|| Refusal::not_found(Resource::Pod, &key.name))?;
    if !pod["spec"]["nodeName"].is_string() {
        let text = format!("pod {} does not have a host assigned", key.name);
        return Err(Refusal::bad_request(text));
    }
    let asked = call.route.param("ports").unwrap_or_default();
    let port: u16 = asked
        .parse()
        .map_err(|_| Refusal::bad_request(format!("unable to parse {asked:?} as a port")))?;
    let (protocol, accept) = negotiate(&call, &[V4])?;
    let sandbox = world.sandboxes.get(object::uid(&pod));
    // From the answer on, so that no moment is left in which a fault would miss this connection.
    world.faults.lines.becomes(Upgrade::PortForward, &call.switch);
    let upgrade = hyper::upgrade::on(call.request);
    world.spawn(async move {
        match upgrade.await {
            Ok(connection) => run(connection, sandbox, port).await,
            Err(error) => tracing::debug!(%error, "port-forward connection was not upgraded"),
        }
    });
    Ok(switching_protocols(protocol, &accept))
}

async fn run(connection: Upgraded, sandbox: Option<Arc<Sandbox>>, port: u16) {
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(connection), Role::Server, None).await;
    let (mut sink, mut inbound) = socket.split();
    for channel in [DATA, COMPLAINT] {
        send(&mut sink, channel, &port.to_le_bytes()).await;
    }
    let inbound_data = (&mut inbound)
        .take_while(|message| std::future::ready(matches!(message, Ok(message) if !message.is_close())));
    let complaint = match sandbox.filter(|sandbox| sandbox.is_running()) {
        None => Some("error forwarding port: the sandbox of the pod is not running".to_owned()),
        Some(sandbox) => match connect(sandbox.address(), port).await {
            Err(error) => Some(refusal_text(port, &error)),
            Ok(pod) => tokio::select! {
                carried = carry(pod, Box::pin(inbound_data), &mut sink) => {
                    carried.err().map(|error| format!("error forwarding port {port}: {error}"))
                }
                () = sandbox.ended().cancelled() => None,
            },
        },
    };
    if let Some(text) = complaint {
        send(&mut sink, COMPLAINT, text.as_bytes()).await;
    }
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    drop(sink.send(Message::Close(Some(frame))).await);
    // Unread bytes at the close of a TCP connection turn it into a reset, which would take the last words along.
    let drain = async { while let Some(Ok(_)) = inbound.next().await {} };
    if tokio::time::timeout(CLOSE_WAIT, drain).await.is_err() {
        tracing::debug!("the client of a port-forward did not close its side");
    }
}

/// What listens on all addresses of a real pod listens on its address here.
async fn connect(address: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
    match TcpStream::connect(SocketAddr::from((loopback_of(address), port))).await {
        Err(_) => TcpStream::connect(SocketAddr::from((address, port))).await,
        connected => connected,
    }
}

/// The words of containerd, shortened.
fn refusal_text(port: u16, error: &io::Error) -> String {
    let cause = if error.kind() == io::ErrorKind::ConnectionRefused {
        "connection refused".to_owned()
    } else {
        error.to_string()
    };
    format!(
        "error forwarding port {port} to pod 130c9b20ce28, uid : failed to execute portforward in network namespace \
         \"/var/run/netns/cni\": failed to connect to localhost:{port} inside namespace \"130c9b20ce28\", \
         IPv4: dial tcp4 127.0.0.1:{port}: connect: {cause} "
    )
}

/// Both ways until either side has ended.
async fn carry(
    pod: TcpStream,
    mut inbound: impl futures::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
    sink: &mut SplitSink<Socket, Message>,
) -> io::Result<()> {
    let (mut from_pod, mut to_pod) = pod.into_split();
    let inward = async {
        while let Some(Ok(message)) = inbound.next().await {
            if let Message::Binary(bytes) = message
                && let Some((&DATA, data)) = bytes.split_first()
            {
                to_pod.write_all(data).await?;
            }
        }
        Ok(())
    };
    let outward = async {
        let mut buffer = vec![0; MESSAGE];
        loop {
            let length = from_pod.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            send(sink, DATA, &buffer[..length]).await;
        }
    };
    tokio::select! {
        ended = inward => ended,
        ended = outward => ended,
    }
}

/// A client that is gone is noticed where it is read.
async fn send(sink: &mut SplitSink<Socket, Message>, channel: u8, payload: &[u8]) {
    let message = Bytes::from([&[channel], payload].concat());
    drop(sink.send(Message::Binary(message)).await);
}
