//! Faults on the way, chosen from a seed: what happens to one direction of a transport, byte by byte.
//!
//! [`Faults`] alone is pure and serves the link's schedules; [`FaultyIo`] does the same to a real reader and
//! writer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::seed::Seed;

/// Bytes that come in small pieces, before a transport that dribbles becomes an ordinary one: enough to cut every
/// kind of frame anywhere.
const DRIBBLE: u64 = 10_000;

/// What one direction of a transport does to its bytes. Positions count what was put in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    position: u64,
    /// Nothing from this byte on arrives, and the transport ends.
    cut: Option<u64>,
    /// This byte has a bit flipped.
    flip: Option<u64>,
    /// These bytes vanish.
    drop: Option<(u64, u64)>,
    /// The write with this number vanishes whole, as a message of a WebSocket may.
    lose: Option<u64>,
    writes: u64,
    /// From this byte on everything comes so much later.
    stall: Option<(u64, Duration)>,
    /// How long each byte takes.
    pub(crate) delay: Duration,
    /// How many bytes come at once, for the first [`DRIBBLE`] of them.
    piece: usize,
}

/// What has become of some bytes.
pub(crate) struct Passed {
    pub(crate) bytes: Vec<u8>,
    /// How much later than usual they arrive.
    pub(crate) stall: Duration,
    /// The transport ends behind them.
    pub(crate) cut: bool,
}

impl Faults {
    /// None at all.
    pub(crate) fn none() -> Self {
        Self {
            piece: usize::MAX,
            ..Self::default()
        }
    }

    /// Faults behind the first `spared` bytes, most of them soon and all within `reach`. A direction seldom has
    /// more than one.
    pub(crate) fn random(seed: &mut Seed, spared: u64, reach: u64) -> Self {
        let mut faults = Self {
            piece: seed.pick(&[1, 7, 64, 4096, usize::MAX, usize::MAX]),
            delay: if seed.percent(70) {
                Duration::ZERO
            } else {
                seed.millis(200)
            },
            ..Self::default()
        };
        if seed.percent(50) {
            faults.cut = Some(spared + seed.skewed(reach));
        }
        if seed.percent(15) {
            faults.flip = Some(spared + seed.skewed(reach));
        }
        if seed.percent(15) {
            let from = spared + seed.skewed(reach);
            faults.drop = Some((from, from + 1 + seed.skewed(reach)));
        }
        if seed.percent(15) {
            faults.lose = Some(2 + seed.skewed(100));
        }
        if seed.percent(25) {
            faults.stall = Some((spared + seed.skewed(reach), seed.millis(40_000)));
        }
        faults
    }

    pub(crate) fn piece(&self) -> usize {
        if self.position < DRIBBLE {
            self.piece
        } else {
            usize::MAX
        }
    }

    /// Puts `bytes` in.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> Passed {
        let mut passed = Passed {
            bytes: Vec::with_capacity(bytes.len()),
            stall: Duration::ZERO,
            cut: false,
        };
        let end = self.position + bytes.len() as u64;
        self.writes += 1;
        let lost = self.lose == Some(self.writes);
        if let Some((_, length)) = self.stall.take_if(|(at, _)| *at < end) {
            passed.stall = length;
        }
        for byte in bytes {
            let position = self.position;
            if self.cut.is_some_and(|cut| position >= cut) {
                passed.cut = true;
                break;
            }
            self.position += 1;
            let vanishes = self.drop.is_some_and(|(from, to)| (from..to).contains(&position));
            if !vanishes && !lost {
                let flips = self.flip == Some(position);
                passed.bytes.push(if flips { byte ^ 0x10 } else { *byte });
            }
        }
        passed
    }
}

/// One end of a transport whose both directions have faults.
pub(crate) struct FaultyIo<T> {
    io: T,
    reading: Faults,
    writing: Faults,
    /// What is on its way out: written by the owner, not yet taken by `io`.
    out: Vec<u8>,
    read_wait: Option<Pin<Box<Sleep>>>,
    write_wait: Option<Pin<Box<Sleep>>>,
    cut: bool,
}

impl<T> FaultyIo<T> {
    pub(crate) fn new(io: T, reading: Faults, writing: Faults) -> Self {
        Self {
            io,
            reading,
            writing,
            out: Vec::new(),
            read_wait: None,
            write_wait: None,
            cut: false,
        }
    }
}

fn waited(wait: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> Poll<()> {
    if let Some(sleep) = wait {
        ready!(sleep.as_mut().poll(cx));
        *wait = None;
    }
    Poll::Ready(())
}

fn wait_for(length: Duration) -> Option<Pin<Box<Sleep>>> {
    (!length.is_zero()).then(|| Box::pin(sleep(length)))
}

impl<T: AsyncRead + Unpin> AsyncRead for FaultyIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            ready!(waited(&mut this.read_wait, cx));
            if this.cut {
                return Poll::Ready(Ok(()));
            }
            let mut piece = vec![0; buf.remaining().min(this.reading.piece()).min(16 * 1024)];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let passed = this.reading.pass(piece.filled());
            this.read_wait = wait_for(passed.stall + this.reading.delay);
            this.cut |= passed.cut;
            if !passed.bytes.is_empty() {
                // The pause comes behind them: what follows waits.
                buf.put_slice(&passed.bytes);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> FaultyIo<T> {
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(waited(&mut self.write_wait, cx));
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out))?;
            self.out.drain(..written);
        }
        if self.cut {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for FaultyIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_out(cx))?;
        let taken = buf.len().min(this.writing.piece());
        let passed = this.writing.pass(&buf[..taken]);
        this.write_wait = wait_for(passed.stall + this.writing.delay);
        this.cut |= passed.cut;
        this.out = passed.bytes;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
