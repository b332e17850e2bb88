//! The entrance: the session goes on over it, and nobody else gets a word.

use std::net::IpAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunnel_agent::agent::MAX_UNPROVEN;
use tunnel_agent::config::ENTRANCE;
use tunnel_wire::entrance::{self, EntranceError, Key};
use tunnel_wire::frame::Frame;
use tunnel_wire::hello::{self, Hello, HelloError, Secret, Verdict};

use crate::resume::exchange;
use crate::support::{Faults, InProcess, Plugin, SESSION, address, config, secret, soon, upstream};

/// What an agent makes of a front that may be a plugin's, all in all.
const UNPROVEN_FOR: Duration = hello::HELLO_TIMEOUT;

fn agent_at(address: IpAddr) -> InProcess {
    InProcess::start(config(&[(ENTRANCE, &address.to_string())]))
}

fn key(plugin: &Plugin) -> Key {
    Key {
        session: SESSION.parse().unwrap(),
        link: plugin.hello.link,
        secret: secret(),
    }
}

struct Knocked {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
}

async fn knock(address: IpAddr, port: u16, key: &Key) -> Result<Knocked, EntranceError> {
    let connection = TcpStream::connect((address, port)).await.unwrap();
    let (mut reader, mut writer) = connection.into_split();
    let nonce = [9; 32];
    soon(
        "the proofs",
        entrance::knock(&mut reader, &mut writer, key, &nonce),
    )
    .await?;
    Ok(Knocked { reader, writer })
}

/// Goes on over the entrance, as a plugin does.
async fn resume_at(plugin: &mut Plugin, address: IpAddr) -> Result<(), HelloError> {
    let Knocked {
        mut reader,
        mut writer,
    } = knock(address, plugin.entrance, &key(plugin)).await.unwrap();
    entrance::echo(&mut reader, &mut writer).await.unwrap();
    plugin.hello.secret = Secret::new([0; 32]);
    let resumed = plugin.resume_with(reader, writer).await;
    plugin.hello.secret = secret();
    resumed
}

#[tokio::test]
async fn transfers_go_on_over_the_entrance_and_back_over_exec() {
    let address = address();
    let agent = agent_at(address);
    let mut plugin = agent.attach().await;
    let (targets, port) = upstream().await;
    let mut ends = JoinSet::new();
    ends.spawn(exchange("plugin", plugin.dial("127.0.0.1", port).await.unwrap()));
    let (target, _) = soon("the dial", targets.accept()).await.unwrap();
    ends.spawn(exchange("upstream", target));
    for _ in 0..3 {
        resume_at(&mut plugin, address).await.unwrap();
        let cut = agent
            .faulty(Faults {
                to_agent: 300_000,
                ..Faults::default()
            })
            .await;
        plugin.resume_over(cut).await.unwrap();
    }
    resume_at(&mut plugin, address).await.unwrap();
    soon("both transfers", async {
        while let Some(end) = ends.join_next().await {
            end.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_is_not_told_to_has_no_entrance() {
    let agent = InProcess::start(config(&[]));
    assert_eq!(agent.attach().await.entrance, 0);
}

#[tokio::test]
async fn only_the_link_that_lives_gets_an_answer() {
    let address = address();
    let agent = agent_at(address);
    let plugin = agent.attach().await;
    let right = key(&plugin);
    let strangers = [
        Key {
            secret: Secret::new([8; 32]),
            ..right.clone()
        },
        // From the pod's environment.
        Key {
            secret: Secret::new(*secret().digest().as_bytes()),
            ..right.clone()
        },
        // Who knows the secret and wants a session of its own has to come by exec.
        Key {
            link: u64::MAX,
            ..right.clone()
        },
    ];
    for stranger in strangers {
        let refused = knock(address, plugin.entrance, &stranger).await;
        assert!(matches!(refused, Err(EntranceError::Closed)), "it was answered");
    }
    knock(address, plugin.entrance, &right).await.unwrap();
    let refused = plugin.dial("169.254.0.1", 80).await.unwrap_err();
    refused.refusal().expect("the session lives");
}

#[tokio::test]
async fn a_hello_for_another_link_or_an_older_transport_gets_nothing() {
    let address = address();
    let agent = agent_at(address);
    let mut plugin = agent.attach().await;
    resume_at(&mut plugin, address).await.unwrap();
    let say = async |hello: Hello| {
        let mut knocked = knock(address, plugin.entrance, &key(&plugin)).await.unwrap();
        let said = hello::connect(&mut knocked.reader, &mut knocked.writer, &hello);
        soon("the answer", said).await.unwrap_err()
    };
    let thief = Hello {
        link: u64::MAX,
        transport: 1,
        ..plugin.hello.clone()
    };
    let error = say(thief).await;
    assert!(matches!(error, HelloError::Ended), "{error}");
    let error = say(plugin.hello.clone()).await;
    assert!(matches!(error, HelloError::Refused(Verdict::Stale)), "{error}");
    let refused = plugin.dial("169.254.0.1", 80).await.unwrap_err();
    refused.refusal().expect("the session lives");
}

#[tokio::test]
async fn without_a_session_the_entrance_is_shut() {
    let address = address();
    let agent = agent_at(address);
    let mut transport = agent.transport().await;
    let hello = crate::support::hello();
    let answer = transport.hello(&hello).await.unwrap();
    let mut frame = BytesMut::new();
    Frame::Ack { position: u64::MAX }.encode(&mut frame);
    transport.writer.write_all(&frame).await.unwrap();
    soon("the end", async {
        while transport.lines.recv().await.is_some() {}
    })
    .await;
    let key = Key {
        session: SESSION.parse().unwrap(),
        link: hello.link,
        secret: secret(),
    };
    let refused = knock(address, answer.entrance, &key).await;
    assert!(matches!(refused, Err(EntranceError::Closed)), "it was answered");
}

#[tokio::test]
async fn those_who_prove_nothing_are_few_and_do_not_stay() {
    let address = address();
    let agent = agent_at(address);
    let plugin = agent.attach().await;
    let start = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..MAX_UNPROVEN {
        silent.push(TcpStream::connect((address, plugin.entrance)).await.unwrap());
    }
    let closed = async |connection: &mut TcpStream| {
        let read = soon("the end", connection.read(&mut [0; 8])).await;
        assert!(read.is_ok_and(|length| length == 0), "it was answered");
    };
    let mut one_more = TcpStream::connect((address, plugin.entrance)).await.unwrap();
    closed(&mut one_more).await;
    assert!(start.elapsed() < UNPROVEN_FOR, "{:?}", start.elapsed());
    // Exec is another way in, and has places of its own.
    agent.attach().await;
    for connection in &mut silent {
        closed(connection).await;
    }
    assert!(start.elapsed() < UNPROVEN_FOR * 2, "{:?}", start.elapsed());
}
