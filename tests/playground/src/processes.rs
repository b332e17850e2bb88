//! The process groups the playground started, so that none outlives it.
//!
//! Every container process and every exec is the leader of a group of its own; killing the group
//! takes what it started as well. A killed playground (`kill -9`) cannot do this: its pods then see
//! their stdin end, as after the loss of a laptop.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

/// How often to try again when the file to run is held open by a process that is just being forked
/// elsewhere in this program (it lets go as soon as it has called exec).
const BUSY_RETRIES: u32 = 50;

#[derive(Clone, Debug, Default)]
pub(crate) struct Processes {
    groups: Arc<Mutex<BTreeSet<i32>>>,
}

/// A running process; dropping it kills its group.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) child: Child,
    group: Pid,
    processes: Processes,
}

/// What to run.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    pub(crate) path: &'a Path,
    pub(crate) arguments: &'a [String],
    pub(crate) environment: &'a [(String, String)],
    pub(crate) folder: &'a Path,
}

impl Processes {
    /// Starts a program as leader of a new process group; `outputs` are its stdin, stdout and stderr.
    pub(crate) async fn start(
        &self,
        program: &Program<'_>,
        mut stdio: impl FnMut() -> io::Result<[Stdio; 3]>,
    ) -> io::Result<Process> {
        let mut tries = 0;
        let child = loop {
            let [stdin, stdout, stderr] = stdio()?;
            let mut command = Command::new(program.path);
            command.args(program.arguments.iter().map(OsStr::new)).env_clear();
            command.envs(program.environment.iter().map(|(name, value)| (name, value)));
            command
                .current_dir(program.folder)
                .stdin(stdin)
                .stdout(stdout)
                .stderr(stderr);
            match command.process_group(0).kill_on_drop(true).spawn() {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_RETRIES => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                result => break result?,
            }
        };
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        let group = pid.ok_or_else(|| io::Error::other("the process ended before it had an id"))?;
        self.lock().insert(group.as_raw_nonzero().get());
        Ok(Process {
            child,
            group,
            processes: self.clone(),
        })
    }

    pub(crate) fn kill_all(&self) {
        for group in self.lock().iter().filter_map(|&raw| Pid::from_raw(raw)) {
            signal(group, Signal::KILL);
        }
    }

    /// Ids of the processes that run.
    pub(crate) fn running(&self) -> Vec<i32> {
        self.lock().iter().copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<i32>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    pub(crate) fn terminate(&self) {
        signal(self.group, Signal::TERM);
    }

    pub(crate) fn kill(&self) {
        signal(self.group, Signal::KILL);
    }

    /// Waits for the leader; what is left of its group is killed, as the end of PID 1 does in a pod.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        signal(self.group, Signal::KILL);
        self.processes.lock().remove(&self.group.as_raw_nonzero().get());
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let known = self.processes.lock().remove(&self.group.as_raw_nonzero().get());
        if known {
            signal(self.group, Signal::KILL);
        }
    }
}

/// A group that is already gone is what was wanted.
fn signal(group: Pid, signal: Signal) {
    if let Err(error) = kill_process_group(group, signal)
        && error != rustix::io::Errno::SRCH
    {
        tracing::warn!(group = group.as_raw_nonzero().get(), %error, "signal not delivered");
    }
}

/// The number a shell gives an exit: the code, or 128 and the signal.
pub(crate) fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}
