//! A flow of bytes that is counted where it arrives, and the window in which it is measured.
//!
//! Who moves the bytes is not known here: connections do in [`of_connections`], WebSockets in `raw.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tunnel_test_target as ports;

use crate::failure::{Failure, failure};
use crate::process;

/// Bytes of one write to, or read from, a connection.
const BLOCK: usize = 256 << 10;

const MIB: f64 = 1024.0 * 1024.0;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the laptop.
    Down,
    /// To the cluster.
    Up,
}

impl Way {
    /// The target's port for it.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Down => ports::BLOCKS,
            Self::Up => ports::COUNT,
        }
    }

    /// The word of the target's commands for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Down => "blocks",
            Self::Up => "count",
        }
    }
}

/// Bytes that have arrived.
pub(crate) type Counter = Arc<AtomicU64>;

/// Bytes on the move until dropped.
pub(crate) struct Flow {
    pub(crate) arrived: Counter,
    pub(crate) tasks: JoinSet<Result<(), Failure>>,
}

impl Flow {
    /// Fails if it has ended: no flow does that by itself.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(Ok(Err(error))) => Err(error),
            Some(Ok(Ok(())) | Err(_)) => failure("a flow ended by itself"),
        }
    }
}

/// How long a flow runs before it counts, and for how long it counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// TCP's and the tunnel's own windows have grown by then.
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
}

/// What a window saw.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    /// Of each flow.
    pub(crate) mib_a_second: Vec<f64>,
    /// Seconds of processor time for each GiB of all flows, of each process that still runs.
    pub(crate) cpu_a_gib: Vec<Option<f64>>,
}

/// Measures flows at the same time, and what these processes use meanwhile.
pub(crate) async fn measure(
    flows: &mut [Flow],
    window: Window,
    pids: &[Option<u32>],
) -> Result<Measured, Failure> {
    let arrived = |flows: &[Flow]| -> Vec<u64> {
        flows
            .iter()
            .map(|flow| flow.arrived.load(Ordering::Relaxed))
            .collect()
    };
    let used = || -> Vec<Option<f64>> { pids.iter().map(|pid| process::cpu_seconds((*pid)?)).collect() };
    sleep(window.warm_up).await;
    let (started, bytes_before, used_before) = (Instant::now(), arrived(flows), used());
    sleep(window.length).await;
    let (seconds, bytes_after, used_after) = (started.elapsed().as_secs_f64(), arrived(flows), used());
    for flow in flows.iter_mut() {
        flow.check()?;
    }
    let moved: Vec<f64> = bytes_before
        .into_iter()
        .zip(bytes_after)
        .map(|(before, after)| mib(after - before))
        .collect();
    let gib = moved.iter().sum::<f64>() / 1024.0;
    Ok(Measured {
        mib_a_second: moved.iter().map(|mib| mib / seconds).collect(),
        cpu_a_gib: used_before
            .into_iter()
            .zip(used_after)
            .map(|(before, after)| Some((after? - before?) / gib).filter(|used| used.is_finite()))
            .collect(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

/// A flow over connections whose far ends send blocks, or count.
pub(crate) fn of_connections(way: Way, connections: Vec<TcpStream>) -> Flow {
    let arrived = Counter::default();
    let mut tasks = JoinSet::new();
    for connection in connections {
        let arrived = Arc::clone(&arrived);
        match way {
            Way::Down => tasks.spawn(receive(connection, arrived)),
            Way::Up => tasks.spawn(send(connection, arrived)),
        };
    }
    Flow { arrived, tasks }
}

async fn receive(mut connection: TcpStream, arrived: Counter) -> Result<(), Failure> {
    let mut block = vec![0; BLOCK];
    loop {
        match connection.read(&mut block).await? {
            0 => return Ok(()),
            count => arrived.fetch_add(count as u64, Ordering::Relaxed),
        };
    }
}

async fn send(mut connection: TcpStream, arrived: Counter) -> Result<(), Failure> {
    let (mut reader, mut writer) = connection.split();
    let write = async {
        let block = vec![b'.'; BLOCK];
        loop {
            writer.write_all(&block).await?;
        }
    };
    let mut totals = Totals::default();
    let read = async {
        let mut bytes = vec![0; 4096];
        loop {
            match reader.read(&mut bytes).await? {
                0 => return Ok(()),
                count => totals.push(&bytes[..count], &arrived),
            }
        }
    };
    tokio::select! {
        ended = write => ended,
        ended = read => ended,
    }
}

/// Makes the totals that a counting far end tells into increments of the counter.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    partial: Vec<u8>,
    last: u64,
}

impl Totals {
    /// Takes any piece of what the far end says.
    pub(crate) fn push(&mut self, bytes: &[u8], arrived: &AtomicU64) {
        self.partial.extend_from_slice(bytes);
        let (whole, rest) = self.partial.as_chunks::<8>();
        if let Some(total) = whole.last() {
            let total = u64::from_be_bytes(*total);
            arrived.fetch_add(total.saturating_sub(self.last), Ordering::Relaxed);
            self.last = total;
            self.partial = rest.to_vec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_in_pieces_make_their_last() {
        let arrived = AtomicU64::new(0);
        let mut totals = Totals::default();
        let bytes = [100_u64.to_be_bytes(), 250_u64.to_be_bytes()].concat();
        for piece in bytes.chunks(3) {
            totals.push(piece, &arrived);
        }
        assert_eq!(arrived.load(Ordering::Relaxed), 250);
        totals.push(&400_u64.to_be_bytes(), &arrived);
        assert_eq!(arrived.load(Ordering::Relaxed), 400);
    }
}
