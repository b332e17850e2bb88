//! Both halves over a pipe in memory, and strangers at either end. The clock is paused.

use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::time::Instant;

use super::*;

const PLUGIN: Nonce = [1; 32];
const AGENT: Nonce = [2; 32];
const LINK: u64 = 0x0a0b;

fn key() -> Key {
    Key {
        session: "x7k2p9".parse().unwrap(),
        link: LINK,
        secret: Secret::new([7; 32]),
    }
}

fn hello() -> Hello {
    Hello::plugin(key().session, Secret::new([0; 32]), LINK, 2, 99)
}

struct Ends {
    plugin: (ReadHalf<DuplexStream>, WriteHalf<DuplexStream>),
    agent: (ReadHalf<DuplexStream>, WriteHalf<DuplexStream>),
}

fn ends() -> Ends {
    let (near, far) = duplex(64 * 1024);
    Ends {
        plugin: split(near),
        agent: split(far),
    }
}

impl Ends {
    /// What the agent with this key makes of what the plugin does. The agent's end is closed then.
    async fn meet<T>(
        self,
        key: Option<Key>,
        plugin: impl AsyncFnOnce(&mut ReadHalf<DuplexStream>, &mut WriteHalf<DuplexStream>) -> T,
    ) -> (T, Result<Hello, EntranceError>) {
        let Self {
            plugin: (mut reader, mut writer),
            agent: (mut far_reader, mut far_writer),
        } = self;
        let agent = async move { admit(&mut far_reader, &mut far_writer, AGENT, key).await };
        let plugin = async move { plugin(&mut reader, &mut writer).await };
        tokio::join!(plugin, agent)
    }
}

/// Everything up to the end.
async fn rest(reader: &mut ReadHalf<DuplexStream>) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.unwrap();
    bytes
}

fn front() -> Vec<u8> {
    [&MAGIC[..], &WIRE_VERSION.to_be_bytes(), &PLUGIN].concat()
}

#[test]
fn fixed_vector() {
    assert_eq!(
        crate::hex(&key().prove(Sender::Plugin, &PLUGIN, &AGENT)),
        "0c830b034c7cfb9d4d3d390e8ee048582a64224155adecc1072bc40669954cd3"
    );
    assert_eq!(
        crate::hex(&key().prove(Sender::Agent, &PLUGIN, &AGENT)),
        "0042310887c7d003d85d69547f15752c42988b29b2b2e75e40b6cf49388c9508"
    );
}

#[tokio::test(start_paused = true)]
async fn both_know_the_secret_and_the_hello_follows_the_echoes() {
    for echoes in [0, 1, MAX_ECHOES] {
        let (said, came) = ends()
            .meet(Some(key()), async |reader, writer| {
                knock(reader, writer, &key(), &PLUGIN).await?;
                for _ in 0..echoes {
                    echo(reader, writer).await?;
                }
                Ok::<_, EntranceError>(hello().write(writer).await?)
            })
            .await;
        said.unwrap();
        let came = came.unwrap();
        assert_eq!((came.link, came.transport, came.received), (LINK, 2, 99));
        assert_eq!(came.secret.as_bytes(), &[0; 32], "the secret is never sent");
    }
}

#[tokio::test(start_paused = true)]
async fn more_echoes_than_it_takes_to_measure_are_refused() {
    let (last, came) = ends()
        .meet(Some(key()), async |reader, writer| {
            knock(reader, writer, &key(), &PLUGIN).await.unwrap();
            for _ in 0..MAX_ECHOES {
                echo(reader, writer).await.unwrap();
            }
            echo(reader, writer).await.and(echo(reader, writer).await)
        })
        .await;
    assert!(last.is_err());
    assert!(matches!(came, Err(EntranceError::Closed)), "{came:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stranger_gets_not_a_byte() {
    let magic = [&b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n"[..], &[0; 64]].concat();
    let mut version = front();
    version[5] ^= 1;
    for bytes in [magic, version] {
        let (heard, came) = ends()
            .meet(Some(key()), async |reader, writer| {
                writer.write_all(&bytes).await.unwrap();
                rest(reader).await
            })
            .await;
        assert!(heard.is_empty(), "{heard:?}");
        assert!(matches!(came, Err(EntranceError::Unproven)), "{came:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_session_nobody_gets_a_byte() {
    let (heard, came) = ends()
        .meet(None, async |reader, writer| {
            writer.write_all(&front()).await.unwrap();
            rest(reader).await
        })
        .await;
    assert!(heard.is_empty(), "{heard:?}");
    assert!(matches!(came, Err(EntranceError::Closed)), "{came:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_proof_gets_no_byte_behind_the_nonce() {
    let wrong = [
        Key {
            secret: Secret::new([8; 32]),
            ..key()
        },
        // What everybody who may read pods knows.
        Key {
            secret: Secret::new(*key().secret.digest().as_bytes()),
            ..key()
        },
        Key { link: 1, ..key() },
        Key {
            session: "x7k2p8".parse().unwrap(),
            ..key()
        },
    ];
    for wrong in wrong {
        let (heard, came) = ends()
            .meet(Some(key()), async |reader, writer| {
                writer.write_all(&front()).await.unwrap();
                let theirs: Nonce = receive(reader).await.unwrap();
                let proof = wrong.prove(Sender::Plugin, &PLUGIN, &theirs);
                writer.write_all(&proof).await.unwrap();
                rest(reader).await
            })
            .await;
        assert!(heard.is_empty(), "{heard:?}");
        assert!(matches!(came, Err(EntranceError::Unproven)), "{came:?}");
        let (said, _) = ends()
            .meet(Some(key()), async |reader, writer| {
                knock(reader, writer, &wrong, &PLUGIN).await
            })
            .await;
        assert!(matches!(said, Err(EntranceError::Closed)), "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_proof_that_was_heard_once_is_worth_nothing_later() {
    // Of a connection with another nonce of the agent's.
    let replayed = key().prove(Sender::Plugin, &PLUGIN, &[3; 32]);
    // The agent's own words, sent back to it.
    let reflected = key().prove(Sender::Agent, &PLUGIN, &AGENT);
    for proof in [replayed, reflected] {
        let (heard, came) = ends()
            .meet(Some(key()), async |reader, writer| {
                writer.write_all(&front()).await.unwrap();
                let _theirs: Nonce = receive(reader).await.unwrap();
                writer.write_all(&proof).await.unwrap();
                rest(reader).await
            })
            .await;
        assert!(heard.is_empty());
        assert!(matches!(came, Err(EntranceError::Unproven)), "{came:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_impostor_is_noticed_before_anything_is_told() {
    let thief = Key {
        secret: Secret::new(*key().secret.digest().as_bytes()),
        ..key()
    };
    let Ends {
        plugin: (mut reader, mut writer),
        agent: (mut far_reader, mut far_writer),
    } = ends();
    let impostor = async move {
        let _front: [u8; FRONT] = receive(&mut far_reader).await.unwrap();
        let theirs: Nonce = receive(&mut far_reader).await.unwrap();
        far_writer.write_all(&AGENT).await.unwrap();
        let heard: [u8; 32] = receive(&mut far_reader).await.unwrap();
        let proof = thief.prove(Sender::Agent, &theirs, &AGENT);
        far_writer.write_all(&proof).await.unwrap();
        (heard, rest(&mut far_reader).await)
    };
    let plugin = async move { knock(&mut reader, &mut writer, &key(), &PLUGIN).await };
    let (said, (heard, more)) = tokio::join!(plugin, impostor);
    assert!(matches!(said, Err(EntranceError::Unproven)), "{said:?}");
    assert_eq!(heard, key().prove(Sender::Plugin, &PLUGIN, &AGENT));
    assert!(more.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_was_altered_or_names_another_link_is_not_taken() {
    let mut altered = hello().encode().to_vec();
    altered[70] ^= 1;
    let other_link = Hello { link: 1, ..hello() }.encode().to_vec();
    let other_session = Hello {
        session: "abc".parse().unwrap(),
        ..hello()
    };
    for bytes in [altered, other_link, other_session.encode().to_vec()] {
        let (heard, came) = ends()
            .meet(Some(key()), async |reader, writer| {
                knock(reader, writer, &key(), &PLUGIN).await.unwrap();
                writer.write_all(&bytes).await.unwrap();
                rest(reader).await
            })
            .await;
        assert!(heard.is_empty());
        assert!(came.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_path_that_alters_bytes_is_found_before_the_hello() {
    let Ends {
        plugin: (mut reader, mut writer),
        agent: (mut far_reader, mut far_writer),
    } = ends();
    let path = async move {
        let [_tag] = receive(&mut far_reader).await.unwrap();
        let mut bytes: [u8; 20_000] = receive(&mut far_reader).await.unwrap();
        bytes[17_000] ^= 1;
        far_writer.write_all(&bytes).await.unwrap();
        let mut ignored = Vec::new();
        far_reader.read_to_end(&mut ignored).await.unwrap();
    };
    let plugin = async move { echo(&mut reader, &mut writer).await };
    let (found, ()) = tokio::join!(plugin, path);
    assert!(matches!(found, Err(EntranceError::Altered(17_000))), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn every_wait_has_a_deadline() {
    // One byte a second is no way to stay longer.
    let Ends {
        plugin: (_reader, mut writer),
        agent: (mut far_reader, mut far_writer),
    } = ends();
    let slow = async move {
        for byte in front() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if writer.write_all(&[byte]).await.is_err() {
                break;
            }
        }
    };
    let before = Instant::now();
    let admitted = async move { admit(&mut far_reader, &mut far_writer, AGENT, Some(key())).await };
    tokio::select! {
        came = admitted => assert!(matches!(came, Err(EntranceError::TimedOut)), "{came:?}"),
        () = slow => panic!("it waits for the slow one"),
    }
    assert_eq!(before.elapsed(), HELLO_TIMEOUT);

    let Ends {
        plugin: (mut reader, mut writer),
        agent: _agent,
    } = ends();
    let before = Instant::now();
    let knocked = knock(&mut reader, &mut writer, &key(), &PLUGIN).await;
    assert!(matches!(knocked, Err(EntranceError::TimedOut)), "{knocked:?}");
    assert_eq!(before.elapsed(), HELLO_TIMEOUT);
    let echoed = echo(&mut reader, &mut writer).await;
    assert!(matches!(echoed, Err(EntranceError::TimedOut)), "{echoed:?}");

    // Proven, and then silent; proven, and then silent within an echo.
    for begun in [&b""[..], &[ECHO, 1, 2, 3]] {
        let ends = ends();
        let before = Instant::now();
        let (_kept, came) = ends
            .meet(Some(key()), async |reader, writer| {
                knock(reader, writer, &key(), &PLUGIN).await.unwrap();
                writer.write_all(begun).await.unwrap();
                rest(reader).await
            })
            .await;
        assert!(matches!(came, Err(EntranceError::TimedOut)), "{came:?}");
        assert_eq!(before.elapsed(), MEASURE_TIMEOUT);
    }
}
