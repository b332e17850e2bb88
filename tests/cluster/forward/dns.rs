//! The cluster's own DNS over UDP, in a namespace where the developer may read nothing.

use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::harness::namespace::Namespace;
use crate::harness::{notice, run};

/// Datagrams may be lost: each is asked twice.
const TRIES: usize = 2;
const ANSWER: Duration = Duration::from_secs(5);
const A: u16 = 1;

#[test]
#[ignore = "needs a cluster: make e2e"]
fn the_clusters_dns_answers_over_udp() {
    run(async {
        let namespace = Namespace::create().await;
        let arguments = ["svc/kube-dns.kube-system", ":53/udp", "-v=1"];
        let (plugin, ready) = namespace.forward(&arguments).ready().await;
        assert!(plugin.said().contains("not checked"), "{}", plugin.said());
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a local port");
        socket
            .connect(ready.forwarded()[0])
            .await
            .expect("a local address");
        let query = query("kubernetes.default.svc.cluster.local");
        let mut answer = vec![0; 4096];
        let mut length = None;
        for _ in 0..TRIES {
            socket.send(&query).await.expect("send");
            if let Ok(received) = timeout(ANSWER, socket.recv(&mut answer)).await {
                length = Some(received.expect("received"));
                break;
            }
        }
        answer.truncate(length.expect("an answer to one of two queries"));
        let addresses = addresses(&query, &answer);
        notice(&format!("kubernetes.default is {addresses:?}"));
        assert_eq!(addresses.len(), 1, "{answer:?}");
        plugin.stop().await;
    });
}

/// A question for the address of a name.
fn query(name: &str) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).expect("a label is short"));
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// The addresses in an answer to this query, which repeats its question.
fn addresses(query: &[u8], answer: &[u8]) -> Vec<[u8; 4]> {
    assert_eq!(answer[..2], query[..2], "the id");
    assert_eq!(
        (answer[2] & 0x80, answer[3] & 0x0f),
        (0x80, 0),
        "an answer without an error"
    );
    assert_eq!(answer[12..query.len()], query[12..], "the question");
    let count = u16::from_be_bytes([answer[6], answer[7]]);
    let mut rest = &answer[query.len()..];
    let mut addresses = Vec::new();
    for _ in 0..count {
        // The name: labels up to an empty one, or up to a reference.
        while rest[0] != 0 && rest[0] < 0xc0 {
            rest = &rest[1 + usize::from(rest[0])..];
        }
        rest = &rest[if rest[0] == 0 { 1 } else { 2 }..];
        let length = usize::from(u16::from_be_bytes([rest[8], rest[9]]));
        if u16::from_be_bytes([rest[0], rest[1]]) == A {
            addresses.push(rest[10..14].try_into().expect("four bytes"));
        }
        rest = &rest[10 + length..];
    }
    addresses
}
