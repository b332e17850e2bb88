//! Breaking the cluster on purpose, and mending it also when the test fails.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::settings::Settings;
use super::{notice, say};

/// A healthy start of an API server takes a few seconds, on a busy machine ten.
const BACK: Duration = Duration::from_secs(30);
/// A start may meet the port of the server that was just killed, and then the new one ends at once.
const STARTS: u32 = 3;

/// A fault tool, if the environment names one.
pub(crate) fn tool() -> Option<Fault> {
    let Some(tool) = &Settings::get().fault else {
        notice("TUNNEL_TEST_FAULT is not set: faults are not tried");
        return None;
    };
    Some(Fault {
        tool,
        away: AtomicBool::new(false),
    })
}

/// Mends the cluster when dropped.
pub(crate) struct Fault {
    tool: &'static Path,
    /// The API server was killed and has not been seen since.
    away: AtomicBool,
}

impl Fault {
    /// Runs the tool, such as `blackhole`.
    pub(crate) fn cause(&self, words: &[&str]) {
        let status = Command::new(self.tool)
            .args(words)
            .status()
            .expect("the fault tool runs");
        assert!(status.success(), "fault {words:?}: {status}");
    }

    /// Kills the API server; the tool starts it again.
    pub(crate) fn restart_api_server(&self) {
        self.away.store(true, Ordering::Relaxed);
        self.cause(&["restart", "apiserver"]);
    }

    /// Waits until the API server answers again, and starts it once more if that start failed.
    pub(crate) async fn api_server_back(&self) {
        for start in 1..=STARTS {
            let deadline = Instant::now() + BACK;
            while Instant::now() < deadline {
                if answers() {
                    self.away.store(false, Ordering::Relaxed);
                    return;
                }
                sleep(Duration::from_millis(200)).await;
            }
            notice(&format!("start {start} of the API server failed"));
            self.cause(&["restart", "apiserver"]);
        }
        panic!("the API server does not come back");
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        let run = |words: &[&str]| {
            if let Err(error) = Command::new(self.tool).args(words).status() {
                say(&format!("the cluster is not mended: {error}"));
            }
        };
        run(&["mend"]);
        if self.away.load(Ordering::Relaxed) && !answers() {
            run(&["restart", "apiserver"]);
        }
    }
}

/// True if the API server says that it is ready.
fn answers() -> bool {
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(&Settings::get().admin);
    command.args(["--request-timeout=2s", "get", "--raw", "/readyz"]);
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
