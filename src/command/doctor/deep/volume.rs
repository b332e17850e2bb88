//! How much gets through, each way on its own, and whether it is what was sent.
//!
//! The agent has no sink and no source. So it is made to listen in its pod and to dial that: what goes up waits in the
//! pod's sockets, since nobody reads it, and comes down once it is read.
//!
//! ```text
//!   up:    here -> stream -> agent -> [TCP in the pod]                      nobody reads
//!   down:                             [TCP in the pod] -> agent -> stream -> here
//! ```
//!
//! Each way is counted by the link, not by what the streams have taken. A connection holds a mebibyte or two that way; so
//! there are several, and there is no more than fits. The port is open to the pod's neighbours while this lasts: who does
//! not begin with this measurement's random bytes is refused.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tunnel_wire::error::{Refusal, RefusalCode};
use tunnel_wire::link::LinkHandle;
use tunnel_wire::session::Accepted;
use tunnel_wire::{Incoming, Open, OpenError, Protocol, Session, Stream};

use super::MEBIBYTE;
use super::measure::{PATIENCE, unless_over};

/// Connections. With eight the first bytes of each, which wait for a grant, do not decide.
const LANES: u8 = 8;

/// Bytes of each lane; all lanes together are what `--help` says.
const LANE_BYTES: usize = 1024 * 1024;

/// How long each way is measured at most.
const LONGEST: Duration = Duration::from_secs(2);

/// The pod takes no more when nothing has moved for so long, and four round trips.
const STALLED: Duration = Duration::from_millis(250);

/// Fewer bytes are what the session itself says.
const MOVED: u64 = 1024;

/// Between two looks at the link.
const LOOK: Duration = Duration::from_millis(2);

/// How much is read at once.
const CHUNK: usize = 32 * 1024;

/// The number of our listener.
const LISTENER: u16 = 0;

/// How long the agent's dial of its own pod may take, in milliseconds.
const DIAL_MS: u16 = 3000;

/// What a lane begins with, before its number.
type Token = [u8; 16];

/// The bytes of a lane.
type Block = Arc<[u8]>;

/// What was measured.
#[derive(Debug)]
pub(super) struct Volume {
    pub(super) up: Flow,
    pub(super) down: Flow,
    /// Bytes that came back and were as they should be.
    pub(super) verified: u64,
}

/// Bytes that the link carried one way in this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) bytes: u64,
    pub(super) time: Duration,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoVolume {
    #[error("{0}")]
    Setup(String),
    #[error("byte {offset} of connection {lane} came back as another one")]
    Altered { lane: u8, offset: u64 },
}

impl Flow {
    /// Mebibytes a second.
    #[expect(clippy::cast_precision_loss, reason = "some mebibytes")]
    pub(super) fn rate(self) -> f64 {
        self.bytes as f64 / MEBIBYTE / self.time.as_secs_f64().max(0.001)
    }

    pub(super) fn text(self) -> String {
        match self.rate() {
            rate if rate < 1.0 => format!("{rate:.2} MiB/s"),
            rate => format!("{rate:.1} MiB/s"),
        }
    }
}

/// Counts what a position moves.
struct Meter {
    began: Instant,
    base: u64,
    last: u64,
    last_at: Instant,
}

impl Meter {
    fn start(position: u64) -> Self {
        let now = Instant::now();
        Self {
            began: now,
            base: position,
            last: position,
            last_at: now,
        }
    }

    fn see(&mut self, position: u64) {
        if position >= self.last + MOVED {
            self.last = position;
            self.last_at = Instant::now();
        }
    }

    fn bytes(&self) -> u64 {
        self.last - self.base
    }

    fn flow(&self) -> Flow {
        Flow {
            bytes: self.bytes(),
            time: self.last_at - self.began,
        }
    }
}

/// Measures up, then down. `address` is the agent's pod's own.
pub(super) async fn measure(
    session: &Session,
    incoming: Incoming,
    link: &LinkHandle,
    address: IpAddr,
) -> Result<Volume, NoVolume> {
    let token: Token = rand::random();
    let mut accepting = JoinSet::new();
    let set_up = async {
        let (listening, port) = listen(session).await?;
        let (lane_tx, lane_rx) = mpsc::channel(usize::from(LANES));
        accepting.spawn(accept(incoming, token, lane_tx));
        let near = dial(session, address, port, token).await?;
        let far = arrivals(lane_rx).await;
        Ok::<_, String>((listening, near, far))
    };
    let (_listening, near, far) = match timeout(PATIENCE, set_up).await {
        Ok(Ok(lanes)) => lanes,
        Ok(Err(reason)) => return Err(NoVolume::Setup(reason)),
        Err(_) => {
            let reason = format!("the agent does not reach its own pod at {address}");
            return Err(NoVolume::Setup(reason));
        }
    };
    let blocks = blocks();
    let (up, sent) = go_up(near, link, &blocks).await;
    let (down, verified) = come_down(far, &sent, link, &blocks).await?;
    Ok(Volume { up, down, verified })
}

async fn listen(session: &Session) -> Result<(Stream, u16), String> {
    let open = Open::Listen {
        protocol: Protocol::Tcp,
        listener: LISTENER,
        port: 0,
    };
    let stream = opened(session, &open).await?;
    let port = stream.upstream().map(|address| address.port());
    Ok((stream, port.ok_or("the agent does not say where it listens")?))
}

/// The lanes' near ends, in their order.
async fn dial(session: &Session, address: IpAddr, port: u16, token: Token) -> Result<Vec<Stream>, String> {
    let open = Open::Dial {
        protocol: Protocol::Tcp,
        host: address.to_string(),
        port,
        patience_ms: DIAL_MS,
    };
    let mut near = Vec::with_capacity(LANES.into());
    for lane in 0..LANES {
        let mut stream = opened(session, &open).await?;
        let mut greeting = token.to_vec();
        greeting.push(lane);
        let greeted = async {
            stream.write_all(&greeting).await?;
            stream.flush().await
        };
        greeted.await.map_err(|error| error.to_string())?;
        near.push(stream);
    }
    Ok(near)
}

async fn opened(session: &Session, open: &Open) -> Result<Stream, String> {
    let opened = async {
        let mut stream = session.open(open).await?;
        stream.opened().await?;
        Ok::<_, OpenError>(stream)
    };
    match opened.await {
        Ok(stream) => Ok(stream),
        Err(error) => Err(unless_over(error).await.to_string()),
    }
}

/// Greets whatever the listener accepts, for as long as it lives.
async fn accept(mut incoming: Incoming, token: Token, lane_tx: mpsc::Sender<(u8, Stream)>) {
    let mut greeting = JoinSet::new();
    while let Some(accepted) = incoming.accept().await {
        let lane_tx = lane_tx.clone();
        greeting.spawn(async move {
            if let Ok(Some(lane)) = timeout(PATIENCE, greet(accepted, token)).await {
                // Nobody waits for more than there should be.
                drop(lane_tx.send(lane).await);
            }
        });
        while greeting.try_join_next().is_some() {}
    }
}

/// The far end of a lane, if this is one.
async fn greet(accepted: Accepted, token: Token) -> Option<(u8, Stream)> {
    let Accepted { open, mut stream } = accepted;
    if !matches!(
        open,
        Open::Accepted {
            listener: LISTENER,
            ..
        }
    ) {
        let refusal = Refusal::new(RefusalCode::Unsupported, "this session only measures itself");
        stream.refuse(refusal).await;
        return None;
    }
    stream.accept().await.ok()?;
    let mut said = Token::default();
    stream.read_exact(&mut said).await.ok()?;
    let lane = stream.read_u8().await.ok()?;
    (said == token && lane < LANES).then_some((lane, stream))
}

/// The lanes' far ends, in their order.
async fn arrivals(mut lane_rx: mpsc::Receiver<(u8, Stream)>) -> Vec<Stream> {
    let mut far: Vec<(u8, Stream)> = Vec::with_capacity(LANES.into());
    while far.len() < usize::from(LANES) {
        match lane_rx.recv().await {
            Some(lane) => far.push(lane),
            // The session is over: not ours to tell.
            None => std::future::pending().await,
        }
    }
    far.sort_by_key(|(lane, _)| *lane);
    far.into_iter().map(|(_, stream)| stream).collect()
}

/// A near end, and the bytes that it took.
struct Sent {
    lane: u8,
    bytes: u64,
    /// Ends with the measurement, or the lane would.
    _stream: Stream,
}

/// Fills the pod's sockets until all is sent, the pod takes no more, or the time is over.
async fn go_up(near: Vec<Stream>, link: &LinkHandle, blocks: &[Block]) -> (Flow, Vec<Sent>) {
    let stop = CancellationToken::new();
    let mut meter = Meter::start(link.progress().acknowledged);
    let mut filling = JoinSet::new();
    for ((lane, stream), block) in (0..).zip(near).zip(blocks) {
        filling.spawn(fill(lane, stream, Arc::clone(block), stop.clone()));
    }
    let stalled = STALLED + link.rtt() * 4;
    let mut sent: Vec<Sent> = Vec::new();
    loop {
        sleep(LOOK).await;
        meter.see(link.progress().acknowledged);
        sent.extend(std::iter::from_fn(|| filling.try_join_next()).flatten());
        let all: u64 = sent.iter().map(|sent| sent.bytes).sum();
        let done = filling.is_empty() && meter.bytes() >= all;
        if done || meter.began.elapsed() >= LONGEST || meter.last_at.elapsed() >= stalled {
            break;
        }
    }
    stop.cancel();
    sent.extend(filling.join_all().await);
    (meter.flow(), sent)
}

async fn fill(lane: u8, mut stream: Stream, block: Block, stop: CancellationToken) -> Sent {
    let mut bytes = 0;
    let write_all = async {
        let mut rest = &block[..];
        while !rest.is_empty() {
            // What a cancelled write was given it has not taken.
            let Ok(length) = stream.write(rest).await else {
                return;
            };
            rest = rest.get(length..).unwrap_or_default();
            bytes += u64::try_from(length).unwrap_or(u64::MAX);
        }
        drop(stream.flush().await);
    };
    tokio::select! {
        () = write_all => {}
        () = stop.cancelled() => {}
    }
    Sent {
        lane,
        bytes,
        _stream: stream,
    }
}

/// Reads what was sent until all of it is there or the time is over, and looks at every byte.
async fn come_down(
    far: Vec<Stream>,
    sent: &[Sent],
    link: &LinkHandle,
    blocks: &[Block],
) -> Result<(Flow, u64), NoVolume> {
    let verified = Arc::new(AtomicU64::new(0));
    let mut meter = Meter::start(link.progress().received);
    let mut draining = JoinSet::new();
    for ((lane, stream), block) in (0..).zip(far).zip(blocks) {
        let bytes = sent
            .iter()
            .find(|sent| sent.lane == lane)
            .map_or(0, |sent| sent.bytes);
        draining.spawn(drain(
            lane,
            stream,
            Arc::clone(block),
            bytes,
            Arc::clone(&verified),
        ));
    }
    loop {
        tokio::select! {
            drained = draining.join_next() => match drained {
                Some(drained) => drained.unwrap_or(Ok(()))?,
                None => break,
            },
            () = sleep(LOOK) => {}
        }
        meter.see(link.progress().received);
        if meter.began.elapsed() >= LONGEST {
            break;
        }
    }
    meter.see(link.progress().received);
    Ok((meter.flow(), verified.load(Ordering::Relaxed)))
}

async fn drain(
    lane: u8,
    mut stream: Stream,
    block: Block,
    bytes: u64,
    verified: Arc<AtomicU64>,
) -> Result<(), NoVolume> {
    let mut rest = &block[..];
    let mut offset = 0;
    let mut chunk = vec![0; CHUNK];
    while offset < bytes {
        let length = match stream.read(&mut chunk).await {
            // The lane was cut, which is told as bytes that did not come.
            Ok(0) | Err(_) => return Ok(()),
            Ok(length) => length,
        };
        let came = &chunk[..length];
        if !rest.starts_with(came) {
            let same = came
                .iter()
                .zip(rest)
                .take_while(|(came, sent)| came == sent)
                .count();
            let offset = offset + u64::try_from(same).unwrap_or(u64::MAX);
            return Err(NoVolume::Altered { lane, offset });
        }
        rest = &rest[length..];
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        offset += length;
        verified.fetch_add(length, Ordering::Relaxed);
    }
    Ok(())
}

/// All bytes of each lane, which nothing on the way can guess or compress; made before the time counts.
fn blocks() -> Vec<Block> {
    let block = |_| {
        let mut block = vec![0; LANE_BYTES];
        rand::rng().fill_bytes(&mut block);
        Block::from(block)
    };
    (0..LANES).map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lane_has_bytes_of_its_own() {
        let blocks = blocks();
        assert_eq!(blocks.len(), usize::from(LANES));
        let same = blocks[0]
            .iter()
            .zip(&blocks[1][..1000])
            .filter(|(a, b)| a == b)
            .count();
        assert!(same < 20, "{same} of 1000");
    }

    #[tokio::test(start_paused = true)]
    async fn the_meter_counts_to_the_last_movement_and_no_small_talk() {
        let mut meter = Meter::start(5000);
        sleep(Duration::from_millis(500)).await;
        meter.see(5000 + 1024 * 1024);
        sleep(Duration::from_millis(500)).await;
        meter.see(5000 + 1024 * 1024 + MOVED - 1);
        let flow = meter.flow();
        let time = Duration::from_millis(500);
        assert_eq!(
            flow,
            Flow {
                bytes: 1024 * 1024,
                time
            }
        );
        assert_eq!(flow.text(), "2.0 MiB/s");
        let slow = Flow {
            bytes: 64 * 1024,
            time,
        };
        assert_eq!(slow.text(), "0.12 MiB/s");
    }
}
