//! `--detach`: the same command again in the background; this one returns when that is ready.
//!
//! The child gets the same words, and its id by an environment variable. Whether it is ready is asked over its control
//! socket. Its stdin is empty and what it says goes to a log file, so a credential plugin cannot ask anything.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::Context;
use crate::cluster::names::SessionId;
use crate::control::{self, Found, Snapshot, folders};
use crate::error::Error;
use crate::program;
use crate::ui::Output;

/// Tells the child that it is one, and its id. Not one of the variables that stand for options.
const VARIABLE: &str = "_KUBECTL_TUNNEL_DETACHED";

/// Between two looks at the child.
const LOOK: Duration = Duration::from_millis(50);

/// The id this process was given, if it is the one in the background.
pub(super) fn detached_as(context: &Context) -> Option<SessionId> {
    context.env.var(VARIABLE)?.parse().ok()
}

/// In the child: leaves the terminal.
pub(super) fn settle() {
    if let Err(error) = control::leave_terminal() {
        tracing::debug!(%error, "still at the terminal");
    }
}

/// Starts the child and waits until it is ready.
pub(super) async fn run(context: &Context) -> Result<(), Error> {
    if !control::is_available() {
        return Err(Error::Usage(
            "--detach is not there on this system: start the command in another window".to_owned(),
        ));
    }
    let id = SessionId::random();
    let failed = |doing: &str| {
        let doing = doing.to_owned();
        |source| Error::Io { doing, source }
    };
    folders::runtime(&context.env).map_err(failed("make the folder for the control socket"))?;
    let path = folders::log_file(&context.env, id.as_str()).map_err(failed("make the folder for the log"))?;
    let mut child = spawn(&id, &path).map_err(failed("start the command in the background"))?;
    let orderly = context.shutdown.orderly();
    loop {
        tokio::select! {
            () = orderly.cancelled() => return give_up(context, child).await,
            ended = child.wait() => {
                let status = ended.map_err(failed("wait for the command in the background"))?;
                let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
                repeat(context, &path);
                return Err(Error::Detached { code, log: path.display().to_string() });
            }
            () = sleep(LOOK) => {}
        }
        if let Some(Found::Running(snapshot)) = control::look(&context.env, id.to_string()).await
            && matches!(snapshot.state.as_str(), "ready" | "idle")
        {
            tell(context, &snapshot, &path);
            context.last_words.hand_over();
            return Ok(());
        }
    }
}

fn spawn(id: &SessionId, path: &Path) -> io::Result<Child> {
    let mut options = OpenOptions::new();
    options.create_new(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let log = options.open(path)?;
    let mut command = Command::new(std::env::current_exe()?);
    // By the name this one was called.
    #[cfg(unix)]
    if let Some(called) = std::env::args_os().next() {
        command.arg0(called);
    }
    command
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, id.as_str())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}

fn tell(context: &Context, snapshot: &Snapshot, log: &Path) {
    if context.printer.output() == Output::Json {
        let event = serde_json::json!({
            "event": "ready",
            "id": snapshot.id,
            "session": snapshot.session,
            "namespace": snapshot.namespace,
            "pod": snapshot.pod,
            "pid": snapshot.pid,
            "listeners": snapshot.listeners,
            "services": snapshot.services,
            "state": snapshot.state,
            "transportKind": snapshot.transport,
            "metrics": snapshot.metrics,
            "log": log,
        });
        context.printer.data(&event.to_string());
    } else {
        context.printer.data(&snapshot.id);
        for line in &snapshot.ready_lines {
            context.printer.data(line);
        }
    }
    let (id, log, program) = (&snapshot.id, log.display(), program::name());
    context.printer.note(&format!(
        "in the background; it says what happens in {log}; end it with `{program} stop {id}`"
    ));
}

/// Ends the child as the signal would have ended the command itself.
async fn give_up(context: &Context, mut child: Child) -> Result<(), Error> {
    #[cfg(unix)]
    if let Some(pid) = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(rustix::process::Pid::from_raw)
    {
        // It has ended already otherwise.
        if let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::INT) {
            tracing::debug!(%error, "the command in the background has ended already");
        }
    }
    tokio::select! {
        _ = child.wait() => Ok(()),
        () = context.shutdown.at_once().cancelled() => {
            drop(child.start_kill());
            Err(Error::SecondSignal)
        }
    }
}

/// What the child said before it ended is what this command says.
fn repeat(context: &Context, path: &Path) {
    let mut said = String::new();
    match std::fs::read(path) {
        Ok(log) => said.push_str(&String::from_utf8_lossy(&log)),
        Err(error) => tracing::debug!(%error, "the log cannot be read"),
    }
    for line in said.lines() {
        if context.printer.output() == Output::Json && line.starts_with('{') {
            context.printer.data(line);
        } else {
            context.printer.log(format!("{line}\n").as_bytes());
        }
    }
}
