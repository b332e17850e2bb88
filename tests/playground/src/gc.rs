//! The garbage collector: dependents of absent owners, foreground deletion, ending namespaces.
//!
//! Owners are found by uid alone, so a reference to an owner that never was collects the object too.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::object;
use crate::resource::Resource;
use crate::store::{DeleteOptions, FOREGROUND_FINALIZER, Key, Propagation};
use crate::world::World;

pub(crate) async fn run(world: Arc<World>) {
    world.follow(reconcile).await;
}

/// One pass over everything; nothing is ever due by time alone.
fn reconcile(world: &Arc<World>) -> Option<Duration> {
    let all = world.store.all();
    let owners: HashMap<&str, &Value> = all
        .iter()
        .map(|(_, object)| (object::uid(object), &**object))
        .collect();
    for (key, object) in &all {
        collect(world, &owners, key, object);
    }
    for (key, object) in all.iter().filter(|(_, object)| in_foreground_deletion(object)) {
        let blocks =
            |owner: &Value| owner["uid"] == object["metadata"]["uid"] && owner["blockOwnerDeletion"] == true;
        if !all
            .iter()
            .any(|(_, dependent)| object::owners(dependent).iter().any(blocks))
        {
            world
                .store
                .update(key, |owner| object::remove_finalizer(owner, FOREGROUND_FINALIZER));
        }
    }
    end_namespaces(world, &all);
    None
}

/// Deletes `object` when it has owners and none of them wants it any more.
fn collect(world: &World, owners: &HashMap<&str, &Value>, key: &Key, object: &Value) {
    let references = object::owners(object);
    if references.is_empty() || object::is_terminating(object) {
        return;
    }
    let owner_of = |reference: &Value| reference["uid"].as_str().and_then(|uid| owners.get(uid).copied());
    let wanted = references
        .iter()
        .any(|reference| owner_of(reference).is_some_and(|o| !in_foreground_deletion(o)));
    if wanted {
        return;
    }
    let options = DeleteOptions {
        propagation: Propagation::Background,
        uid: Some(object::uid(object).to_owned()),
        ..DeleteOptions::default()
    };
    if let Err(error) = world.store.delete(key, &options) {
        tracing::debug!(?key, %error, "dependent not collected");
    }
}

fn in_foreground_deletion(object: &Value) -> bool {
    object::is_terminating(object) && object::finalizers(object).contains(&FOREGROUND_FINALIZER)
}

/// Empties namespaces that are being deleted, and lets go of the empty ones.
fn end_namespaces(world: &World, all: &[(Key, Arc<Value>)]) {
    let ending: HashSet<&str> = all
        .iter()
        .filter(|(key, object)| key.resource == Resource::Namespace && object::is_terminating(object))
        .map(|(key, _)| key.name.as_str())
        .collect();
    for (key, object) in all
        .iter()
        .filter(|(key, _)| ending.contains(key.namespace.as_str()))
    {
        if !object::is_terminating(object)
            && let Err(error) = world.store.delete(key, &DeleteOptions::default())
        {
            tracing::debug!(?key, %error, "object of an ending namespace not deleted");
        }
    }
    for name in ending {
        let empty = !all.iter().any(|(key, _)| key.namespace == name);
        world
            .store
            .update(&Key::new(Resource::Namespace, "", name), |namespace| {
                namespace["status"]["phase"] = json!("Terminating");
                if empty {
                    namespace["spec"]["finalizers"] = json!([]);
                }
            });
    }
}
