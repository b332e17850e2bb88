//! The Job controller: makes the pod, counts its end, holds the deadline, applies the TTL.
//!
//! Level-triggered: each pass reads all Jobs and pods and does what is due. Pods carry the
//! `batch.kubernetes.io/job-tracking` finalizer until their end is counted, as in a real cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::http::prepare_pod;
use crate::object;
use crate::resource::Resource;
use crate::store::{DeleteOptions, Key, Propagation, random_suffix};
use crate::world::{EventText, World};

const TRACKING: &str = "batch.kubernetes.io/job-tracking";

/// From a pod's failure to its successor; a real controller waits as long.
const BACK_OFF: Duration = Duration::from_secs(10);

/// Between attempts to create a refused pod: the first two of a real controller, then its last again.
const CREATE_RETRIES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

#[derive(Debug, Default)]
struct Jobs {
    /// By Job uid: refused creations so far.
    refused: HashMap<String, usize>,
    /// By Job uid: not before this instant is a pod created.
    not_before: HashMap<String, Instant>,
}

pub(crate) async fn run(world: Arc<World>) {
    let mut jobs = Jobs::default();
    world.follow(move |world| jobs.reconcile(world)).await;
}

impl Jobs {
    /// One pass; returns when something is due without a change.
    fn reconcile(&mut self, world: &World) -> Option<Duration> {
        let (_, jobs) = world.store.list(Resource::Job, None);
        release_orphans(world, &jobs);
        jobs.iter().filter_map(|job| self.sync(world, job)).min()
    }

    fn sync(&mut self, world: &World, job: &Value) -> Option<Duration> {
        let key = Key::of(Resource::Job, job);
        let pods = pods_of(world, job);
        if object::is_terminating(job) {
            release(world, &pods);
            return None;
        }
        if let Some(end) = finished(job) {
            release(world, &pods);
            return expire(world, &key, job, end);
        }
        if !job["status"]["startTime"].is_string() {
            let now = world.clock.stamp();
            world
                .store
                .update(&key, |job| job["status"]["startTime"] = json!(now));
        }
        count(world, &key, &pods);
        let job = world.store.get(&key)?;
        let active = pods.iter().filter(|pod| !has_ended(pod)).count();
        world.store.update(&key, |job| {
            job["status"]["active"] = json!(active);
            job["status"]["ready"] = json!(0);
        });
        if let Some(target) = object::condition(&job, "FailureTarget") {
            let (reason, message) = (object::field(target, "reason"), object::field(target, "message"));
            if active == 0 {
                conclude(world, &key, "Failed", reason, message);
            }
            return None;
        }
        if job["status"]["succeeded"].as_u64().unwrap_or(0) > 0 {
            let message = "Reached expected number of succeeded pods";
            conclude(world, &key, "Complete", "CompletionsReached", message);
            say(world, &job, false, "Completed", "Job completed");
            return None;
        }
        if job["status"]["failed"].as_u64().unwrap_or(0) > job["spec"]["backoffLimit"].as_u64().unwrap_or(6) {
            let message = "Job has reached the specified backoff limit";
            fail(world, &key, &pods, "BackoffLimitExceeded", message);
            return None;
        }
        let deadline = deadline(world, &job);
        if deadline.is_some_and(|left| left.is_zero()) {
            let message = "Job was active longer than specified deadline";
            fail(world, &key, &pods, "DeadlineExceeded", message);
            return None;
        }
        let create = if active == 0 {
            self.create_pod(world, &job)
        } else {
            None
        };
        [deadline, create].into_iter().flatten().min()
    }

    /// Creates the pod when its time has come; returns the time left otherwise.
    fn create_pod(&mut self, world: &World, job: &Value) -> Option<Duration> {
        let uid = object::uid(job).to_owned();
        let failed = job["status"]["failed"].as_u64().unwrap_or(0) > 0;
        if failed && !self.not_before.contains_key(&uid) {
            self.not_before.insert(uid.clone(), Instant::now() + BACK_OFF);
        }
        let left = self
            .not_before
            .get(&uid)
            .map_or(Duration::ZERO, |at| at.duration_since(Instant::now()));
        if !left.is_zero() {
            return Some(left);
        }
        self.not_before.remove(&uid);
        let mut pod = pod_of(job);
        if let Err(refusal) = prepare_pod(world, &mut pod) {
            let body = refusal.body();
            let message = format!("Error creating: {}", object::field(&body, "message"));
            say(world, job, true, "FailedCreate", &message);
            let tries = self.refused.entry(uid.clone()).or_default();
            let delay = CREATE_RETRIES[(*tries).min(CREATE_RETRIES.len() - 1)];
            *tries += 1;
            self.not_before.insert(uid, Instant::now() + delay);
            return Some(delay);
        }
        self.refused.remove(&uid);
        if let Some(pod) = world.store.create(Resource::Pod, pod) {
            let message = format!("Created pod: {}", object::name(&pod));
            say(world, job, false, "SuccessfulCreate", &message);
        }
        None
    }
}

fn pods_of(world: &World, job: &Value) -> Vec<Arc<Value>> {
    let (_, pods) = world.store.list(Resource::Pod, Some(object::namespace(job)));
    pods.into_iter()
        .filter(|pod| object::is_owned_by(pod, object::uid(job)))
        .collect()
}

/// A pod whose end may be counted: it ran to its end, or was deleted before it ever ran.
fn has_ended(pod: &Value) -> bool {
    object::is_finished_pod(pod)
        || (object::is_terminating(pod) && pod["metadata"]["deletionGracePeriodSeconds"] == 0)
}

/// Counts the pods that ended, then lets go of them.
fn count(world: &World, key: &Key, pods: &[Arc<Value>]) {
    let ended = pods
        .iter()
        .filter(|pod| has_ended(pod) && object::finalizers(pod).contains(&TRACKING));
    let ended: Vec<Arc<Value>> = ended.cloned().collect();
    let succeeded = ended
        .iter()
        .filter(|pod| pod["status"]["phase"] == "Succeeded")
        .count();
    for (field, more) in [("succeeded", succeeded), ("failed", ended.len() - succeeded)] {
        if more > 0 {
            world.store.update(key, |job| {
                let sum = job["status"][field].as_u64().unwrap_or(0) + more as u64;
                job["status"][field] = json!(sum);
            });
        }
    }
    release(world, &ended);
}

fn release(world: &World, pods: &[Arc<Value>]) {
    for pod in pods {
        let key = Key::of(Resource::Pod, pod);
        world
            .store
            .update(&key, |pod| object::remove_finalizer(pod, TRACKING));
    }
}

/// Pods whose Job is gone have nobody to count them.
fn release_orphans(world: &World, jobs: &[Arc<Value>]) {
    let (_, pods) = world.store.list(Resource::Pod, None);
    let owned = |pod: &Value| jobs.iter().any(|job| object::is_owned_by(pod, object::uid(job)));
    let orphans = pods
        .into_iter()
        .filter(|pod| object::finalizers(pod).contains(&TRACKING) && !owned(pod));
    release(world, &orphans.collect::<Vec<_>>());
}

/// When the Job finished.
fn finished(job: &Value) -> Option<&str> {
    ["Complete", "Failed"]
        .into_iter()
        .filter(|kind| object::has_condition(job, kind))
        .find_map(|kind| object::condition(job, kind)?["lastTransitionTime"].as_str())
}

/// Deletes a finished Job whose time to live is over, or returns the rest of it.
fn expire(world: &World, key: &Key, job: &Value, end: &str) -> Option<Duration> {
    let ttl = job["spec"]["ttlSecondsAfterFinished"].as_i64()?;
    let left = world.clock.until(end, ttl);
    if !left.is_zero() {
        return Some(left);
    }
    let options = DeleteOptions {
        propagation: Propagation::Foreground,
        uid: Some(object::uid(job).to_owned()),
        ..DeleteOptions::default()
    };
    if let Err(error) = world.store.delete(key, &options) {
        tracing::debug!(job = key.name, %error, "expired job not deleted");
    }
    None
}

fn deadline(world: &World, job: &Value) -> Option<Duration> {
    let seconds = job["spec"]["activeDeadlineSeconds"].as_i64()?;
    Some(world.clock.until(object::field(job, "status.startTime"), seconds))
}

/// Marks the Job as failing and deletes its pods; `Failed` follows when they have ended.
fn fail(world: &World, key: &Key, pods: &[Arc<Value>], reason: &str, message: &str) {
    let condition = condition(world, "FailureTarget", reason, message);
    let Some(job) = world
        .store
        .update(key, |job| object::set_condition(job, condition))
    else {
        return;
    };
    for pod in pods
        .iter()
        .filter(|pod| !has_ended(pod) && !object::is_terminating(pod))
    {
        let text = format!("Deleted pod: {}", object::name(pod));
        say(world, &job, false, "SuccessfulDelete", &text);
        if let Err(error) = world
            .store
            .delete(&Key::of(Resource::Pod, pod), &DeleteOptions::default())
        {
            tracing::debug!(job = key.name, %error, "pod of a failed job not deleted");
        }
    }
    say(world, &job, true, reason, message);
}

fn conclude(world: &World, key: &Key, kind: &str, reason: &str, message: &str) {
    let last = condition(world, kind, reason, message);
    let now = world.clock.stamp();
    world.store.update(key, |job| {
        if kind == "Complete" {
            object::set_condition(job, condition(world, "SuccessCriteriaMet", reason, message));
            job["status"]["completionTime"] = json!(now);
        }
        object::set_condition(job, last);
        job["status"]["active"] = json!(0);
    });
}

fn condition(world: &World, kind: &str, reason: &str, message: &str) -> Value {
    let now = world.clock.stamp();
    json!({
        "type": kind, "status": "True", "reason": reason, "message": message,
        "lastProbeTime": now, "lastTransitionTime": now,
    })
}

/// The pod of the Job's template.
fn pod_of(job: &Value) -> Value {
    let template = &job["spec"]["template"];
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{}-{}", object::name(job), random_suffix()),
            "generateName": format!("{}-", object::name(job)),
            "namespace": object::namespace(job),
            "labels": template["metadata"]["labels"],
            "annotations": template["metadata"]["annotations"],
            "ownerReferences": [object::controller_reference(Resource::Job, job)],
            "finalizers": [TRACKING],
        },
        "spec": template["spec"],
    })
}

fn say(world: &World, job: &Value, warning: bool, reason: &str, message: &str) {
    let event = EventText {
        warning,
        reason,
        message,
        source: "job-controller",
        container: "",
    };
    world.record_event((Resource::Job, job), &event);
}
