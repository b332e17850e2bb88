//! One example session for the unit tests of the cluster code.

use jiff::Timestamp;

use super::AgentSpec;
use crate::cluster::{
    identity::Identity,
    names::SessionId,
    options::{AgentOptions, AgentSource, Architecture, ImagePullPolicy, Mesh, Resources, TransportChoice},
};

/// Owns what an [`AgentSpec`] borrows.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) session: SessionId,
    pub(crate) options: AgentOptions,
    pub(crate) identity: Identity,
    secret_sha256: [u8; 32],
    created: Timestamp,
}

impl Fixture {
    pub(crate) fn new(created: Timestamp) -> Self {
        Self {
            session: "x7k2p9".parse().expect("a session id"),
            options: AgentOptions {
                source: AgentSource::Image("agent:1".to_owned()),
                image_pull_policy: ImagePullPolicy::IfNotPresent,
                image_pull_secrets: Vec::new(),
                patches: Vec::new(),
                mesh: Mesh::Exclude,
                architecture: None,
                keep: false,
                resources: Resources::standard(),
                pod_running_timeout: std::time::Duration::from_secs(60),
                grace: std::time::Duration::from_secs(30),
                grace_open: std::time::Duration::from_secs(120),
                hold: std::time::Duration::from_secs(10),
                max_lifetime: std::time::Duration::from_secs(86_400),
                transport: TransportChoice::Auto,
                allow_targets: Vec::new(),
            },
            identity: Identity::from_name("developer"),
            secret_sha256: [0xab; 32],
            created,
        }
    }

    pub(crate) fn spec(&self, architecture: Architecture) -> AgentSpec<'_> {
        AgentSpec {
            session: &self.session,
            generation: 1,
            architecture,
            options: &self.options,
            resources: &self.options.resources,
            identity: &self.identity,
            secret_sha256: &self.secret_sha256,
            command: "kubectl-tunnel proxy",
            created: self.created,
        }
    }
}
