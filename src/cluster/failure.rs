//! Why an agent did not start or stopped: one typed failure with the object and the cluster's words.
//!
//! Kubernetes tells the causes below only as text (in a 403, an event or a status message), so
//! this is the one place that reads such text; everything above it matches on [`FailureKind`].
//! Unknown text stays an unknown kind with the text shown, never a guess. Pure.

use std::{fmt, time::Duration};

use super::{api_error::ApiError, names::ObjectRef};

/// What went wrong, to what, in the cluster's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    pub object: ObjectRef,
    /// Kubernetes' reason, such as `ErrImagePull`; empty if there was none.
    pub reason: String,
    /// The message that came with it; empty if there was none.
    pub text: String,
}

/// The cause, finely enough for a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureKind {
    /// A ResourceQuota is used up.
    Quota,
    /// A ResourceQuota demands values we did not give, such as `limits.cpu`.
    QuotaDemands(Vec<String>),
    /// Requests or limits are outside a LimitRange.
    LimitRange,
    /// Pod Security or a security context constraint.
    PodSecurity,
    ServiceAccount,
    PriorityClass,
    /// An admission webhook or policy.
    Admission,
    /// The admission webhook of this name could not be asked.
    Webhook(String),
    /// Not a valid object: a patch has a misspelt field or a wrong value.
    Invalid,
    /// The namespace is being deleted.
    NamespaceTerminating,
    /// No node of this architecture, or none that a patched selector matches.
    NoMatchingNode,
    /// Nodes match, but none has room or tolerates the pod.
    Unschedulable,
    ImagePull,
    /// The container cannot be set up: image user, missing Secret or ConfigMap.
    ContainerConfig,
    /// The agent's binary cannot be run: missing, not executable, other architecture.
    CannotRun,
    /// The agent ended by itself.
    Exited {
        code: i32,
        last_log: Vec<String>,
    },
    OutOfMemory,
    /// The node or the cluster took the pod away: eviction, preemption, node shutdown.
    Evicted,
    /// The Job's deadline (our lease) was over.
    DeadlineExceeded,
    /// Somebody deleted the object.
    Deleted,
    /// Not started within `--pod-running-timeout`.
    TimedOut {
        after: Duration,
    },
    /// A cause this version does not know.
    Other,
}

impl Failure {
    pub fn new(
        kind: FailureKind,
        object: ObjectRef,
        reason: impl Into<String>,
        text: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            object,
            reason: reason.into(),
            text: text.into(),
        }
    }

    /// A refusal to create `object`, from the text of a 403 or of a `FailedCreate` event.
    pub fn denial(object: ObjectRef, reason: &str, text: &str) -> Self {
        let text = denial_text(text);
        Self::new(denial_kind(text), object, reason, text)
    }

    /// A 403 that is the namespace's policy and not a missing right.
    pub fn policy_refusal(object: ObjectRef, error: &ApiError) -> Option<Self> {
        let ApiError::Forbidden { message, .. } = error else {
            return None;
        };
        let failure = Self::denial(object, "Forbidden", message);
        (failure.kind != FailureKind::Other).then_some(failure)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.kind {
            FailureKind::Quota => "refused by a resource quota".to_owned(),
            FailureKind::QuotaDemands(names) => format!("a resource quota demands {}", names.join(", ")),
            FailureKind::LimitRange => "outside the namespace's limit range".to_owned(),
            FailureKind::PodSecurity => "refused by pod security".to_owned(),
            FailureKind::ServiceAccount => "its service account is missing".to_owned(),
            FailureKind::PriorityClass => "its priority class is missing".to_owned(),
            FailureKind::Admission => "refused by an admission policy".to_owned(),
            FailureKind::Webhook(name) => format!("the admission webhook {name} could not be asked"),
            FailureKind::Invalid => "not a valid object".to_owned(),
            FailureKind::NamespaceTerminating => "the namespace is being deleted".to_owned(),
            FailureKind::NoMatchingNode => "no node matches".to_owned(),
            FailureKind::Unschedulable => "cannot be scheduled".to_owned(),
            FailureKind::ImagePull => "its image cannot be pulled".to_owned(),
            FailureKind::ContainerConfig => "its container cannot be set up".to_owned(),
            FailureKind::CannotRun => "the agent cannot be run".to_owned(),
            FailureKind::Exited { code, .. } => format!("the agent exited with code {code}"),
            FailureKind::OutOfMemory => "the agent was killed for using too much memory".to_owned(),
            FailureKind::Evicted => "taken away by the cluster".to_owned(),
            FailureKind::DeadlineExceeded => "its deadline was over".to_owned(),
            FailureKind::Deleted => "deleted by somebody else".to_owned(),
            FailureKind::TimedOut { after } => format!("not started within {}s", after.as_secs()),
            FailureKind::Other => "failed".to_owned(),
        };
        write!(f, "{}: {what}", self.object)?;
        if !self.reason.is_empty() {
            write!(f, " ({})", self.reason)?;
        }
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// The part of a refusal that says why: without `Error creating:` and `pods "x" is forbidden:`.
fn denial_text(text: &str) -> &str {
    let text = text.strip_prefix("Error creating: ").unwrap_or(text);
    match text.split_once(" is forbidden: ") {
        // Only the head of the message, not a quoted one further in.
        Some((head, rest)) if head.split(' ').count() == 2 => rest,
        _ => text,
    }
}

fn denial_kind(text: &str) -> FailureKind {
    let has = |part: &str| text.contains(part);
    if has("must specify ") && has("failed quota") {
        FailureKind::QuotaDemands(demanded_names(text))
    } else if has("exceeded quota") || has("failed quota") {
        FailureKind::Quota
    } else if has("violates PodSecurity") || has("security context constraint") {
        FailureKind::PodSecurity
    } else if has(" usage per ") || has(" max limit to request ratio per ") {
        FailureKind::LimitRange
    } else if has("because it is being terminated") {
        FailureKind::NamespaceTerminating
    } else if has("service account") || has("serviceaccount") {
        FailureKind::ServiceAccount
    } else if has("PriorityClass") {
        FailureKind::PriorityClass
    } else if has("ValidatingAdmissionPolicy") || has("denied the request") {
        FailureKind::Admission
    } else if let Some(name) = broken_webhook(text) {
        FailureKind::Webhook(name.to_owned())
    } else {
        FailureKind::Other
    }
}

/// The admission webhook that the API server asked in vain, from the text of its 500 or of a `FailedCreate` event.
pub fn broken_webhook(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("failed calling webhook \"")?;
    rest.split_once('"').map(|(name, _)| name)
}

/// `must specify limits.cpu for: agent; limits.memory for: agent` and the older form
/// `must specify limits.cpu,limits.memory`.
fn demanded_names(text: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (at, marker) in text.match_indices("must specify ") {
        for item in text[at + marker.len()..].split([';', ',']) {
            let name = item.trim().split(' ').next().unwrap_or_default();
            let legal = name.contains(|c: char| c.is_ascii_alphabetic())
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '/'));
            if legal && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> FailureKind {
        Failure::denial(ObjectRef::new("job", "tunnel-x7k2p9"), "FailedCreate", text).kind
    }

    /// Texts as Kubernetes 1.35 wrote them.
    #[test]
    fn refusals_are_told_apart() {
        for (text, expected) in [
            (
                "Error creating: pods \"tunnel-x-\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0",
                FailureKind::Quota,
            ),
            (
                "pods \"p\" is forbidden: failed quota: q: must specify limits.cpu for: agent; limits.memory for: agent",
                FailureKind::QuotaDemands(vec!["limits.cpu".into(), "limits.memory".into()]),
            ),
            (
                "pods \"p\" is forbidden: failed quota: q: must specify limits.cpu,requests.ephemeral-storage",
                FailureKind::QuotaDemands(vec!["limits.cpu".into(), "requests.ephemeral-storage".into()]),
            ),
            (
                "pods \"p\" is forbidden: [minimum cpu usage per Container is 50m, but request is 10m, minimum memory usage per Container is 32Mi, but request is 16Mi]",
                FailureKind::LimitRange,
            ),
            (
                "pods \"p\" is forbidden: cpu max limit to request ratio per Container is 2, but provided ratio is 10.000000",
                FailureKind::LimitRange,
            ),
            (
                "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false",
                FailureKind::PodSecurity,
            ),
            (
                "pods \"p\" is forbidden: unable to validate against any security context constraint: [...]",
                FailureKind::PodSecurity,
            ),
            (
                "pods \"p\" is forbidden: no PriorityClass with name nope was found",
                FailureKind::PriorityClass,
            ),
            (
                "pods \"p\" is forbidden: error looking up service account lc-a/nope: serviceaccount \"nope\" not found",
                FailureKind::ServiceAccount,
            ),
            (
                "admission webhook \"validate.kyverno.svc\" denied the request: no",
                FailureKind::Admission,
            ),
            (
                "ValidatingAdmissionPolicy 'no-jobs' with binding 'no-jobs' denied request: a job needs a team",
                FailureKind::Admission,
            ),
            (
                "Error creating: Internal error occurred: failed calling webhook \"a.example.com\": failed to call webhook: Post \"https://a/x?timeout=2s\": dial tcp: refused",
                FailureKind::Webhook("a.example.com".into()),
            ),
            (
                "admission webhook \"a.example.com\" does not support dry run",
                FailureKind::Other,
            ),
            (
                "jobs.batch \"x\" is forbidden: unable to create new content in namespace a because it is being terminated",
                FailureKind::NamespaceTerminating,
            ),
            ("something new", FailureKind::Other),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }

    #[test]
    fn the_text_starts_where_the_reason_does() {
        let failure = Failure::denial(
            ObjectRef::new("job", "tunnel-x7k2p9"),
            "FailedCreate",
            "Error creating: pods \"tunnel-x-\" is forbidden: exceeded quota: q, requested: pods=1",
        );
        assert_eq!(
            failure.to_string(),
            "job/tunnel-x7k2p9: refused by a resource quota (FailedCreate): exceeded quota: q, requested: pods=1"
        );
    }
}
