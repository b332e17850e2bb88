//! A gibibyte each way: the bytes that were sent arrive, and neither program grows.

use std::net::SocketAddr;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tunnel_test_target as ports;
use tunnel_test_target::pattern::{Pattern, hex};

use crate::harness::dial::{self, Way};
use crate::harness::namespace::Namespace;
use crate::harness::{notice, process, run, within};

const LENGTH: u64 = 1 << 30;
/// 12 MiB/s, a tenth of what an exec carries on a small machine.
const TRANSFER: Duration = Duration::from_secs(85);
const PLUGIN_KIB: u64 = 40 << 10;
const AGENT_KIB: u64 = 32 << 10;

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_gibibyte_each_way_is_unaltered_and_takes_no_memory() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        let proxy = ready.proxy();
        let path = format!("/sha256/{LENGTH}");
        let expected = dial::get(Way::Connect, proxy, &target.name, ports::HTTP, &path);
        let expected = expected.await.expect("the target computes it").body;

        let started = Instant::now();
        let hash = within(TRANSFER, "the download", download(proxy, &target.name)).await;
        report("down", started);
        assert_eq!(hash, expected, "SHA-256 of the download");

        let started = Instant::now();
        let (sent, received) = within(TRANSFER, "the upload", upload(proxy, &target.name)).await;
        report("up", started);
        assert_eq!(sent, expected, "SHA-256 of what was sent");
        assert_eq!(received, expected, "SHA-256 of the upload");

        let kib = process::peak_kib(plugin.pid());
        notice(&format!("plugin: {kib} KiB at most"));
        assert!(kib < PLUGIN_KIB, "the plugin took {kib} KiB");
        let pod = namespace
            .admin()
            .objects(namespace.name(), "pods")
            .get(&ready.pod)
            .await
            .expect("the pod");
        match process::agent_of(&pod) {
            Some(agent) => {
                let kib = process::peak_kib(agent);
                notice(&format!("agent: {kib} KiB at most"));
                assert!(kib < AGENT_KIB, "the agent took {kib} KiB");
            }
            None => notice("the node is another machine: the agent's memory is not checked"),
        }
        plugin.stop().await;
    });
}

fn report(direction: &str, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    notice(&format!("{direction}: {:.0} MiB/s", 1024.0 / seconds));
}

async fn open(proxy: SocketAddr, host: &str) -> TcpStream {
    dial::connect(proxy, host, ports::HTTP)
        .await
        .expect("the target accepts")
}

async fn download(proxy: SocketAddr, host: &str) -> String {
    let mut connection = open(proxy, host).await;
    let head = format!("GET /bytes/{LENGTH} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    connection
        .write_all(head.as_bytes())
        .await
        .expect("send the request");
    let head = dial::read_head(&mut connection).await.expect("an answer");
    assert!(head.contains(&format!("Content-Length: {LENGTH}\r\n")), "{head}");
    let mut hash = Sha256::new();
    let mut block = vec![0; 256 << 10];
    let mut length = 0;
    loop {
        let count = connection.read(&mut block).await.expect("bytes");
        if count == 0 {
            assert_eq!(length, LENGTH, "bytes until the end of the connection");
            return hex(&hash.finalize());
        }
        hash.update(&block[..count]);
        length += count as u64;
    }
}

/// SHA-256 of what was sent, and what the target says that it received.
async fn upload(proxy: SocketAddr, host: &str) -> (String, String) {
    let mut connection = open(proxy, host).await;
    let head = format!(
        "PUT /sha256 HTTP/1.1\r\nHost: {host}\r\nContent-Length: {LENGTH}\r\nConnection: close\r\n\r\n"
    );
    connection
        .write_all(head.as_bytes())
        .await
        .expect("send the request");
    let mut hash = Sha256::new();
    let mut pattern = Pattern::default();
    let mut block = vec![0; 256 << 10];
    while pattern.position() < LENGTH {
        pattern.fill(&mut block);
        hash.update(&block);
        connection.write_all(&block).await.expect("send");
    }
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.expect("an answer");
    let received = answer.rsplit("\r\n").next().unwrap_or_default().to_owned();
    (hex(&hash.finalize()), received)
}
