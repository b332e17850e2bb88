//! What all parts of one playground share: the store, the options, the tasks, the temporary folder.
//!
//! The world owns every task (through `spawn`) and every process group (through `processes`), so
//! that ending it ends them. Parts never call each other for effects on objects: they change the
//! store, and whoever follows it acts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addresses::Addresses;
use crate::audit::Audit;
use crate::auth::Users;
use crate::clock::Clock;
use crate::faults::Faults;
use crate::kubelet::Sandboxes;
use crate::object;
use crate::options::Options;
use crate::processes::Processes;
use crate::resource::Resource;
use crate::services::Listening;
use crate::store::{Key, Store};

/// The node every pod runs on.
pub(crate) const NODE: &str = "playground";

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) clock: Clock,
    pub(crate) store: Store,
    pub(crate) users: Users,
    pub(crate) faults: Faults,
    pub(crate) audit: Audit,
    pub(crate) addresses: Addresses,
    pub(crate) sandboxes: Sandboxes,
    pub(crate) listening: Listening,
    pub(crate) processes: Processes,
    pub(crate) root: Folder,
    pub(crate) stop: CancellationToken,
    tracker: TaskTracker,
}

impl World {
    pub(crate) async fn new(options: Options) -> io::Result<Self> {
        let clock = Clock::new(options.clock_offset);
        Ok(Self {
            clock,
            store: Store::new(clock),
            users: Users::new(&options.users),
            faults: Faults::default(),
            audit: Audit::default(),
            addresses: Addresses::reserve().await?,
            sandboxes: Sandboxes::default(),
            listening: Listening::default(),
            processes: Processes::default(),
            root: Folder::create()?,
            stop: CancellationToken::new(),
            tracker: TaskTracker::new(),
            options,
        })
    }

    /// Runs a task until it ends or the playground does.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker
            .spawn(async move { stop.run_until_cancelled(task).await });
    }

    /// Kills all processes and waits for all tasks.
    pub(crate) async fn end(&self) {
        self.kill();
        self.tracker.close();
        self.tracker.wait().await;
        self.processes.kill_all();
    }

    /// The part of the end that needs no runtime.
    pub(crate) fn kill(&self) {
        self.stop.cancel();
        self.processes.kill_all();
    }

    /// Runs `reconcile` whenever the store changed, and when the time it asked for is over.
    pub(crate) async fn follow<F>(self: Arc<Self>, mut reconcile: F)
    where
        F: FnMut(&Arc<Self>) -> Option<std::time::Duration>,
    {
        let mut revision_rx = self.store.subscribe();
        loop {
            revision_rx.borrow_and_update();
            let next = reconcile(&self);
            let timer = async {
                match next {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = revision_rx.changed() => if changed.is_err() { return },
                () = timer => {}
            }
        }
    }

    /// Writes an event about `about`, or counts up the one that says the same.
    pub(crate) fn record_event(&self, about: (Resource, &Value), event: &EventText<'_>) {
        let (resource, subject) = about;
        let namespace = object::namespace(subject);
        let now = self.clock.stamp();
        let same = |other: &Value| {
            object::field(other, "involvedObject.uid") == object::uid(subject)
                && (other["reason"] == event.reason && other["message"] == event.message)
        };
        let (_, events) = self.store.list(Resource::Event, Some(namespace));
        if let Some(known) = events.iter().find(|other| same(other)) {
            self.store.update(&Key::of(Resource::Event, known), |known| {
                known["count"] = json!(known["count"].as_u64().unwrap_or(1) + 1);
                known["lastTimestamp"] = json!(now);
            });
            return;
        }
        let mut involved = json!({
            "apiVersion": resource.api_version(), "kind": resource.kind(), "namespace": namespace,
            "name": object::name(subject), "uid": object::uid(subject),
            "resourceVersion": object::field(subject, "metadata.resourceVersion"),
        });
        if !event.container.is_empty() {
            involved["fieldPath"] = json!(format!("spec.containers{{{}}}", event.container));
        }
        let name = format!("{}.{:016x}", object::name(subject), rand::random::<u64>());
        let stored = self.store.create(
            Resource::Event,
            json!({
                "apiVersion": "v1", "kind": "Event",
                "metadata": {"name": name, "namespace": namespace},
                "involvedObject": involved,
                "type": if event.warning { "Warning" } else { "Normal" },
                "reason": event.reason, "message": event.message,
                "source": {"component": event.source}, "reportingComponent": event.source, "reportingInstance": "",
                "firstTimestamp": now, "lastTimestamp": now, "count": 1,
            }),
        );
        debug_assert!(stored.is_some(), "64 random bits made the same event name twice");
    }

    /// The hosts file the pods of this namespace read.
    pub(crate) fn hosts_file(&self, namespace: &str) -> PathBuf {
        self.root.path().join("hosts").join(namespace)
    }
}

/// The text of an event.
#[derive(Debug)]
pub(crate) struct EventText<'a> {
    pub(crate) warning: bool,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
    /// Which component says it.
    pub(crate) source: &'a str,
    /// The container it is about; empty for the whole object.
    pub(crate) container: &'a str,
}

/// A temporary folder that goes with its owner. Short, since paths of unix sockets inside it may have
/// 107 bytes only.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    fn create() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("tpg-{:08x}", rand::random::<u32>()));
        fs::create_dir(&path)?;
        fs::create_dir(path.join("hosts"))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "temporary folder not removed");
        }
    }
}
