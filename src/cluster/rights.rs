//! What we may do in the namespace, found out before anything is created.
//!
//! One rules review lists all of RBAC's rights in a millisecond; an access review each asks for what
//! it does not show, since some authorizers cannot list (it then says `incomplete`). Rights that
//! only make messages better are optional. [`survey`] asks for those of every feature. Called by `start` and `doctor`.

use std::fmt;

use futures::{StreamExt, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, ResourceRule, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
    SelfSubjectRulesReview, SelfSubjectRulesReviewSpec,
};
use kube::{Api, api::PostParams};

use super::{
    answer::{is_forbidden, is_not_found},
    api_error::ApiError,
    client::ApiServer,
    options::TransportChoice,
};

mod role;

pub use self::role::role;

/// Access reviews in flight at once; each may cost a connection.
const REVIEWS_AT_ONCE: usize = 6;

/// A verb on a resource, `resource` with its subresource as in `pods/exec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    pub verb: &'static str,
    pub group: &'static str,
    pub resource: &'static str,
}

const fn right(verb: &'static str, group: &'static str, resource: &'static str) -> Right {
    Right {
        verb,
        group,
        resource,
    }
}

/// Every session needs these. `pods/exec` needs both verbs: an upgrade request is a `get`, and
/// from Kubernetes 1.35 on the handler also asks for `create`.
const SESSION: [Right; 12] = [
    right("create", "batch", "jobs"),
    right("get", "batch", "jobs"),
    right("list", "batch", "jobs"),
    right("watch", "batch", "jobs"),
    right("patch", "batch", "jobs"),
    right("delete", "batch", "jobs"),
    right("create", "", "configmaps"),
    right("get", "", "pods"),
    right("list", "", "pods"),
    right("watch", "", "pods"),
    right("get", "", "pods/exec"),
    right("create", "", "pods/exec"),
];

/// What `expose` needs on top.
const EXPOSE: [Right; 5] = [
    right("create", "", "services"),
    right("get", "", "services"),
    right("list", "", "services"),
    right("patch", "", "services"),
    right("delete", "", "services"),
];

/// What `expose --allow-from` needs on top of that.
const ALLOW_FROM: [Right; 1] = [right("create", "networking.k8s.io", "networkpolicies")];

/// What a session over port-forward needs on top.
const TRANSPORT: [Right; 2] = [
    right("get", "", "pods/portforward"),
    right("create", "", "pods/portforward"),
];

/// What connections by the API's port-forward need, and the choice of a pod for each.
const PORT_FORWARD: [Right; 4] = [
    right("list", "", "pods"),
    right("watch", "", "pods"),
    right("get", "", "pods/portforward"),
    right("create", "", "pods/portforward"),
];

const EVENTS: [Right; 2] = [right("list", "", "events"), right("watch", "", "events")];
const LOGS: [Right; 1] = [right("get", "", "pods/log")];
const DRY_RUN: [Right; 1] = [right("create", "", "pods")];
const ENDPOINTS: [Right; 2] = [
    right("list", "discovery.k8s.io", "endpointslices"),
    right("watch", "discovery.k8s.io", "endpointslices"),
];

/// What `forward` needs to know of workloads.
const WORKLOADS: [Right; 4] = [
    right("get", "apps", "deployments"),
    right("get", "apps", "replicasets"),
    right("get", "apps", "statefulsets"),
    right("get", "apps", "daemonsets"),
];

/// What is missing without its rights, for [`survey`].
const FEATURES: [(&str, &[Right]); 7] = [
    ("`expose`", &EXPOSE),
    ("`expose --allow-from`", &ALLOW_FROM),
    ("`forward` to workloads", &WORKLOADS),
    (
        "`forward --via=pod` and the second, faster transport",
        &PORT_FORWARD,
    ),
    ("the reason of a failed start, at once", &EVENTS),
    ("the last words of an agent that crashed", &LOGS),
    ("waiting until the Service of `expose` works", &ENDPOINTS),
];

/// What the session is going to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// A Service is made.
    pub expose: bool,
    /// A NetworkPolicy is made for it.
    pub allow_from: bool,
    /// What carries it.
    pub transport: TransportChoice,
}

/// The optional rights we have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a right of its own")]
pub struct Granted {
    /// Start and causes are seen at once instead of with the next pod status.
    pub events: bool,
    /// A crashed agent's last lines can be read.
    pub pod_logs: bool,
    /// A dry run of the pod tells a refusal before the Job exists.
    pub dry_run: bool,
    /// The Service's readiness can be seen.
    pub endpoint_slices: bool,
    /// The session can be carried by port-forward.
    pub port_forward: bool,
}

/// The rights of everything we can do, as far as the API server tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// Without these there is no session.
    pub missing: Vec<Right>,
    /// What does not work without these.
    pub lacking: Vec<(&'static str, Vec<Right>)>,
    /// The pod's dry run can be asked for.
    pub dry_run: bool,
    /// Nobody may ask for these.
    pub untold: Vec<Right>,
}

/// The session cannot run with our rights, or we could not find out.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    #[error("missing rights in namespace {namespace}: {}", list(missing))]
    Missing { namespace: String, missing: Vec<Right> },
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

impl Survey {
    /// From the answers for the rights that no rule shows; `None` is none.
    fn of(answers: &[(Right, Option<bool>)]) -> Self {
        let with = |wanted| {
            let found = answers.iter().filter(move |(_, answer)| *answer == wanted);
            found.map(|(right, _)| *right).collect::<Vec<_>>()
        };
        let denied = with(Some(false));
        let among = |rights: &[Right]| {
            let missing = rights.iter().filter(|right| denied.contains(right));
            missing.copied().collect::<Vec<_>>()
        };
        Self {
            missing: among(&SESSION),
            lacking: FEATURES
                .iter()
                .map(|(feature, rights)| (*feature, among(rights)))
                .filter(|(_, missing)| !missing.is_empty())
                .collect(),
            dry_run: among(&DRY_RUN).is_empty(),
            untold: with(None),
        }
    }
}

impl Right {
    /// The line that lets the user check this right, such as
    /// `kubectl auth can-i create jobs.batch -n dev`.
    pub fn can_i(&self, namespace: &str) -> String {
        let group = if self.group.is_empty() {
            String::new()
        } else {
            format!(".{}", self.group)
        };
        match self.resource.split_once('/') {
            Some((resource, subresource)) => format!(
                "kubectl auth can-i {} {resource}{group} --subresource={subresource} -n {namespace}",
                self.verb
            ),
            None => format!(
                "kubectl auth can-i {} {}{group} -n {namespace}",
                self.verb, self.resource
            ),
        }
    }
}

/// Asks for all rights of a session at once.
///
/// An API server that lets nobody ask (403 or 404 on the reviews) is taken at its word later:
/// the rights count as given and the real requests decide.
///
/// # Errors
/// [`RightsError::Missing`] names every right that is needed and missing.
pub async fn check(server: &ApiServer, namespace: &str, needs: Needs) -> Result<Granted, RightsError> {
    let required: Vec<Right> = SESSION
        .iter()
        .chain(if needs.expose { &EXPOSE[..] } else { &[] })
        .chain(if needs.allow_from { &ALLOW_FROM[..] } else { &[] })
        .chain(match needs.transport {
            TransportChoice::PortForward => &TRANSPORT[..],
            TransportChoice::Auto | TransportChoice::Exec => &[],
        })
        .copied()
        .collect();
    let optional: Vec<Right> = [&EVENTS[..], &LOGS, &DRY_RUN]
        .into_iter()
        .flatten()
        .chain(if needs.expose { &ENDPOINTS[..] } else { &[] })
        .chain(match needs.transport {
            TransportChoice::Auto => &TRANSPORT[..],
            TransportChoice::PortForward | TransportChoice::Exec => &[],
        })
        .copied()
        .collect();

    let asked = required.iter().chain(&optional).copied().collect();
    let denied = denied(server, namespace, asked).await?;
    let granted = |rights: &[Right]| rights.iter().all(|right| !denied.contains(right));
    none_missing(namespace, &required, &denied)?;
    Ok(Granted {
        events: granted(&EVENTS),
        pod_logs: granted(&LOGS),
        dry_run: granted(&DRY_RUN),
        endpoint_slices: granted(&ENDPOINTS),
        port_forward: granted(&TRANSPORT),
    })
}

/// Asks for the rights of connections by the API's port-forward, likewise.
///
/// # Errors
/// As for [`check`].
pub async fn check_port_forward(server: &ApiServer, namespace: &str) -> Result<(), RightsError> {
    let denied = denied(server, namespace, PORT_FORWARD.to_vec()).await?;
    none_missing(namespace, &PORT_FORWARD, &denied)
}

/// Asks for the rights of all features.
///
/// # Errors
/// The API server cannot be asked at all.
pub async fn survey(server: &ApiServer, namespace: &str) -> Result<Survey, ApiError> {
    let mut asked: Vec<Right> = SESSION.to_vec();
    for right in FEATURES.iter().flat_map(|(_, rights)| *rights).chain(&DRY_RUN) {
        if !asked.contains(right) {
            asked.push(*right);
        }
    }
    let (shown, complete) = rules(server, namespace).await?;
    asked.retain(|right| !allowed(&shown, *right));
    let answers = if complete {
        asked.into_iter().map(|right| (right, Some(false))).collect()
    } else {
        answers(server, namespace, asked).await?
    };
    Ok(Survey::of(&answers))
}

fn none_missing(namespace: &str, required: &[Right], denied: &[Right]) -> Result<(), RightsError> {
    let missing: Vec<Right> = required
        .iter()
        .filter(|right| denied.contains(right))
        .copied()
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(RightsError::Missing {
        namespace: namespace.to_owned(),
        missing,
    })
}

/// Those of `rights` that we do not have.
async fn denied(server: &ApiServer, namespace: &str, rights: Vec<Right>) -> Result<Vec<Right>, ApiError> {
    let (shown, complete) = rules(server, namespace).await?;
    let unseen: Vec<Right> = rights
        .into_iter()
        .filter(|right| !allowed(&shown, *right))
        .collect();
    if complete {
        return Ok(unseen);
    }
    refused(server, namespace, unseen).await
}

/// The rules that can be listed, and whether they are all there are.
async fn rules(server: &ApiServer, namespace: &str) -> Result<(Vec<ResourceRule>, bool), ApiError> {
    let review = SelfSubjectRulesReview {
        spec: SelfSubjectRulesReviewSpec {
            namespace: Some(namespace.to_owned()),
        },
        ..SelfSubjectRulesReview::default()
    };
    let reviews: Api<SelfSubjectRulesReview> = Api::all(server.client());
    let params = PostParams::default();
    let answer = server
        .request(
            ("create", "selfsubjectrulesreviews"),
            reviews.create(&params, &review),
        )
        .await;
    match answer {
        Ok(answer) => {
            let status = answer.status.unwrap_or_default();
            Ok((status.resource_rules, !status.incomplete))
        }
        Err(error) if is_forbidden(&error) || is_not_found(&error) => Ok((Vec::new(), false)),
        Err(error) => Err(error),
    }
}

/// Those of `rights` that an access review denies.
async fn refused(server: &ApiServer, namespace: &str, rights: Vec<Right>) -> Result<Vec<Right>, ApiError> {
    let answers = answers(server, namespace, rights).await?;
    let denied = answers.into_iter().filter(|(_, answer)| *answer == Some(false));
    Ok(denied.map(|(right, _)| right).collect())
}

/// What an access review says of each of `rights`; `None` where nobody may ask.
async fn answers(
    server: &ApiServer,
    namespace: &str,
    rights: Vec<Right>,
) -> Result<Vec<(Right, Option<bool>)>, ApiError> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(server.client());
    let answers: Vec<Result<(Right, Option<bool>), ApiError>> = stream::iter(rights)
        .map(|right| {
            let reviews = reviews.clone();
            async move {
                let review = access_review(namespace, right);
                let params = PostParams::default();
                let request = reviews.create(&params, &review);
                let answer = server
                    .request(("create", "selfsubjectaccessreviews"), request)
                    .await;
                match answer {
                    Ok(answer) => Ok((right, Some(answer.status.is_some_and(|status| status.allowed)))),
                    Err(error) if is_forbidden(&error) || is_not_found(&error) => Ok((right, None)),
                    Err(error) => Err(error),
                }
            }
        })
        .buffered(REVIEWS_AT_ONCE)
        .collect()
        .await;
    answers.into_iter().collect()
}

fn access_review(namespace: &str, right: Right) -> SelfSubjectAccessReview {
    let (resource, subresource) = match right.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (right.resource, None),
    };
    SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(namespace.to_owned()),
                verb: Some(right.verb.to_owned()),
                group: Some(right.group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource,
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    }
}

/// Whether a rule of RBAC grants `right` on objects of any name.
fn allowed(rules: &[ResourceRule], right: Right) -> bool {
    let holds = |list: &[String], value: &str| list.iter().any(|item| item == "*" || item == value);
    let any_subresource = right
        .resource
        .split_once('/')
        .map(|(_, subresource)| format!("*/{subresource}"));
    rules.iter().any(|rule| {
        let resources = rule.resources.as_deref().unwrap_or_default();
        rule.resource_names.as_ref().is_none_or(Vec::is_empty)
            && holds(&rule.verbs, right.verb)
            && holds(rule.api_groups.as_deref().unwrap_or_default(), right.group)
            && (holds(resources, right.resource)
                || any_subresource
                    .as_ref()
                    .is_some_and(|any| resources.contains(any)))
    })
}

fn list(rights: &[Right]) -> String {
    rights
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> ResourceRule {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        ResourceRule {
            verbs: own(verbs),
            api_groups: Some(own(groups)),
            resources: Some(own(resources)),
            resource_names: (!names.is_empty()).then(|| own(names)),
        }
    }

    #[test]
    fn rules_grant_by_verb_group_and_resource() {
        let exec = right("create", "", "pods/exec");
        for (rules, granted) in [
            (vec![rule(&["create"], &[""], &["pods/exec"], &[])], true),
            (vec![rule(&["*"], &["*"], &["*"], &[])], true),
            (vec![rule(&["create"], &[""], &["*/exec"], &[])], true),
            (vec![rule(&["create"], &[""], &["pods"], &[])], false),
            (vec![rule(&["get"], &[""], &["pods/exec"], &[])], false),
            (vec![rule(&["create"], &["batch"], &["pods/exec"], &[])], false),
            (
                vec![rule(&["create"], &[""], &["pods/exec"], &["only-this"])],
                false,
            ),
            (vec![], false),
        ] {
            assert_eq!(allowed(&rules, exec), granted, "{rules:?}");
        }
    }

    #[test]
    fn a_survey_tells_what_does_not_work_without_a_right() {
        let portforward = right("get", "", "pods/portforward");
        let list_pods = right("list", "", "pods");
        let asked = right("get", "", "pods/log");
        let survey = Survey::of(&[
            (portforward, Some(false)),
            (list_pods, Some(false)),
            (asked, None),
            (right("create", "", "services"), Some(true)),
        ]);
        assert_eq!(survey.missing, [list_pods]);
        let lacking = (
            "`forward --via=pod` and the second, faster transport",
            vec![list_pods, portforward],
        );
        assert_eq!(survey.lacking, [lacking]);
        assert_eq!((survey.dry_run, survey.untold), (true, vec![asked]));
        assert_eq!(Survey::of(&[]).lacking, []);
    }

    #[test]
    fn the_error_names_verb_resource_and_namespace() {
        let error = RightsError::Missing {
            namespace: "dev".to_owned(),
            missing: vec![right("create", "batch", "jobs"), right("get", "", "pods/exec")],
        };
        assert_eq!(
            error.to_string(),
            "missing rights in namespace dev: create jobs.batch, get pods/exec"
        );
        assert_eq!(
            right("get", "", "pods/exec").can_i("dev"),
            "kubectl auth can-i get pods --subresource=exec -n dev"
        );
        assert_eq!(
            right("create", "batch", "jobs").can_i("dev"),
            "kubectl auth can-i create jobs.batch -n dev"
        );
    }
}
