//! What a DELETE does to the stored object: preconditions, propagation, grace period, finalizers.
//!
//! The dependents of a deleted owner are `gc`'s; the processes of a deleted pod are `kubelet`'s.

use std::sync::Arc;

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{Inner, Key, Store};
use crate::clock;
use crate::object;
use crate::resource::Resource;

/// What becomes of the dependents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// The owner goes at once, the collector follows.
    #[default]
    Background,
    /// The owner stays until the dependents that block it are gone.
    Foreground,
    /// The dependents lose their reference and stay.
    Orphan,
}

pub(crate) const FOREGROUND_FINALIZER: &str = "foregroundDeletion";

/// The options of one DELETE.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    /// Seconds; only pods have a grace period.
    pub(crate) grace: Option<u64>,
    pub(crate) propagation: Propagation,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

/// How far the deletion came.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// The object is gone; this was its last form.
    Gone(Arc<Value>),
    /// It waits for its grace period or a finalizer.
    Terminating(Arc<Value>),
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeleteError {
    #[error("not found")]
    NotFound,
    #[error("precondition failed: {field} in precondition: {wanted}, {field} in object meta: {found}")]
    Precondition {
        field: &'static str,
        wanted: String,
        found: String,
    },
}

impl Store {
    pub(crate) fn delete(&self, key: &Key, options: &DeleteOptions) -> Result<Deleted, DeleteError> {
        let mut inner = self.lock();
        let old = inner.objects.get(key).cloned().ok_or(DeleteError::NotFound)?;
        check("UID", options.uid.as_deref(), object::uid(&old))?;
        let version = object::field(&old, "metadata.resourceVersion");
        check("ResourceVersion", options.resource_version.as_deref(), version)?;
        if options.propagation == Propagation::Orphan {
            inner.orphan_dependents(object::uid(&old));
        }
        let mut object = Value::clone(&old);
        if options.propagation == Propagation::Foreground {
            object::add_finalizer(&mut object, FOREGROUND_FINALIZER);
        }
        self.mark(key.resource, &mut object, options.grace);
        let gone = is_due(&object);
        let changed = object != *old;
        let object = if changed {
            inner.put_or_remove(key.clone(), old, object)
        } else {
            old
        };
        self.announce(inner);
        Ok(if gone {
            Deleted::Gone(object)
        } else {
            Deleted::Terminating(object)
        })
    }

    /// Sets the deletion marks; a later DELETE may only shorten the grace period.
    fn mark(&self, resource: Resource, object: &mut Value, wanted: Option<u64>) {
        let grace = if resource == Resource::Pod {
            pod_grace(object, wanted)
        } else {
            0
        };
        let current = object["metadata"]["deletionGracePeriodSeconds"].as_u64();
        if object::is_terminating(object) && current.is_some_and(|current| current <= grace) {
            return;
        }
        let after = SignedDuration::from_secs(i64::try_from(grace).unwrap_or(i64::MAX));
        let end = self
            .clock
            .now()
            .saturating_add(after)
            .unwrap_or_else(|_| self.clock.now());
        object["metadata"]["deletionTimestamp"] = json!(clock::stamp(end));
        object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    }
}

impl Inner {
    fn orphan_dependents(&mut self, owner_uid: &str) {
        let dependents: Vec<_> = self
            .objects
            .iter()
            .filter(|(_, object)| object::is_owned_by(object, owner_uid))
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect();
        for (key, old) in dependents {
            let mut object = Value::clone(&old);
            if let Some(list) = object["metadata"]["ownerReferences"].as_array_mut() {
                list.retain(|owner| owner["uid"] != owner_uid);
            }
            self.put(key, Some(old), object);
        }
    }
}

/// Whether a deleted object has nothing left to wait for.
pub(super) fn is_due(object: &Value) -> bool {
    let grace_over = object["metadata"]["deletionGracePeriodSeconds"]
        .as_u64()
        .unwrap_or(0)
        == 0;
    let held_as_namespace = object["spec"]["finalizers"]
        .as_array()
        .is_some_and(|list| !list.is_empty());
    object::is_terminating(object)
        && grace_over
        && object::finalizers(object).is_empty()
        && !held_as_namespace
}

/// A pod nobody runs, or that has ended, has no grace period to wait for.
fn pod_grace(pod: &Value, wanted: Option<u64>) -> u64 {
    if !pod["spec"]["nodeName"].is_string() || object::is_finished_pod(pod) {
        return 0;
    }
    wanted
        .or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_u64())
        .unwrap_or(30)
}

fn check(field: &'static str, wanted: Option<&str>, found: &str) -> Result<(), DeleteError> {
    match wanted {
        Some(wanted) if wanted != found => Err(DeleteError::Precondition {
            field,
            wanted: wanted.to_owned(),
            found: found.to_owned(),
        }),
        Some(_) | None => Ok(()),
    }
}
