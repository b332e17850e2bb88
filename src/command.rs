//! One verb a file; the only place where cluster, session, listener and terminal meet.
//!
//! [`tunnel`] is the life of a session, which `proxy`, `expose` and `forward` share.

use std::sync::OnceLock;

use crate::cli::Command;
use crate::cluster::env::Env;
use crate::config::{Parsed, Settings};
use crate::error::Error;
use crate::shutdown::Shutdown;
use crate::ui::{Output, Printer};

mod attach;
mod cleanup;
pub mod complete;
mod completion;
mod config;
mod detach;
mod doctor;
mod expose;
mod forward;
mod man;
mod narrate;
mod proxy;
mod ready;
mod status;
mod stop;
mod tunnel;
mod version;
mod words;

/// What every command is given.
#[derive(Debug)]
pub struct Context {
    /// Says things.
    pub printer: Printer,
    /// What the user asked for by signals.
    pub shutdown: Shutdown,
    /// Where options come from, and which were typed.
    pub settings: Settings,
    /// kubectl's flags.
    pub kube: crate::cli::kube_flags::KubeFlags,
    /// The process's surroundings.
    pub env: Env,
    /// What the process says at its end beside the error.
    pub last_words: LastWords,
    /// The command line as typed, without secrets, for the Job's annotation.
    pub command_line: String,
}

/// What a session leaves to say when it is over.
#[derive(Debug, Default)]
pub struct LastWords {
    namespace: OnceLock<String>,
    leftovers: OnceLock<Vec<String>>,
    handed_over: OnceLock<()>,
}

impl LastWords {
    fn in_namespace(&self, namespace: &str) {
        self.namespace.get_or_init(|| namespace.to_owned());
    }

    fn left(&self, leftovers: Vec<String>) {
        self.leftovers.get_or_init(|| leftovers);
    }

    fn hand_over(&self) {
        self.handed_over.get_or_init(|| ());
    }

    /// Whether the session goes on in another process, whose end it is not.
    #[must_use]
    pub fn handed_over(&self) -> bool {
        self.handed_over.get().is_some()
    }

    /// The namespace in use, or a word for it when none was found out.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.namespace.get().map_or("NAMESPACE", String::as_str)
    }

    /// What is still in the cluster, as `kind/name`.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        self.leftovers.get().cloned().unwrap_or_default()
    }
}

/// Runs the command that was typed.
///
/// # Errors
/// What failed; nothing has been printed about it yet.
pub async fn run(command: Command, context: &Context) -> Result<(), Error> {
    let output = context.printer.output();
    if matches!(output, Output::Wide | Output::Yaml | Output::Name) && !matches!(command, Command::Status(_))
    {
        return Err(Error::Usage(
            "-o wide, yaml and name are for `status`: use -o json or leave it out".to_owned(),
        ));
    }
    match command {
        Command::Proxy(arguments) => proxy::run(&arguments.shared(), context).await,
        Command::Forward(arguments) => forward::run(&arguments, context).await,
        Command::Expose(arguments) => expose::run(&arguments.shared(), context).await,
        Command::Status(arguments) => status::run(&arguments, context).await,
        Command::Stop(arguments) => stop::run(&arguments, context).await,
        Command::Cleanup(arguments) => cleanup::run(&arguments, context).await,
        Command::Doctor(arguments) => doctor::run(&arguments, context).await,
        Command::Config(arguments) => config::run(&arguments, context),
        Command::Completion(arguments) => completion::run(&arguments, context),
        Command::Man(arguments) => man::run(&arguments, context),
        Command::Version(arguments) => version::run(&arguments, context).await,
    }
}

impl Context {
    /// Splits what was typed into the command and its surroundings.
    #[must_use]
    pub fn new(parsed: Parsed, printer: Printer, shutdown: Shutdown, env: Env) -> (Command, Self) {
        let Parsed { cli, settings } = parsed;
        let command_line = crate::cluster::manifest::redacted_command(std::env::args());
        (
            cli.command,
            Self {
                printer,
                shutdown,
                settings,
                kube: cli.kube,
                env,
                last_words: LastWords::default(),
                command_line,
            },
        )
    }
}
