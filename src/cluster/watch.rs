//! What happens to a running agent: deleted, evicted, crashed, namespace gone.
//!
//! The transport only sees that its exec ended, with the same code for all of these, or sees
//! nothing at all. The supervisor holds [`watch_agent`] beside the transport, or asks once with
//! [`look`], to say what happened and to decide whether a new agent makes sense. It must drop the
//! watch before it deletes the Job itself.

use std::{fmt, net::IpAddr, time::Duration};

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Namespace, Pod},
};
use kube::{Api, api::WatchParams};
use tokio::{sync::mpsc, task::JoinSet, time};

use super::{
    agent::Agent,
    answer::is_not_found,
    api_error::ApiError,
    client::ApiServer,
    crash_log,
    failure::{Failure, FailureKind},
    follow::{self, Change, Subject},
    names::ObjectRef,
    wait,
};

/// For the objects that say why a pod goes to follow it: the Job's deletion comes before its
/// pod's, the namespace's before both.
const SETTLE: Duration = Duration::from_millis(200);
/// Between two looks at an API server that does not answer.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks for a pod's address.
const ADDRESS_PAUSE: Duration = Duration::from_millis(200);
/// Changes waiting to be read.
const CHANGES: usize = 16;

/// Why an agent is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEnd {
    /// The namespace is being deleted, with everything in it.
    NamespaceTerminating,
    /// The Job is being deleted, or gone.
    JobDeleted {
        /// Nothing is left to tell why. Somebody deleted it, or its pod ended and then its time to
        /// live did: which of them, the caller knows from when the last transport was alive.
        gone: bool,
    },
    /// Somebody deleted the pod only.
    PodDeleted,
    /// The pod failed by itself, was evicted, or its deadline was over.
    Failed(Failure),
}

impl fmt::Display for AgentEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NamespaceTerminating => f.write_str("its namespace is being deleted"),
            Self::JobDeleted { gone: false } => f.write_str("its job was deleted"),
            Self::JobDeleted { gone: true } => f.write_str("its job is gone"),
            Self::PodDeleted => f.write_str("its pod was deleted"),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

enum Seen {
    Pod(Box<Change<Pod>>),
    Job(Box<Change<Job>>),
}

/// Resolves when the agent has ended or is about to, with the reason. An API server that does not
/// answer is waited for, without end.
pub async fn watch_agent(server: &ApiServer, agent: &Agent) -> AgentEnd {
    let (tx, mut rx) = mpsc::channel(CHANGES);
    let mut tasks = JoinSet::new();
    let subject = |resource, name: &str| Subject {
        resource,
        namespace: agent.namespace.clone(),
        params: WatchParams::default().fields(&format!("metadata.name={name}")),
        version: String::new(),
    };
    tasks.spawn(follow::follow(
        server.clone(),
        subject("pods", &agent.pod_name),
        tx.clone(),
        |change: Change<Pod>| Seen::Pod(Box::new(change)),
    ));
    tasks.spawn(follow::follow(
        server.clone(),
        subject("jobs", &agent.job_name),
        tx,
        |change: Change<Job>| Seen::Job(Box::new(change)),
    ));
    while let Some(seen) = rx.recv().await {
        let over = match seen {
            Seen::Pod(change) => match *change {
                Change::Applied(pod) => pod_is_over(&pod, agent),
                Change::Deleted(_) | Change::Opened => true,
            },
            Seen::Job(change) => match *change {
                Change::Applied(job) => {
                    job.metadata.deletion_timestamp.is_some() || wait::job_end(&job).is_some()
                }
                Change::Deleted(_) => true,
                // The pod goes with its Job.
                Change::Opened => false,
            },
        };
        if over && let Some(end) = settled(server, agent).await {
            return end;
        }
    }
    // Both tasks hold a sender for as long as we hold the receiver.
    std::future::pending().await
}

/// What is known once all that belongs to an end has happened; `None` after a false alarm.
async fn settled(server: &ApiServer, agent: &Agent) -> Option<AgentEnd> {
    time::sleep(SETTLE).await;
    loop {
        match look(server, agent).await {
            Ok(end) => return end,
            Err(error) => tracing::debug!(%error, "cannot look at the agent"),
        }
        time::sleep(LOOK_PAUSE).await;
    }
}

/// One look at the agent: `None` if its pod is there and may be attached to, else the outermost
/// cause of its end: what deletes a namespace deletes its Jobs, what deletes a Job its pod. A
/// deletion of the Job that has only just begun may show as one of the pod.
pub async fn look(server: &ApiServer, agent: &Agent) -> Result<Option<AgentEnd>, ApiError> {
    let namespaces: Api<Namespace> = Api::all(server.client());
    let jobs: Api<Job> = Api::namespaced(server.client(), &agent.namespace);
    let (namespace, job, pod) = tokio::join!(
        server.request(("get", "namespaces"), namespaces.get(&agent.namespace)),
        server.request(("get", "jobs"), jobs.get(&agent.job_name)),
        get_pod(server, agent),
    );
    let terminating = match &namespace {
        Ok(namespace) => namespace.metadata.deletion_timestamp.is_some(),
        // Looking at it is no right of every user.
        Err(error) => is_not_found(error),
    };
    if terminating {
        return Ok(Some(AgentEnd::NamespaceTerminating));
    }
    let job = match job {
        Ok(job) => Some(job),
        Err(error) if is_not_found(&error) => None,
        Err(error) => return Err(error),
    };
    let mut end = fate(agent, job.as_ref(), pod?.as_ref());
    if let Some(AgentEnd::Failed(failure)) = &mut end {
        crash_log::add_to(failure, server, &agent.namespace).await;
    }
    Ok(end)
}

/// What Job and pod tell.
fn fate(agent: &Agent, job: Option<&Job>, pod: Option<&Pod>) -> Option<AgentEnd> {
    let Some(job) = job.filter(|job| job.metadata.uid.as_ref() == Some(&agent.job_uid)) else {
        return Some(AgentEnd::JobDeleted { gone: true });
    };
    if wait::is_deleted(job) {
        return Some(AgentEnd::JobDeleted { gone: false });
    }
    let job_end = wait::job_end(job);
    if let Some((reason, text)) = &job_end
        && reason == "DeadlineExceeded"
    {
        let object = ObjectRef::new("job", agent.job_name.clone());
        let kind = FailureKind::DeadlineExceeded;
        return Some(AgentEnd::Failed(Failure::new(kind, object, reason, text)));
    }
    let Some(pod) = pod else {
        return Some(AgentEnd::PodDeleted);
    };
    let deleted = pod.metadata.deletion_timestamp.is_some();
    match wait::pod_failure(pod) {
        // A pod that is being deleted reports its container's end as a failure: the deletion came first.
        Some(failure) if !deleted || failure.kind == FailureKind::Evicted => Some(AgentEnd::Failed(failure)),
        // A Job may end before its pod's status says how.
        None if !deleted && job_end.is_none() => None,
        _ => Some(AgentEnd::PodDeleted),
    }
}

/// Why the agent's container does not run, if it never will: for a caller whose exec was answered
/// with "container not found", which means "not yet" as well as "not any more".
pub async fn container_failure(server: &ApiServer, agent: &Agent) -> Result<Option<Failure>, ApiError> {
    let object = ObjectRef::new("pod", agent.pod_name.clone());
    let Some(pod) = get_pod(server, agent).await? else {
        return Ok(Some(wait::deleted(object)));
    };
    let mut failure = wait::pod_failure(&pod).or_else(|| {
        pod.metadata
            .deletion_timestamp
            .is_some()
            .then(|| wait::deleted(object))
    });
    if let Some(failure) = &mut failure {
        crash_log::add_to(failure, server, &agent.namespace).await;
    }
    Ok(failure)
}

fn pod_is_over(pod: &Pod, agent: &Agent) -> bool {
    pod.metadata.deletion_timestamp.is_some()
        || pod.metadata.uid.as_ref() != Some(&agent.pod_uid)
        || wait::pod_failure(pod).is_some()
}

/// The address of the agent's pod, which its status tells up to a second after the container's start; `None` when there
/// is none within `patience`, or no such pod.
///
/// # Errors
/// The API server did not tell.
pub async fn pod_address(
    server: &ApiServer,
    agent: &Agent,
    patience: Duration,
) -> Result<Option<IpAddr>, ApiError> {
    let deadline = time::Instant::now() + patience;
    loop {
        let Some(pod) = get_pod(server, agent).await? else {
            return Ok(None);
        };
        let address = pod.status.and_then(|status| status.pod_ip);
        let address = address.and_then(|address| address.parse().ok());
        if address.is_some() || time::Instant::now() >= deadline {
            return Ok(address);
        }
        time::sleep(ADDRESS_PAUSE).await;
    }
}

/// The pod with the agent's UID; `None` if it is gone or another has its name.
async fn get_pod(server: &ApiServer, agent: &Agent) -> Result<Option<Pod>, ApiError> {
    let pods: Api<Pod> = Api::namespaced(server.client(), &agent.namespace);
    match server.request(("get", "pods"), pods.get(&agent.pod_name)).await {
        Ok(pod) => Ok(Some(pod).filter(|pod| pod.metadata.uid.as_ref() == Some(&agent.pod_uid))),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
