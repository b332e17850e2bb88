//! Flows of datagrams: to an upstream, and from callers of an exposed port.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tunnel_agent::config::BIND;
use tunnel_wire::datagram::{self, Record};
use tunnel_wire::{Open, OpenError, Protocol, RefusalCode, Stream};

use crate::support::{InProcess, Plugin, address, config, soon};

const PORT: u16 = 20_000;

/// Sizes around every limit on the way: one segment, the MTU of pods, loopback's, the largest there is.
const SIZES: [usize; 7] = [0, 1, 64, 1_200, 9_000, 27_000, datagram::MAX_DATAGRAM];

/// A flow's stream, in records.
struct Records {
    stream: Stream,
    input: BytesMut,
}

impl Records {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
        }
    }

    async fn send(&mut self, datagram: &[u8]) {
        let mut out = BytesMut::new();
        datagram::encode(datagram, &mut out);
        soon("the write", self.stream.write_all(&out)).await.unwrap();
        soon("the flush", self.stream.flush()).await.unwrap();
    }

    async fn next(&mut self) -> Record {
        loop {
            if let Some(record) = datagram::decode(&mut self.input).unwrap() {
                return record;
            }
            let read = soon("a record", self.stream.read_buf(&mut self.input));
            assert_ne!(read.await.unwrap(), 0, "the flow goes on");
        }
    }

    async fn datagram(&mut self) -> Vec<u8> {
        match self.next().await {
            Record::Datagram(datagram) => datagram.to_vec(),
            Record::Notice(refusal) => panic!("{refusal}"),
        }
    }
}

async fn dial(plugin: &Plugin, port: u16) -> Result<Stream, OpenError> {
    plugin
        .open(&Open::Dial {
            protocol: Protocol::Udp,
            patience_ms: 0,
            host: "127.0.0.1".to_owned(),
            port,
        })
        .await
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[tokio::test]
async fn datagrams_of_every_size_reach_the_upstream_and_come_back() {
    let agent = InProcess::start(config(&[]));
    let plugin = agent.attach().await;
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap();
    let stream = dial(&plugin, address.port()).await.unwrap();
    assert_eq!(stream.upstream(), Some(address));
    let mut flow = Records::new(stream);
    let mut room = vec![0; 70_000];
    for size in SIZES {
        flow.send(&pattern(size)).await;
        let (length, from) = soon("the datagram", upstream.recv_from(&mut room)).await.unwrap();
        assert_eq!(room[..length], pattern(size));
        upstream.send_to(&room[..length], from).await.unwrap();
        assert_eq!(flow.datagram().await, pattern(size));
    }
    flow.stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon("the agent's end", flow.stream.read_to_end(&mut rest))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_closed_port_is_told_once_and_the_flow_goes_on() {
    let agent = InProcess::start(config(&[]));
    let plugin = agent.attach().await;
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap();
    drop(upstream);
    let mut flow = Records::new(dial(&plugin, address.port()).await.unwrap());
    flow.send(b"anybody?").await;
    let Record::Notice(refusal) = flow.next().await else {
        panic!("nobody can have answered");
    };
    assert_eq!(refusal.code, RefusalCode::ConnectionRefused);
    assert_eq!(refusal.detail, format!("udp {address}: connection refused"));

    let upstream = UdpSocket::bind(address).await.unwrap();
    // The socket may tell of the first datagram once more instead of sending the second one.
    let mut room = [0; 16];
    let (length, from) = loop {
        flow.send(b"now?").await;
        let received = tokio::time::timeout(
            std::time::Duration::from_millis(100),
            upstream.recv_from(&mut room),
        );
        if let Ok(received) = received.await {
            break received.unwrap();
        }
    };
    assert_eq!(&room[..length], b"now?");
    upstream.send_to(b"yes", from).await.unwrap();
    assert_eq!(flow.datagram().await, b"yes");
}

#[tokio::test]
async fn what_may_not_be_dialled_may_not_be_sent_to() {
    let agent = InProcess::start(config(&[("TUNNEL_ALLOW_TARGETS", "127.8.0.0/16")]));
    let plugin = agent.attach().await;
    let error = dial(&plugin, 53).await.unwrap_err();
    assert_eq!(error.code(), RefusalCode::NotAllowed, "{error}");
}

#[tokio::test]
async fn callers_of_an_exposed_port_do_not_mix() {
    let address = address();
    let agent = InProcess::start(config(&[(BIND, &address.to_string())]));
    let mut plugin = agent.attach().await;
    let listen = Open::Listen {
        protocol: Protocol::Udp,
        listener: 5,
        port: PORT,
    };
    let listener = plugin.open(&listen).await.unwrap();
    assert_eq!(listener.upstream(), Some((address, PORT).into()));

    let mut flows = Vec::new();
    for number in 0..200u8 {
        let caller = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        caller.connect((address, PORT)).await.unwrap();
        caller.send(&[number; 3]).await.unwrap();
        let (listener, peer, mut stream) = plugin.accepted().await;
        assert_eq!((listener, peer), (5, caller.local_addr().unwrap()));
        stream.accept().await.unwrap();
        flows.push((caller, Records::new(stream), number));
    }
    for (_, flow, number) in &mut flows {
        assert_eq!(flow.datagram().await, [*number; 3]);
        flow.send(&[*number; 9]).await;
    }
    for (caller, _, number) in &flows {
        let mut room = [0; 16];
        let length = soon("the reply", caller.recv(&mut room)).await.unwrap();
        assert_eq!(room[..length], [*number; 9]);
    }

    // A flow that the plugin has ended begins again with the next datagram, as another stream.
    let (caller, flow, _) = flows.pop().unwrap();
    drop(flow);
    let (_, peer, stream) = loop {
        caller.send(b"again").await.unwrap();
        let accepted = tokio::time::timeout(std::time::Duration::from_millis(200), plugin.accepted());
        if let Ok(accepted) = accepted.await {
            break accepted;
        }
    };
    assert_eq!(peer, caller.local_addr().unwrap());
    assert_eq!(Records::new(stream).datagram().await, b"again");
}

#[tokio::test]
async fn the_port_is_free_again_once_the_listener_has_ended() {
    let address = address();
    let agent = InProcess::start(config(&[(BIND, &address.to_string())]));
    let plugin = agent.attach().await;
    let listen = Open::Listen {
        protocol: Protocol::Udp,
        listener: 1,
        port: PORT,
    };
    let mut listener = plugin.open(&listen).await.unwrap();
    let error = plugin.open(&listen).await.unwrap_err();
    assert_eq!(error.code(), RefusalCode::AddressInUse, "{error}");
    listener.shutdown().await.unwrap();
    soon("the listener's end", listener.ended()).await;
    let again = soon("the port", async {
        loop {
            // The answer may be a moment ahead of the socket's close.
            if let Ok(stream) = plugin.open(&listen).await {
                break stream;
            }
        }
    });
    drop(again.await);
}
