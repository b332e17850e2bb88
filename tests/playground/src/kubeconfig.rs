//! The kubeconfig of a playground: one context per user, the first user's is the current one.
//!
//! Written as JSON, which is YAML.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::options::Options;

pub(crate) fn text(options: &Options, address: SocketAddr) -> String {
    let namespace = options.namespaces.first().map_or("default", String::as_str);
    let users: Vec<Value> = options
        .users
        .iter()
        .map(|user| json!({"name": user.name, "user": {"token": user.token}}))
        .collect();
    let contexts: Vec<Value> = options
        .users
        .iter()
        .map(|user| {
            let context = json!({"cluster": "playground", "user": user.name, "namespace": namespace});
            json!({"name": user.name, "context": context})
        })
        .collect();
    let config = json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": "playground", "cluster": {"server": format!("http://{address}")}}],
        "users": users,
        "contexts": contexts,
        "current-context": options.users.first().map_or("", |user| user.name.as_str()),
    });
    format!("{config:#}\n")
}
