//! The TCP connections of the API server, with a switch on each to break it on purpose.
//!
//! A line can go silent (black hole), end as if the far side closed it, or be reset. Breaking is
//! done below HTTP and WebSocket, as a load balancer or a pulled cable would.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const OPEN: u8 = 0;
const SILENT: u8 = 1;
const CLOSED: u8 = 2;
const RESET: u8 = 3;

/// All lines there are, and what new ones start as.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    switches: Mutex<Vec<Weak<Switch>>>,
    silent: AtomicBool,
    silent_execs: AtomicBool,
    silent_port_forwards: AtomicBool,
}

/// What was upgraded on a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    Exec,
    PortForward,
}

/// The switch of one line, shared by the line and the faults.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    mode: AtomicU8,
    carries_exec: AtomicBool,
    carries_port_forward: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Switch {
    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
    }

    fn mode(&self) -> u8 {
        self.mode.load(Ordering::Acquire)
    }

    fn carries(&self, upgrade: Upgrade) -> &AtomicBool {
        match upgrade {
            Upgrade::Exec => &self.carries_exec,
            Upgrade::PortForward => &self.carries_port_forward,
        }
    }
}

impl Lines {
    pub(crate) fn add(&self, tcp: TcpStream) -> Line {
        let switch = Arc::new(Switch::default());
        if self.silent.load(Ordering::Acquire) {
            switch.set(SILENT);
        }
        let mut switches = self.switches.lock().unwrap_or_else(PoisonError::into_inner);
        switches.retain(|switch| switch.strong_count() > 0);
        switches.push(Arc::downgrade(&switch));
        Line { tcp, switch }
    }

    /// From here on the line belongs to an exec or a port-forward.
    pub(crate) fn becomes(&self, upgrade: Upgrade, switch: &Switch) {
        switch.carries(upgrade).store(true, Ordering::Release);
        if self.silent_ones(upgrade).load(Ordering::Acquire) {
            switch.set(SILENT);
        }
    }

    pub(crate) fn reset(&self, upgrade: Upgrade) {
        self.set(upgrade, RESET);
    }

    pub(crate) fn close(&self, upgrade: Upgrade) {
        self.set(upgrade, CLOSED);
    }

    pub(crate) fn silence(&self, upgrade: Upgrade, silent: bool) {
        self.silent_ones(upgrade).store(silent, Ordering::Release);
        self.set(upgrade, if silent { SILENT } else { OPEN });
    }

    fn silent_ones(&self, upgrade: Upgrade) -> &AtomicBool {
        match upgrade {
            Upgrade::Exec => &self.silent_execs,
            Upgrade::PortForward => &self.silent_port_forwards,
        }
    }

    pub(crate) fn silence_all(&self, silent: bool) {
        self.silent.store(silent, Ordering::Release);
        self.each(|switch| switch.set(if silent { SILENT } else { OPEN }));
    }

    fn set(&self, upgrade: Upgrade, mode: u8) {
        self.each(|switch| {
            if switch.carries(upgrade).load(Ordering::Acquire) {
                switch.set(mode);
            }
        });
    }

    fn each(&self, act: impl Fn(&Switch)) {
        let switches = self.switches.lock().unwrap_or_else(PoisonError::into_inner);
        for switch in switches
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|switch| switch.mode() < CLOSED)
        {
            act(&switch);
        }
    }
}

/// One connection to the API server.
#[derive(Debug)]
pub(crate) struct Line {
    tcp: TcpStream,
    switch: Arc<Switch>,
}

impl Line {
    pub(crate) fn switch(&self) -> Arc<Switch> {
        Arc::clone(&self.switch)
    }

    /// Makes the close of this socket a reset, and is the error both directions then see.
    fn reset(&self) -> io::Error {
        self.tcp
            .set_zero_linger()
            .err()
            .unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.switch.reader.register(cx.waker());
        match self.switch.mode() {
            OPEN => Pin::new(&mut self.tcp).poll_read(cx, buf),
            SILENT => Poll::Pending,
            CLOSED => Poll::Ready(Ok(())),
            _ => Poll::Ready(Err(self.reset())),
        }
    }
}

impl Line {
    fn poll_open(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.switch.writer.register(cx.waker());
        match self.switch.mode() {
            OPEN => Poll::Ready(Ok(())),
            SILENT => Poll::Pending,
            CLOSED => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            _ => Poll::Ready(Err(self.reset())),
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?;
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
