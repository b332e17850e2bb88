//! What `status` and `stop` take.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::go_duration;

/// `status`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StatusArgs {
    /// Only this session
    #[arg(value_name = "ID")]
    pub id: Option<String>,

    /// In every namespace; needs the right to list Jobs and pods in all of them
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,

    /// Everybody's sessions, not only yours
    #[arg(long)]
    pub all_users: bool,

    /// Go on, and print each session that changes
    #[arg(short = 'w', long, conflicts_with = "wait_for")]
    pub watch: bool,

    /// Wait until the session, or each one that runs here, is in this state
    #[arg(long, value_name = "STATE", value_enum)]
    pub wait_for: Option<WaitFor>,

    /// How long to wait at most
    #[arg(long, value_name = "DURATION", default_value = "30s", requires = "wait_for",
          value_parser = go_duration::parse_duration)]
    pub timeout: Duration,
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    /// Connections can be made.
    Ready,
}

const EXAMPLES: &str = "\
States: starting, ready, reconnecting, draining, idle (--on-demand without an agent) are told by
a plugin that runs here; `elsewhere` is one that is attached from another machine, `dead` one
whose plugin is gone (`cleanup` removes it, or it goes by itself), `unknown` one that cannot be
decided yet.

Examples:
  # your sessions in this namespace
  kubectl tunnel status

  # with listeners, traffic and round trip; or everything, for programs
  kubectl tunnel status -o wide
  kubectl tunnel status -o json

  # in a script
  id=$(kubectl tunnel status -o name) && kubectl tunnel status \"$id\" --wait-for=ready";

/// `stop`
#[derive(Debug, Args)]
#[command(after_help = STOP_EXAMPLES)]
pub struct StopArgs {
    /// Sessions to end, as `status` calls them
    #[arg(value_name = "ID", required_unless_present = "all")]
    pub ids: Vec<String>,

    /// All of yours in this namespace, wherever they run
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
}

const STOP_EXAMPLES: &str = "\
A session that runs here ends as by Ctrl-C: connections drain, its objects are removed. Of one
that does not, the objects are deleted; a plugin that still runs elsewhere then ends with exit
code 6.

Examples:
  # one, by its id
  kubectl tunnel stop x7k2p9

  # all of yours in this namespace
  kubectl tunnel stop --all";
