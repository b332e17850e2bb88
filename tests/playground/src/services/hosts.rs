//! The hosts files: the names of all Services as the pods of each namespace may write them.
//!
//! One file per namespace, since `web` alone means another Service in another namespace. Files are
//! replaced whole, so a reader never sees half of one.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::{fs, io};

use serde_json::Value;

use super::{address_of, ready_pods};
use crate::object;
use crate::resource::Resource;
use crate::world::World;

const CLUSTER_DOMAIN: &str = "cluster.local";

/// Where the playground listens.
const API_SERVER: &str = "127.0.0.1";

#[derive(Debug, Default)]
pub(super) struct Hosts {
    /// What is on disk, by namespace.
    written: HashMap<String, String>,
}

impl Hosts {
    pub(super) fn write(&mut self, world: &World, services: &[Arc<Value>]) {
        let (_, namespaces) = world.store.list(Resource::Namespace, None);
        for namespace in namespaces.iter().map(|namespace| object::name(namespace)) {
            let text = table(world, services, namespace);
            if self.written.get(namespace) == Some(&text) {
                continue;
            }
            match replace(world, namespace, &text) {
                Ok(()) => {
                    self.written.insert(namespace.to_owned(), text);
                }
                Err(error) => tracing::warn!(namespace, %error, "hosts file not written"),
            }
        }
    }
}

fn replace(world: &World, namespace: &str, text: &str) -> io::Result<()> {
    let path = world.hosts_file(namespace);
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, &path)
}

fn table(world: &World, services: &[Arc<Value>], namespace: &str) -> String {
    // Every cluster's own name, for the API server.
    let mut text = format!("{API_SERVER} kubernetes.default kubernetes.default.svc");
    writeln!(text, " kubernetes.default.svc.{CLUSTER_DOMAIN}").expect("writing to a string");
    for service in services {
        let names = names(service, namespace).join(" ");
        for address in addresses(world, services, service) {
            // Writing to a String cannot fail.
            writeln!(text, "{address} {names}").expect("writing to a string");
        }
    }
    text
}

/// The forms the search list of a pod in `namespace` would resolve.
fn names(service: &Value, namespace: &str) -> Vec<String> {
    let (name, home) = (object::name(service), object::namespace(service));
    let mut names = vec![
        format!("{name}.{home}"),
        format!("{name}.{home}.svc"),
        format!("{name}.{home}.svc.{CLUSTER_DOMAIN}"),
    ];
    if home == namespace {
        names.insert(0, name.to_owned());
    }
    names
}

/// The cluster address; the pods' own for a headless Service; the target's for an `ExternalName` in the cluster.
fn addresses(world: &World, services: &[Arc<Value>], service: &Value) -> Vec<String> {
    if let Some(address) = address_of(service) {
        return vec![address.to_string()];
    }
    if service["spec"]["type"] != "ExternalName" {
        let pods = ready_pods(world, service);
        return pods
            .iter()
            .map(|pod| object::field(pod, "status.podIP").to_owned())
            .collect();
    }
    let target = object::field(service, "spec.externalName").trim_end_matches('.');
    let is_target = |other: &&Arc<Value>| {
        names(other, object::namespace(service))
            .iter()
            .any(|name| name == target && other["spec"]["clusterIP"].is_string())
    };
    services
        .iter()
        .find(is_target)
        .and_then(|other| address_of(other))
        .map(|ip| ip.to_string())
        .into_iter()
        .collect()
}
