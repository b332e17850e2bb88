//! The agent's process: `serve` in the container, `attach` and `state` by exec.
//!
//! Configuration, signals, the runtime and the exit status are decided here and nowhere else. `serve` ends with
//! status 0 whatever the reason, so that its Job counts as complete and is collected; only an environment that
//! is not one of ours is a failure.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tunnel_agent::attachments::Attachments;
use tunnel_agent::config::{DEFAULT_SOCKET, SOCKET};
use tunnel_agent::log::{Level, chain, line};
use tunnel_agent::{Agent, Config, Log, attach};

/// musl's own maps and unmaps each of a stream's 32 KiB buffers, which costs more than moving their bytes does.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

const USAGE: &str = "usage: tunnel-agent serve | attach | state";

/// Threads that look up names. Each lookup may hang for as long as the pod's resolver retries.
const LOOKUP_THREADS: usize = 8;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        fail("panic", &panic.to_string().replace('\n', " "));
        std::process::abort();
    }));
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let command = match arguments.as_slice() {
        [command] => command.to_str(),
        _ => None,
    };
    let socket = PathBuf::from(variable(SOCKET).unwrap_or_else(|| DEFAULT_SOCKET.into()));
    match command {
        Some("serve") => serve(socket),
        Some("attach") => {
            let attached = attach::attach(
                &socket,
                &std::io::stdin(),
                &std::io::stdout(),
                &mut std::io::stderr(),
            );
            match attached {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail("attach failed", &chain(&error)),
            }
        }
        Some("state") => match attach::state(&socket) {
            Ok(state) => match std::io::stdout().write_all(state.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail("write the state", &error.to_string()),
            },
            Err(error) => fail("state failed", &chain(&error)),
        },
        Some(_) | None => {
            to_stderr(USAGE);
            ExitCode::from(2)
        }
    }
}

fn serve(socket: PathBuf) -> ExitCode {
    let config = match Config::from_env(variable, |path| std::fs::read_to_string(path)) {
        Ok(config) => config,
        Err(error) => return fail("the environment is not an agent's", &chain(&error)),
    };
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(LOOKUP_THREADS)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail("start the runtime", &error.to_string()),
    };
    let status = runtime.block_on(run(config, socket));
    // Not a plain drop: that would wait for a name lookup that hangs.
    runtime.shutdown_background();
    status
}

async fn run(config: Config, socket: PathBuf) -> ExitCode {
    let shutdown = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    // As PID 1 the agent gets no default action for either signal: unhandled, they would do nothing.
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = match signal(kind) {
            Ok(signals) => signals,
            Err(error) => return fail("handle signals", &error.to_string()),
        };
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            signals.recv().await;
            shutdown.cancel();
        });
    }
    let attachments = match Attachments::bind(&socket) {
        Ok(attachments) => attachments,
        Err(error) => {
            return fail(
                "listen on the unix socket",
                &format!("{}: {error}", socket.display()),
            );
        }
    };
    let log = Log::new(to_stderr);
    log.info(
        "the agent starts",
        &[
            ("session", &config.session),
            ("version", &env!("CARGO_PKG_VERSION")),
        ],
    );
    let agent = Agent::new(config, log.clone()).open_entrance().await;
    let status = agent.status();
    let (transports_tx, transports_rx) = mpsc::channel(1);
    let stop = CancellationToken::new();
    tokio::join!(attachments.run(transports_tx, status, log, stop.clone()), async {
        agent.run(transports_rx, shutdown).await;
        stop.cancel();
    });
    ExitCode::SUCCESS
}

/// Each relayed connection takes a descriptor; the usual soft limit is 1,024.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // The soft limit works as well, only for fewer connections.
    setrlimit(Resource::Nofile, limit).ok();
}

/// A variable's value. One that is not Unicode is none of ours.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn fail(what: &str, reason: &str) -> ExitCode {
    to_stderr(&line(Level::Error, what, &[("reason", &reason)]));
    ExitCode::FAILURE
}

fn to_stderr(text: &str) {
    // One write a line, so that lines of several processes do not mix. Without a stderr there is nobody to tell.
    drop(std::io::stderr().write_all(format!("{text}\n").as_bytes()));
}
