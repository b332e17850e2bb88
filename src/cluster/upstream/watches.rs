//! Keeps [`PodGroup`]s up to date while it is held.
//!
//! ```text
//! list (in pages) -> replace what is known -> watch from the list's version -> apply changes
//!   ^                                          ^                 | ended, line lost, client renewed
//!   | version too old, or refused              +-----------------+ from the last version seen
//!   +------------------------------------------------------------+
//! ```
//!
//! A list says what is gone, which a watch that starts anew does not; a watch that goes on from where it was misses
//! nothing. While the API server is away, what is known stays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, WatchParams};
use kube::core::{Selector, WatchEvent};
use tokio::task::JoinSet;
use tokio::time;

use super::PodGroup;
use super::group::Pick;
use super::list::list_all;
use super::pod::PodState;
use crate::cluster::api_error::{ApiError, Call};
use crate::cluster::client::ApiServer;

/// Watches of one namespace, each with a connection of its own; more selectors share one watch of all its pods.
const WATCHES: usize = 8;

/// First and longest pause before a watch that could not be had is asked for again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The running watches; dropping it ends them, and the groups stay as they are.
#[derive(Debug)]
pub struct Watches {
    _tasks: JoinSet<()>,
}

impl Watches {
    /// Watches what the groups need: a watch for each selector, or one for a whole namespace with many. Follows a
    /// renewed client.
    pub fn start<'a>(server: &ApiServer, groups: impl IntoIterator<Item = &'a PodGroup>) -> Self {
        let mut tasks = JoinSet::new();
        for subject in subjects(groups) {
            tasks.spawn(subject.follow(server.clone()));
        }
        Self { _tasks: tasks }
    }
}

/// The pods one watch sees, and who wants to know of them.
#[derive(Debug)]
struct Subject {
    namespace: String,
    /// `None` for all pods.
    pick: Option<Pick>,
    groups: Vec<PodGroup>,
}

fn subjects<'a>(groups: impl IntoIterator<Item = &'a PodGroup>) -> Vec<Subject> {
    let mut namespaces: BTreeMap<&str, Vec<Subject>> = BTreeMap::new();
    for group in groups {
        let subjects = namespaces.entry(group.namespace()).or_default();
        let same = subjects
            .iter_mut()
            .find(|subject| subject.pick.as_ref() == Some(group.pick()));
        match same {
            Some(subject) => subject.groups.push(group.clone()),
            None => subjects.push(Subject {
                namespace: group.namespace().to_owned(),
                pick: Some(group.pick().clone()),
                groups: vec![group.clone()],
            }),
        }
    }
    let merged = namespaces.into_iter().flat_map(|(namespace, subjects)| {
        if subjects.len() <= WATCHES {
            return subjects;
        }
        vec![Subject {
            namespace: namespace.to_owned(),
            pick: None,
            groups: subjects.into_iter().flat_map(|subject| subject.groups).collect(),
        }]
    });
    merged.collect()
}

/// How a watch ended.
enum End {
    /// What came before is complete: go on from there.
    Broken,
    /// The version is too old, or the API server refused: only a list helps.
    Refused,
}

impl Subject {
    async fn follow(self, server: ApiServer) {
        let mut version = None;
        let mut pause = PAUSES.0;
        loop {
            let renewed = server.renewed();
            tokio::pin!(renewed);
            let from = match version.take() {
                Some(from) => Ok(from),
                None => self.list(&server).await,
            };
            match from {
                Ok(mut from) => {
                    let began = time::Instant::now();
                    let end = tokio::select! {
                        end = self.watch(&server, &mut from) => end,
                        () = &mut renewed => End::Broken,
                    };
                    if began.elapsed() > PAUSES.1 {
                        pause = PAUSES.0;
                    }
                    if matches!(end, End::Broken) {
                        version = Some(from);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, namespace = self.namespace, "pods not listed");
                    self.set_trouble(&error);
                }
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Replaces what the groups know; returns the version to watch from.
    async fn list(&self, server: &ApiServer) -> Result<String, ApiError> {
        let pods: Api<Pod> = Api::namespaced(server.client(), &self.namespace);
        let mut params = ListParams::default();
        (params.label_selector, params.field_selector) = self.selectors();
        let call = Call::new("list", "pods").in_namespace(self.namespace.as_str());
        let (pods, version) = list_all(server, &pods, params, call, PodState::of).await?;
        let pods: Vec<Arc<PodState>> = pods.into_iter().map(Arc::new).collect();
        for group in &self.groups {
            let own = pods.iter().filter(|pod| group.pick().matches(pod));
            let own = own.map(|pod| (pod.name.clone(), Arc::clone(pod))).collect();
            group.update(|known| {
                known.listed = true;
                known.trouble = None;
                known.pods = own;
                true
            });
        }
        Ok(version)
    }

    /// Applies changes until the watch ends; `version` is that of the last one.
    async fn watch(&self, server: &ApiServer, version: &mut String) -> End {
        let pods: Api<Pod> = Api::namespaced(server.client(), &self.namespace);
        let mut params = WatchParams::default();
        (params.label_selector, params.field_selector) = self.selectors();
        let call = Call::new("watch", "pods").in_namespace(self.namespace.as_str());
        let stream = match server.request(call, pods.watch(&params, version)).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, namespace = self.namespace, "pods not watched");
                let refused = error.code().is_some();
                return if refused { End::Refused } else { End::Broken };
            }
        };
        let mut stream = stream.boxed();
        loop {
            match stream.try_next().await {
                Ok(Some(WatchEvent::Added(pod) | WatchEvent::Modified(pod))) => {
                    note(version, pod.metadata.resource_version.as_ref());
                    self.apply(PodState::of(pod));
                }
                Ok(Some(WatchEvent::Deleted(pod))) => {
                    note(version, pod.metadata.resource_version.as_ref());
                    self.remove(&PodState::of(pod));
                }
                Ok(Some(WatchEvent::Bookmark(bookmark))) => {
                    note(version, Some(&bookmark.metadata.resource_version));
                }
                Ok(Some(WatchEvent::Error(status))) => {
                    tracing::debug!(
                        reason = status.reason,
                        namespace = self.namespace,
                        "watch of pods refused"
                    );
                    return End::Refused;
                }
                Ok(None) | Err(_) => return End::Broken,
            }
        }
    }

    fn apply(&self, pod: PodState) {
        let pod = Arc::new(pod);
        for group in &self.groups {
            // Labels may change: a pod enters and leaves groups.
            if !group.pick().matches(&pod) {
                group.update(|known| known.pods.remove(&pod.name).is_some());
                continue;
            }
            group.update(|known| {
                let before = known.pods.insert(pod.name.clone(), Arc::clone(&pod));
                before.is_none_or(|before| before != pod)
            });
        }
    }

    /// Unless a successor of the same name is known.
    fn remove(&self, pod: &PodState) {
        for group in &self.groups {
            group.update(|known| {
                let same = known
                    .pods
                    .get(&pod.name)
                    .is_some_and(|known| known.uid == pod.uid);
                same && known.pods.remove(&pod.name).is_some()
            });
        }
    }

    /// Says why nothing is known, until something is.
    fn set_trouble(&self, error: &ApiError) {
        for group in &self.groups {
            group.update(|known| {
                known.trouble = Some(error.clone());
                // Whoever waits need not, if it is for ever.
                !known.listed
            });
        }
    }

    /// Label and field selector.
    fn selectors(&self) -> (Option<String>, Option<String>) {
        match &self.pick {
            None => (None, None),
            Some(Pick::Name(name)) => (None, Some(format!("metadata.name={name}"))),
            Some(Pick::Labels(selector)) => (label_selector(selector), None),
        }
    }
}

fn label_selector(selector: &Selector) -> Option<String> {
    (!selector.selects_all()).then(|| selector.to_string())
}

fn note(version: &mut String, seen: Option<&String>) {
    if let Some(seen) = seen {
        version.clone_from(seen);
    }
}

#[cfg(test)]
mod tests;
