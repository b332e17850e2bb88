//! The next command to type after an error, where there is one.
//!
//! Texts only: which error gets which is decided by [`super::Error`].

use crate::cluster::agents::AgentBinaryError;
use crate::cluster::api_error::{ApiError, ConnectFailure};
use crate::cluster::failure::{self, Failure, FailureKind};
use crate::cluster::kubeconfig::KubeconfigError;
use crate::cluster::service::ServiceError;
use crate::cluster::upstream::UpstreamError;
use crate::listener::BindError;
use crate::program;
use tunnel_wire::hello::HelloError;

pub(super) fn binary(_: &AgentBinaryError) -> String {
    "build it in with `make build`, or name one with `--agent-binary PATH` or `--agent-image IMAGE`"
        .to_owned()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "most errors need no hint")]
pub(super) fn kubeconfig(error: &KubeconfigError) -> Option<String> {
    match error {
        KubeconfigError::ContextNotFound { known, .. } | KubeconfigError::NoCurrentContext { known } => {
            (!known.is_empty()).then(|| format!("contexts there are: {}", known.join(", ")))
        }
        KubeconfigError::Read { .. } => Some(
            "name another file with `--kubeconfig`, or leave it out for KUBECONFIG or ~/.kube/config"
                .to_owned(),
        ),
        KubeconfigError::NoConfiguration { .. } => {
            Some("name a kubeconfig with `--kubeconfig` or the variable KUBECONFIG".to_owned())
        }
        _ => None,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "most errors need no hint")]
pub(super) fn api(error: &ApiError, namespace: &str) -> Option<String> {
    match error {
        ApiError::Forbidden { call, .. } => {
            let namespace = call.namespace.as_deref().unwrap_or(namespace);
            let resource = call.resource.replacen('/', " --subresource=", 1);
            Some(format!(
                "check with `kubectl auth can-i {} {resource} -n {namespace}`",
                call.verb
            ))
        }
        ApiError::Unreachable {
            cause: ConnectFailure::Proxy { .. },
            ..
        } => Some(
            "look at HTTPS_PROXY, NO_PROXY and the kubeconfig's proxy-url; see whether kubectl gets through: `kubectl \
             version`"
                .to_owned(),
        ),
        ApiError::Unreachable { .. } | ApiError::Deadline { .. } => {
            Some("see whether kubectl reaches it: `kubectl version`".to_owned())
        }
        ApiError::Unauthenticated { .. } => Some("see who you are: `kubectl auth whoami`".to_owned()),
        ApiError::Upgrade { .. } => Some(
            "something between here and the API server does not pass WebSockets on; try without the proxy"
                .to_owned(),
        ),
        ApiError::Server { message, .. } => failure::broken_webhook(message).map(mend_webhook),
        _ => None,
    }
}

fn mend_webhook(name: &str) -> String {
    format!("ask who runs the cluster to mend the webhook {name}, or to leave this namespace out of it")
}

#[expect(clippy::wildcard_enum_match_arm, reason = "most failures need no hint")]
pub(super) fn failure(failure: &Failure, namespace: &str) -> Option<String> {
    Some(match &failure.kind {
        FailureKind::Quota => format!("see what is used: `kubectl describe quota -n {namespace}`"),
        FailureKind::QuotaDemands(_) => {
            "give what the quota demands, such as `--limits cpu=500m,memory=128Mi`".to_owned()
        }
        FailureKind::LimitRange => {
            format!(
                "stay within it with `--requests` and `--limits`; `kubectl describe limits -n {namespace}`"
            )
        }
        FailureKind::PodSecurity => format!(
            "leave out of `--patch` what it names, or see the namespace's level: `kubectl get namespace {namespace} \
             --show-labels`"
        ),
        FailureKind::Admission => {
            "give the pod what it asks for with `--patch`, or ask who runs the cluster for an exemption"
                .to_owned()
        }
        FailureKind::Webhook(name) => mend_webhook(name),
        FailureKind::ImagePull => "name an image the cluster can pull with `--base-image IMAGE`".to_owned(),
        FailureKind::NoMatchingNode => {
            "see whether `--arch` and the node selectors of `--patch` fit a node of this cluster".to_owned()
        }
        FailureKind::Unschedulable => format!(
            "see why: `kubectl get events -n {namespace}`; tolerations and selectors go in with `--patch`"
        ),
        FailureKind::CannotRun => {
            "binaries from a ConfigMap may be forbidden here; try `--agent-image`".to_owned()
        }
        FailureKind::OutOfMemory => "give it more with `--limits memory=512Mi`".to_owned(),
        FailureKind::TimedOut { .. } => "allow it more time with `--pod-running-timeout`".to_owned(),
        _ => return None,
    })
}

pub(super) fn forward(error: &BindError) -> Option<String> {
    match error {
        BindError::InUse { .. } => Some(
            "take another local port, such as `18080:80`, or any free one with `:80` or `--same-port=try`"
                .to_owned(),
        ),
        BindError::Forbidden { address } => Some(format!(
            "ports below 1024 need rights on this machine; take another one, such as `{}:{}`, or any free one with \
             `--same-port=try`",
            8000 + u32::from(address.port()),
            address.port()
        )),
        BindError::NotOurs { .. } => {
            Some("listen on an address of this machine: `--address 127.0.0.1`".to_owned())
        }
        BindError::Other { .. }
        | BindError::SocketInUse { .. }
        | BindError::NotASocket { .. }
        | BindError::Socket { .. } => None,
    }
}

pub(super) fn upstream(error: &UpstreamError, namespace: &str) -> Option<String> {
    match error {
        UpstreamError::NotFound { kind, namespace, .. } => Some(format!(
            "see which there are: `kubectl get {kind} -n {namespace}`"
        )),
        UpstreamError::Api { source, .. } => api(source, namespace),
        // Their texts end with what to type.
        UpstreamError::NoPort { .. } | UpstreamError::Unfit { .. } => None,
    }
}

pub(super) fn service(error: &ServiceError) -> Option<String> {
    match error {
        ServiceError::Foreign { .. } => Some(format!(
            "an existing service is never changed; name another one: `{} expose NAME PORT`",
            program::name()
        )),
        ServiceError::Taken { name, session, .. } => Some(format!(
            "name your own: `{} expose {name}-{session} PORT`",
            program::name()
        )),
        ServiceError::Stuck { .. } => Some("try again in a moment".to_owned()),
        ServiceError::Api(_) => None,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "most errors need no hint")]
pub(super) fn hello(error: &HelloError) -> Option<String> {
    match error {
        HelloError::Version { .. } | HelloError::Refused(tunnel_wire::hello::Verdict::Version) => Some(
            "plugin and agent must be of one release: leave `--agent-image` and `--agent-binary` out"
                .to_owned(),
        ),
        _ => None,
    }
}
