//! `/version` and the resource lists, enough for `kubectl get` to work against the playground.

use serde_json::{Value, json};

use super::route::{Route, Target};
use crate::resource::Resource;

/// Which Kubernetes the playground resembles.
const VERSION: &str = "v1.35.4";

pub(crate) fn version(platform: &str) -> Value {
    json!({
        "major": "1", "minor": "35", "gitVersion": VERSION, "gitCommit": "", "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": platform,
    })
}

/// The groups, or the kinds of one group.
pub(crate) fn answer(route: &Route) -> Option<Value> {
    match route.target {
        Target::Groups if route.group.is_empty() => Some(json!({"kind": "APIVersions", "versions": ["v1"]})),
        Target::Groups => Some(groups()),
        Target::Resources => resources(&route.group),
        Target::Health | Target::Version | Target::Review(_) | Target::Resource(_) => None,
    }
}

fn groups() -> Value {
    let group = |name: &str| {
        let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
        json!({"name": name, "versions": [version], "preferredVersion": version})
    };
    let names = [
        "apps",
        "batch",
        "discovery.k8s.io",
        "networking.k8s.io",
        "authentication.k8s.io",
        "authorization.k8s.io",
    ];
    let list: Vec<Value> = names.into_iter().map(group).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
}

fn short_names(resource: Resource) -> &'static [&'static str] {
    match resource {
        Resource::Namespace => &["ns"],
        Resource::Pod => &["po"],
        Resource::ConfigMap => &["cm"],
        Resource::Service => &["svc"],
        Resource::Event => &["ev"],
        Resource::LimitRange => &["limits"],
        Resource::ResourceQuota => &["quota"],
        Resource::ServiceAccount => &["sa"],
        Resource::NetworkPolicy => &["netpol"],
        Resource::Deployment => &["deploy"],
        Resource::StatefulSet => &["sts"],
        Resource::Secret | Resource::Job | Resource::EndpointSlice => &[],
    }
}

fn categories(resource: Resource) -> &'static [&'static str] {
    if matches!(
        resource,
        Resource::Pod | Resource::Service | Resource::Job | Resource::Deployment | Resource::StatefulSet
    ) {
        &["all"]
    } else {
        &[]
    }
}

fn resources(group: &str) -> Option<Value> {
    let verbs = json!(["create", "delete", "get", "list", "patch", "watch"]);
    let mut rows: Vec<Value> = Resource::ALL
        .into_iter()
        .filter(|resource| resource.group() == group)
        .map(|resource| {
            json!({
                "name": resource.plural(), "singularName": resource.kind().to_lowercase(),
                "kind": resource.kind(), "namespaced": resource.is_namespaced(), "verbs": verbs,
                "shortNames": short_names(resource), "categories": categories(resource),
            })
        })
        .collect();
    let review = |plural: &str, kind: &str| {
        json!({"name": plural, "singularName": kind.to_lowercase(), "kind": kind, "namespaced": false,
            "verbs": ["create"]})
    };
    match group {
        "authentication.k8s.io" => rows.push(review("selfsubjectreviews", "SelfSubjectReview")),
        "authorization.k8s.io" => {
            rows.push(review("selfsubjectaccessreviews", "SelfSubjectAccessReview"));
            rows.push(review("selfsubjectrulesreviews", "SelfSubjectRulesReview"));
        }
        _ => {}
    }
    let version = if group.is_empty() {
        "v1".to_owned()
    } else {
        format!("{group}/v1")
    };
    let list = json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": rows,
    });
    (!rows.is_empty()).then_some(list)
}
