//! Where options may come from beside the command line (`--config`, `--profile`), and `config view`, which shows it.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

const HEADING: &str = "Configuration";

/// Flags of every command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = HEADING)]
pub struct ConfigFlags {
    /// File to read options from [default: kubectl-tunnel/config.yaml in `$XDG_CONFIG_HOME` or ~/.config]
    ///
    /// Its keys are the names of options. A flag wins over the variable `KUBECTL_TUNNEL_<NAME>`, a variable over the
    /// file. `config view --show-origin` shows what holds, and why.
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath, hide_short_help = true,
        help_heading = HEADING)]
    pub config: Option<PathBuf>,

    /// Profile of that file to use
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true, help_heading = HEADING)]
    pub profile: Option<String>,
}

/// `config`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub struct ConfigArgs {
    /// What to do
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// The verbs of `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show what every option of every command is set to
    View(ViewArgs),
}

/// `config view`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ViewArgs {
    /// Tell where each value comes from: flag, variable, line of the file, or default
    #[arg(long)]
    pub show_origin: bool,
}

const EXAMPLES: &str = "\
A flag wins over a variable, KUBECTL_TUNNEL_ and the flag's name (KUBECTL_TUNNEL_GRACE for
--grace; several values on lines of their own), a variable over the file, the file over the
default. In the file a profile wins over what is outside of it, and a command's section over its
surroundings. What is shown can be a file itself.

Examples:
  # what holds, and why
  kubectl tunnel config view --show-origin

  # what would hold with another profile
  kubectl tunnel config view --profile work -o json

  # begin a file with all there is
  kubectl tunnel config view > config.yaml";
