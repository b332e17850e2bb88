//! Signals as tokens: the first asks for an orderly end, the second for an end at once.
//!
//! It ends nothing itself. SIGINT, SIGTERM and SIGHUP mean the same; on Windows it is Ctrl-C alone.

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
        let mut hangup = signal(SignalKind::hangup())?;
        let counted = self.clone();
        Ok(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_signal_means_at_once() {
        let shutdown = Shutdown::default();
        shutdown.signal();
        assert!(shutdown.orderly().is_cancelled() && !shutdown.at_once().is_cancelled());
        shutdown.signal();
        assert!(shutdown.at_once().is_cancelled());
    }
}
