//! The container's main process: a program of this machine, or a sample inside the playground.

use std::fmt;
use std::fs::File;
use std::io;
use std::pin::Pin;
use std::process::Stdio;

use rustix::io::Errno;
use serde_json::Value;

use super::sandbox::Sandbox;
use crate::object;
use crate::processes::{Process, Program, exit_code};
use crate::samples;
use crate::world::World;

/// Why the runtime could not start the container; the text is that of a real one.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct StartError {
    pub(crate) text: String,
}

pub(crate) enum Container {
    Process(Process),
    /// Ends only by being dropped.
    Sample(Pin<Box<dyn Future<Output = ()> + Send>>),
    Ended(i32),
}

impl Container {
    pub(crate) async fn start(world: &World, pod: &Value, sandbox: &Sandbox) -> Result<Self, StartError> {
        let container = &pod["spec"]["containers"][0];
        let image = object::field(container, "image");
        if let Some(sample) = image.strip_prefix("playground/") {
            let sample = samples::start(sample, sandbox.address()).await;
            return sample.map(Self::Sample).map_err(|error| StartError {
                text: error.to_string(),
            });
        }
        let words = |field: &str| {
            let list = container[field].as_array().into_iter().flatten();
            list.filter_map(Value::as_str)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let mut command = [words("command"), words("args")].concat();
        if image.starts_with("crash/") {
            command = ["/bin/sh", "-c", "echo this image crashes on purpose >&2; exit 3"]
                .map(str::to_owned)
                .into();
        }
        let Some((program, arguments)) = command.split_first() else {
            return Ok(Self::Sample(Box::pin(std::future::pending())));
        };
        let path = sandbox.resolve(program);
        let program = Program {
            path: &path,
            arguments,
            environment: sandbox.environment(),
            folder: sandbox.folder(),
        };
        let started = world.processes.start(&program, || output_to_log(sandbox)).await;
        started.map(Self::Process).map_err(|error| StartError {
            text: start_text(&command[0], &error),
        })
    }

    /// Waits for the end and returns the exit code. Safe to drop and call again.
    pub(crate) async fn wait(&mut self) -> i32 {
        let code = match self {
            Self::Process(process) => process.wait().await.map_or(-1, exit_code),
            Self::Sample(sample) => {
                sample.as_mut().await;
                0
            }
            Self::Ended(code) => *code,
        };
        *self = Self::Ended(code);
        code
    }

    pub(crate) fn terminate(&mut self) {
        match self {
            Self::Process(process) => process.terminate(),
            Self::Sample(_) => *self = Self::Ended(0),
            Self::Ended(_) => {}
        }
    }

    pub(crate) fn kill(&self) {
        if let Self::Process(process) = self {
            process.kill();
        }
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(process) => f.debug_tuple("Process").field(process).finish(),
            Self::Sample(_) => f.write_str("Sample"),
            Self::Ended(code) => f.debug_tuple("Ended").field(code).finish(),
        }
    }
}

fn output_to_log(sandbox: &Sandbox) -> io::Result<[Stdio; 3]> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(sandbox.log_path())?;
    Ok([Stdio::null(), log.try_clone()?.into(), log.into()])
}

/// The words of containerd and runc.
pub(crate) fn start_text(program: &str, error: &io::Error) -> String {
    let why = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => "no such file or directory".to_owned(),
        Some(Errno::ACCESS) => "permission denied".to_owned(),
        Some(Errno::NOEXEC) => "exec format error".to_owned(),
        Some(_) | None => error.to_string(),
    };
    format!(
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: \
         runc create failed: unable to start container process: exec: {program:?}: {why}: unknown"
    )
}
