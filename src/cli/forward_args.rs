//! What `forward` takes: targets and ports, where to listen, and how to get there.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::target::Via;
use super::{SessionFlags, go_duration};
use crate::forward::bind::{LocalHost, SamePort};

/// How long an agent on demand stays without an open connection, unless told otherwise.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// `forward`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ForwardArgs {
    /// Targets, each with its ports: TYPE/NAME [LOCAL:]REMOTE[/udp] ...; a bare NAME is a pod
    #[arg(value_name = "TARGET PORT")]
    pub words: Vec<String>,

    /// File with targets in YAML or JSON, `-` for stdin (repeatable)
    #[arg(short = 'f', long, value_name = "FILE")]
    pub filename: Vec<PathBuf>,

    /// Address to listen on: an IP address, or localhost for both families (repeatable)
    #[arg(
        long,
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = "localhost"
    )]
    pub address: Vec<LocalHost>,

    /// Whether a local port that is not named has the remote port's number
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub same_port: SamePort,

    /// How to reach the target: through the agent, or by the API server's port-forward into the pod itself (for
    /// programs that listen on loopback there, and pods that a policy or a mesh shuts off); auto is the agent, and
    /// the other way for pods it cannot reach
    #[arg(long, value_name = "WAY", value_enum, default_value_t)]
    pub via: Via,

    /// Listen at once, start the agent with the first connection, and remove it when it is idle
    #[arg(long)]
    pub on_demand: bool,

    /// How long an agent on demand stays without an open connection [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse_duration)]
    pub idle_timeout: Option<Duration>,

    /// How long a UDP flow may be idle before it ends
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = go_duration::parse_duration)]
    pub udp_idle: Duration,

    /// The session
    #[command(flatten)]
    pub session: SessionFlags,
}

const EXAMPLES: &str = "\
Targets: svc/NAME[.NAMESPACE], pod/NAME, deploy/, rs/, sts/, ds/, job/NAME, host/NAME,
ip/ADDRESS.
A service is dialled by its name in the cluster, so the cluster balances it; of a workload a
ready pod is chosen for each connection; a host or an address is whatever the cluster reaches
under it.
Ports: REMOTE is a number or a name; LOCAL is the same number unless it is given; nothing or 0
in front of the colon is any free port.

Examples:
  # localhost:8080 -> port 80 of service web
  kubectl tunnel forward svc/web 8080:80

  # several targets, a named port on any free local one, and the cluster's DNS over UDP
  kubectl tunnel forward svc/db.shop 5432 deploy/api :http svc/kube-dns.kube-system 5353:53/udp

  # a database that only the cluster can reach
  kubectl tunnel forward host/db.internal 5432

  # a program that listens on loopback in its pod
  kubectl tunnel forward pod/worker-0 6060 --via=pod

  # all of a file, and an agent only while somebody connects
  kubectl tunnel forward -f targets.yaml --on-demand";
