//! What can be typed: names, defaults and help text. What it means is decided by the commands.
//!
//! kubectl's flags are in kubectl's spelling ([`kube_flags`]); the agent's pod is described by
//! [`agent_flags`], the local proxy by [`proxy_flags`], exposed ports by [`port`] and [`expose_flags`],
//! what `forward` leads to by [`target`].

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{Resettable, StyledStr};
use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand};

pub mod agent_flags;
pub mod completion_args;
pub mod config_args;
pub mod doctor_args;
pub mod expose_flags;
pub mod forward_args;
pub mod go_duration;
pub mod kube_flags;
pub mod port;
pub mod proxy_flags;
pub mod status_args;
pub mod target;

use agent_flags::AgentFlags;
use completion_args::CompletionArgs;
use config_args::{ConfigArgs, ConfigFlags};
use doctor_args::DoctorArgs;
use expose_flags::ExposeFlags;
use forward_args::ForwardArgs;
use kube_flags::KubeFlags;
use proxy_flags::ProxyFlags;
use status_args::{StatusArgs, StopArgs};

use crate::logging::LogFormat;
use crate::metrics::MetricsAddress;
use crate::program;
use crate::ui::Output;

/// Reach everything in the cluster by name, and let the cluster reach your laptop.
#[derive(Debug, Parser)]
#[command(version, about, long_about = LONG_ABOUT, after_help = EXAMPLES, max_term_width = 100)]
#[command(bin_name = "kubectl tunnel", disable_help_subcommand = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,

    /// kubectl's flags
    #[command(flatten)]
    pub kube: KubeFlags,

    /// Output flags
    #[command(flatten)]
    pub output: OutputFlags,

    /// Where else options come from
    #[command(flatten)]
    pub config: ConfigFlags,
}

/// The definition of the command line, in which the program is called what people call it.
#[must_use]
pub fn command() -> clap::Command {
    // Completion is about the file, which has the same name everywhere else.
    let command = renamed(Cli::command(), program::named);
    command
        .mut_subcommand("completion", |completion| {
            renamed(completion, program::named_file)
        })
        .bin_name(program::name())
}

/// The same definition with other names in its texts.
fn renamed(command: clap::Command, name: fn(&str) -> String) -> clap::Command {
    let change = |text: Option<&StyledStr>| {
        Resettable::from(text.map(|text| StyledStr::from(name(&text.to_string()))))
    };
    let command = command.mut_args(|arg| {
        let (help, long_help) = (change(arg.get_help()), change(arg.get_long_help()));
        arg.help(help).long_help(long_help)
    });
    let (about, long_about) = (change(command.get_about()), change(command.get_long_about()));
    let (after, long_after) = (
        change(command.get_after_help()),
        change(command.get_after_long_help()),
    );
    command
        .about(about)
        .long_about(long_about)
        .after_help(after)
        .after_long_help(long_after)
        .mut_subcommands(|sub| renamed(sub, name))
}

const LONG_ABOUT: &str = "\
Reach everything in the cluster by name, and let the cluster reach your laptop.

Starts a small agent in your namespace, talks to it over the API server's exec, and removes it
at the end.
It needs the ClusterRole `edit` in that namespace and nothing else: no operator, no root, no
image of its own.";

const EXAMPLES: &str = "\
Examples:
  # reach everything the namespace can reach, through one local port
  kubectl tunnel proxy
  curl -x http://127.0.0.1:6080 http://web/

  # let pods reach a program on this laptop
  kubectl tunnel expose 1234

  # local ports for what is in the cluster
  kubectl tunnel forward svc/web 8080:80 deploy/api :http

  # why does it not work
  kubectl tunnel doctor

  # remove what a dead session left behind
  kubectl tunnel cleanup";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// One local port that speaks HTTP proxy and SOCKS, and routes plain HTTP, TLS and h2c by name
    Proxy(ProxyArgs),
    /// A Service in the cluster whose connections come to this laptop
    Expose(ExposeArgs),
    /// Local ports for services, pods, workloads, hosts and addresses, TCP and UDP
    Forward(Box<ForwardArgs>),
    /// List your sessions: those that run here, elsewhere, and what dead ones left
    Status(StatusArgs),
    /// End sessions, from any terminal
    Stop(StopArgs),
    /// Remove what dead sessions of yours left in the cluster
    Cleanup(CleanupArgs),
    /// Check everything a session needs and say what to do; creates nothing but with --deep
    Doctor(Box<DoctorArgs>),
    /// Show what options are set to, and by what
    Config(ConfigArgs),
    /// Complete command lines: for kubectl, or a shell's script
    Completion(CompletionArgs),
    /// Write the manual's pages
    #[command(hide = true)]
    Man(ManArgs),
    /// Print the versions of the plugin, of the agents it carries, and of the API server
    Version(VersionArgs),
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output flags")]
pub struct OutputFlags {
    /// Log level: 0 warnings, 1-2 info and one line a request, 3-4 each connection's end, 5 and more everything
    #[arg(short = 'v', long = "v", value_name = "N", global = true, num_args = 0..=1, default_value_t = 0,
          default_missing_value = "1", require_equals = true, help_heading = "Output flags")]
    pub verbosity: u8,

    /// Say less: only errors and the ready lines; twice: only errors
    #[arg(short = 'q', long, global = true, action = ArgAction::Count, help_heading = "Output flags")]
    pub quiet: u8,

    /// What stdout carries: text, or one JSON object a line; wide, yaml and name are for `status`
    #[arg(
        short = 'o',
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        help_heading = "Output flags"
    )]
    pub output: Output,

    /// How log lines look
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        help_heading = "Output flags"
    )]
    pub log_format: LogFormat,
}

/// Flags of the commands that run a session.
#[derive(Debug, Clone, Args)]
pub struct SessionFlags {
    /// Write the ready event to this file once everything works; it is removed at the end
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,

    /// Run in the background: return when it is ready, print its id, write what it says to a log file; `status` shows
    /// it, `stop ID` ends it. Credential plugins that ask something cannot
    #[arg(long)]
    pub detach: bool,

    /// Serve metrics in the format of `OpenMetrics` at `/metrics` of this address: PORT or IP:PORT; 0 is any free port
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<MetricsAddress>,

    /// How long to try to reconnect to the agent, counted while awake; 0 ends the session at the first loss
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = go_duration::parse_duration)]
    pub reconnect_max: Duration,

    /// Replace the connection to the agent, without a pause, before it is this old [default: learned from how old
    /// connections become on this path]
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse_duration)]
    pub transport_max_age: Option<Duration>,

    /// The agent's pod
    #[command(flatten)]
    pub agent: AgentFlags,
}

/// `proxy`
#[derive(Debug, Args)]
#[command(after_help = PROXY_EXAMPLES)]
pub struct ProxyArgs {
    /// The local port
    #[command(flatten)]
    pub proxy: ProxyFlags,

    /// How long a UDP flow (SOCKS5 UDP ASSOCIATE) may be idle before it ends
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = proxy_flags::udp_idle,
          help_heading = "Proxy options")]
    pub udp_idle: Duration,

    /// The session
    #[command(flatten)]
    pub session: SessionFlags,
}

impl ProxyArgs {
    /// Gives the local port what is a flag of the command.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.proxy.udp_idle = self.udp_idle;
        self
    }
}

const PROXY_EXAMPLES: &str = "\
Names are resolved in the cluster, as a pod of the namespace would: web, web.other,
web.other.svc, a pod's IP.

The port tells by the first bytes what is spoken: HTTP proxy (absolute form and CONNECT), SOCKS5
(with UDP), SOCKS4 and 4a, and, by name alone, plain HTTP (Host header), TLS (server name, port
443) and HTTP/2 without TLS (:authority). By name alone only names of the cluster are taken:
NAME, NAME.localhost, NAME.NAMESPACE.svc, the cluster's domain.

Examples:
  # one port for everything
  kubectl tunnel proxy
  curl -x http://127.0.0.1:6080 http://web/
  curl --socks5-hostname 127.0.0.1:6080 http://web.dev.svc.cluster.local/
  curl -H 'Host: web' http://127.0.0.1:6080/

  # TLS by its server name, to port 443; HTTP/2 without TLS (gRPC) by its first :authority
  curl --connect-to web.dev.svc:443:127.0.0.1:6080 https://web.dev.svc/
  grpcurl -plaintext -authority api.dev.svc:8080 127.0.0.1:6080 list

  # a unix socket, which only you can open
  kubectl tunnel proxy --listen unix:/tmp/tunnel.sock
  curl --unix-socket /tmp/tunnel.sock http://web/

  # one line for each request
  kubectl tunnel proxy -v

  # for a whole shell, until `kill $KUBECTL_TUNNEL_PID`: any free port, and the variables
  eval \"$(kubectl tunnel proxy --listen 127.0.0.1:0 --print-env &)\"

  # two doors, one for the local network (it warns: who reaches it reaches the cluster)
  kubectl tunnel proxy --listen 127.0.0.1:6080 --listen 192.168.0.5:6080 --auth-file users.txt";

/// `expose`
#[derive(Debug, Args)]
#[command(after_help = EXPOSE_EXAMPLES)]
pub struct ExposeArgs {
    /// The Service's name, then ports: [SERVICEPORT:][HOST:]LOCALPORT[/udp], or SERVICEPORT:unix:PATH
    #[arg(value_name = "[NAME] PORT", required = true, num_args = 1..)]
    pub name_and_ports: Vec<String>,

    /// Open the proxy of `kubectl tunnel proxy` in the same session
    #[arg(long)]
    pub proxy: bool,

    /// The Service
    #[command(flatten)]
    pub flags: ExposeFlags,

    /// The local port of --proxy
    #[command(flatten)]
    pub proxy_flags: ProxyFlags,

    /// The session
    #[command(flatten)]
    pub session: SessionFlags,
}

impl ExposeArgs {
    /// Gives the local port of --proxy what is a flag of the exposed ports as well.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.proxy_flags.udp_idle = self.flags.udp_idle;
        self
    }
}

const EXPOSE_EXAMPLES: &str = "\
Without a name the Service is called tunnel-PORT. An existing Service is never changed.
While it runs, every pod that may reach the namespace can connect to the program, unless
--allow-from says who.
A unix socket knows no reset: when a caller resets its connection, the program's is just closed.
By UDP localhost is 127.0.0.1; a program that listens on IPv6 alone is [::1]. Datagrams arrive
whole, up to 65,507 bytes, or not at all: each caller's wait in a queue of 1 MiB, which drops
the oldest.

Examples:
  # Service tunnel-1234, port 1234 -> localhost:1234
  kubectl tunnel expose 1234

  # a named Service with two ports, and the proxy in the same session
  kubectl tunnel expose api 80:1234 443:8443 --proxy

  # a resolver: one number by UDP and TCP
  kubectl tunnel expose dns 53:5353/udp 53:5353/tcp

  # a program on another host the laptop can reach
  kubectl tunnel expose db 5432:db.lan:5432

  # a program behind a unix socket, which learns its callers' addresses
  kubectl tunnel expose app 80:unix:/run/app.sock --proxy-protocol

  # only for some pods, where the cluster's network enforces NetworkPolicy
  kubectl tunnel expose 1234 --allow-from app=web,tier!=db --allow-from namespace/shop

  # what other tools look for on a Service
  kubectl tunnel expose 1234 --service-label team=shop --service-annotation example.com/owner=me";

/// `cleanup`
#[derive(Debug, Args)]
#[command(after_help = CLEANUP_EXAMPLES)]
pub struct CleanupArgs {
    /// Only print what would be removed
    #[arg(long)]
    pub dry_run: bool,

    /// In every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,

    /// Also remove sessions that cannot be told dead from alive
    #[arg(long)]
    pub force: bool,
}

const CLEANUP_EXAMPLES: &str = "\
Sessions end by themselves a moment after their command, however that ended: this is for who
cannot wait.

Examples:
  # what dead sessions of yours left in the namespace
  kubectl tunnel cleanup

  # in every namespace, only looking
  kubectl tunnel cleanup -A --dry-run";

/// `man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where to
    pub folder: PathBuf,
}

/// `version`
#[derive(Debug, Args)]
#[command(after_help = VERSION_EXAMPLES)]
pub struct VersionArgs {
    /// Do not ask the server
    #[arg(long)]
    pub client: bool,
}

const VERSION_EXAMPLES: &str = "\
Examples:
  # plugin, agent, wire and API server
  kubectl tunnel version

  # for a script, without a cluster
  kubectl tunnel version --client -o json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_help_has_examples_in_kubectls_form() {
        fn check(command: &clap::Command) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                check(sub);
            }
            let after = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            for line in after.lines() {
                assert!(line.chars().count() <= 98, "help is 100 columns wide: {line}");
            }
            let examples = after.split_once("Examples:\n").map(|(_, examples)| examples);
            let examples = examples.unwrap_or_else(|| panic!("{} has no examples", command.get_name()));
            for example in examples.split("\n\n") {
                let (comment, line) = example.split_once('\n').expect(example);
                assert!(comment.starts_with("  # "), "{example}");
                let calls = ["kubectl tunnel", "kubectl-tunnel"]
                    .iter()
                    .any(|name| line.contains(name));
                assert!(
                    calls && line.starts_with("  ") || line.starts_with("  curl"),
                    "{example}"
                );
            }
        }
        check(&command());
    }

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn usage_is_what_people_type() {
        let error = Cli::try_parse_from(["kubectl-tunnel", "proxy", "--nope"]).unwrap_err();
        assert!(
            error.to_string().contains("Usage: kubectl tunnel proxy"),
            "{error}"
        );
    }

    #[test]
    fn one_udp_idle_serves_every_door_of_a_command() {
        let parse = |words: &[&str]| Cli::try_parse_from([&["kubectl-tunnel"], words].concat());
        let idle = |words: &[&str]| {
            let command = parse(words).unwrap().command;
            if let Command::Proxy(arguments) = command {
                arguments.shared().proxy.udp_idle
            } else if let Command::Expose(arguments) = command {
                arguments.shared().proxy_flags.udp_idle
            } else {
                panic!("{command:?}")
            }
        };
        assert_eq!(idle(&["proxy"]), Duration::from_secs(60));
        assert_eq!(idle(&["proxy", "--udp-idle", "1m30s"]), Duration::from_secs(90));
        assert_eq!(idle(&["expose", "80", "--proxy"]), Duration::from_secs(60));
        let both = ["expose", "53/udp", "--proxy", "--udp-idle=5s"];
        assert_eq!(idle(&both), Duration::from_secs(5));
        assert!(parse(&["proxy", "--udp-idle", "999ms"]).is_err());
    }

    #[test]
    fn v_is_kubectls_number() {
        let verbosity = |flags: &[&str]| {
            let arguments = ["kubectl-tunnel", "version"].iter().chain(flags);
            Cli::try_parse_from(arguments).map(|cli| cli.output.verbosity)
        };
        assert_eq!(verbosity(&[]).unwrap(), 0);
        assert_eq!(verbosity(&["-v"]).unwrap(), 1);
        assert_eq!(verbosity(&["-v=6"]).unwrap(), 6);
        assert_eq!(verbosity(&["--v=2"]).unwrap(), 2);
        assert!(verbosity(&["-v=x"]).is_err());
    }
}
