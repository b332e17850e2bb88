//! What a start would be answered: its Job and pod by a server-side dry run, nothing of which exists at any time.
//!
//! The Job alone tells too little: Pod Security only warns of it, and a quota of pods does not count it. So the pod that
//! its controller would make is sent as well, and what a start follows by itself (a LimitRange, a quota's demand) is
//! followed here in the same way. Called by `doctor`.

use jiff::Timestamp;

use super::attempt::create::{self, Mode, Posted, Verdict};
use super::attempt::is_the_namespaces;
use super::{Plan, StartError};
use crate::cluster::{
    client::ApiServer,
    failure::Failure,
    identity::Identity,
    manifest::AgentSpec,
    names::{ObjectRef, SessionId},
    options::{AgentOptions, Architecture, Resources},
};

/// What became of one object.
#[derive(Debug)]
pub enum Answer {
    /// It would be taken.
    Admitted,
    /// It would not.
    Refused(StartError),
    /// A pod of ours would not, for a reason that may not concern the pod of a Job.
    Doubtful(Failure),
    /// It was not judged, for this reason.
    Unknown(String),
}

/// What became of both.
#[derive(Debug)]
pub struct Rehearsal {
    pub job: Answer,
    /// `None` without the right to create pods, which a session does not need.
    pub pod: Option<Answer>,
    /// Requests and limits that a start would take instead of those of its flags.
    pub followed: Option<Resources>,
}

/// Rehearses a start with `options` in the namespace of `server`.
pub async fn rehearse(
    server: &ApiServer,
    options: &AgentOptions,
    identity: &Identity,
    architecture: Architecture,
    may_create_pods: bool,
) -> Rehearsal {
    let session = SessionId::random();
    let mut plan = Plan {
        generation: 1,
        architecture,
        resources: options.resources.clone(),
        // Nodes are beyond a dry run.
        architecture_is_final: true,
        followed_limit_range: false,
        followed_quota: false,
    };
    let namespace = server.namespace();
    let draft = Draft {
        session: &session,
        options,
        identity,
        architecture,
        created: server.server_now().unwrap_or_else(Timestamp::now),
    };
    let pod = if may_create_pods {
        Some(loop {
            let resources = plan.resources.clone();
            let spec = draft.spec(&resources);
            let object = ObjectRef::new("pod", spec.name());
            match create::dry_run(server, namespace, &spec, object).await {
                Ok(Verdict::Admitted) => break Answer::Admitted,
                Ok(Verdict::Unknown(reason)) => break Answer::Unknown(reason),
                Ok(Verdict::Refused(failure)) => match plan.answer(&failure, options) {
                    Some(next) => plan = next,
                    None if is_the_namespaces(&failure.kind) => break Answer::Refused(failure.into()),
                    None => break Answer::Doubtful(failure),
                },
                Err(error) => break Answer::Refused(error),
            }
        })
    } else {
        None
    };
    let spec = draft.spec(&plan.resources);
    let job = match create::job(server, namespace, &spec, Mode::DryRun).await {
        Ok(Posted::Created(_)) => Answer::Admitted,
        Ok(Posted::Refused(error)) => Answer::Refused(error),
        Err(error) => Answer::Refused(error.into()),
    };
    Rehearsal {
        job,
        pod,
        followed: (plan.resources != options.resources).then_some(plan.resources),
    }
}

/// What the specs of a rehearsal share.
struct Draft<'a> {
    session: &'a SessionId,
    options: &'a AgentOptions,
    identity: &'a Identity,
    architecture: Architecture,
    created: Timestamp,
}

impl<'a> Draft<'a> {
    fn spec(&self, resources: &'a Resources) -> AgentSpec<'a> {
        AgentSpec {
            session: self.session,
            generation: 1,
            architecture: self.architecture,
            options: self.options,
            resources,
            identity: self.identity,
            // Of no secret: this agent never runs.
            secret_sha256: &[0; 32],
            command: "doctor",
            created: self.created,
        }
    }
}
