//! The agent of `kubectl tunnel`: runs in the pod, dials and accepts for the plugin.
//!
//! Reading order, which is also the way of a byte:
//!
//! ```text
//!   attach       what exec starts: hands its stdin and stdout over and stays
//!   attachments  the unix socket: takes them and makes a transport of them
//!   entrance     a port of the loopback: takes those that come by port-forward
//!   agent        proves the transport, decides whose session it carries and when all is over (idle, status)
//!   live         the session that is kept while transports come and go under it
//!   streams      what the plugin asks for, one task each
//!   dial         resolve (hosts), ask the policy, connect        forward
//!   listen       bind, accept, open a stream toward the plugin   reverse
//!   udp          the same for datagrams                          both
//!   edge         relays between a stream and a TCP connection; resets what ended early
//! ```
//!
//! `config` is the environment, `log` the JSON lines. Everything that both programs must agree on is in `tunnel-wire`,
//! what both know about sockets in `tunnel-edge`.
//!
//! Invariants: the agent ends by itself, whatever happens to the plugin; it listens on no port but the exposed ones and,
//! on the loopback, the entrance, which answers only to the session's plugin; it needs no right, no shell and no
//! writable file system but the unix socket's; nothing blocks its one thread.

pub mod agent;
pub mod attach;
pub mod attachments;
pub mod config;
mod dial;
mod edge;
pub mod entrance;
pub mod hosts;
pub mod idle;
mod listen;
mod live;
pub mod log;
pub mod policy;
mod resolve;
pub mod status;
mod streams;
mod udp;

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use agent::{Agent, Exit, Transport};
pub use config::{Config, ConfigError};
pub use entrance::Entrance;
pub use log::Log;

/// A future to spawn that there are few of at a time. One type for all: each type that is spawned costs two kilobytes.
type Task<T = ()> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Runs one agent in this process, over the transports that arrive: what tests and the playground call.
///
/// It installs no signal handler, listens on no unix socket and ends no process. Its log goes to the
/// transports only. An entrance that the configuration wants is there, unless it cannot be bound.
pub async fn serve(
    config: Config,
    transports_rx: mpsc::Receiver<Transport>,
    shutdown: CancellationToken,
) -> Exit {
    Agent::new(config, Log::new(|_| ()))
        .open_entrance()
        .await
        .run(transports_rx, shutdown)
        .await
}
