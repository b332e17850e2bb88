//! What `doctor` takes.

use clap::Args;

use super::agent_flags::AgentFlags;

/// `doctor`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Then start a session, measure it, remove it, and look that nothing is left
    #[arg(long)]
    pub deep: bool,

    /// The pod that would be started
    #[command(flatten)]
    pub agent: AgentFlags,
}

const EXAMPLES: &str = "\
One line for each check: ok, warning, failure, or unknown with the reason why it could not be
told, and below it what to do. Nothing is created: the Job and its pod are sent as a dry run.
Exits with 0 when nothing failed, else with 1.

--deep starts one session when nothing of that failed, with the agent's flags as they are, and
tells how long it took, whether its bytes come through as they are, the round trip, whether the
pod resolves kubernetes.default.svc, the throughput, and that nothing is left at the end.
For the throughput at most 8 MiB go up, for at most 2s, are kept in the pod, and come down again,
for at most 2s; the agent itself is 0.9 MB. Meanwhile the agent listens on a port of its pod,
where only the bytes of this command are taken. Ctrl-C removes the session.

Examples:
  # would a session start here, and if not, why
  kubectl tunnel doctor

  # the same for another namespace and user, for a script
  kubectl tunnel doctor -n shop --as ana -o json

  # how long a start takes, round trip, throughput, DNS, in a session that is removed again
  kubectl tunnel doctor --deep

  # only the numbers
  kubectl tunnel doctor --deep -o json | jq '.checks[] | select(.measured) | {name, measured}'

  # would the namespace take the pod with these changes
  kubectl tunnel doctor --base-image registry.example/pause:3 --requests memory=64Mi";
