//! How connections end, and what an unpleasant neighbour does to the next one.
//!
//! `kubectl port-forward` may be of no use after these, so it gets a process of its own for each sample.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tunnel_test_target as ports;

use super::{Sample, bulk, connections};
use crate::contender::Contender;
use crate::dial;
use crate::failure::Failure;
use crate::metric::Metric;
use crate::session::{Kind, Session};
use crate::stage::Stage;
use crate::stats;

/// Who has not answered until then never does.
const NEVER: Duration = Duration::from_secs(5);

/// How long a neighbour annoys before the next connection is made.
const NEIGHBOUR: Duration = Duration::from_millis(700);

/// Times each is done for one sample where nothing breaks.
const TIMES: usize = 3;

/// Sends a little, ends its direction, and counts what arrives of the reply.
pub(super) async fn half_close(stage: &mut Stage<'_>, contender: Contender) -> Result<Sample, Failure> {
    let arrived = with_session(stage, contender, async |session: &Session| {
        let mut connection = session.connect(ports::HALF_CLOSE).await?;
        connection.write_all(&[b'?'; 1000]).await?;
        connection.shutdown().await?;
        let mut arrived = 0;
        let mut block = vec![0; 64 << 10];
        // An error ends it as well as an end does: what counts is what came.
        while let Ok(Ok(count @ 1..)) = timeout(NEVER, connection.read(&mut block)).await {
            arrived += u32::try_from(count)?;
        }
        Ok(f64::from(arrived) / 1024.0)
    });
    Ok(vec![(Metric::HalfClose, arrived.await?)])
}

/// A new connection beside a download that nobody reads.
pub(super) async fn stalled_reader(stage: &mut Stage<'_>, contender: Contender) -> Result<Sample, Failure> {
    let time = with_session(stage, contender, async |session: &Session| {
        let mut times = Vec::new();
        for _ in 0..times_of(contender) {
            let stalled = session.connect(ports::BLOCKS).await?;
            stalled.peek(&mut [0]).await?;
            sleep(NEIGHBOUR).await;
            times.push(next(session).await?);
            drop(stalled);
            sleep(bulk::AFTER).await;
        }
        Ok(times)
    });
    Ok(sample(Metric::StalledReader, &time.await?))
}

/// A new connection right after a download was closed in the middle.
pub(super) async fn closed_early(stage: &mut Stage<'_>, contender: Contender) -> Result<Sample, Failure> {
    let time = with_session(stage, contender, async |session: &Session| {
        let mut times = Vec::new();
        for _ in 0..times_of(contender) {
            let mut bulk = session.connect(ports::BLOCKS).await?;
            drop(timeout(NEIGHBOUR, read_on(&mut bulk)).await);
            drop(bulk);
            times.push(next(session).await?);
            sleep(bulk::AFTER).await;
        }
        Ok(times)
    });
    Ok(sample(Metric::ClosedEarly, &time.await?))
}

/// From the last byte to the end of the stream, when the server closes right after it.
pub(super) async fn end_of_stream(stage: &mut Stage<'_>, contender: Contender) -> Result<Sample, Failure> {
    let session = stage.session(contender, Kind::Forward).await?;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let mut connection = session.connect(ports::REPLY_ONCE).await?;
        connection.write_all(&[b'?'; ports::REPLY_ONCE_LENGTH]).await?;
        let (_, after) = dial::to_end(&mut connection).await?;
        times.push(after);
    }
    Ok(sample(Metric::EndOfStream, &times))
}

fn sample(row: Metric, times: &[f64]) -> Sample {
    stats::median(times)
        .map(|median| (row, median))
        .into_iter()
        .collect()
}

fn times_of(contender: Contender) -> usize {
    if contender == Contender::Kubectl { 1 } else { TIMES }
}

/// The next connection's time to its first reply in milliseconds, or infinity.
async fn next(session: &Session) -> Result<f64, Failure> {
    timeout(NEVER, connections::one(session))
        .await
        .unwrap_or(Ok(f64::INFINITY))
}

async fn read_on(connection: &mut TcpStream) -> Result<(), Failure> {
    let mut block = vec![0; 256 << 10];
    while connection.read(&mut block).await? > 0 {}
    Ok(())
}

async fn with_session<T>(
    stage: &mut Stage<'_>,
    contender: Contender,
    done: impl AsyncFnOnce(&Session) -> Result<T, Failure>,
) -> Result<T, Failure> {
    if contender != Contender::Kubectl {
        return done(stage.session(contender, Kind::Forward).await?).await;
    }
    let session = stage.fresh(contender, &Kind::Forward).await?;
    let result = done(&session).await;
    session.program.stop().await;
    result
}
