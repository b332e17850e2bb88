//! Every way a command can fail, and the only place that decides exit codes; what to type next is in [`hints`].
//!
//! The layers below keep their own small errors; they meet here. The printer shows [`Report`]s and
//! nothing else. Codes are part of the command line: they do not change.

use std::error::Error as StdError;

use crate::cli::agent_flags::AgentFlagsError;
use crate::cluster::api_error::ApiError;
use crate::cluster::client::AccessError;
use crate::cluster::failure::FailureKind;
use crate::cluster::kubeconfig::KubeconfigError;
use crate::cluster::rights::RightsError;
use crate::cluster::service::ServiceError;
use crate::cluster::start::StartError;
use crate::cluster::sweep::SweepError;
use crate::cluster::upstream::UpstreamError;
use crate::config::ConfigError;
use crate::listener::{BindError, CredentialsError};
use tunnel_wire::OpenError;

mod attach;
mod hints;

pub use self::attach::AttachError;

/// What the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// Done, or stopped by the user and cleaned up.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Bad usage.
    Usage = 2,
    /// Cluster unreachable or not authenticated.
    Unreachable = 3,
    /// Forbidden.
    Forbidden = 4,
    /// The agent did not start.
    NotStarted = 5,
    /// The session was lost.
    Lost = 6,
    /// A second signal.
    SecondSignal = 130,
}

impl ExitStatus {
    /// That of another process of ours; one that no exit of ours has is a failure.
    fn of_code(code: u8) -> Self {
        [
            Self::Usage,
            Self::Unreachable,
            Self::Forbidden,
            Self::NotStarted,
            Self::Lost,
            Self::SecondSignal,
        ]
        .into_iter()
        .find(|status| *status as u8 == code)
        .unwrap_or(Self::Failed)
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The words do not fit together.
    #[error("{0}")]
    Usage(String),
    /// The configuration file, or a variable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A flag of the agent's pod.
    #[error("{}", flags_text(.0))]
    AgentFlags(#[source] AgentFlagsError),
    /// `--auth-file`.
    #[error("the auth file cannot be used")]
    Credentials(#[source] CredentialsError),
    /// A local port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// `--ready-file`, or the terminal.
    #[error("{doing}")]
    Io {
        /// What we were doing.
        doing: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no way to the API server.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A request to the API server failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The agent did not start.
    #[error("{}", start_text(.0))]
    Start(#[source] StartError),
    /// The agent's container runs, but there is no way in.
    #[error("cannot attach to pod {pod}")]
    Attach {
        /// The agent's pod.
        pod: String,
        /// Who refused.
        #[source]
        source: AttachError,
    },
    /// The agent does not listen on an exposed port.
    #[error("the agent cannot listen for service port {port}")]
    Listen {
        /// The Service's port.
        port: u16,
        /// The agent's words.
        #[source]
        source: OpenError,
    },
    /// A target of `forward`.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// A local port of `forward`.
    #[error(transparent)]
    Forward(BindError),
    /// The session is over although nobody asked for it.
    #[error("the session was lost: {reason}")]
    Lost {
        /// Why, in a fragment.
        reason: String,
        /// What the agent said last.
        log: Vec<String>,
    },
    /// Another process has proven the session's secret: everything in the cluster is its own now.
    #[error("the session was taken over by another process")]
    TakenOver,
    /// `cleanup` could not look.
    #[error(transparent)]
    Sweep(#[from] SweepError),
    /// The session ended as it should, but some of its objects are still there.
    #[error("{0}")]
    Leftovers(String),
    /// The command in the background ended before it was ready; it has said why.
    #[error("the command in the background ended before it was ready; what it said is in {log}")]
    Detached {
        /// Its exit code.
        code: u8,
        /// Its log file.
        log: String,
    },
    /// A session that was asked for is not there, or not as it was wanted.
    #[error("{text}")]
    Session {
        /// What is wrong.
        text: String,
        /// The next command to type.
        hint: String,
    },
    /// `doctor` has said what is wrong.
    #[error("{}", failed_checks(*.0))]
    Checks(usize),
    /// The user did not want to wait.
    #[error("left at once")]
    SecondSignal,
}

fn flags_text(error: &AgentFlagsError) -> &'static str {
    if matches!(error, AgentFlagsError::Binary(_)) {
        "no agent to start"
    } else {
        "the agent's flags cannot be used"
    }
}

fn failed_checks(count: usize) -> String {
    match count {
        1 => "1 check failed".to_owned(),
        _ => format!("{count} checks failed"),
    }
}

fn start_text(error: &StartError) -> &'static str {
    match error {
        StartError::Rights(RightsError::Missing { .. }) => "rights are missing",
        StartError::Rights(RightsError::Api(_)) => "rights cannot be checked",
        StartError::Patch(_) => "the patch cannot be applied",
        StartError::Service(_) => "the service cannot be made",
        StartError::Binary(_) | StartError::NoNamespace(_) | StartError::Failed(_) | StartError::Api(_) => {
            "the agent did not start"
        }
    }
}

/// An error as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The first line.
    pub summary: String,
    /// What caused it, outermost first; nothing that the line above already says.
    pub causes: Vec<String>,
    /// The next command to type.
    pub hint: Option<String>,
}

impl Error {
    /// The exit status.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        match self {
            Self::AgentFlags(AgentFlagsError::Binary(_)) => ExitStatus::NotStarted,
            Self::Usage(_) | Self::Config(_) | Self::AgentFlags(_) => ExitStatus::Usage,
            Self::Credentials(_)
            | Self::Bind(_)
            | Self::Forward(_)
            | Self::Io { .. }
            | Self::Listen { .. }
            | Self::Upstream(
                UpstreamError::NotFound { .. } | UpstreamError::NoPort { .. } | UpstreamError::Unfit { .. },
            )
            | Self::Session { .. }
            | Self::Checks(_)
            | Self::Leftovers(_) => ExitStatus::Failed,
            Self::Detached { code, .. } => ExitStatus::of_code(*code),
            Self::Access(error) => access_status(error),
            Self::Api(error) | Self::Sweep(SweepError::Api(error)) => api_status(error, ExitStatus::Failed),
            Self::Sweep(SweepError::AllNamespacesForbidden { .. }) => ExitStatus::Forbidden,
            Self::Start(error) => start_status(error),
            Self::Attach { source, .. } => match source {
                AttachError::Api(error) => api_status(error, ExitStatus::NotStarted),
                AttachError::Access(error) => access_status(error),
                AttachError::Ended(_)
                | AttachError::Credentials { .. }
                | AttachError::Container(_)
                | AttachError::Gone(_)
                | AttachError::Hello { .. }
                | AttachError::Second(_) => ExitStatus::NotStarted,
            },
            Self::Upstream(UpstreamError::Api { source, .. }) => api_status(source, ExitStatus::Failed),
            Self::Lost { .. } | Self::TakenOver => ExitStatus::Lost,
            Self::SecondSignal => ExitStatus::SecondSignal,
        }
    }

    /// The error as people see it; `namespace` is the one in use.
    #[must_use]
    pub fn report(&self, namespace: &str) -> Report {
        let summary = self.to_string();
        let mut causes: Vec<String> = Vec::new();
        let mut source = self.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !summary.contains(&text) && !causes.iter().any(|said| said.contains(&text)) {
                causes.push(text);
            }
            source = next_cause(cause);
        }
        if let Self::Lost { log, .. } = self {
            causes.extend(log.iter().map(|line| format!("the agent said: {line}")));
        }
        if let Self::Start(StartError::Failed(failure))
        | Self::Attach {
            source: AttachError::Container(failure),
            ..
        } = self
            && let FailureKind::Exited { last_log, .. } = &failure.kind
        {
            causes.extend(last_log.iter().map(|line| format!("the agent said: {line}")));
        }
        Report {
            summary,
            causes,
            hint: self.hint(namespace),
        }
    }

    fn hint(&self, namespace: &str) -> Option<String> {
        match self {
            Self::AgentFlags(AgentFlagsError::Binary(error)) | Self::Start(StartError::Binary(error)) => {
                Some(hints::binary(error))
            }
            Self::Bind(error) => error.hint(),
            Self::Forward(error) => hints::forward(error),
            Self::Access(AccessError::Kubeconfig(error)) => hints::kubeconfig(error),
            Self::Api(error)
            | Self::Start(StartError::Api(error) | StartError::Rights(RightsError::Api(error)))
            | Self::Attach {
                source: AttachError::Api(error),
                ..
            } => hints::api(error, namespace),
            Self::Start(StartError::Rights(RightsError::Missing { namespace, missing })) => {
                let first = missing.first().map(|right| right.can_i(namespace))?;
                Some(format!(
                    "ask for the role in README \"Rights needed\", and check with `{first}`"
                ))
            }
            Self::Start(StartError::NoNamespace(_)) => {
                Some("name another one with `-n`; `kubectl get namespaces` lists them".to_owned())
            }
            Self::Start(StartError::Failed(failure)) => hints::failure(failure, namespace),
            Self::Start(StartError::Service(error)) => hints::service(error),
            Self::Attach {
                source: AttachError::Hello { error, .. },
                ..
            } => hints::hello(error),
            Self::Attach {
                source: AttachError::Second(_),
                ..
            } => Some(
                "leave `--transport=port-forward` out: the session then stays on exec where it has to"
                    .to_owned(),
            ),
            Self::Upstream(error) => hints::upstream(error, namespace),
            Self::Lost { .. } | Self::TakenOver => Some("run the same command again".to_owned()),
            Self::Sweep(SweepError::AllNamespacesForbidden { .. }) => {
                Some("name one namespace at a time with `-n`".to_owned())
            }
            Self::Usage(_)
            | Self::Config(_)
            | Self::AgentFlags(_)
            | Self::Credentials(_)
            | Self::Io { .. }
            | Self::Access(_)
            | Self::Start(_)
            | Self::Attach { .. }
            | Self::Listen { .. }
            | Self::Sweep(_)
            | Self::Detached { .. }
            | Self::Checks(_)
            | Self::Leftovers(_) => None,
            Self::Session { hint, .. } => Some(hint.clone()),
            Self::SecondSignal => Some(format!(
                "what is left goes by itself, or with `{} cleanup -n {namespace}`",
                crate::program::name()
            )),
        }
    }
}

/// The cause behind a cause. An I/O error hides what it wraps from `source`.
fn next_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    if let Some(io) = error.downcast_ref::<std::io::Error>()
        && let Some(inner) = io.get_ref()
    {
        return Some(inner);
    }
    error.source()
}

fn access_status(error: &AccessError) -> ExitStatus {
    match error {
        AccessError::Kubeconfig(
            KubeconfigError::InsecureWithCa | KubeconfigError::ImpersonationWithoutUser,
        ) => ExitStatus::Usage,
        AccessError::Kubeconfig(_) | AccessError::Credentials(_) | AccessError::Tls { .. } => {
            ExitStatus::Unreachable
        }
    }
}

fn api_status(error: &ApiError, otherwise: ExitStatus) -> ExitStatus {
    if error.is_about_access() {
        ExitStatus::Unreachable
    } else if matches!(error, ApiError::Forbidden { .. }) {
        ExitStatus::Forbidden
    } else {
        otherwise
    }
}

fn start_status(error: &StartError) -> ExitStatus {
    match error {
        StartError::Rights(RightsError::Missing { .. }) => ExitStatus::Forbidden,
        StartError::Rights(RightsError::Api(error)) | StartError::Api(error) => {
            api_status(error, ExitStatus::NotStarted)
        }
        StartError::Patch(_) => ExitStatus::Usage,
        StartError::Service(error) => service_status(error),
        StartError::Binary(_) | StartError::NoNamespace(_) | StartError::Failed(_) => ExitStatus::NotStarted,
    }
}

fn service_status(error: &ServiceError) -> ExitStatus {
    match error {
        ServiceError::Api(error) => api_status(error, ExitStatus::Failed),
        ServiceError::Foreign { .. } | ServiceError::Taken { .. } | ServiceError::Stuck { .. } => {
            ExitStatus::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let error = Error::Io {
            doing: "write the ready file".to_owned(),
            source: std::io::Error::other(std::io::Error::other("disk full")),
        };
        let report = error.report("dev");
        assert_eq!(report.summary, "write the ready file");
        assert_eq!(report.causes, ["disk full"]);
        assert_eq!(error.status(), ExitStatus::Failed);
    }

    #[test]
    fn a_port_that_cannot_be_had_is_answered_by_its_cause() {
        let address = "203.0.113.1:6080".parse().unwrap();
        let report = Error::Bind(BindError::NotOurs { address }).report("dev");
        assert!(report.hint.unwrap().contains("own address"));
    }

    #[test]
    fn a_target_that_is_not_there_is_answered_by_the_command_that_lists_them() {
        let error = Error::Upstream(UpstreamError::NotFound {
            kind: "service",
            name: "web".to_owned(),
            namespace: "open".to_owned(),
        });
        assert_eq!(error.status(), ExitStatus::Failed);
        let report = error.report("dev");
        assert_eq!(report.summary, "service \"web\" not found in namespace open");
        let hint = "see which there are: `kubectl get service -n open`";
        assert_eq!(report.hint.as_deref(), Some(hint));
    }

    #[test]
    fn leaving_at_once_names_the_namespace_to_clean() {
        let hint = Error::SecondSignal.report("dev").hint.unwrap();
        assert!(hint.contains("kubectl tunnel cleanup -n dev"), "{hint}");
    }

    #[test]
    fn a_lost_session_tells_what_the_agent_said_and_what_to_type() {
        let error = Error::Lost {
            reason: "nothing was heard for 15 s".to_owned(),
            log: vec!["bye".to_owned()],
        };
        let report = error.report("dev");
        assert_eq!(report.summary, "the session was lost: nothing was heard for 15 s");
        assert_eq!(report.causes, ["the agent said: bye"]);
        assert_eq!(report.hint.as_deref(), Some("run the same command again"));
        assert_eq!(error.status() as u8, 6);
    }
}
