//! A child process that says when it is ready: its lines, its end. What the lines mean is its caller's business.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::failure::{Doing, Failure, failure};

/// Lines kept for whoever asks why it failed.
const KEPT: usize = 12;

/// Lines that wait to be looked at; more are only kept as above. kubectl has one for each connection.
const QUEUE: usize = 256;

/// How long an end may take that was asked for: the plugin waits until its objects are gone.
const END: Duration = Duration::from_secs(15);

/// Variables that would lead a program elsewhere, or make it say more.
const NOT_INHERITED: [&str; 6] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "RUST_LOG",
    "KUBECTL_TUNNEL_LOG",
];

/// A running program. Asked to end, as by Ctrl-C, when dropped.
pub(crate) struct Program {
    child: Child,
    pid: u32,
    started: Instant,
    lines_rx: mpsc::Receiver<String>,
    said: Arc<Mutex<VecDeque<String>>>,
    readers: JoinSet<()>,
}

impl Program {
    /// Starts it.
    pub(crate) fn start(mut command: Command) -> Result<Self, Failure> {
        for name in NOT_INHERITED {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        // A process group of its own: Ctrl-C reaches the bench alone, which then ends its programs in order.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let started = Instant::now();
        let name = command.as_std().get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().doing(&name)?;
        let (Some(pid), Some(stdout), Some(stderr)) = (child.id(), child.stdout.take(), child.stderr.take())
        else {
            return failure(format!("{name}: no pipes"));
        };
        let said = Arc::default();
        let (lines_tx, lines_rx) = mpsc::channel(QUEUE);
        let mut readers = JoinSet::new();
        readers.spawn(listen(stdout, Arc::clone(&said), lines_tx.clone()));
        readers.spawn(listen(stderr, Arc::clone(&said), lines_tx));
        Ok(Self {
            child,
            pid,
            started,
            lines_rx,
            said,
            readers,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Seconds since its start.
    pub(crate) fn age(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Waits until `find` makes something of a line; those before it are passed over.
    pub(crate) async fn find<T>(
        &mut self,
        limit: Duration,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> Result<T, Failure> {
        let found = timeout(limit, async {
            while let Some(line) = self.lines_rx.recv().await {
                if let Some(found) = find(&line) {
                    return Some(found);
                }
            }
            None
        });
        match found.await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => failure(format!("ended; it said: {}", self.said())),
            Err(_) => failure(format!("not ready within {limit:?}; it said: {}", self.said())),
        }
    }

    /// Its last lines.
    pub(crate) fn said(&self) -> String {
        let Ok(said) = self.said.lock() else {
            return String::new();
        };
        let lines = said
            .iter()
            .map(|line| line.trim())
            .filter(|line| !line.is_empty());
        lines.collect::<Vec<_>>().join(" | ")
    }

    /// Asks it to end as Ctrl-C does, and waits; kills it when that takes too long.
    pub(crate) async fn stop(mut self) {
        self.interrupt();
        if timeout(END, self.child.wait()).await.is_err() {
            // It may have ended just now.
            drop(self.child.kill().await);
        }
        self.readers.shutdown().await;
    }

    fn interrupt(&self) {
        // The id is its own as long as it was not waited for.
        if self.child.id().is_some()
            && let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
        {
            // One that ended just now needs no asking.
            kill_process(pid, Signal::INT).ok();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.interrupt();
    }
}

async fn listen(
    stream: impl AsyncRead + Unpin,
    said: Arc<Mutex<VecDeque<String>>>,
    lines_tx: mpsc::Sender<String>,
) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok(mut said) = said.lock() {
            if said.len() == KEPT {
                said.pop_front();
            }
            said.push_back(line.clone());
        }
        drop(lines_tx.try_send(line));
    }
}
