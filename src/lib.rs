//! The plugin of `kubectl tunnel`: both directions between a laptop and a Kubernetes namespace over one WebSocket, by
//! exec, and by port-forward where that may be had and is better.
//!
//! # The data path
//!
//! ```text
//!   forward  listener accepts -> Door::open -> [stream | session | link | cluster/exec or port_forward] -> agent dials -> relay
//!   reverse  agent accepts -> [the same, backwards] -> reverse dials the local program -> relay
//! ```
//!
//! # Code map
//!
//! | module | owns |
//! |---|---|
//! | [`cli`] | what can be typed |
//! | [`command`] | one verb a file; the life of a session; where the parts meet |
//! | [`cluster`] | kubeconfig, the API client, the objects and their life, exec as a byte pipe |
//! | [`session`] | the session with one agent, over as many transports as it takes; where it stands |
//! | [`listener`] | the local port: HTTP proxy, SOCKS, routing by Host header, TLS name and h2c authority |
//! | [`forward`] | local ports of `forward`, TCP and UDP; the ways to an upstream |
//! | [`reverse`] | connections from the cluster to local programs |
//! | [`control`], [`metrics`] | how a running command is seen and stopped from outside |
//! | [`traffic`] | the counters that both tell |
//! | [`ui`] | the terminal, JSON events, the ready file |
//! | [`error`] | exit codes and hints |
//! | [`program`] | what the program is called |
//! | [`config`] | flags, environment, file and defaults: one layer for all options |
//! | [`logging`], [`shutdown`] | `tracing`, signals |
//!
//! What both programs must agree on is `tunnel-wire`; the other program is `tunnel-agent`.
//!
//! Architecture invariant: `cluster` and `session` never import each other.
//! Architecture invariant: only `ui` writes to the terminal.

pub mod cli;
pub mod cluster;
pub mod command;
pub mod config;
pub mod control;
pub mod error;
pub mod forward;
pub mod listener;
mod located;
pub mod logging;
pub mod metrics;
pub mod program;
pub mod reverse;
pub mod session;
pub mod shutdown;
pub mod traffic;
pub mod ui;

/// Lets the process open as many files as the system allows: each connection needs one.
pub fn raise_file_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "limit of open files not raised");
        }
    }
}
