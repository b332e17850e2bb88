//! `SelfSubjectReview`, `SelfSubjectAccessReview` and `SelfSubjectRulesReview`: who am I, may I, what may I.

use http::StatusCode;
use serde_json::{Value, json};

use super::route::Review;
use super::{Answer, Call, json_response, read_json};
use crate::auth::{Access, User};
use crate::object;
use crate::world::World;

pub(crate) async fn answer(world: &World, call: Call, kind: Review) -> Answer {
    let user = call.user;
    let mut review = read_json(call.request).await?;
    let created = world.clock.stamp();
    object::map_at(&mut review, "metadata").insert("creationTimestamp".to_owned(), json!(created));
    let spec = &review["spec"];
    let (api_version, kind, status) = match kind {
        Review::Subject => {
            let info = json!({"username": user.name, "uid": "", "groups": ["system:authenticated"]});
            (
                "authentication.k8s.io/v1",
                "SelfSubjectReview",
                json!({"userInfo": info}),
            )
        }
        Review::Access => (
            "authorization.k8s.io/v1",
            "SelfSubjectAccessReview",
            access(&user, spec),
        ),
        Review::Rules => {
            let namespace = spec["namespace"].as_str().unwrap_or_default();
            let rules = user.rights.rules_in(namespace);
            let status = json!({"resourceRules": rules, "nonResourceRules": [], "incomplete": false});
            ("authorization.k8s.io/v1", "SelfSubjectRulesReview", status)
        }
    };
    review["apiVersion"] = json!(api_version);
    review["kind"] = json!(kind);
    review["status"] = status;
    Ok(json_response(StatusCode::CREATED, &review))
}

fn access(user: &User, spec: &Value) -> Value {
    let asked = |field: &str| spec["resourceAttributes"][field].as_str().unwrap_or_default();
    let resource = match asked("subresource") {
        "" => asked("resource").to_owned(),
        sub => format!("{}/{sub}", asked("resource")),
    };
    let access = Access {
        verb: asked("verb"),
        group: asked("group"),
        resource: &resource,
        namespace: asked("namespace"),
    };
    let allowed = user.rights.allows(&access);
    json!({"allowed": allowed})
}
