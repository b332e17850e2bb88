//! The flags of `expose` alone: who may come in, what the program is told, what the Service carries.
//!
//! Owns their names and help. What they mean is checked by `command/expose/plan.rs`, before anything is created.

use std::time::Duration;

use clap::Args;

use super::go_duration;
use crate::reverse::ProxyProtocol;

/// The flags as typed.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Service flags")]
pub struct ExposeFlags {
    /// Let only these connect (repeatable): app=web,tier!=db | namespace/NAME[:app=web] | 10.1.0.0/16
    ///
    /// Pods of the namespace by their labels, all pods or some of another namespace, or addresses. Makes a
    /// NetworkPolicy, which needs the right to `create networkpolicies` and works only where the cluster's network
    /// enforces them. Policies add up: another one that selects the agent's pod lets in whom it allows as well.
    #[arg(long, value_name = "PEER")]
    pub allow_from: Vec<String>,

    /// Begin each connection to the program with a PROXY protocol header, which names the caller [v2 when no version
    /// is named]
    ///
    /// Of version 1 (text) or 2 (binary), as HAProxy specifies it: the caller's address as the pod saw it, and the
    /// Service's. A caller of another family than the Service's is UNKNOWN (v1) or unspecified (v2). Only for TCP
    /// ports, and for programs that expect it on every connection.
    #[arg(long, value_name = "VERSION", value_enum, num_args = 0..=1, require_equals = true,
          default_missing_value = "v2")]
    pub proxy_protocol: Option<ProxyProtocol>,

    /// How long a caller of a UDP port may be silent before its next datagram counts as a new caller's
    ///
    /// Each caller's address and port is a flow, with a socket of its own toward the program and one of the session's
    /// 1,024 streams. Callers that use a new port for each question, as resolvers do, want a few seconds. With --proxy
    /// it holds for the flows of SOCKS5 UDP ASSOCIATE too.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = go_duration::parse_duration)]
    pub udp_idle: Duration,

    /// Label for the Service (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub service_label: Vec<String>,

    /// Annotation for the Service (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub service_annotation: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        ports: Vec<String>,
        #[command(flatten)]
        flags: ExposeFlags,
    }

    #[test]
    fn a_bare_proxy_protocol_is_version_2_and_takes_no_port_for_its_value() {
        let parse = |words: &[&str]| Command::try_parse_from([&["test"], words].concat());
        for (words, version) in [
            (&["80"][..], None),
            (&["--proxy-protocol", "80"], Some(ProxyProtocol::V2)),
            (&["80", "--proxy-protocol=v1"], Some(ProxyProtocol::V1)),
            (&["80", "--proxy-protocol=v2"], Some(ProxyProtocol::V2)),
        ] {
            let command = parse(words).unwrap();
            assert_eq!(command.flags.proxy_protocol, version, "{words:?}");
            assert_eq!(command.ports, ["80"]);
        }
        assert!(parse(&["80", "--proxy-protocol=v3"]).is_err());
    }

    #[test]
    fn a_selector_is_one_value() {
        let words = [
            "test",
            "80",
            "--allow-from",
            "a=b,c!=d",
            "--allow-from",
            "10.0.0.0/8",
        ];
        let command = Command::try_parse_from(words).unwrap();
        assert_eq!(command.flags.allow_from, ["a=b,c!=d", "10.0.0.0/8"]);
    }
}
