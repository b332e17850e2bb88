//! What a session may have left in the cluster so far.
//!
//! `start` writes down each Job before its request is sent, so that `end` knows what to look for
//! even when `start` was cancelled with an answer outstanding. Cheap to clone; both hold the same.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::names::SessionId;

/// The shared list of a session's Jobs.
#[derive(Debug, Clone)]
pub struct Footprint {
    namespace: Arc<str>,
    session: SessionId,
    keep: bool,
    /// Held only for the time of a push or a clone, never across an await.
    traces: Arc<Mutex<Traces>>,
}

#[derive(Debug, Clone, Default)]
struct Traces {
    jobs: Vec<JobTrace>,
    service: Option<String>,
    network_policy: bool,
}

/// A Job that exists, or may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobTrace {
    pub name: String,
    /// `None` while the answer to its creation has not been seen.
    pub uid: Option<String>,
}

impl Footprint {
    /// `keep`: the end leaves the Job for debugging (`--keep`).
    pub fn new(namespace: &str, session: SessionId, keep: bool) -> Self {
        Self {
            namespace: namespace.into(),
            session,
            keep,
            traces: Arc::default(),
        }
    }

    /// The footprint of a session that another process started, known by its Jobs. It counts as one
    /// with a Service and a NetworkPolicy, since looking for them costs little.
    pub(super) fn of_jobs(
        namespace: &str,
        session: SessionId,
        jobs: impl IntoIterator<Item = JobTrace>,
    ) -> Self {
        let footprint = Self::new(namespace, session, false);
        footprint.lock().jobs.extend(jobs);
        footprint.service_requested("");
        footprint.network_policy_requested();
        footprint
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn session(&self) -> &SessionId {
        &self.session
    }

    pub fn keep(&self) -> bool {
        self.keep
    }

    /// Jobs that exist or may exist.
    pub fn jobs(&self) -> Vec<JobTrace> {
        self.lock().jobs.clone()
    }

    /// All of them but this one.
    pub(super) fn jobs_besides(&self, name: &str) -> Vec<JobTrace> {
        self.jobs().into_iter().filter(|job| job.name != name).collect()
    }

    /// The Service of `expose`, if one was asked for.
    pub fn service(&self) -> Option<String> {
        self.lock().service.clone()
    }

    /// Whether a NetworkPolicy was asked for; they are named like their Jobs.
    pub fn network_policy(&self) -> bool {
        self.lock().network_policy
    }

    /// Nothing was created, so there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.lock().jobs.is_empty()
    }

    pub(super) fn job_requested(&self, name: &str) {
        let mut traces = self.lock();
        // A name that is asked for again, after an answer nobody saw.
        if traces.jobs.iter().all(|job| job.name != name) {
            traces.jobs.push(JobTrace {
                name: name.to_owned(),
                uid: None,
            });
        }
    }

    pub(super) fn job_created(&self, name: &str, uid: &str) {
        let mut traces = self.lock();
        for job in traces.jobs.iter_mut().filter(|job| job.name == name) {
            job.uid = Some(uid.to_owned());
        }
    }

    /// The API server refused it, or it has been deleted: it is certain that it is not there.
    pub(super) fn job_gone(&self, name: &str) {
        self.lock().jobs.retain(|job| job.name != name);
    }

    pub(super) fn service_requested(&self, name: &str) {
        self.lock().service = Some(name.to_owned());
    }

    pub(super) fn network_policy_requested(&self) {
        self.lock().network_policy = true;
    }

    fn lock(&self) -> MutexGuard<'_, Traces> {
        // The list is valid after every single change.
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requested_job_stays_until_it_is_known_to_be_gone() {
        let footprint = Footprint::new("dev", SessionId::random(), false);
        assert!(footprint.is_empty());
        footprint.job_requested("a");
        footprint.clone().job_requested("b");
        footprint.job_created("a", "uid-a");
        assert_eq!(
            footprint.jobs(),
            [
                JobTrace {
                    name: "a".into(),
                    uid: Some("uid-a".into())
                },
                JobTrace {
                    name: "b".into(),
                    uid: None
                }
            ]
        );
        footprint.job_requested("b");
        assert_eq!(footprint.jobs_besides("a").len(), 1, "one trace a name");
        footprint.job_gone("b");
        footprint.job_gone("a");
        assert!(footprint.is_empty());
    }
}
