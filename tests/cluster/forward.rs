//! `forward` in a real cluster: what is reached, what follows its pods, agents that come and go, what is refused.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tunnel_test_target::pattern::Pattern;

use crate::harness::{dial, within};

mod bad_input;
mod dns;
mod into_the_pod;
mod kinds;
mod many;
mod on_demand;
mod rollout;

/// From a connection to its answer, on a busy machine.
const ANSWER: Duration = Duration::from_secs(15);

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";

/// One request on a connection of its own, and how that went.
async fn get(address: SocketAddr) -> std::io::Result<dial::Answer> {
    let mut connection = TcpStream::connect(address).await?;
    dial::request(&mut connection, GET, b"").await
}

/// Expects an answer of the target's HTTP port.
async fn expect_http(address: SocketAddr, what: &str) -> dial::Answer {
    let answer = within(ANSWER, what, get(address)).await;
    let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(answer.status, 200, "{what}: {answer:?}");
    answer
}

/// As psql begins: a word, an answer to it, more words, and an end that the other side answers.
async fn expect_dialogue(address: SocketAddr, what: &str) {
    let dialogue = async {
        let mut connection = TcpStream::connect(address).await?;
        for words in ["SSLRequest", "startup", "select 1"] {
            connection.write_all(words.as_bytes()).await?;
            let mut answer = vec![0; words.len()];
            connection.read_exact(&mut answer).await?;
            assert_eq!(answer, words.as_bytes(), "{what}");
        }
        connection.shutdown().await?;
        connection.read(&mut [0]).await
    };
    let end = within(ANSWER, what, dialogue).await;
    assert_eq!(end.unwrap_or_else(|error| panic!("{what}: {error}")), 0, "{what}");
}

/// As mail begins: the program says something and ends, before it is told anything.
async fn expect_first_word(address: SocketAddr, what: &str) {
    let first = async {
        let mut connection = TcpStream::connect(address).await?;
        let mut said = String::new();
        connection.read_to_string(&mut said).await?;
        let mut rest = vec![0; 100_000];
        Pattern::default().fill(&mut rest);
        connection.write_all(&rest).await?;
        connection.shutdown().await?;
        Ok::<_, std::io::Error>(said)
    };
    let said = within(ANSWER, what, first).await;
    assert_eq!(
        said.unwrap_or_else(|error| panic!("{what}: {error}")),
        "over\n",
        "{what}"
    );
}
