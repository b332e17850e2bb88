//! `completion`: the script for a shell, and the door that kubectl asks at.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

/// `completion`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub struct CompletionArgs {
    /// For which shell
    #[command(subcommand)]
    pub command: CompletionCommand,
}

/// The shells, and kubectl.
#[derive(Debug, Clone, Subcommand)]
pub enum CompletionCommand {
    /// Write the file with which kubectl completes this plugin, beside the plugin on PATH
    #[command(after_help = INSTALL)]
    Install(InstallArgs),
    /// Print the script for bash
    #[command(after_help = BASH)]
    Bash,
    /// Print the script for zsh
    #[command(after_help = ZSH)]
    Zsh,
    /// Print the script for fish
    #[command(after_help = FISH)]
    Fish,
    /// Print the script for PowerShell: commands and flags, without names of the cluster
    #[command(name = "powershell", after_help = POWERSHELL)]
    PowerShell,
}

/// `completion install`
#[derive(Debug, Clone, Args)]
pub struct InstallArgs {
    /// Folder on PATH to write it to, instead of the plugin's
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub folder: Option<PathBuf>,
}

const EXAMPLES: &str = "\
As `kubectl tunnel` it is completed by kubectl's own completion (`kubectl completion --help`),
which asks a program beside the plugin: `completion install` writes that. The scripts are for
calling the program by its file's name.
Names come from the cluster: namespaces, TYPE/NAME and ports of forward. After two seconds
nothing is offered.

Examples:
  # complete `kubectl tunnel forward svc/<TAB>`
  kubectl tunnel completion install

  # complete the program itself, in bash
  source <(kubectl-tunnel completion bash)";

const INSTALL: &str = "\
It is named after the program: kubectl_complete-tunnel for kubectl-tunnel. A file of that name
that is not ours stays.

Examples:
  # where kubectl finds the plugin
  kubectl tunnel completion install

  # somewhere else on PATH
  kubectl tunnel completion install --folder ~/bin";

const BASH: &str = "\
Examples:
  # in this shell
  source <(kubectl-tunnel completion bash)

  # in every shell
  kubectl-tunnel completion bash > ~/.local/share/bash-completion/completions/kubectl-tunnel";

const ZSH: &str = "\
Examples:
  # in this shell, after compinit
  source <(kubectl-tunnel completion zsh)

  # in every shell
  kubectl-tunnel completion zsh > \"${fpath[1]}/_kubectl-tunnel\"";

const FISH: &str = "\
Examples:
  # in this shell
  kubectl-tunnel completion fish | source

  # in every shell
  kubectl-tunnel completion fish > ~/.config/fish/completions/kubectl-tunnel.fish";

const POWERSHELL: &str = "\
Examples:
  # in this shell
  kubectl-tunnel completion powershell | Out-String | Invoke-Expression

  # in every shell
  kubectl-tunnel completion powershell >> $PROFILE";
