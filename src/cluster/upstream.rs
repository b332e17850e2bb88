//! From targets to upstreams: what `forward` dials for what the user named.
//!
//! [`resolve`] checks all targets against the cluster and creates nothing. Services, hosts and addresses become a
//! name or address to dial; pods and workloads a [`PodGroup`], of which a pod is chosen for each connection.

mod group;
mod watches;

pub use self::group::{ChosenPod, NoPod, PodGroup};
pub use self::watches::Watches;
use super::api_error::ApiError;
use super::client::ApiServer;
use crate::cli::port::Protocol;
pub use crate::cli::target::Via;
use crate::cli::target::{RemotePort, TargetSpec};

/// One port of one target.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What the user named; without a namespace it is in the one in use.
    pub target: TargetSpec,
    /// Its port.
    pub port: RemotePort,
    /// What the port carries.
    pub protocol: Protocol,
    /// How to reach it. `Auto` is like `Agent` here: only `Pod` changes what is looked up.
    pub via: Via,
}

/// What is dialled for one [`Wanted`].
#[derive(Debug, Clone)]
pub enum Upstream {
    /// Always the same.
    Name {
        /// A name for the cluster's DNS, or an address without brackets.
        host: String,
        /// Never 0.
        port: u16,
    },
    /// Some pod of these.
    Pods {
        /// Where to [`PodGroup::choose`].
        group: PodGroup,
        /// The pod's port, for [`PodGroup::choose`]: of a Service it is the target port.
        port: RemotePort,
    },
}

/// What was found.
#[derive(Debug)]
pub struct Resolved {
    /// One for each wanted, in their order.
    pub upstreams: Vec<Upstream>,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// Why a target cannot be forwarded to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// There is no such object.
    #[error("{kind} \"{name}\" not found in namespace {namespace}")]
    NotFound {
        /// In the singular, as kubectl spells it.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Where it was looked for.
        namespace: String,
    },
    /// It has no such port.
    #[error("{target} has no {protocol} port {port}: {}", ports_text(ports))]
    NoPort {
        /// The target.
        target: String,
        /// What was asked for.
        port: RemotePort,
        /// Of this protocol.
        protocol: Protocol,
        /// Those it has, for people.
        ports: Vec<String>,
    },
    /// It cannot be done, whatever the cluster holds.
    #[error("{target}: {reason}")]
    Unfit {
        /// The target.
        target: String,
        /// Why, and what to type instead.
        reason: String,
    },
    /// A right is missing, or the API server cannot be reached.
    #[error("{target} cannot be looked up")]
    Api {
        /// The target.
        target: String,
        /// What the API server said.
        source: ApiError,
    },
}

fn ports_text(ports: &[String]) -> String {
    if ports.is_empty() {
        return "it lists none".to_owned();
    }
    format!("it has {}", ports.join(", "))
}

/// Looks up all targets at once. Creates nothing; the first error in the order of `wanted` is returned.
pub async fn resolve(server: &ApiServer, wanted: &[Wanted]) -> Result<Resolved, UpstreamError> {
    todo!()
}
