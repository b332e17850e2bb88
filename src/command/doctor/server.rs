//! What the API server tells: that it answers and how, who we are, what we may do, what it would refuse.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::report::Check;
use crate::cluster::api_error::ApiError;
use crate::cluster::client::{ApiServer, ServerVersion};
use crate::cluster::identity::Identity;
use crate::cluster::options::{AgentOptions, Architecture};
use crate::cluster::pod_security::{self, NamespaceState};
use crate::cluster::rights::{self, Right, Survey};
use crate::cluster::start::StartError;
use crate::cluster::start::rehearsal::{self, Answer, Rehearsal};
use crate::cluster::upgrade::upgrade;
use crate::error::Error;

/// Jobs go by themselves since 1.23, and a misspelt field of a patch is refused since 1.25.
const OLDEST: (u32, u32) = (1, 25);

/// A certificate or token may look expired or not yet valid beyond this; our own leases use the server's clock.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// What is known of the architecture of the nodes.
pub(super) fn architecture(options: &AgentOptions, version: Option<&ServerVersion>) -> Architecture {
    let told = version.and_then(|version| Architecture::from_platform(&version.platform));
    options.architecture.or(told).unwrap_or(Architecture::Amd64)
}

/// Whether it answers, by which way, and in which version; with `Err` it does not.
pub(super) async fn reach(server: &ApiServer) -> (Vec<Check>, Result<Option<ServerVersion>, ()>) {
    let address = server.address();
    let way = server.proxy().map_or_else(
        || "without a proxy".to_owned(),
        |proxy| format!("through {proxy}"),
    );
    match server.version().await {
        Ok(version) => {
            let answers = Check::ok("server", format!("{address} answers, {way}"));
            let version_check = version_check(&version.git_version);
            (vec![answers, version_check], Ok(Some(version)))
        }
        // Some gateways hide `/version`; that they do is an answer.
        Err(error @ (ApiError::Forbidden { .. } | ApiError::NotFound { .. })) => {
            tracing::debug!(%error, "no version");
            let answers = Check::ok("server", format!("{address} answers, {way}"));
            (
                vec![answers, Check::not_allowed("version", "the server's version")],
                Ok(None),
            )
        }
        // It answered; who we are to it is the next question.
        Err(ApiError::Unauthenticated { .. }) => {
            let answers = Check::ok("server", format!("{address} answers, {way}"));
            let version = Check::not_checked("version", "the server asks who you are first");
            (vec![answers, version], Ok(None))
        }
        Err(error) => {
            let check = Check::failed("server", &Error::Api(error), server.namespace());
            // The words of a proxy that refused name it already.
            let on_the_way = server.proxy().map(|proxy| proxy.to_string());
            let message = match on_the_way.filter(|proxy| !check.message.contains(proxy)) {
                Some(proxy) => format!("{} (through {proxy})", check.message),
                None => check.message,
            };
            (vec![Check { message, ..check }], Err(()))
        }
    }
}

fn version_check(git_version: &str) -> Check {
    match minor(git_version) {
        Some(found) if found < OLDEST => Check::warning(
            "version",
            format!("{git_version} is older than {}.{}", OLDEST.0, OLDEST.1),
        )
        .with_hint("sessions may work, but nobody has tried"),
        Some(_) => Check::ok("version", git_version),
        None => Check::warning("version", format!("{git_version} is no version of Kubernetes")),
    }
}

/// Of `v1.35.0`, `v1.30.4-gke.1348000` or `v1.27+`.
fn minor(git_version: &str) -> Option<(u32, u32)> {
    let mut parts = git_version.strip_prefix('v')?.split('.');
    let major = parts.next()?.parse().ok()?;
    let digits = parts.next()?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    Some((major, digits.get(..end)?.parse().ok()?))
}

/// Whether this machine's clock is right, by the server's. `None` before any answer.
pub(super) fn clock(server: &ApiServer) -> Option<Check> {
    Some(clock_check(Timestamp::now().duration_since(server.server_now()?)))
}

/// `ahead` is how far this machine's clock is before the server's.
fn clock_check(ahead: SignedDuration) -> Check {
    let off = Duration::from_secs(ahead.unsigned_abs().as_secs());
    let text = humantime::format_duration(off);
    if off <= CLOCK_TOLERANCE {
        return Check::ok("clock", format!("within {text} of the server's"));
    }
    let side = if ahead.is_negative() { "behind" } else { "ahead of" };
    Check::warning(
        "clock",
        format!("this machine's clock is {text} {side} the server's"),
    )
    .with_hint("set the clock: certificates and tokens may be refused; sessions do not depend on it")
}

/// Whether the namespace is there, and what it demands of pods.
pub(super) async fn namespace(server: &ApiServer) -> Check {
    let name = server.namespace();
    namespace_check(name, pod_security::look(server).await)
}

fn namespace_check(name: &str, seen: Result<NamespaceState, ApiError>) -> Check {
    match seen {
        Ok(NamespaceState {
            terminating: true, ..
        }) => Check::failure("namespace", format!("{name} is being deleted"))
            .with_hint("name another one with `-n`"),
        Ok(NamespaceState {
            enforced: Some(level),
            ..
        }) => Check::ok("namespace", format!("{name}, Pod Security level {level}")),
        Ok(NamespaceState { enforced: None, .. }) => {
            Check::ok("namespace", format!("{name}, no Pod Security level of its own"))
        }
        Err(ApiError::Forbidden { .. }) => Check::not_allowed("namespace", &format!("namespace {name}")),
        Err(ApiError::NotFound { .. }) => {
            start_refused("namespace", StartError::NoNamespace(name.to_owned()), name)
        }
        Err(error) => Check::failed("namespace", &Error::Api(error), name),
    }
}

/// What may be done, and what not.
pub(super) async fn rights(server: &ApiServer, identity: &Identity) -> (Vec<Check>, Option<Survey>) {
    let namespace = server.namespace();
    match rights::survey(server, namespace).await {
        Ok(survey) => (rights_checks(namespace, identity, &survey), Some(survey)),
        Err(error) => (vec![Check::failed("rights", &Error::Api(error), namespace)], None),
    }
}

fn rights_checks(namespace: &str, identity: &Identity, survey: &Survey) -> Vec<Check> {
    let mut checks = Vec::new();
    if !survey.missing.is_empty() {
        let mut check = Check::failure(
            "rights",
            format!("missing in namespace {namespace}: {}", listed(&survey.missing)),
        )
        .with_hint("have an administrator apply the Role and the RoleBinding below");
        check.manifest = Some(rights::role(namespace, identity));
        checks.push(check);
    } else if survey.untold.is_empty() {
        checks.push(Check::ok(
            "rights",
            format!("sessions may run in namespace {namespace}"),
        ));
    } else {
        checks.push(Check::not_allowed(
            "rights",
            &format!("who may {}", listed(&survey.untold)),
        ));
    }
    if !survey.lacking.is_empty() {
        let lacking = survey
            .lacking
            .iter()
            .map(|(feature, missing)| format!("{feature} needs {}", listed(missing)));
        let mut check = Check::warning("features", lacking.collect::<Vec<_>>().join("; "));
        if survey.missing.is_empty() {
            check =
                check.with_hint("for these, have an administrator apply the Role and the RoleBinding below");
            check.manifest = Some(rights::role(namespace, identity));
        }
        checks.push(check);
    } else if survey.untold.is_empty() {
        checks.push(Check::ok("features", "every command has the rights it needs"));
    }
    checks
}

fn listed(rights: &[Right]) -> String {
    let names: Vec<String> = rights.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// Whether WebSockets get through.
pub(super) async fn websocket(server: &ApiServer) -> Check {
    websocket_check(upgrade(server).await, server)
}

fn websocket_check(answer: Result<&'static str, ApiError>, server: &ApiServer) -> Check {
    match answer {
        Ok(protocol) => Check::ok(
            "websocket",
            format!(
                "a watch was upgraded, sub-protocol {protocol}; the node's exec shows at the first start"
            ),
        ),
        Err(ApiError::Forbidden { .. }) => {
            Check::not_checked("websocket", "the right `watch pods` is missing")
        }
        // A server that no longer serves watches this way would answer just so.
        Err(error @ ApiError::Upgrade { .. }) => {
            Check::warning("websocket", "").because(&Error::Api(error), server.namespace())
        }
        Err(error) => Check::failed("websocket", &Error::Api(error), server.namespace()),
    }
}

/// Whether the namespace would take the session's Job and its pod.
pub(super) async fn rehearse(
    server: &ApiServer,
    options: &AgentOptions,
    identity: &Identity,
    architecture: Architecture,
    survey: Option<&Survey>,
) -> Vec<Check> {
    let namespace = server.namespace();
    let create_jobs = |right: &&Right| (right.verb, right.resource) == ("create", "jobs");
    if let Some(missing) = survey.and_then(|survey| survey.missing.iter().find(create_jobs)) {
        let reason = format!("the right `{missing}` is missing");
        return vec![
            Check::not_checked("job", &reason),
            Check::not_checked("pod", &reason),
        ];
    }
    let pods = survey.is_none_or(|survey| survey.dry_run);
    let rehearsal = rehearsal::rehearse(server, options, identity, architecture, pods).await;
    rehearsal_checks(rehearsal, namespace)
}

fn rehearsal_checks(rehearsal: Rehearsal, namespace: &str) -> Vec<Check> {
    let job = answer_check("job", rehearsal.job, namespace);
    let mut pod = match rehearsal.pod {
        None => Check::not_checked(
            "pod",
            "the right `create pods` is missing, which sessions do not need",
        ),
        Some(answer) => answer_check("pod", answer, namespace),
    };
    if let Some(followed) = rehearsal.followed {
        let followed = format!(", with the resources that its policy asks for: {followed}");
        pod.message.push_str(&followed);
    }
    vec![job, pod]
}

fn answer_check(name: &'static str, answer: Answer, namespace: &str) -> Check {
    match answer {
        Answer::Admitted => Check::ok(name, format!("namespace {namespace} would take it (dry run)")),
        Answer::Refused(error) => start_refused(name, error, namespace),
        Answer::Doubtful(failure) => {
            let message = failure.to_string();
            let check = Check::warning(name, "").because(&Error::Start(failure.into()), namespace);
            Check { message, ..check }
        }
        Answer::Unknown(reason) => Check::not_checked(name, &reason),
    }
}

/// What would end a start, without the words that one was tried.
fn start_refused(name: &'static str, error: StartError, namespace: &str) -> Check {
    let message = error.to_string();
    Check {
        message,
        ..Check::failed(name, &Error::Start(error), namespace)
    }
}

#[cfg(test)]
mod tests;
