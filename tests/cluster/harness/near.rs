//! The near ends of the traffic: a paced exchange (its far end is `tests/target`) and a dialogue with the echo.
//!
//! They report how they went and never panic, because breaking them is the point of some tests.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tunnel_test_target::exchange::{Order, TRAILER};
use tunnel_test_target::pattern::{Pattern, hex};

/// A line of the dialogue is sent this often.
pub(crate) const LINE_EVERY: Duration = Duration::from_millis(100);
/// Bytes after which an exchange has shown that it works.
pub(crate) const ENOUGH: u64 = 64 << 10;
const TICK: Duration = Duration::from_millis(20);
const TICKS_A_SECOND: u64 = 50;
/// A line: its number in decimal and a line feed.
const LINE: usize = 12;

/// How a near end was cut short.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The kernel said so: a reset, or what follows one.
    Error(io::Error),
    /// An end of file that nobody asked for: a silent truncation.
    Ended,
    /// Bytes or counts that the two ends do not agree on.
    Wrong(String),
}

impl Broken {
    /// True for a reset, which a program can tell from an end of file.
    pub(crate) fn is_reset(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        matches!(self, Self::Error(error)
            if matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe))
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Error(error)
    }
}

/// What a near end has received, and when.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    moved: AtomicU64,
    last: Mutex<Option<Instant>>,
    largest_gap: Mutex<Duration>,
}

impl Progress {
    fn note(&self, count: usize) {
        let now = Instant::now();
        self.moved.fetch_add(count as u64, Ordering::Relaxed);
        let before = self.last.lock().expect("no panics while locked").replace(now);
        if let Some(before) = before {
            let mut largest = self.largest_gap.lock().expect("no panics while locked");
            *largest = largest.max(now - before);
        }
    }

    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    pub(crate) fn moved_after(&self, after: Instant) -> bool {
        let last = self.last.lock().expect("no panics while locked");
        last.is_some_and(|last| last > after)
    }

    /// The longest time between two receipts.
    pub(crate) fn largest_gap(&self) -> Duration {
        *self.largest_gap.lock().expect("no panics while locked")
    }
}

/// Leads an exchange: sends the pattern at `rate` until asked to finish, and checks what comes and the trailer.
pub(crate) async fn exchange(
    mut connection: TcpStream,
    order: Order,
    rate: u64,
    progress: impl AsRef<Progress>,
    finish: CancellationToken,
) -> Result<(), Broken> {
    let (reader, mut writer) = connection.split();
    writer.write_all(&order.encode()).await?;
    let (sent, (received, trailer)) = tokio::try_join!(
        send(writer, rate, &finish),
        receive(reader, progress.as_ref(), &finish)
    )?;
    // What one end sent, the other received.
    let expected = format!("sent {received} received {sent}");
    if trailer.trim_end() == expected {
        Ok(())
    } else {
        Err(Broken::Wrong(format!("here: {expected}; there: {trailer}")))
    }
}

/// Returns `COUNT SHA256` of what was sent.
async fn send(mut writer: WriteHalf<'_>, rate: u64, finish: &CancellationToken) -> Result<String, Broken> {
    let mut pattern = Pattern::default();
    let mut hash = Sha256::new();
    let part = usize::try_from(rate / TICKS_A_SECOND).expect("a rate of this machine");
    let mut block = vec![0; part];
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = finish.cancelled() => break,
            _ = ticks.tick() => {}
        }
        pattern.fill(&mut block);
        hash.update(&block);
        writer.write_all(&block).await?;
    }
    writer.shutdown().await?;
    Ok(format!("{} {}", pattern.position(), hex(&hash.finalize())))
}

/// Returns `COUNT SHA256` of the pattern that came, and the trailer behind it.
async fn receive(
    mut reader: ReadHalf<'_>,
    progress: &Progress,
    finish: &CancellationToken,
) -> Result<(String, String), Broken> {
    let mut pattern = Pattern::default();
    let mut hash = Sha256::new();
    // The last bytes of the connection are the trailer, so that many are always held back.
    let mut held = Vec::new();
    loop {
        let count = reader.read_buf(&mut held).await?;
        if count == 0 {
            break;
        }
        progress.note(count);
        let ready = held.len().saturating_sub(TRAILER);
        pattern
            .check(&held[..ready])
            .map_err(|wrong| Broken::Wrong(wrong.to_string()))?;
        hash.update(&held[..ready]);
        held.drain(..ready);
    }
    if !finish.is_cancelled() {
        return Err(Broken::Ended);
    }
    let received = format!("{} {}", pattern.position(), hex(&hash.finalize()));
    Ok((received, String::from_utf8_lossy(&held).into_owned()))
}

/// A person at a terminal: a line each [`LINE_EVERY`], every answer checked, until asked to finish.
pub(crate) async fn dialogue(
    mut connection: TcpStream,
    progress: impl AsRef<Progress>,
    finish: CancellationToken,
) -> Result<(), Broken> {
    let (reader, writer) = connection.split();
    let (sent, answered) =
        tokio::try_join!(say(writer, &finish), listen(reader, progress.as_ref(), &finish))?;
    if sent == answered {
        Ok(())
    } else {
        Err(Broken::Wrong(format!("{sent} lines, {answered} answers")))
    }
}

fn line(number: u64) -> [u8; LINE] {
    let text = format!("{number:011}\n");
    text.into_bytes()
        .try_into()
        .expect("eleven digits and a line feed")
}

async fn say(mut writer: WriteHalf<'_>, finish: &CancellationToken) -> Result<u64, Broken> {
    let mut ticks = interval(LINE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    loop {
        tokio::select! {
            biased;
            () = finish.cancelled() => break,
            _ = ticks.tick() => {}
        }
        writer.write_all(&line(number)).await?;
        number += 1;
    }
    writer.shutdown().await?;
    Ok(number)
}

async fn listen(
    mut reader: ReadHalf<'_>,
    progress: &Progress,
    finish: &CancellationToken,
) -> Result<u64, Broken> {
    let mut number = 0;
    let mut held = Vec::new();
    while reader.read_buf(&mut held).await? > 0 {
        while let Some((answer, rest)) = held.split_first_chunk::<LINE>() {
            if *answer != line(number) {
                return Err(Broken::Wrong(format!("answer {number} is {answer:?}")));
            }
            number += 1;
            held = rest.to_vec();
            progress.note(LINE);
        }
    }
    if !finish.is_cancelled() {
        return Err(Broken::Ended);
    }
    if held.is_empty() {
        Ok(number)
    } else {
        Err(Broken::Wrong(format!("half an answer: {held:?}")))
    }
}
