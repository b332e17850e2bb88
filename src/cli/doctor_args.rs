//! What `doctor` takes.

use clap::Args;

use super::agent_flags::AgentFlags;

/// `doctor`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// The pod that would be started
    #[command(flatten)]
    pub agent: AgentFlags,
}

const EXAMPLES: &str = "\
One line for each check: ok, warning, failure, or unknown with the reason why it could not be
told, and below it what to do. Nothing is created: the Job and its pod are sent as a dry run.
Exits with 0 when nothing failed, else with 1.

Examples:
  # would a session start here, and if not, why
  kubectl tunnel doctor

  # the same for another namespace and user, for a script
  kubectl tunnel doctor -n shop --as ana -o json

  # would the namespace take the pod with these changes
  kubectl tunnel doctor --base-image registry.example/pause:3 --requests memory=64Mi";
