//! Reads the objects that targets name: each once, many at a time, and by one list where many of a kind are wanted.
//!
//! What they mean for a target is told by [`super::service`] and [`super::pods`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use futures::stream::{self, StreamExt};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::list::list_all;
use super::pods::Workload;
use crate::cli::target::TargetKind;
use crate::cluster::answer::{is_forbidden, is_not_found};
use crate::cluster::api_error::{ApiError, Call};
use crate::cluster::client::ApiServer;

/// More objects of one kind in one namespace are listed instead of asked for one by one.
const ONE_BY_ONE: usize = 3;

/// Requests in flight at once; each may cost a connection.
const AT_ONCE: usize = 8;

/// One object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) kind: TargetKind,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// What is there under a [`Key`].
#[derive(Debug)]
pub(super) enum Object {
    Service(Box<Service>),
    Pod(Box<Pod>),
    Workload(Box<Workload>),
}

/// What was found; `None` where there is no such object.
pub(super) type Found = BTreeMap<Key, Result<Option<Object>, ApiError>>;

/// Reads all these objects.
pub(super) async fn look_up(server: &ApiServer, keys: BTreeSet<Key>) -> Found {
    let mut kinds: BTreeMap<(TargetKind, String), Vec<String>> = BTreeMap::new();
    for key in keys {
        kinds.entry((key.kind, key.namespace)).or_default().push(key.name);
    }
    let lists = kinds.into_iter().map(|((kind, namespace), names)| async move {
        let looked = Kind { server, namespace };
        match kind {
            TargetKind::Service => {
                looked
                    .read(kind, ("get", "services"), names, |service: Service| {
                        Object::Service(Box::new(service))
                    })
                    .await
            }
            TargetKind::Pod => {
                looked
                    .read(kind, ("get", "pods"), names, |pod: Pod| {
                        Object::Pod(Box::new(pod))
                    })
                    .await
            }
            TargetKind::Deployment => {
                looked
                    .workloads::<Deployment>(kind, "deployments.apps", names)
                    .await
            }
            TargetKind::ReplicaSet => {
                looked
                    .workloads::<ReplicaSet>(kind, "replicasets.apps", names)
                    .await
            }
            TargetKind::StatefulSet => {
                looked
                    .workloads::<StatefulSet>(kind, "statefulsets.apps", names)
                    .await
            }
            TargetKind::DaemonSet => {
                looked
                    .workloads::<DaemonSet>(kind, "daemonsets.apps", names)
                    .await
            }
            TargetKind::Job => looked.workloads::<Job>(kind, "jobs.batch", names).await,
            // No objects.
            TargetKind::Host | TargetKind::Ip => Found::new(),
        }
    });
    stream::iter(lists)
        .buffer_unordered(AT_ONCE)
        .fold(Found::new(), |mut all, found| async move {
            all.extend(found);
            all
        })
        .await
}

/// One kind in one namespace.
struct Kind<'a> {
    server: &'a ApiServer,
    namespace: String,
}

impl Kind<'_> {
    async fn workloads<K>(&self, kind: TargetKind, resource: &'static str, names: Vec<String>) -> Found
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K: Into<Workload>,
    {
        self.read(kind, ("get", resource), names, |object: K| {
            Object::Workload(Box::new(object.into()))
        })
        .await
    }

    async fn read<K>(
        &self,
        kind: TargetKind,
        call: (&'static str, &'static str),
        names: Vec<String>,
        keep: impl Fn(K) -> Object,
    ) -> Found
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::namespaced(self.server.client(), &self.namespace);
        let key = |name: String| Key {
            kind,
            namespace: self.namespace.clone(),
            name,
        };
        if names.len() > ONE_BY_ONE {
            let call = Call::new("list", call.1).in_namespace(self.namespace.as_str());
            let wanted = |object: K| {
                let name = object.name_any();
                names.contains(&name).then(|| (name, keep(object)))
            };
            match list_all(self.server, &api, ListParams::default(), call, wanted).await {
                Ok((objects, _)) => {
                    let mut found: Found = names.iter().map(|name| (key(name.clone()), Ok(None))).collect();
                    let objects = objects.into_iter().flatten();
                    found.extend(objects.map(|(name, object)| (key(name), Ok(Some(object)))));
                    return found;
                }
                // The right to get them may be there all the same.
                Err(error) if is_forbidden(&error) => {}
                Err(error) => {
                    return names
                        .into_iter()
                        .map(|name| (key(name), Err(error.clone())))
                        .collect();
                }
            }
        }
        let one = |name: String| {
            let call = Call::new(call.0, call.1)
                .named(name.as_str())
                .in_namespace(self.namespace.as_str());
            let (api, keep, key) = (&api, &keep, &key);
            async move {
                let found = match self.server.request(call, api.get(&name)).await {
                    Ok(object) => Ok(Some(keep(object))),
                    Err(error) if is_not_found(&error) => Ok(None),
                    Err(error) => Err(error),
                };
                (key(name), found)
            }
        };
        stream::iter(names.into_iter().map(one))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await
    }
}
