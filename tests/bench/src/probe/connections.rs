//! New connections through `forward`: how soon the first reply comes, and how many a second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tunnel_test_target as ports;

use super::{Effort, Sample};
use crate::contender::Contender;
use crate::dial;
use crate::failure::{Failure, failure};
use crate::metric::Metric;
use crate::session::{Kind, Session};
use crate::stage::Stage;
use crate::stats;

/// Connections open at the same time.
const AT_ONCE: usize = 16;

/// Most connections of one sample: each keeps a port of this machine, or of the agent's pod, for a minute.
const MOST: u32 = 4000;

/// A pause between two connections that are measured one by one.
const PAUSE: Duration = Duration::from_millis(5);

/// Milliseconds from a new connection to its first reply.
pub(super) async fn one(session: &Session) -> Result<f64, Failure> {
    let started = Instant::now();
    let mut connection = session.connect(ports::ECHO).await?;
    dial::request(&mut connection).await?;
    Ok(dial::millis(started))
}

/// The median of some, one after the other.
pub(super) async fn first_reply(
    stage: &mut Stage<'_>,
    contender: Contender,
    effort: Effort,
) -> Result<Sample, Failure> {
    let session = stage.session(contender, Kind::Forward).await?;
    // The very first one may look a name up, or fill a cache.
    one(session).await?;
    let mut times = Vec::new();
    for _ in 0..effort.connections {
        times.push(one(session).await?);
        sleep(PAUSE).await;
    }
    Ok(stats::median(&times)
        .map(|median| (Metric::FirstReply, median))
        .into_iter()
        .collect())
}

/// Connections with one small request each, as many as go, some at once.
pub(super) async fn a_second(
    stage: &mut Stage<'_>,
    contender: Contender,
    effort: Effort,
    server_ends: bool,
) -> Result<Sample, Failure> {
    let session = stage.session(contender, Kind::Forward).await?;
    let (port, row) = if server_ends {
        (ports::REPLY_ONCE, Metric::ConnectionsServerEnds)
    } else {
        (ports::ECHO, Metric::ConnectionsClientEnds)
    };
    let address = session.address(port)?;
    let done = Arc::new(AtomicU32::new(0));
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let done = Arc::clone(&done);
        workers.spawn(async move {
            while started.elapsed() < effort.window && done.load(Ordering::Relaxed) < MOST {
                exchange(address, server_ends).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(vec![(row, f64::from(done.load(Ordering::Relaxed)) / seconds)])
}

async fn exchange(address: SocketAddr, server_ends: bool) -> Result<(), Failure> {
    let mut connection = TcpStream::connect(address).await?;
    connection.set_nodelay(true)?;
    dial::request(&mut connection).await?;
    if server_ends && connection.read(&mut [0]).await? != 0 {
        return failure("more than the reply");
    }
    Ok(())
}
