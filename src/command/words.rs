//! The life of a session in words: the steps of its start, and why it did not start or is over. Pure.

use crate::cluster::failure::{Failure, FailureKind};
use crate::cluster::lease::LeaseEnd;
use crate::cluster::options::AgentOptions;
use crate::cluster::rights::RightsError;
use crate::cluster::service::ServiceError;
use crate::cluster::start::{StartError, StartStep};
use crate::cluster::watch::AgentEnd;
use crate::error::Error;

/// Why a session is over although nobody asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    /// A fragment for "the session was lost: ...".
    pub(super) text: String,
    /// The agent's last words.
    pub(super) log: Vec<String>,
}

impl Reason {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            log: Vec::new(),
        }
    }

    /// What the cluster says about the agent.
    pub(super) fn of_agent(end: &AgentEnd) -> Self {
        Self {
            text: end.to_string(),
            log: match end {
                AgentEnd::Failed(failure) => last_log(failure).to_vec(),
                AgentEnd::NamespaceTerminating | AgentEnd::JobDeleted { .. } | AgentEnd::PodDeleted => {
                    Vec::new()
                }
            },
        }
    }

    /// Why the lease is no longer renewed.
    pub(super) fn of_lease(end: Option<LeaseEnd>, options: &AgentOptions) -> Self {
        match end {
            Some(LeaseEnd::Expired) => Self::new(format!(
                "it reached its maximum age (--max-lifetime {})",
                humantime::format_duration(options.max_lifetime)
            )),
            Some(LeaseEnd::Gone) | None => Self::new("its job is gone"),
        }
    }
}

fn last_log(failure: &Failure) -> &[String] {
    if let FailureKind::Exited { last_log, .. } = &failure.kind {
        last_log
    } else {
        &[]
    }
}

/// A step of the start, for the spinner.
pub(super) fn step_text(step: &StartStep, namespace: &str) -> String {
    match step {
        StartStep::CheckingRights => "checking rights".to_owned(),
        StartStep::Creating => format!("creating the agent in namespace {namespace}"),
        StartStep::Scheduling => "waiting for a node".to_owned(),
        StartStep::Pulling { image } => format!("pulling {image}"),
        StartStep::Starting => "starting the agent".to_owned(),
        StartStep::FollowingPolicy { resources } => {
            format!("the namespace's policy refused the agent's requests and limits; trying {resources}")
        }
    }
}

/// A cluster that cannot be reached, or does not know us, is that error and not a failed start.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other error stays what it is"
)]
pub(super) fn start_error(error: StartError) -> Error {
    match error {
        StartError::Api(api)
        | StartError::Rights(RightsError::Api(api))
        | StartError::Service(ServiceError::Api(api))
            if api.is_about_access() =>
        {
            Error::Api(api)
        }
        error => Error::Start(error),
    }
}
