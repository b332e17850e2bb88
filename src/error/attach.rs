//! Why there is no way into the agent's container, in words; whether that is final for a session.

use std::time::Duration;

use crate::cluster::api_error::ApiError;
use crate::cluster::client::AccessError;
use crate::cluster::exec::ExecEnd;
use crate::cluster::failure::Failure;
use crate::cluster::watch::AgentEnd;
use crate::session::{SecondError, TransportError};
use tunnel_wire::hello::HelloError;

/// Why an exec or a port-forward did not lead to the agent.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The API server did not grant it.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The exec ended before the agent answered.
    #[error("{}", exec_text(.0))]
    Ended(ExecEnd),
    /// There are no fresh credentials, or no cluster to use them with.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The credentials did not come.
    #[error("no credentials within {} s", .after.as_secs())]
    Credentials {
        /// How long was waited.
        after: Duration,
    },
    /// The container is gone.
    #[error(transparent)]
    Container(Failure),
    /// The agent was there before, and is no more.
    #[error("{0}")]
    Gone(AgentEnd),
    /// What answered is not this session's agent.
    #[error("{error}{}", log_text(.log))]
    Hello {
        /// What was wrong with the answer.
        error: HelloError,
        /// What the agent said.
        log: Vec<String>,
    },
    /// The agent is there, but not by port-forward, which is wanted.
    #[error("--transport=port-forward cannot be had: {0}")]
    Second(SecondError),
}

impl TransportError for AttachError {
    fn is_final(&self) -> bool {
        match self {
            Self::Gone(_) | Self::Container(_) => true,
            Self::Api(_)
            | Self::Ended(_)
            | Self::Access(_)
            | Self::Credentials { .. }
            | Self::Hello { .. }
            | Self::Second(_) => false,
        }
    }

    fn rules_out_second(&self) -> bool {
        let Self::Api(error) = self else { return false };
        match error {
            ApiError::Forbidden { .. }
            | ApiError::Invalid { .. }
            | ApiError::Upgrade { .. }
            | ApiError::UnexpectedAnswer { .. } => true,
            // What a gateway says to requests that it does not know.
            ApiError::Server { code, .. } => matches!(code, 405 | 501),
            // The pod is gone, or the line is in trouble: exec will tell.
            ApiError::NotFound { .. }
            | ApiError::AlreadyExists { .. }
            | ApiError::Conflict { .. }
            | ApiError::Unreachable { .. }
            | ApiError::Deadline { .. }
            | ApiError::Credentials(_)
            | ApiError::Unauthenticated { .. } => false,
        }
    }
}

fn exec_text(end: &ExecEnd) -> String {
    match end {
        ExecEnd::Success => "the exec ended at once".to_owned(),
        ExecEnd::Exited(137) => "the agent's container ended".to_owned(),
        ExecEnd::Exited(code) => format!("the exec ended with status {code}"),
        ExecEnd::Failed { reason, message } => format!("{message} ({reason})"),
    }
}

fn log_text(log: &[String]) -> String {
    log.last()
        .map(|line| format!("; the agent said: {line}"))
        .unwrap_or_default()
}
