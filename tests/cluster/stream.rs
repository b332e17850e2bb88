//! Bytes of one connection: both directions end on their own, and nothing is lost when one does.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunnel_test_target as ports;
use tunnel_test_target::pattern::Pattern;

use crate::harness::dial::{self, Way};
use crate::harness::namespace::Namespace;
use crate::harness::{poll, run, within};

const TRANSFER: Duration = Duration::from_secs(20);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn half_close_delivers_the_reply() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        for way in [Way::Connect, Way::Socks5] {
            let opened = dial::open(way, ready.proxy(), &target.name, ports::HALF_CLOSE).await;
            let mut connection = opened.expect("the target accepts");
            let mut request = vec![0; 300_000];
            Pattern::default().fill(&mut request);
            connection.write_all(&request).await.expect("send");
            connection.shutdown().await.expect("end our direction");
            let mut reply = Vec::new();
            let read = within(TRANSFER, "the reply", connection.read_to_end(&mut reply)).await;
            read.expect("the reply ends by itself");
            assert_eq!(reply.len() as u64, ports::HALF_CLOSE_REPLY, "{way:?}");
            Pattern::default().check(&reply).expect("the pattern");
        }
        plugin.stop().await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn the_target_may_end_first_and_still_read() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        let opened = dial::connect(ready.proxy(), &target.name, ports::END_FIRST).await;
        let mut connection = opened.expect("the target accepts");
        let mut greeting = String::new();
        let read = within(
            TRANSFER,
            "the target's end",
            connection.read_to_string(&mut greeting),
        )
        .await;
        read.expect("the target ends in order");
        assert_eq!(greeting, "over\n");
        let mut block = vec![0; 1 << 20];
        Pattern::default().fill(&mut block);
        connection
            .write_all(&block)
            .await
            .expect("send after the target's end");
        connection.shutdown().await.expect("end our direction");
        let verdict = poll(TRANSFER, "the target's verdict", async || {
            let answer = dial::get(Way::Connect, ready.proxy(), "web", 80, "/end-first").await;
            Some(answer.expect("the target answers").body).filter(|verdict| !verdict.is_empty())
        })
        .await;
        assert_eq!(verdict, format!("{} ok", block.len()));
        plugin.stop().await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_target_that_dies_resets_the_connection_and_never_ends_it() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        let opened = dial::connect(ready.proxy(), &target.name, ports::SOURCE).await;
        let mut connection = opened.expect("the target accepts");
        let mut block = vec![0; 1 << 16];
        let mut pattern = Pattern::default();
        while pattern.position() < 1 << 20 {
            let count = connection.read(&mut block).await.expect("bytes");
            pattern.check(&block[..count]).expect("the pattern");
        }
        // The program is killed with unread bytes of ours in its buffer, which makes its kernel send a reset.
        connection.write_all(&block).await.expect("send");
        namespace
            .kubectl_ok(&[
                "delete",
                "pod",
                &target.pod,
                "--grace-period=0",
                "--force",
                "--wait=false",
            ])
            .await;
        let end = within(Duration::from_secs(60), "the end of the connection", async {
            loop {
                match connection.read(&mut block).await {
                    Ok(0) => return Ok(()),
                    Ok(count) => pattern.check(&block[..count]).expect("the pattern"),
                    Err(error) => return Err(error),
                }
            }
        })
        .await;
        let error = end.expect_err("a cut transfer must not look complete");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        plugin.stop().await;
    });
}
