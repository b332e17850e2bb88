//! Datagrams through the proxy: the cluster's DNS Service, asked as a program on the laptop asks a resolver.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::harness::namespace::Namespace;
use crate::harness::{dial, run, within};

/// How long an answer may take. Datagrams get lost, so a question is asked a few times.
const ANSWER: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 5;

/// A SOCKS5 association: the connection it lives with, and a socket whose datagrams go there.
struct Association {
    _control: TcpStream,
    socket: UdpSocket,
}

impl Association {
    async fn open(proxy: SocketAddr) -> Self {
        let mut control = dial::local(proxy).await;
        let reply = within(ANSWER, "the association", async {
            control
                .write_all(&[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0])
                .await?;
            let mut reply = [0; 12];
            control.read_exact(&mut reply).await?;
            std::io::Result::Ok(reply)
        });
        let reply = reply.await.expect("a reply");
        assert_eq!(reply[..6], [5, 0, 5, 0, 0, 1], "{reply:?}");
        let ip = Ipv4Addr::new(reply[6], reply[7], reply[8], reply[9]);
        assert_eq!(IpAddr::V4(ip), proxy.ip());
        let port = u16::from_be_bytes([reply[10], reply[11]]);
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        socket.connect((ip, port)).await.expect("connected");
        Self {
            _control: control,
            socket,
        }
    }

    /// Sends, and returns what comes back from that target.
    async fn ask(&self, target: &[u8], question: &[u8]) -> Vec<u8> {
        let header = [&[0, 0, 0], target].concat();
        for _ in 0..ATTEMPTS {
            let datagram = [&header, question].concat();
            self.socket.send(&datagram).await.expect("sent");
            let mut room = vec![0; 65_536];
            if let Ok(received) = timeout(ANSWER, self.socket.recv(&mut room)).await {
                room.truncate(received.expect("received"));
                assert_eq!(room[..header.len()], header, "the header of the target");
                return room.split_off(header.len());
            }
        }
        panic!("no answer to {ATTEMPTS} questions");
    }
}

/// A DNS question for the A record of a name (RFC 1035, section 4).
fn question(id: [u8; 2], name: &str) -> Vec<u8> {
    // Recursion desired, one question.
    let mut bytes = [&id[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a short label"));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

async fn cluster_ip(namespace: &Namespace, space: &str, service: &str) -> Ipv4Addr {
    let path = "jsonpath={.spec.clusterIP}";
    let ip = namespace
        .kubectl_ok(&["-n", space, "get", "service", service, "-o", path])
        .await;
    ip.trim().parse().expect("an IPv4 address")
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn the_clusters_dns_answers_by_name_and_by_address() {
    run(async {
        let namespace = Namespace::create().await;
        let dns = cluster_ip(&namespace, "kube-system", "kube-dns").await;
        let api = cluster_ip(&namespace, "default", "kubernetes").await;
        let (plugin, ready) = namespace.proxy(&["-v"]).ready().await;
        let program = Association::open(ready.proxy()).await;
        let name = "kube-dns.kube-system";
        let by_name = [
            &[3, u8::try_from(name.len()).expect("short")],
            name.as_bytes(),
            &[0, 53],
        ]
        .concat();
        let by_address = [&[1], &dns.octets()[..], &[0, 53]].concat();
        for (id, target) in [([0x10, 1], by_name), ([0x20, 2], by_address)] {
            let asked = question(id, "kubernetes.default.svc.cluster.local");
            let answer = program.ask(&target, &asked).await;
            assert_eq!(answer[..2], id, "{answer:?}");
            assert_eq!(answer[3] & 0x0f, 0, "no error: {answer:?}");
            let record = [&[0, 4], &api.octets()[..]].concat();
            assert!(
                answer.windows(record.len()).any(|window| window == record),
                "{api} is not in {answer:?}"
            );
        }
        drop(program);
        plugin.signal(Signal::INT);
        let ended = plugin.end(Duration::from_secs(10)).await;
        ended.expect_code(0).expect_said(&[
            "method=UDP target=kube-dns.kube-system:53",
            &format!("method=UDP target={dns}:53"),
            &format!("upstream={dns}:53"),
            "method=ASSOCIATE",
        ]);
    });
}
