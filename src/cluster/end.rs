//! The end of a session in the cluster: one DELETE of the Job, then seeing that all of it is gone.
//!
//! Everything else carries an owner reference to the Job, so the garbage collector removes it; we
//! only watch. Each form has a bound, repeats what failed, and is safe to repeat as a whole.
//! Called by the commands at every end, also of a start that failed or was cancelled.

mod gone;

use std::{collections::BTreeSet, fmt, time::Duration};

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Pod, Service},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions},
};
use tokio::time::{self, Instant};

use self::gone::Remaining;
use super::{
    answer::{is_conflict, is_not_found},
    api_error::{ApiError, Call},
    client::ApiServer,
    footprint::{Footprint, JobTrace},
    names::{LABEL_INSTANCE, ObjectRef},
};

/// How long a normal end waits until everything is gone (measured: Service 0.1 s, pod 1.4 s).
pub const END_WAIT: Duration = Duration::from_secs(5);
/// How long a session whose transport is lost tries to delete.
pub const LOST_WAIT: Duration = Duration::from_secs(10);
/// What the second signal still gives the one DELETE.
pub const FAST_WAIT: Duration = Duration::from_secs(1);
/// How long a Job may appear after a POST whose answer nobody saw. A request that takes longer on
/// its way leaves a Job that its own lease ends after 40 s.
const IN_DOUBT: Duration = Duration::from_secs(1);
/// Between two looks for such a Job.
const IN_DOUBT_PAUSE: Duration = Duration::from_millis(100);
/// A NetworkPolicy in messages and in requests.
const POLICY: (&str, &str) = ("networkpolicy", "networkpolicies.networking.k8s.io");
/// Between two tries of a DELETE that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// How an end went.
#[derive(Debug)]
pub struct Ending {
    namespace: String,
    session: String,
    /// What was still there, or may have been, when the time was up; empty after a clean end.
    pub leftovers: Vec<ObjectRef>,
    /// Kinds that may not be listed: whether one of them is left is not known.
    pub unseen: Vec<&'static str>,
    /// The last request that failed, if one did.
    pub error: Option<ApiError>,
}

impl Ending {
    /// Nothing is left.
    pub(crate) fn clean(namespace: &str, session: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            session: session.to_owned(),
            leftovers: Vec::new(),
            unseen: Vec::new(),
            error: None,
        }
    }

    pub(super) fn not_tried(namespace: &str, session: &str, object: ObjectRef) -> Self {
        Self {
            leftovers: vec![object],
            ..Self::clean(namespace, session)
        }
    }

    pub fn is_clean(&self) -> bool {
        self.leftovers.is_empty()
    }

    /// The command that removes what is left.
    pub fn removal_command(&self) -> String {
        // Not everybody may delete these, and few sessions have one.
        let policies = if self.leftovers.iter().any(|object| object.kind == POLICY.0) {
            ",networkpolicies"
        } else {
            ""
        };
        format!(
            "kubectl delete jobs,pods,configmaps,services{policies} -n {} -l {LABEL_INSTANCE}={}",
            self.namespace, self.session
        )
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return write!(f, "nothing is left in namespace {}", self.namespace);
        }
        let names: Vec<String> = self.leftovers.iter().map(ToString::to_string).collect();
        write!(f, "left in namespace {}: {}", self.namespace, names.join(", "))
    }
}

/// Deletes what the session made and waits until it is gone, at most `wait` ([`END_WAIT`], or
/// [`LOST_WAIT`] when the API server may be away). Sends nothing if nothing was created.
pub async fn end(server: &ApiServer, footprint: &Footprint, wait: Duration) -> Ending {
    let remaining = Remaining::default();
    let mut ending = Ending::clean(footprint.namespace(), footprint.session().as_str());
    if footprint.is_empty() {
        return ending;
    }
    let deadline = Instant::now() + wait;
    if footprint.keep() {
        ending.error = keep_all_but_service(server, footprint, deadline).await;
        return ending;
    }
    for job in footprint.jobs() {
        remaining.add(ObjectRef::new("job", job.name));
    }
    let work = async {
        let deletes = footprint
            .jobs()
            .into_iter()
            .map(|job| delete(server, footprint, job, deadline));
        let errors = futures::future::join_all(deletes).await;
        let failed = errors.into_iter().flatten().next();
        if failed.is_none() {
            // On the heap: five lists and watches at once are the largest part of a command's future.
            Box::pin(wait_until_gone(server, footprint, &remaining)).await;
        }
        failed
    };
    if let Ok(error) = time::timeout_at(deadline, work).await {
        ending.error = error;
    } else {
        tracing::debug!("clean-up not finished in time");
    }
    ending.leftovers = remaining.list();
    ending.unseen = remaining.unseen();
    ending
}

/// The one DELETE of a second signal, within [`FAST_WAIT`]: nothing is waited for but its answer.
pub async fn end_fast(server: &ApiServer, footprint: &Footprint) -> Result<(), ApiError> {
    if footprint.keep() {
        return Ok(());
    }
    let jobs: Api<Job> = Api::namespaced(server.client(), footprint.namespace());
    let deletes = footprint.jobs().into_iter().map(|job| {
        let jobs = jobs.clone();
        async move {
            let params = background(job.uid.as_deref());
            let request = jobs.delete(&job.name, &params);
            done(
                server
                    .request_within(FAST_WAIT, ("delete", "jobs"), request)
                    .await
                    .map(drop),
            )
        }
    });
    futures::future::join_all(deletes).await.into_iter().collect()
}

/// Deletes one Job; 404 and a UID of another Job mean that it is done. `Some` is the last error
/// when the time was up.
pub(super) async fn delete(
    server: &ApiServer,
    footprint: &Footprint,
    job: JobTrace,
    deadline: Instant,
) -> Option<ApiError> {
    let result = match job.uid {
        Some(uid) => delete_by_uid(server, footprint.namespace(), &job.name, &uid, deadline).await,
        None => delete_in_doubt(server, footprint, &job.name, deadline).await,
    };
    match result {
        Ok(()) => {
            tracing::info!(job = %job.name, "job deleted");
            footprint.job_gone(&job.name);
            None
        }
        Err(error) => Some(error),
    }
}

/// Deletes the Job with this UID and no other of its name. Every failure is tried again: our rights were proven at the
/// start, and an API server that was restarted refuses everybody with 403 until it has read its rules.
pub(super) async fn delete_by_uid(
    server: &ApiServer,
    namespace: &str,
    name: &str,
    uid: &str,
    deadline: Instant,
) -> Result<(), ApiError> {
    let jobs: Api<Job> = Api::namespaced(server.client(), namespace);
    let params = background(Some(uid));
    loop {
        let left = left_until(deadline);
        let call = Call::new("delete", "jobs").named(name).in_namespace(namespace);
        let request = jobs.delete(name, &params);
        match done(server.request_within(left, call, request).await.map(drop)) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() + RETRY_PAUSE >= deadline => return Err(error),
            Err(error) => tracing::debug!(%error, job = name, "delete failed"),
        }
        time::sleep(RETRY_PAUSE).await;
    }
}

/// The answer to the Job's creation was never seen: it may be there, may come, or was never made.
async fn delete_in_doubt(
    server: &ApiServer,
    footprint: &Footprint,
    name: &str,
    deadline: Instant,
) -> Result<(), ApiError> {
    let jobs: Api<Job> = Api::namespaced(server.client(), footprint.namespace());
    let give_up = (Instant::now() + IN_DOUBT).min(deadline);
    loop {
        let found = server
            .request_within(left_until(deadline), ("get", "jobs"), jobs.get(name))
            .await;
        match found {
            Ok(job) => {
                let ours = job
                    .labels()
                    .get(LABEL_INSTANCE)
                    .is_some_and(|id| id == footprint.session().as_str());
                return match (ours, job.uid()) {
                    (true, Some(uid)) => {
                        delete_by_uid(server, footprint.namespace(), name, &uid, deadline).await
                    }
                    _ => Ok(()),
                };
            }
            Err(error) if is_not_found(&error) => {
                if Instant::now() >= give_up {
                    return Ok(());
                }
            }
            Err(error) if Instant::now() + RETRY_PAUSE >= deadline => return Err(error),
            Err(error) => tracing::debug!(%error, job = name, "cannot tell whether the job exists"),
        }
        time::sleep(IN_DOUBT_PAUSE).await;
    }
}

/// `--keep`: the Job stays for its hour, but a Service without an agent only makes callers wait.
async fn keep_all_but_service(
    server: &ApiServer,
    footprint: &Footprint,
    deadline: Instant,
) -> Option<ApiError> {
    let name = footprint.service()?;
    let services: Api<Service> = Api::namespaced(server.client(), footprint.namespace());
    let params = DeleteParams::default();
    let request = services.delete(&name, &params);
    done(
        server
            .request_within(left_until(deadline), ("delete", "services"), request)
            .await
            .map(drop),
    )
    .err()
}

async fn wait_until_gone(server: &ApiServer, footprint: &Footprint, remaining: &Remaining) {
    let selector = footprint.session().label_selector();
    let namespace = footprint.namespace();
    let services = async {
        if footprint.service().is_some() {
            gone::wait::<Service>(server, namespace, ("service", "services"), &selector, remaining).await;
        }
    };
    let policies = async {
        if footprint.network_policy() {
            gone::wait::<NetworkPolicy>(server, namespace, POLICY, &selector, remaining).await;
        }
    };
    tokio::join!(
        gone::wait::<Job>(server, namespace, ("job", "jobs"), &selector, remaining),
        gone::wait::<Pod>(server, namespace, ("pod", "pods"), &selector, remaining),
        gone::wait::<ConfigMap>(
            server,
            namespace,
            ("configmap", "configmaps"),
            &selector,
            remaining
        ),
        services,
        policies,
    );
}

pub(super) fn background(uid: Option<&str>) -> DeleteParams {
    let params = DeleteParams::background();
    match uid {
        Some(uid) => params.preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        None => params,
    }
}

/// Gone already, or another object has the name: both mean that ours is not there.
pub(super) fn done(result: Result<(), ApiError>) -> Result<(), ApiError> {
    match result {
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        other => other,
    }
}

/// At least long enough for one round trip, so that the last try is not a formality.
fn left_until(deadline: Instant) -> Duration {
    deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(100))
        .min(Duration::from_secs(5))
}

/// Names of a set of objects, for messages.
pub(super) type Names = BTreeSet<String>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_removal_command_names_policies_only_if_one_is_left() {
        let ending = |object| Ending::not_tried("dev", "x7k2p9", object);
        assert_eq!(
            ending(ObjectRef::new("job", "tunnel-x7k2p9")).removal_command(),
            "kubectl delete jobs,pods,configmaps,services -n dev -l app.kubernetes.io/instance=x7k2p9"
        );
        assert_eq!(
            ending(ObjectRef::new(POLICY.0, "tunnel-x7k2p9")).removal_command(),
            "kubectl delete jobs,pods,configmaps,services,networkpolicies -n dev -l app.kubernetes.io/instance=x7k2p9"
        );
    }
}
