//! Signals as tokens: the first asks for an orderly end, the second for an end at once.
//!
//! It ends nothing itself. SIGINT, SIGTERM and SIGHUP mean the same (SIGHUP nothing under nohup); on Windows it is
//! Ctrl-C alone.

use tokio_util::sync::CancellationToken;

/// What the user asked for so far. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    orderly: CancellationToken,
    at_once: CancellationToken,
}

impl Shutdown {
    /// Cancelled by the first signal.
    #[must_use]
    pub fn orderly(&self) -> &CancellationToken {
        &self.orderly
    }

    /// Cancelled by the second signal.
    #[must_use]
    pub fn at_once(&self) -> &CancellationToken {
        &self.at_once
    }

    /// Counts one more signal.
    pub fn signal(&self) {
        if self.orderly.is_cancelled() {
            self.at_once.cancel();
        } else {
            self.orderly.cancel();
        }
    }

    /// Takes the process's signals over at once, and counts them for as long as the future is polled, which
    /// ends only when it fails. To be called before anything is begun that a signal has to end.
    ///
    /// # Errors
    /// The system does not let us listen.
    #[cfg(unix)]
    pub fn listen(&self) -> std::io::Result<impl Future<Output = std::io::Error> + use<>> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // Under nohup it stays ignored.
        let mut hangup = if is_ignored(SIGHUP) {
            None
        } else {
            Some(signal(SignalKind::hangup())?)
        };
        let counted = self.clone();
        Ok(async move {
            loop {
                let hung_up = async {
                    match &mut hangup {
                        Some(hangup) => hangup.recv().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hung_up => {}
                }
                counted.signal();
            }
        })
    }

    /// Listens to Ctrl-C for as long as it is polled.
    ///
    /// # Errors
    /// The system does not let us listen.
    #[cfg(not(unix))]
    pub fn listen(&self) -> std::io::Result<impl Future<Output = std::io::Error> + use<>> {
        let counted = self.clone();
        Ok(async move {
            loop {
                match tokio::signal::ctrl_c().await {
                    Ok(()) => counted.signal(),
                    Err(error) => return error,
                }
            }
        })
    }
}

/// Its number on every Unix.
#[cfg(unix)]
const SIGHUP: u32 = 1;

/// Whether the process was started with a signal ignored, as far as the system tells (Linux does, in proc(5)).
#[cfg(unix)]
fn is_ignored(signal: u32) -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, signal))
}

#[cfg(unix)]
fn ignores(status: &str, signal: u32) -> bool {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn an_ignored_signal_is_seen() {
        let status =
            |mask: &str| format!("Name:\tx\nSigBlk:\t{mask}\nSigIgn:\t{mask}\nSigCgt:\t0000000000000000\n");
        assert!(ignores(&status("0000000000001001"), SIGHUP));
        assert!(!ignores(&status("0000000000001000"), SIGHUP));
        assert!(!ignores("", SIGHUP));
    }

    #[test]
    fn the_second_signal_means_at_once() {
        let shutdown = Shutdown::default();
        shutdown.signal();
        assert!(shutdown.orderly().is_cancelled() && !shutdown.at_once().is_cancelled());
        shutdown.signal();
        assert!(shutdown.at_once().is_cancelled());
    }
}
