//! A program that resets its connections in the middle, again and again, beside one whose transfer has to be whole.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tunnel_test_target as ports;
use tunnel_test_target::exchange::Order;

use crate::harness::namespace::Namespace;
use crate::harness::near::{self, Progress};
use crate::harness::{dial, notice, process, run, within};

const LENGTH: Duration = Duration::from_secs(20);
const RATE: u64 = 2 << 20;
/// The end of the transfer, once it is asked for.
const FINISH: Duration = Duration::from_secs(20);
/// More than the credit of a stream: the rest is on its way when the reset comes.
const READ: usize = 200 << 10;
const PLUGIN_KIB: u64 = 60 << 10;

#[test]
#[ignore = "needs a cluster: make e2e"]
fn resets_of_one_program_leave_anothers_transfer_whole() {
    run(async {
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        let (exchange, source) = (format!(":{}", ports::EXCHANGE), format!(":{}", ports::SOURCE));
        let arguments = ["svc/web", &exchange, "pod/web-pod", &source];
        let (plugin, ready) = namespace.forward(&arguments).ready().await;
        let addresses = ready.forwarded();
        let (progress, finish) = (Arc::new(Progress::default()), CancellationToken::new());
        let order = Order {
            rate: RATE,
            number: 1,
        };
        let connection = dial::local(addresses[0]).await;
        let transfer = near::exchange(connection, order, RATE, Arc::clone(&progress), finish.clone());
        let resets = async {
            let began = Instant::now();
            let mut count = 0;
            while began.elapsed() < LENGTH {
                within(FINISH, "a download", reset_midway(addresses[1])).await;
                count += 1;
            }
            finish.cancel();
            count
        };
        let (went, count) = within(LENGTH + FINISH, "the transfer", async {
            tokio::join!(transfer, resets)
        })
        .await;
        went.expect("the transfer is whole");
        let kib = process::peak_kib(plugin.pid());
        notice(&format!(
            "{count} resets beside {} MiB; the longest pause {:?}; plugin {kib} KiB at most",
            progress.moved() >> 20,
            progress.largest_gap()
        ));
        assert!(count > 20, "only {count} resets");
        assert!(kib < PLUGIN_KIB, "the plugin took {kib} KiB");
        // What was reset is over at the other end too, or the session would fill up.
        sleep(Duration::from_secs(1)).await;
        let mut last = dial::local(addresses[1]).await;
        last.write_all(b"x").await.expect("send");
        within(FINISH, "a byte", last.read_u8()).await.expect("a byte");
        drop(last);
        plugin.stop().await;
    });
}

async fn reset_midway(address: SocketAddr) {
    let mut connection = TcpStream::connect(address).await.expect("a local port");
    let mut some = vec![0; READ];
    connection.read_exact(&mut some).await.expect("bytes");
    let socket = socket2::SockRef::from(&connection);
    socket.set_linger(Some(Duration::ZERO)).expect("set SO_LINGER");
}
