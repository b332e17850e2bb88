//! The real binary: `serve`, `attach` and `state` over a real unix socket and real pipes.

use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::Instant;
use tunnel_agent::config::{GRACE, SOCKET};
use tunnel_wire::link::TransportEnd;
use tunnel_wire::{Open, Protocol};

use crate::support::{Plugin, connect, environment, soon, upstream};

/// A directory with the unix socket, removed at the end.
struct Place {
    directory: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("tunnel-agent-{}-{name}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        Self { directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("agent.sock")
    }

    fn command(&self, argument: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tunnel-agent"));
        command
            .arg(argument)
            .env_clear()
            .env(SOCKET, self.socket())
            .kill_on_drop(true);
        command
    }

    fn serve(&self) -> Child {
        let vars = environment(&[(GRACE, "1")]);
        self.command("serve")
            .envs(vars)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// What exec does.
    fn exec(&self) -> Exec {
        let mut child = self
            .command("attach")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Exec { child, lines }
    }

    async fn state(&self) -> String {
        let output = soon("the state", self.command("state").output()).await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

struct Exec {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Exec {
    async fn plugin(&mut self) -> Plugin {
        let (reader, writer) = self.pipes();
        soon("the hello", connect(reader, writer)).await.unwrap()
    }

    /// What the plugin reads and writes.
    fn pipes(&mut self) -> (ChildStdout, ChildStdin) {
        (
            self.child.stdout.take().unwrap(),
            self.child.stdin.take().unwrap(),
        )
    }

    async fn line(&mut self, text: &str) -> String {
        loop {
            let line = soon("a log line", self.lines.next_line()).await.unwrap();
            let line = line.unwrap_or_else(|| panic!("stderr ended without a line with '{text}'"));
            if line.contains(text) {
                return line;
            }
        }
    }

    async fn status(&mut self) -> ExitStatus {
        soon("the attach's end", self.child.wait()).await.unwrap()
    }
}

/// The end of `serve`: its status and what it said.
async fn output(serve: Child) -> (ExitStatus, String) {
    let Output { status, stderr, .. } = soon("the agent's end", serve.wait_with_output()).await.unwrap();
    (status, String::from_utf8(stderr).unwrap())
}

fn send(signal: Signal, child: &Child) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn bytes_pass_the_state_is_told_and_goodbye_ends_both() {
    let place = Place::new("goodbye");
    // Exec may come before the container's process listens.
    let mut exec = place.exec();
    let serve = place.serve();
    let mut plugin = exec.plugin().await;
    exec.line("attached").await;

    let (listener, port) = upstream().await;
    let mut stream = plugin.dial("127.0.0.1", port).await.unwrap();
    let (mut upstream, _) = soon("the dial", listener.accept()).await.unwrap();
    assert_eq!(
        place.state().await,
        "{\"attached\":true,\"seconds\":0,\"streams\":1}\n"
    );

    let sent = vec![b'x'; 8 * 1024 * 1024];
    let mut received = Vec::new();
    let (wrote, read) = tokio::join!(
        async {
            stream.write_all(&sent).await?;
            stream.shutdown().await
        },
        soon("the bytes", upstream.read_to_end(&mut received))
    );
    wrote.unwrap();
    read.unwrap();
    assert!(received == sent, "{} bytes arrived", received.len());

    plugin.link.goodbye();
    plugin.ended().await;
    assert_eq!(exec.status().await.code(), Some(0));
    let (status, said) = output(serve).await;
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("the plugin said goodbye"), "{said}");
}

#[tokio::test]
async fn sigterm_and_sigint_end_the_agent_with_status_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let place = Place::new(&format!("signal-{}", signal.as_raw()));
        let serve = place.serve();
        let mut exec = place.exec();
        let mut plugin = exec.plugin().await;
        let asked = Instant::now();
        send(signal, &serve);
        plugin.ended().await;
        let (status, said) = output(serve).await;
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        assert_eq!(exec.status().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_plugin_that_vanishes_ends_attach_at_once_and_the_agent_after_its_grace_period() {
    let place = Place::new("vanish");
    let serve = place.serve();
    let mut exec = place.exec();
    drop(exec.plugin().await);
    assert_eq!(exec.status().await.code(), Some(0));
    assert!(place.state().await.starts_with("{\"attached\":false,"));
    let (status, said) = output(serve).await;
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("grace period"), "{said}");
}

#[tokio::test]
async fn an_attach_that_is_killed_ends_its_transport() {
    let place = Place::new("killed");
    let serve = place.serve();
    let mut exec = place.exec();
    let mut plugin = exec.plugin().await;
    send(Signal::KILL, &exec.child);
    // The agent drops its copies of the pipes: that is how a plugin learns of it.
    plugin.ended().await;
    let (status, said) = output(serve).await;
    assert_eq!(status.code(), Some(0), "{said}");
}

#[tokio::test]
async fn a_connection_outlives_the_attach_that_carried_it() {
    let place = Place::new("resume");
    let serve = place.serve();
    let mut first = place.exec();
    let mut plugin = first.plugin().await;
    let (listener, port) = upstream().await;
    let mut stream = plugin.dial("127.0.0.1", port).await.unwrap();
    let (mut upstream, _) = soon("the dial", listener.accept()).await.unwrap();

    send(Signal::KILL, &first.child);
    let end = plugin.ended().await;
    assert!(!end.is_final(), "{end}");
    let state = place.state().await;
    assert!(
        state.starts_with(r#"{"attached":false,"#) && state.ends_with("\"streams\":1}\n"),
        "{state}"
    );
    let (asked, answered) = (b"who is there", b"still me");
    stream.write_all(asked).await.unwrap();
    upstream.write_all(answered).await.unwrap();

    let mut second = place.exec();
    let (reader, writer) = second.pipes();
    plugin.resume_with(reader, writer).await.unwrap();
    second.line("resumed").await;
    let mut bytes = [0; 12];
    soon("the question", upstream.read_exact(&mut bytes))
        .await
        .unwrap();
    assert_eq!(&bytes, asked);
    soon("the answer", stream.read_exact(&mut bytes[..8]))
        .await
        .unwrap();
    assert_eq!(&bytes[..8], answered);
    plugin.link.goodbye();
    assert_eq!(output(serve).await.0.code(), Some(0));
}

#[tokio::test]
async fn nobody_attached_is_status_0_as_well() {
    let place = Place::new("nobody");
    let start = Instant::now();
    let (status, said) = output(place.serve()).await;
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("nobody attached"), "{said}");
    assert!(
        start.elapsed() >= Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_newer_plugin_takes_the_session_over() {
    let place = Place::new("newer");
    let serve = place.serve();
    let mut older = place.exec();
    let mut evicted = older.plugin().await;
    let (_listener, port) = upstream().await;
    let mut stream = evicted
        .open(&Open::Dial {
            protocol: Protocol::Tcp,
            patience_ms: 0,
            host: "127.0.0.1".into(),
            port,
        })
        .await
        .unwrap();

    let mut newer = place.exec();
    let plugin = newer.plugin().await;
    older.line("taken over by another plugin").await;
    assert_eq!(older.status().await.code(), Some(0));
    let end = evicted.ended().await;
    assert!(matches!(end, TransportEnd::Evicted), "{end}");
    soon("the stream's end", stream.read(&mut [0])).await.unwrap_err();
    plugin.link.goodbye();
    assert_eq!(output(serve).await.0.code(), Some(0));
}

#[tokio::test]
async fn what_is_not_a_plugin_is_told_so() {
    let place = Place::new("stranger");
    let _serve = place.serve();
    let mut exec = place.exec();
    exec.child
        .stdin
        .take()
        .unwrap()
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let line = exec.line("attach refused").await;
    assert!(
        line.contains("the first bytes are not a hello: GET / HT"),
        "{line}"
    );
    assert_eq!(exec.status().await.code(), Some(0));
}

#[tokio::test]
async fn an_exec_without_pipes_is_told_so() {
    let place = Place::new("null");
    let _serve = place.serve();
    let child = place
        .command("attach")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output();
    let output = soon("the attach's end", child).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("stdin is neither a pipe nor a socket"), "{said}");
}

#[tokio::test]
async fn unknown_arguments_are_a_usage_error() {
    let place = Place::new("usage");
    for argument in ["", "--help", "Serve"] {
        let output = soon("the usage", place.command(argument).output()).await.unwrap();
        assert_eq!(output.status.code(), Some(2), "{argument}");
        assert_eq!(
            output.stderr, b"usage: tunnel-agent serve | attach | state\n",
            "{argument}"
        );
    }
}

#[tokio::test]
async fn a_failure_is_one_json_line_and_status_1() {
    let place = Place::new("failure");
    let output = soon("the end", place.command("serve").output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        concat!(
            r#"{"level":"error","msg":"the environment is not an agent's","#,
            r#""reason":"the environment variable TUNNEL_SESSION is not set"}"#,
            "\n"
        )
    );
}
