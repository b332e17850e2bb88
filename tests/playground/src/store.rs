//! All objects, their resource versions, and the log of changes that watches read.
//!
//! It gives out identities (uid, generated name, creation time), applies the deletion rules every
//! kind shares (finalizers, grace period) and wakes whoever follows `subscribe`. It validates nothing
//! and starts nothing: `http` checks what people send, the controllers act on what changed.

mod delete;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::object;
use crate::resource::Resource;

pub(crate) use delete::{DeleteError, DeleteOptions, Deleted, FOREGROUND_FINALIZER, Propagation};

/// Changes kept for watches that start in the past; an older start is answered 410 as by etcd.
const LOG_LENGTH: usize = 20_000;

/// Where an object lives. Cluster-wide objects have an empty namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The kind.
    pub resource: Resource,
    /// The namespace, empty for cluster-wide kinds.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// A key from borrowed parts.
    pub fn new(resource: Resource, namespace: &str, name: &str) -> Self {
        Self {
            resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    pub(crate) fn of(resource: Resource, object: &Value) -> Self {
        Self::new(resource, object::namespace(object), object::name(object))
    }
}

/// One change: created (no `old`), modified, or removed (no `new`).
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) key: Key,
    pub(crate) old: Option<Arc<Value>>,
    pub(crate) new: Option<Arc<Value>>,
    /// The last form of a removed object, with the revision of its removal.
    pub(crate) last: Option<Arc<Value>>,
}

#[derive(Debug)]
pub(crate) struct Store {
    inner: Mutex<Inner>,
    revision_tx: watch::Sender<u64>,
    clock: Clock,
}

#[derive(Debug)]
struct Inner {
    objects: BTreeMap<Key, Arc<Value>>,
    revision: u64,
    log: VecDeque<Change>,
}

impl Store {
    pub(crate) fn new(clock: Clock) -> Self {
        let inner = Inner {
            objects: BTreeMap::new(),
            revision: 1,
            log: VecDeque::new(),
        };
        Self {
            inner: Mutex::new(inner),
            revision_tx: watch::Sender::new(1),
            clock,
        }
    }

    /// Follows the newest revision; every change wakes it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision_tx.subscribe()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.lock().objects.get(key).cloned()
    }

    /// The objects of one kind in one namespace (or all), with the revision they were read at.
    pub(crate) fn list(&self, resource: Resource, namespace: Option<&str>) -> (u64, Vec<Arc<Value>>) {
        let inner = self.lock();
        let here = |key: &Key| key.resource == resource && namespace.is_none_or(|ns| key.namespace == ns);
        let objects = inner.objects.iter().filter(|(key, _)| here(key));
        (
            inner.revision,
            objects.map(|(_, object)| Arc::clone(object)).collect(),
        )
    }

    /// Everything there is.
    pub(crate) fn all(&self) -> Vec<(Key, Arc<Value>)> {
        self.lock()
            .objects
            .iter()
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect()
    }

    /// Stores a new object and gives it uid, creation time and resource version. `None`: the name is taken.
    pub(crate) fn create(&self, resource: Resource, mut object: Value) -> Option<Arc<Value>> {
        identify(&mut object, self.clock);
        let key = Key::of(resource, &object);
        let mut inner = self.lock();
        if inner.objects.contains_key(&key) {
            return None;
        }
        let stored = inner.put(key, None, object);
        self.announce(inner);
        Some(stored)
    }

    /// Changes an object in place; `None`: there is none. A change to nothing leaves the version alone.
    pub(crate) fn update(&self, key: &Key, change: impl FnOnce(&mut Value)) -> Option<Arc<Value>> {
        let changed = self.try_update(key, |object| {
            change(object);
            Ok::<(), Infallible>(())
        });
        match changed {
            Ok(object) => object,
            Err(never) => match never {},
        }
    }

    /// As `update`, by a change that may refuse; a refused change leaves the object alone.
    pub(crate) fn try_update<E>(
        &self,
        key: &Key,
        change: impl FnOnce(&mut Value) -> Result<(), E>,
    ) -> Result<Option<Arc<Value>>, E> {
        let mut inner = self.lock();
        let Some(old) = inner.objects.get(key).cloned() else {
            return Ok(None);
        };
        let mut object = Value::clone(&old);
        change(&mut object)?;
        if object == *old {
            return Ok(Some(old));
        }
        let stored = inner.put_or_remove(key.clone(), old, object);
        self.announce(inner);
        Ok(Some(stored))
    }

    /// The changes after `revision`; `None`: it is too long ago.
    pub(crate) fn changes_since(&self, revision: u64) -> Option<Vec<Change>> {
        let inner = self.lock();
        if inner
            .log
            .front()
            .is_some_and(|first| first.revision > revision + 1 && inner.log.len() == LOG_LENGTH)
        {
            return None;
        }
        let start = inner.log.partition_point(|change| change.revision <= revision);
        Some(inner.log.range(start..).cloned().collect())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while holding the lock is a bug of the playground; the objects are still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self, inner: MutexGuard<'_, Inner>) {
        let revision = inner.revision;
        drop(inner);
        self.revision_tx.send_replace(revision);
    }
}

impl Inner {
    fn put(&mut self, key: Key, old: Option<Arc<Value>>, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let object = Arc::new(object);
        self.objects.insert(key.clone(), Arc::clone(&object));
        self.record(Change {
            revision: self.revision,
            key,
            old,
            new: Some(Arc::clone(&object)),
            last: None,
        });
        object
    }

    /// Stores the new form, or removes the object when nothing holds its deletion back any more.
    fn put_or_remove(&mut self, key: Key, old: Arc<Value>, object: Value) -> Arc<Value> {
        if delete::is_due(&object) {
            return self.remove(key, old, object);
        }
        self.put(key, Some(old), object)
    }

    fn remove(&mut self, key: Key, old: Arc<Value>, mut last: Value) -> Arc<Value> {
        self.revision += 1;
        last["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let last = Arc::new(last);
        self.objects.remove(&key);
        let revision = self.revision;
        self.record(Change {
            revision,
            key,
            old: Some(old),
            new: None,
            last: Some(Arc::clone(&last)),
        });
        last
    }

    fn record(&mut self, change: Change) {
        if self.log.len() == LOG_LENGTH {
            self.log.pop_front();
        }
        self.log.push_back(change);
    }
}

/// Gives a new object what the API server adds: name from `generateName`, uid, creation time.
pub(crate) fn identify(object: &mut Value, clock: Clock) {
    let metadata = object::map_at(object, "metadata");
    let base = metadata
        .get("generateName")
        .and_then(Value::as_str)
        .map(str::to_owned);
    if let (None, Some(base)) = (metadata.get("name").and_then(Value::as_str), base) {
        metadata.insert("name".to_owned(), json!(format!("{base}{}", random_suffix())));
    }
    metadata.entry("uid").or_insert_with(|| json!(new_uid()));
    metadata
        .entry("creationTimestamp")
        .or_insert_with(|| json!(clock.stamp()));
}

/// Five characters of the alphabet Kubernetes generates names from.
pub(crate) fn random_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5)
        .map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())]))
        .collect()
}

/// A random (version 4) UUID.
pub(crate) fn new_uid() -> String {
    let bits = (rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn store() -> Store {
        Store::new(Clock::new(SignedDuration::ZERO))
    }

    fn config_map(name: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "dev"}})
    }

    #[test]
    fn a_name_is_taken_once_and_every_change_has_a_newer_version() {
        let store = store();
        let first = store.create(Resource::ConfigMap, config_map("a")).unwrap();
        assert!(store.create(Resource::ConfigMap, config_map("a")).is_none());
        let key = Key::of(Resource::ConfigMap, &first);
        let second = store
            .update(&key, |object| object["data"] = json!({"k": "v"}))
            .unwrap();
        let same = store.update(&key, |_| {}).unwrap();
        assert_ne!(
            first["metadata"]["resourceVersion"],
            second["metadata"]["resourceVersion"]
        );
        assert_eq!(
            second["metadata"]["resourceVersion"],
            same["metadata"]["resourceVersion"]
        );
        let changes = store.changes_since(1).unwrap();
        assert_eq!(changes.len(), 2);
        assert_eq!(store.changes_since(changes[0].revision).unwrap().len(), 1);
    }

    #[test]
    fn a_finalizer_holds_the_object_until_it_is_removed() {
        let store = store();
        let mut object = config_map("a");
        object["metadata"]["finalizers"] = json!(["x/y"]);
        let object = store.create(Resource::ConfigMap, object).unwrap();
        let key = Key::of(Resource::ConfigMap, &object);
        let deleted = store.delete(&key, &DeleteOptions::default()).unwrap();
        assert!(matches!(deleted, Deleted::Terminating(_)));
        assert!(object::is_terminating(&store.get(&key).unwrap()));
        store.update(&key, |object| object::remove_finalizer(object, "x/y"));
        assert!(store.get(&key).is_none());
    }

    #[test]
    fn a_running_pod_waits_for_its_grace_and_a_second_delete_can_shorten_it() {
        let store = store();
        let pod = json!({"metadata": {"name": "p", "namespace": "dev"}, "spec": {"nodeName": "n"}});
        let key = Key::of(Resource::Pod, &store.create(Resource::Pod, pod).unwrap());
        store.delete(&key, &DeleteOptions::default()).unwrap();
        assert_eq!(
            store.get(&key).unwrap()["metadata"]["deletionGracePeriodSeconds"],
            30
        );
        let now = DeleteOptions {
            grace: Some(0),
            ..DeleteOptions::default()
        };
        assert!(matches!(store.delete(&key, &now).unwrap(), Deleted::Gone(_)));
        assert!(matches!(store.delete(&key, &now), Err(DeleteError::NotFound)));
    }

    #[test]
    fn a_uid_is_a_version_4_uuid() {
        let uid = new_uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(&uid[14..15], "4");
        assert!("89ab".contains(&uid[19..20]), "{uid}");
    }
}
