//! Waiting until no object with a label is left: one list, then a watch from there.
//!
//! Only metadata is asked for, since a ConfigMap holds a megabyte. What is left is written into
//! [`Remaining`] as it changes, so that a caller whose time is up still knows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::{Metadata, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, WatchParams},
    core::{NamespaceResourceScope, PartialObjectMeta, WatchEvent},
};
use serde::de::DeserializeOwned;
use tokio::time;

use super::{super::client::ApiServer, Names, ObjectRef};

/// Before a list that failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// What is known to be left, by kind.
#[derive(Debug, Default)]
pub(super) struct Remaining {
    names: Mutex<BTreeMap<&'static str, Names>>,
    /// Kinds that we may not look for.
    unseen: Mutex<BTreeSet<&'static str>>,
}

impl Remaining {
    pub(super) fn add(&self, object: ObjectRef) {
        self.lock().entry(object.kind).or_default().insert(object.name);
    }

    pub(super) fn list(&self) -> Vec<ObjectRef> {
        let kinds = self.lock();
        kinds
            .iter()
            .flat_map(|(kind, names)| names.iter().map(|name| ObjectRef::new(kind, name)))
            .collect()
    }

    pub(super) fn unseen(&self) -> Vec<&'static str> {
        lock(&self.unseen).iter().copied().collect()
    }

    fn set(&self, kind: &'static str, names: &Names) {
        self.lock().insert(kind, names.clone());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Names>> {
        lock(&self.names)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is a single insert.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns when no object of this kind with these labels is left, or when we may not look.
/// `kind` and its plural name the objects in messages and requests. Has no deadline of its own.
pub(super) async fn wait<K>(
    server: &ApiServer,
    namespace: &str,
    (kind, plural): (&'static str, &'static str),
    selector: &str,
    remaining: &Remaining,
) where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Metadata<Ty = ObjectMeta>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let api: Api<K> = Api::namespaced(server.client(), namespace);
    let params = ListParams::default().labels(selector);
    loop {
        match server.request(("list", plural), api.list_metadata(&params)).await {
            Ok(list) => {
                let mut names: Names = list.items.iter().map(ResourceExt::name_any).collect();
                remaining.set(kind, &names);
                if names.is_empty() {
                    return;
                }
                let version = list.metadata.resource_version.unwrap_or_default();
                let watch = WatchParams::default().labels(selector);
                let request = api.watch_metadata(&watch, &version);
                match server.request(("watch", plural), request).await {
                    Ok(stream) => {
                        let mut stream = stream.boxed();
                        while let Ok(Some(event)) = stream.try_next().await {
                            follow(&mut names, event);
                            remaining.set(kind, &names);
                            if names.is_empty() {
                                return;
                            }
                        }
                    }
                    Err(error) => tracing::debug!(%error, plural, "watch failed"),
                }
            }
            Err(error) if matches!(error.code(), Some(401 | 403 | 404)) => {
                if error.code() != Some(404) {
                    lock(&remaining.unseen).insert(kind);
                }
                remaining.set(kind, &Names::new());
                return;
            }
            Err(error) => tracing::debug!(%error, plural, "list failed"),
        }
        time::sleep(PAUSE).await;
    }
}

fn follow<K>(names: &mut Names, event: WatchEvent<PartialObjectMeta<K>>)
where
    K: Resource<DynamicType = ()>,
{
    match event {
        WatchEvent::Added(object) | WatchEvent::Modified(object) => {
            names.insert(object.name_any());
        }
        WatchEvent::Deleted(object) => {
            names.remove(&object.name_any());
        }
        WatchEvent::Bookmark(_) | WatchEvent::Error(_) => {}
    }
}
