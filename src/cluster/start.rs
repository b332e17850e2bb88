//! Starting an agent: from the access review to the moment its container runs.
//!
//! ```text
//!   rights, identity, architecture, events' version, Service name   (one round trip, in parallel)
//!   ConfigMap body goes out ------------------+  dry run of the pod (in parallel; tells refusals)
//!   POST job <--- all but its metadata sent --+  its uid completes the ConfigMap
//!   pod has a node: POST service              |  watch pods and events
//!   event Started (or status Running): done, exec now
//! ```
//!
//! The Service waits for the node, 20 ms after the Job, because until then the start may still
//! change to another architecture under another Job, and would take the Service with it.
//! Everything is written into the [`Footprint`] before it is asked for, so [`super::end`] can
//! undo a start that failed, or whose future was dropped, at any point. [`succeed`] starts the
//! next agent of a session that lost its own.

mod attempt;
mod prepare;
pub mod rehearsal;
mod succession;

use std::sync::Arc;

use jiff::Timestamp;

pub use self::succession::succeed;
use self::{
    attempt::{Attempt, Setback},
    prepare::Preparation,
    succession::Succession,
};
pub use super::wait::StartStep;
use super::{
    agent::Agent,
    agents::AgentBinaryError,
    api_error::ApiError,
    client::ApiServer,
    failure::{Failure, FailureKind},
    footprint::Footprint,
    manifest::{AgentSpec, ServiceRequest},
    options::{AgentOptions, Architecture, Resources},
    patch::{PatchError, PodPatch},
    policy,
    rights::RightsError,
    service::ServiceError,
    sweep::AskAgent,
};

/// What is to be started.
#[derive(Clone)]
pub struct StartRequest {
    pub options: AgentOptions,
    /// SHA-256 of the session's secret.
    pub secret_sha256: [u8; 32],
    /// The command line for the annotation, see [`super::manifest::redacted_command`].
    pub command: String,
    /// Makes a Service that leads to the agent.
    pub service: Option<Arc<ServiceRequest>>,
    /// Asks the agent of another session whether it is still in use, by exec.
    pub ask: AskAgent,
}

impl std::fmt::Debug for StartRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StartRequest")
            .field("options", &self.options)
            .field("command", &self.command)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// Why no agent was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Rights(#[from] RightsError),
    #[error(transparent)]
    Patch(#[from] PatchError),
    #[error(transparent)]
    Binary(#[from] AgentBinaryError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error("namespace {0} does not exist")]
    NoNamespace(String),
    /// The cluster refused or could not run it.
    #[error(transparent)]
    Failed(#[from] Failure),
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// What a start may still change about itself.
#[derive(Debug, Clone)]
struct Plan {
    generation: u32,
    architecture: Architecture,
    resources: Resources,
    /// The other architecture was tried already, or the user chose one.
    architecture_is_final: bool,
    /// A limit range was followed already.
    followed_limit_range: bool,
    /// A quota's demand was followed already.
    followed_quota: bool,
}

/// Starts an agent in the namespace of `server` and returns when its container runs.
///
/// At most `pod_running_timeout` after the Job was created. `progress` is called on every step;
/// it must not block. Cancel by dropping the future; then, and after an error, call
/// [`super::end::end`] with the same footprint.
pub async fn start(
    server: &ApiServer,
    request: &StartRequest,
    footprint: &Footprint,
    progress: &(dyn Fn(&StartStep) + Send + Sync),
) -> Result<Agent, StartError> {
    progress(&StartStep::CheckingRights);
    let preparation = prepare::prepare(server, request, footprint).await?;
    progress(&StartStep::Creating);
    let starter = Starter {
        server,
        request,
        footprint,
        progress,
        preparation: &preparation,
        succession: None,
    };
    starter.run(Plan::first(&request.options, &preparation)).await
}

/// All that the attempts of one start share.
#[derive(Clone, Copy)]
struct Starter<'a> {
    server: &'a ApiServer,
    request: &'a StartRequest,
    footprint: &'a Footprint,
    progress: &'a (dyn Fn(&StartStep) + Send + Sync),
    preparation: &'a Preparation,
    /// The session had an agent before.
    succession: Option<Succession>,
}

impl Starter<'_> {
    /// One attempt after the other, until one leads to an agent or no other plan is left.
    async fn run(&self, mut plan: Plan) -> Result<Agent, StartError> {
        loop {
            let attempt = Attempt {
                starter: *self,
                spec: plan.spec(self.request, self.preparation, self.footprint),
            };
            match attempt.run(&mut plan).await {
                Ok(agent) => return Ok(agent),
                Err(Setback::Replan { next, failure }) => {
                    tracing::info!(%failure, "start changes its plan");
                    if next.resources != plan.resources {
                        (self.progress)(&next.following());
                    }
                    plan = next;
                }
                Err(Setback::NameTaken) => plan.generation += 1,
                Err(Setback::Final(error)) => match self.succession {
                    Some(succession) if succession.outlasts(&error) => {
                        tracing::info!(%error, "waiting for the agent before to make room");
                        succession::make_room(self.server, self.footprint).await;
                        plan.generation += 1;
                    }
                    _ => return Err(error),
                },
            }
        }
    }
}

impl Plan {
    fn first(options: &AgentOptions, preparation: &Preparation) -> Self {
        Self {
            generation: 1,
            architecture: preparation.architecture,
            resources: options.resources.clone(),
            architecture_is_final: options.architecture.is_some(),
            followed_limit_range: false,
            followed_quota: false,
        }
    }

    /// The one after `previous`, whose names are free again unless its Job is `present`.
    fn after(previous: &Agent, present: bool, options: &AgentOptions) -> Self {
        Self {
            generation: previous.generation + u32::from(present),
            architecture: previous.architecture,
            resources: previous.resources.clone(),
            architecture_is_final: options.architecture.is_some(),
            followed_limit_range: false,
            followed_quota: false,
        }
    }

    fn spec<'a>(
        &self,
        request: &'a StartRequest,
        preparation: &'a Preparation,
        footprint: &'a Footprint,
    ) -> OwnedSpec<'a> {
        OwnedSpec {
            request,
            preparation,
            footprint,
            generation: self.generation,
            architecture: self.architecture,
            resources: self.resources.clone(),
            created: preparation.now,
        }
    }

    /// Says that requests and limits are no longer what the flags say.
    fn following(&self) -> StartStep {
        StartStep::FollowingPolicy {
            resources: self.resources.to_string(),
        }
    }

    /// The plan that answers `failure`, if there is one that was not tried.
    fn answer(&self, failure: &Failure, options: &AgentOptions) -> Option<Self> {
        let mut next = self.clone();
        // A selector of the user's own may be what no node fits.
        let ours = !options.patches.iter().any(PodPatch::chooses_node);
        if failure.kind == FailureKind::NoMatchingNode && !self.architecture_is_final && ours {
            next.architecture = self.architecture.other();
            next.architecture_is_final = true;
            return options.source.offers(next.architecture).then_some(next);
        }
        if failure.kind == FailureKind::LimitRange && !self.followed_limit_range {
            next.followed_limit_range = true;
        } else if matches!(failure.kind, FailureKind::QuotaDemands(_)) && !self.followed_quota {
            next.followed_quota = true;
        } else {
            return None;
        }
        next.resources = policy::follow(&self.resources, failure)?;
        Some(next)
    }
}

/// An [`AgentSpec`] together with the resources of its plan.
#[derive(Debug)]
struct OwnedSpec<'a> {
    request: &'a StartRequest,
    preparation: &'a Preparation,
    footprint: &'a Footprint,
    generation: u32,
    architecture: Architecture,
    resources: Resources,
    created: Timestamp,
}

impl OwnedSpec<'_> {
    fn get(&self) -> AgentSpec<'_> {
        AgentSpec {
            session: self.footprint.session(),
            generation: self.generation,
            architecture: self.architecture,
            options: &self.request.options,
            resources: &self.resources,
            identity: &self.preparation.identity,
            secret_sha256: &self.request.secret_sha256,
            command: &self.request.command,
            created: self.created,
        }
    }
}

#[cfg(test)]
mod tests;
