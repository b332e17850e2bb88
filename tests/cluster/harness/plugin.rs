//! The real plugin as a child process: its events, what it said, its end.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::namespace::Namespace;
use super::settings::Settings;
use super::{say, within};

/// From command to ready, with a margin for a busy machine; the exact time is a test of its own.
const READY: Duration = Duration::from_secs(30);

/// A running plugin, killed when dropped. What it said shows when the test fails.
pub(crate) struct Plugin {
    child: Child,
    pid: u32,
    arguments: Vec<String>,
    started: Instant,
    said: Arc<Mutex<String>>,
    events: mpsc::Receiver<Value>,
    readers: JoinSet<()>,
}

/// The ready event.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    pub(crate) session: String,
    pub(crate) pod: String,
    /// From the process's start to this event.
    pub(crate) after: Duration,
    /// The whole event.
    pub(crate) event: Value,
}

/// The local ports of `forward` in a ready event.
pub(crate) fn forwarded(event: &Value) -> Vec<SocketAddr> {
    let listeners = event["listeners"].as_array().expect("listeners is a list");
    let forwarded = listeners.iter().filter(|listener| listener["kind"] == "forward");
    let address = |listener: &Value| listener["address"].as_str()?.parse().ok();
    forwarded
        .map(|listener| address(listener).unwrap_or_else(|| panic!("an address in {listener}")))
        .collect()
}

impl Ready {
    /// The local ports of `forward`.
    pub(crate) fn forwarded(&self) -> Vec<SocketAddr> {
        forwarded(&self.event)
    }

    /// The first local port of the proxy.
    pub(crate) fn proxy(&self) -> SocketAddr {
        let listeners = self.event["listeners"].as_array().expect("listeners is a list");
        let proxy = listeners
            .iter()
            .find(|listener| listener["kind"] == "proxy")
            .expect("a proxy listens");
        proxy["address"]
            .as_str()
            .expect("an address")
            .parse()
            .expect("an address and a port")
    }
}

/// How the plugin ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Events since those read before.
    pub(crate) events: Vec<Value>,
    /// All of stdout and stderr.
    pub(crate) said: String,
    /// From the process's start to its end.
    pub(crate) after: Duration,
}

impl Ended {
    /// Fails unless the plugin ended with this status.
    #[track_caller]
    pub(crate) fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(
            self.status.code(),
            Some(code),
            "exit status; it said:\n{}",
            self.said
        );
        self
    }

    /// Fails unless all of these were said.
    #[track_caller]
    pub(crate) fn expect_said(&self, words: &[&str]) -> &Self {
        let said = self.said.to_lowercase();
        for word in words {
            assert!(
                said.contains(&word.to_lowercase()),
                "`{word}` is missing; it said:\n{}",
                self.said
            );
        }
        self
    }

    /// Fails unless the last event tells this status, and the one before names the error.
    #[track_caller]
    pub(crate) fn expect_error_events(&self, code: i32) -> &Self {
        let [.., error, ended] = self.events.as_slice() else {
            panic!("no error and ended events; it said:\n{}", self.said);
        };
        assert_eq!(
            (&error["event"], &error["code"]),
            (&Value::from("error"), &Value::from(code)),
            "{}",
            self.said
        );
        assert_eq!(
            (&ended["event"], &ended["code"]),
            (&Value::from("ended"), &Value::from(code)),
            "{}",
            self.said
        );
        self
    }
}

/// How to start a plugin; [`Namespace::proxy`] and its siblings make one.
#[derive(Debug)]
pub(crate) struct Launch {
    kubeconfig: PathBuf,
    /// Where sockets and logs are: what is known of other plugins of this laptop.
    laptop: PathBuf,
    arguments: Vec<String>,
}

impl Namespace {
    /// `kubectl tunnel proxy`, with events and a port of its own.
    pub(crate) fn proxy(&self, arguments: &[&str]) -> Launch {
        self.launch(&[&["proxy", "--listen", "127.0.0.1:0", "-o", "json"], arguments].concat())
    }

    /// `kubectl tunnel expose`, with events.
    pub(crate) fn expose(&self, arguments: &[&str]) -> Launch {
        self.launch(&[&["expose", "-o", "json"], arguments].concat())
    }

    /// `kubectl tunnel forward`, with events and one address to listen on.
    pub(crate) fn forward(&self, arguments: &[&str]) -> Launch {
        self.launch(&[&["forward", "--address", "127.0.0.1", "-o", "json"], arguments].concat())
    }

    /// The plugin with exactly these arguments, as the developer.
    pub(crate) fn launch(&self, arguments: &[&str]) -> Launch {
        Launch {
            kubeconfig: self.kubeconfig(),
            laptop: self.folder().to_owned(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        }
    }
}

impl Launch {
    /// As somebody else.
    pub(crate) fn with_kubeconfig(mut self, kubeconfig: &Path) -> Self {
        kubeconfig.clone_into(&mut self.kubeconfig);
        self
    }

    /// As if on another laptop.
    pub(crate) fn elsewhere(mut self) -> Self {
        self.laptop.push("elsewhere");
        self
    }

    /// Starts the process.
    pub(crate) fn start(self) -> Plugin {
        let mut command = Command::new(&Settings::get().plugin);
        command
            .args(&self.arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("XDG_RUNTIME_DIR", &self.laptop)
            .env("XDG_STATE_HOME", &self.laptop);
        for name in [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "NO_PROXY",
            "RUST_LOG",
            "KUBECTL_TUNNEL_LOG",
        ] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let started = Instant::now();
        let mut child = command.spawn().expect("the plugin starts");
        let said = Arc::new(Mutex::new(String::new()));
        // More events than a session has; a test that does not read them must not stop the plugin.
        let (events_tx, events) = mpsc::channel(10_000);
        let mut readers = JoinSet::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        readers.spawn(listen(stdout, "out", Arc::clone(&said), started, Some(events_tx)));
        readers.spawn(listen(stderr, "err", Arc::clone(&said), started, None));
        Plugin {
            pid: child.id().expect("not waited for yet"),
            child,
            arguments: self.arguments,
            started,
            said,
            events,
            readers,
        }
    }

    /// Starts the process and waits until it is ready.
    pub(crate) async fn ready(self) -> (Plugin, Ready) {
        let mut plugin = self.start();
        let ready = plugin.ready().await;
        (plugin, ready)
    }

    /// Runs the process to its end.
    pub(crate) async fn finish(self, limit: Duration) -> Ended {
        self.start().end(limit).await
    }
}

impl Plugin {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the ready event; states may come before it.
    pub(crate) async fn ready(&mut self) -> Ready {
        let event = loop {
            match timeout(READY, self.events.recv()).await {
                Ok(Some(event)) if event["event"] == "ready" => break event,
                Ok(Some(event)) if event["event"] == "state" => {}
                Ok(Some(event)) => panic!("not ready: {event}"),
                Ok(None) => panic!("ended instead of being ready"),
                Err(tokio::time::error::Elapsed { .. }) => panic!("not ready within {READY:?}"),
            }
        };
        let text = |name: &str| {
            event[name]
                .as_str()
                .unwrap_or_else(|| panic!("{name} in {event}"))
                .to_owned()
        };
        Ready {
            session: text("session"),
            pod: text("pod"),
            after: self.started.elapsed(),
            event,
        }
    }

    /// Waits for the next event of this name; those before it are passed over.
    pub(crate) async fn event(&mut self, name: &str, limit: Duration) -> Value {
        self.event_where(limit, name, |event| event["event"] == name)
            .await
    }

    /// Waits until the session says that it is in this state.
    pub(crate) async fn state(&mut self, state: &str, limit: Duration) -> Value {
        let is = |event: &Value| event["event"] == "state" && event["state"] == state;
        self.event_where(limit, state, is).await
    }

    async fn event_where(&mut self, limit: Duration, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let wanted = async {
            loop {
                let event = self.events.recv().await;
                let event = event.unwrap_or_else(|| panic!("ended before `{what}` was told"));
                if is(&event) {
                    return event;
                }
            }
        };
        within(limit, &format!("the event `{what}`"), wanted).await
    }

    /// The events that came since those read before.
    pub(crate) fn events_so_far(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(pid, signal).expect("the plugin is there to be signalled");
    }

    /// True while the process runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("the plugin is our child").is_none()
    }

    /// Kills it as a power cut does, and reaps it.
    pub(crate) async fn kill(mut self) {
        assert!(self.runs(), "it ended before it could be killed");
        self.child.kill().await.expect("the plugin is our child");
    }

    /// Asks it to stop as Ctrl-C does, and expects a clean end.
    pub(crate) async fn stop(self) {
        self.signal(Signal::INT);
        self.end(Duration::from_secs(10)).await.expect_code(0);
    }

    /// Waits for its end.
    pub(crate) async fn end(mut self, limit: Duration) -> Ended {
        let status = within(limit, "the plugin's end", self.child.wait())
            .await
            .expect("the plugin is our child");
        let after = self.started.elapsed();
        let readers = std::mem::take(&mut self.readers);
        within(
            Duration::from_secs(5),
            "the end of its output",
            readers.join_all(),
        )
        .await;
        let events = self.events_so_far();
        Ended {
            status,
            events,
            said: self.said(),
            after,
        }
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        self.said.lock().expect("readers do not panic").clone()
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        // The test harness shows this only when the test fails.
        say(&format!(
            "--- kubectl-tunnel {} (pid {})\n{}",
            self.arguments.join(" "),
            self.pid,
            self.said().trim_end()
        ));
    }
}

/// Writes down every line with its time and passes on the events.
async fn listen(
    stream: impl AsyncRead + Unpin,
    name: &str,
    said: Arc<Mutex<String>>,
    started: Instant,
    events_tx: Option<mpsc::Sender<Value>>,
) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let at = started.elapsed().as_secs_f64();
        writeln!(
            said.lock().expect("readers do not panic"),
            "{at:8.3} {name} {line}"
        )
        .expect("a String takes it");
        if let Some(events_tx) = &events_tx
            && let Ok(event) = serde_json::from_str(&line)
        {
            drop(events_tx.try_send(event));
        }
    }
}
