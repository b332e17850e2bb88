//! One started agent: the names and UIDs by which everybody else finds it.

use super::{
    names::{AGENT_CONTAINER, SessionId},
    options::{Architecture, Resources},
};
use crate::cli::port::Protocol;

/// What a start leads to. The transport execs into it, the lease and the end use its Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    pub namespace: String,
    pub session: SessionId,
    pub generation: u32,
    pub job_name: String,
    pub job_uid: String,
    pub pod_name: String,
    pub pod_uid: String,
    pub architecture: Architecture,
    /// What the flags said, or what the namespace's policy made of it.
    pub resources: Resources,
    /// Whether we may port-forward into its pod, as far as could be asked.
    pub port_forward: bool,
    /// Path of the agent's binary in the container.
    pub binary: &'static str,
    /// The Service of `expose`.
    pub service: Option<AgentService>,
}

/// A Service that leads to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentService {
    pub name: String,
    /// Empty if the cluster gave none.
    pub cluster_ip: String,
    /// Service ports with the ports the agent has to bind for them.
    pub ports: Vec<AgentServicePort>,
}

/// One port of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentServicePort {
    pub name: String,
    pub port: u16,
    pub protocol: Protocol,
    pub target_port: u16,
}

impl Agent {
    /// The container to exec into; a mesh may have put others beside it.
    pub fn container(&self) -> &'static str {
        AGENT_CONTAINER
    }

    /// The command of an exec: `attach` or `state`.
    pub fn command(&self, verb: &str) -> [String; 2] {
        [self.binary.to_owned(), verb.to_owned()]
    }
}
