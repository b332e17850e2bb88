//! Listeners in the pod whose connections come to the plugin.

use std::io::ErrorKind;
use std::net::IpAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tunnel_agent::config::{BIND, HOLD};
use tunnel_wire::{Open, Protocol, Refusal, RefusalCode, Stream};

use crate::support::{InProcess, Plugin, address, config, soon};

const PORT: u16 = 20_000;

async fn listening(address: IpAddr) -> (InProcess, Plugin, Stream) {
    listening_with(address, &[]).await
}

/// The same with these variables set as well.
async fn listening_with(address: IpAddr, vars: &[(&str, &str)]) -> (InProcess, Plugin, Stream) {
    let bind = address.to_string();
    let agent = InProcess::start(config(&[&[(BIND, bind.as_str())], vars].concat()));
    let plugin = agent.attach().await;
    let listener = plugin
        .open(&Open::Listen {
            protocol: Protocol::Tcp,
            listener: 5,
            port: PORT,
        })
        .await
        .unwrap();
    (agent, plugin, listener)
}

async fn caller(address: IpAddr) -> TcpStream {
    soon("the call", TcpStream::connect((address, PORT)))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_caller_is_relayed_to_the_plugin_and_half_closes() {
    let address = address();
    let (_agent, mut plugin, _listener) = listening(address).await;
    let mut caller = caller(address).await;
    let (number, peer, mut stream) = plugin.accepted().await;
    assert_eq!((number, peer), (5, caller.local_addr().unwrap()));
    stream.accept().await.unwrap();

    caller.write_all(b"request").await.unwrap();
    caller.shutdown().await.unwrap();
    let mut request = String::new();
    soon("the request", stream.read_to_string(&mut request))
        .await
        .unwrap();
    assert_eq!(request, "request");
    stream.write_all(b"reply").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut reply = String::new();
    soon("the reply", caller.read_to_string(&mut reply))
        .await
        .unwrap();
    assert_eq!(reply, "reply");
}

#[tokio::test]
async fn a_caller_that_is_not_wanted_is_reset_and_the_next_one_works() {
    let address = address();
    let (_agent, mut plugin, _listener) = listening(address).await;
    let mut first = caller(address).await;
    let (_, _, stream) = plugin.accepted().await;
    stream
        .refuse(Refusal::new(
            RefusalCode::ConnectionRefused,
            "nothing listens on the laptop",
        ))
        .await;
    let error = soon("the reset", first.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    let mut second = caller(address).await;
    let (_, _, mut stream) = plugin.accepted().await;
    stream.accept().await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(soon("a byte", second.read(&mut [0])).await.unwrap(), 1);
}

#[tokio::test]
async fn callers_are_reset_when_the_session_is_lost() {
    let address = address();
    let (agent, mut plugin, _listener) = listening(address).await;
    let mut caller = caller(address).await;
    let (_, _, mut stream) = plugin.accepted().await;
    stream.accept().await.unwrap();
    stream.write_all(b"half a rep").await.unwrap();
    let mut start = [0; 10];
    soon("the start", caller.read_exact(&mut start)).await.unwrap();
    let _other = agent.attach().await;
    let error = soon("the reset", caller.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn of_a_lost_transport_only_callers_without_an_answer_are_reset_when_the_hold_is_over() {
    let address = address();
    let (agent, mut plugin, _listener) = listening_with(address, &[(HOLD, "0")]).await;
    let mut answered = caller(address).await;
    let (_, _, mut stream) = plugin.accepted().await;
    stream.accept().await.unwrap();
    stream.write_all(b"x").await.unwrap();
    soon("a byte", answered.read_u8()).await.unwrap();
    let mut unanswered = caller(address).await;
    let (_, _, mut unwanted) = plugin.accepted().await;

    plugin.lose_transport().await;
    let error = soon("the reset", unanswered.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    plugin.resume(&agent).await.unwrap();
    soon("the news", unwanted.failed()).await;
    stream.write_all(b"x").await.unwrap();
    soon("a byte", answered.read_u8()).await.unwrap();
}

#[tokio::test]
async fn a_listener_ends_with_its_stream_and_its_connections_do_not() {
    let address = address();
    let (_agent, mut plugin, mut listener) = listening(address).await;
    let mut first = caller(address).await;
    let (_, _, mut stream) = plugin.accepted().await;
    stream.accept().await.unwrap();

    listener.shutdown().await.unwrap();
    assert_eq!(
        soon("the listener's end", listener.read(&mut [0])).await.unwrap(),
        0
    );
    let refused = soon("the call", TcpStream::connect((address, PORT)))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    stream.write_all(b"x").await.unwrap();
    assert_eq!(soon("a byte", first.read(&mut [0])).await.unwrap(), 1);
    let again = plugin
        .open(&Open::Listen {
            protocol: Protocol::Tcp,
            listener: 6,
            port: PORT,
        })
        .await
        .unwrap();
    let _second = caller(address).await;
    assert_eq!(plugin.accepted().await.0, 6);
    again.abort("done");
}

#[tokio::test]
async fn a_taken_port_is_refused() {
    let address = address();
    let (_agent, plugin, _listener) = listening(address).await;
    let error = plugin
        .open(&Open::Listen {
            protocol: Protocol::Tcp,
            listener: 6,
            port: PORT,
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), RefusalCode::AddressInUse);
    assert_eq!(
        error.refusal().unwrap().detail,
        "listen on port 20000: address in use"
    );
}

#[tokio::test]
async fn port_0_is_any_port_and_the_log_tells_which() {
    let address = address();
    let agent = InProcess::start(config(&[(BIND, &address.to_string())]));
    let mut plugin = agent.attach().await;
    let _listener = plugin
        .open(&Open::Listen {
            protocol: Protocol::Tcp,
            listener: 1,
            port: 0,
        })
        .await
        .unwrap();
    let line = plugin.line("listening").await;
    let at = line
        .split(r#""address":""#)
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap();
    soon("the call", TcpStream::connect(at)).await.unwrap();
    assert_eq!(plugin.accepted().await.0, 1);
}

#[tokio::test]
async fn a_hundred_callers_at_once_are_all_relayed() {
    let address = address();
    let (_agent, mut plugin, _listener) = listening(address).await;
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..100_u8 {
        callers.spawn(async move {
            let mut caller = TcpStream::connect((address, PORT)).await.unwrap();
            caller.write_all(&[number; 1000]).await.unwrap();
            caller.shutdown().await.unwrap();
            let mut reply = Vec::new();
            caller.read_to_end(&mut reply).await.unwrap();
            assert_eq!(reply, [number; 1000]);
        });
    }
    let mut answers = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (_, _, mut stream) = plugin.accepted().await;
        answers.spawn(async move {
            stream.accept().await.unwrap();
            let mut request = Vec::new();
            stream.read_to_end(&mut request).await.unwrap();
            stream.write_all(&request).await.unwrap();
            stream.shutdown().await.unwrap();
        });
    }
    soon("all callers", async {
        while let Some(caller) = callers.join_next().await {
            caller.unwrap();
        }
    })
    .await;
}
