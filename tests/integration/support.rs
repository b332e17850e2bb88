//! The stage of each test: a playground, the agent for this machine, and plugin processes that end with the test.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{sleep, timeout};
use tunnel_playground::{Key, Options, Playground};

/// A test that hangs fails after this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// How often a state without a notification is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// Largest agent a `ConfigMap` can hold, in bytes.
pub(crate) const CONFIG_MAP_LIMIT: u64 = 1_048_576;

/// The agent for this machine, built once for all tests. Linked as this machine links, which is enough here; the
/// static ones are `make agent`'s.
pub(crate) fn agent_binary() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_BIN_EXE_kubectl-tunnel"))
            .ancestors()
            .nth(2)
            .unwrap();
        let built = std::process::Command::new(env!("CARGO"))
            .args([
                "build",
                "--package",
                "tunnel-agent",
                "--bin",
                "tunnel-agent",
                "--profile",
                "agent",
            ])
            .arg("--target-dir")
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        target.join("agent/tunnel-agent")
    })
}

pub(crate) struct Stage {
    pub(crate) playground: Playground,
    /// Files of the plugins; goes with the stage.
    folder: PathBuf,
}

impl Stage {
    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub(crate) async fn start_with(options: Options) -> Self {
        // Building takes longer than any deadline of a test.
        tokio::task::spawn_blocking(agent_binary).await.unwrap();
        let playground = Playground::start(options).await.unwrap();
        let folder = playground.kubeconfig_path().parent().unwrap().join("plugins");
        std::fs::create_dir(&folder).unwrap();
        Self { playground, folder }
    }

    /// Starts the plugin; `--kubeconfig` and, for sessions, the agent and the ready file are added.
    pub(crate) fn plugin(&self, name: &str, arguments: &[&str]) -> Plugin {
        self.plugin_reading(name, arguments, Stdio::null())
    }

    /// The same with this for its stdin.
    pub(crate) fn plugin_reading(&self, name: &str, arguments: &[&str], stdin: Stdio) -> Plugin {
        let command = Command::new(env!("CARGO_BIN_EXE_kubectl-tunnel"));
        self.plugin_by(command, name, arguments, stdin)
    }

    /// The same, started by a program that ignores hangups.
    pub(crate) fn plugin_under_nohup(&self, name: &str, arguments: &[&str]) -> Plugin {
        let mut command = Command::new("nohup");
        command.arg(env!("CARGO_BIN_EXE_kubectl-tunnel"));
        self.plugin_by(command, name, arguments, Stdio::null())
    }

    fn plugin_by(&self, mut command: Command, name: &str, arguments: &[&str], stdin: Stdio) -> Plugin {
        let ready = self.folder.join(name);
        let log = std::fs::File::create(self.folder.join(format!("{name}.err"))).unwrap();
        command
            .args(arguments)
            .arg("--kubeconfig")
            .arg(self.playground.kubeconfig_path());
        if matches!(arguments.first(), Some(&("proxy" | "expose" | "forward"))) {
            command
                .arg("--agent-binary")
                .arg(agent_binary())
                .arg("--ready-file")
                .arg(&ready);
        }
        // Sockets and logs of this stage alone.
        command
            .env("XDG_RUNTIME_DIR", &self.folder)
            .env("XDG_STATE_HOME", &self.folder);
        for variable in [
            "KUBECONFIG",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "http_proxy",
            "https_proxy",
            "ALL_PROXY",
        ] {
            command.env_remove(variable);
        }
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true);
        Plugin {
            child: command.spawn().unwrap(),
            ready,
            log: self.folder.join(format!("{name}.err")),
        }
    }

    /// Starts `proxy` on a free port and waits for it; returns it with the address.
    pub(crate) async fn proxy(&self) -> (Plugin, String) {
        self.proxy_with(&[]).await
    }

    /// The same with more flags.
    pub(crate) async fn proxy_with(&self, arguments: &[&str]) -> (Plugin, String) {
        let mut plugin = self.plugin(
            "proxy",
            &[&["proxy", "--listen", "127.0.0.1:0"], arguments].concat(),
        );
        let ready = plugin.ready().await;
        let address = ready["listeners"][0]["address"].as_str().unwrap().to_owned();
        (plugin, address)
    }

    /// Waits until the objects fulfil `reached`.
    pub(crate) async fn until(&self, what: &str, reached: impl Fn(&[(Key, Arc<Value>)]) -> bool) {
        let came = timeout(DEADLINE, self.playground.until(reached)).await;
        assert!(
            came.is_ok(),
            "never came: {what}; ours: {:?}",
            self.playground.tunnel_objects()
        );
    }

    /// Waits until no object and no process of a session is left.
    pub(crate) async fn until_nothing_is_left(&self) {
        self.until("nothing left", |_| self.playground.tunnel_objects().is_empty())
            .await;
        let no_process = async {
            while !self.playground.processes().is_empty() {
                sleep(POLL).await;
            }
        };
        timeout(DEADLINE, no_process).await.expect("an agent lives on");
    }

    /// Path of a file of the plugins' with this text.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// How many Jobs were asked for so far.
    pub(crate) fn jobs_created(&self) -> usize {
        let requests = self.playground.requests();
        let jobs = requests
            .iter()
            .filter(|request| request.method == "POST" && request.path.ends_with("/jobs"));
        jobs.count()
    }

    /// A port at which the Services of the HTTP samples answer, as a suffix of a host name.
    pub(crate) fn web_port(&self) -> u16 {
        self.playground.service_ports("dev", "web")[0]
    }
}

/// A running plugin; dropping it kills it.
pub(crate) struct Plugin {
    child: Child,
    ready: PathBuf,
    log: PathBuf,
}

impl Plugin {
    /// Waits for the ready file and returns it.
    pub(crate) async fn ready(&mut self) -> Value {
        let appears = async {
            loop {
                match std::fs::read(&self.ready) {
                    Ok(text) => return serde_json::from_slice(&text).unwrap(),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
                }
                if let Some(status) = self.child.try_wait().unwrap() {
                    panic!("the plugin ended with {status}: {}", read(&self.log));
                }
                sleep(POLL).await;
            }
        };
        let ready = timeout(DEADLINE, appears).await;
        ready.unwrap_or_else(|_| panic!("not ready: {}", read(&self.log)))
    }

    /// Reads stdout until the plugin lets go of it, which it may do long before its end.
    pub(crate) async fn stdout_to_its_end(&mut self) -> String {
        let mut stdout = String::new();
        let mut pipe = self.child.stdout.take().unwrap();
        let read = timeout(DEADLINE, pipe.read_to_string(&mut stdout)).await;
        read.expect("stdout stays open").unwrap();
        self.child.stdout = Some(pipe);
        stdout
    }

    /// Its stdin, if that is a pipe: it stays open for as long as this lives.
    pub(crate) fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// What it has said on stderr so far.
    pub(crate) fn said(&self) -> String {
        read(&self.log)
    }

    /// Waits until it says this on stderr.
    pub(crate) async fn until_said(&self, words: &str) {
        let said = async {
            while !self.said().contains(words) {
                sleep(POLL).await;
            }
        };
        let said = timeout(DEADLINE, said).await;
        assert!(said.is_ok(), "`{words}` was never said: {}", self.said());
    }

    pub(crate) fn ready_file(&self) -> &Path {
        &self.ready
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id().expect("it runs")).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// Waits for the end; returns exit status, stdout and stderr.
    pub(crate) async fn ended(mut self) -> (ExitStatus, String, String) {
        let mut stdout = String::new();
        let mut pipe = self.child.stdout.take().unwrap();
        let end = async {
            pipe.read_to_string(&mut stdout).await.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = timeout(DEADLINE, end).await;
        let log = read(&self.log);
        (
            status.unwrap_or_else(|_| panic!("it does not end: {log}")),
            stdout,
            log,
        )
    }

    /// Ends it as Ctrl-C does and checks that it was content.
    pub(crate) async fn stop(self) {
        self.signal(Signal::INT);
        let (status, _, log) = self.ended().await;
        assert_eq!(status.code(), Some(0), "{log}");
    }
}

/// Sends `request` to `address` and reads to the end of the answer.
pub(crate) async fn exchange(address: &str, request: &str) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    timeout(DEADLINE, exchange).await.expect("no end of the answer")
}

/// A GET through an HTTP proxy.
pub(crate) async fn get_through(proxy: &str, url: &str) -> String {
    let host = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    exchange(
        proxy,
        &format!("GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
    )
    .await
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
