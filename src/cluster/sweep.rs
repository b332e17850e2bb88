//! What dead sessions left, and whether they are dead.
//!
//! Nearly nothing is ever left: agents end themselves, leases end Jobs. This is for a cluster that
//! was away meanwhile, and for a Service name that is wanted at once. A session is dead when its Job
//! has finished, when it has no pod and its start is over, or when its agent says that nobody is
//! attached; one that has several, since its agent was lost, when all of them are. What cannot be decided is reported and kept unless forced. Only the user's own
//! sessions are looked at. Called by `cleanup` and, for one Service name, by `service`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream};
use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{Api, ResourceExt, api::ListParams};
use serde::Deserialize;
use tokio::time;

use super::{
    api_error::ApiError,
    client::ApiServer,
    end::{self, END_WAIT, Ending},
    footprint::{Footprint, JobTrace},
    identity::Identity,
    lease::START_LEASE,
    names::{
        AGENT_CONTAINER, ANNOTATION_COMMAND, ANNOTATION_EXPIRES_AT, ANNOTATION_USER, LABEL_GENERATION,
        LABEL_INSTANCE, LABEL_USER, ObjectRef, SessionId, managed_selector,
    },
    wait,
};

/// Nobody attached for this long: dead. The agent of a living session is without a transport for
/// a moment at most when its plugin reconnects.
pub const ABANDONED_AFTER: Duration = Duration::from_secs(20);
/// How long one agent may take to answer.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// Sessions looked at or deleted at once.
const AT_ONCE: usize = 4;

/// The agent of another session, to be asked by exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPod {
    pub namespace: String,
    pub pod_name: String,
    pub container: &'static str,
    /// The command whose only line of output is an [`AgentState`].
    pub command: Vec<String>,
}

/// What `tunnel-agent state` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct AgentState {
    pub attached: bool,
    /// Since `attached` last changed.
    pub seconds: u64,
    pub streams: u64,
}

impl AgentState {
    /// Reads the line; keys of a later version are ignored.
    pub fn parse(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line.trim())
    }
}

/// Why an agent could not be asked.
pub type AskError = Box<dyn std::error::Error + Send + Sync>;

/// Runs `command` in the agent's container and reads its answer; the transport's part of a sweep.
pub type AskAgent = Arc<dyn Fn(AgentPod) -> BoxFuture<'static, Result<AgentState, AskError>> + Send + Sync>;

/// Whether a session lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Liveness {
    Dead(DeadReason),
    Alive,
    /// With the reason why it cannot be decided.
    Unknown(String),
}

/// How we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadReason {
    /// The Job has finished or is being deleted.
    Finished,
    /// No pod, and the time for its start is over.
    NeverStarted,
    /// Nobody attached for this many seconds.
    Abandoned { seconds: u64 },
    /// Nobody is attached, and its plugin, which ran on this machine, was killed.
    Killed,
}

/// A session that was found.
#[derive(Debug, Clone)]
pub struct Found {
    pub namespace: String,
    pub session: String,
    /// Of its newest Job.
    pub generation: u32,
    pub job_name: String,
    pub job_uid: String,
    /// The Jobs of its agents before, where they have not gone yet.
    pub older: Vec<JobTrace>,
    /// The command that started it, for people.
    pub command: Option<String>,
    /// Who started it.
    pub user: Option<String>,
    /// When its maximum age is over, in RFC 3339.
    pub expires_at: Option<String>,
    /// Since its first Job that is still there was created.
    pub age: Duration,
    pub liveness: Liveness,
}

/// Where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The namespace of the client.
    Namespace,
    AllNamespaces,
}

/// What to do with what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepOptions {
    pub scope: Scope,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Also remove what cannot be decided; never what is alive.
    pub force: bool,
}

/// What a sweep did, or would have done.
#[derive(Debug, Default)]
pub struct SweepReport {
    pub removed: Vec<Found>,
    /// Alive or undecided.
    pub kept: Vec<Found>,
    /// Deleted, but not gone in time, or not deleted.
    pub failed: Vec<(Found, Ending)>,
}

/// Why nothing could be looked at.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// `-A` without the right to list everywhere.
    #[error("jobs of all namespaces cannot be listed")]
    AllNamespacesForbidden { source: ApiError },
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Finds this user's sessions and removes the dead ones, by UID; safe to repeat.
pub async fn sweep(
    server: &ApiServer,
    identity: &Identity,
    options: SweepOptions,
    ask: &AskAgent,
    killed: &BTreeSet<String>,
) -> Result<SweepReport, SweepError> {
    let mut report = SweepReport::default();
    let mut doomed = Vec::new();
    for found in find(server, Some(identity), options.scope, ask, killed).await? {
        match found.liveness {
            Liveness::Dead(_) => doomed.push(found),
            Liveness::Unknown(_) if options.force => doomed.push(found),
            Liveness::Alive | Liveness::Unknown(_) => report.kept.push(found),
        }
    }
    if options.dry_run {
        report.removed = doomed;
        return Ok(report);
    }
    let endings: Vec<(Found, Ending)> = stream::iter(doomed)
        .map(|found| async move {
            let ending = remove(server, &found).await;
            (found, ending)
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    for (found, ending) in endings {
        if ending.is_clean() && ending.error.is_none() {
            report.removed.push(found);
        } else {
            report.failed.push((found, ending));
        }
    }
    Ok(report)
}

/// This user's sessions, everybody's without an identity, with what is known about them, oldest first. `killed` are
/// those whose plugins are known to be gone.
pub async fn find(
    server: &ApiServer,
    identity: Option<&Identity>,
    scope: Scope,
    ask: &AskAgent,
    killed: &BTreeSet<String>,
) -> Result<Vec<Found>, SweepError> {
    let client = server.client();
    let (jobs, pods): (Api<Job>, Api<Pod>) = match scope {
        Scope::Namespace => (
            Api::namespaced(client.clone(), server.namespace()),
            Api::namespaced(client, server.namespace()),
        ),
        Scope::AllNamespaces => (Api::all(client.clone()), Api::all(client)),
    };
    let selector = match identity {
        Some(identity) => format!("{},{LABEL_USER}={}", managed_selector(), identity.label),
        None => managed_selector(),
    };
    let params = ListParams::default().labels(&selector);
    let (jobs, pods) = tokio::join!(
        server.request(("list", "jobs"), jobs.list(&params)),
        server.request(("list", "pods"), pods.list(&params)),
    );
    let (jobs, pods) = match (jobs, pods) {
        (Ok(jobs), Ok(pods)) => (jobs.items, pods.items),
        (Err(source), _) | (_, Err(source)) => {
            return Err(if scope == Scope::AllNamespaces && source.code() == Some(403) {
                SweepError::AllNamespacesForbidden { source }
            } else {
                source.into()
            });
        }
    };
    let now = server.server_now().unwrap_or_else(Timestamp::now);
    let found: Vec<Found> = stream::iter(jobs)
        .map(|job| {
            let pods = &pods;
            async move { describe(server, &job, pods, now, ask).await }
        })
        .buffered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    let mut sessions = by_session(found);
    for found in &mut sessions {
        // Who might still come back will not.
        if matches!(found.liveness, Liveness::Unknown(_)) && killed.contains(&found.session) {
            found.liveness = Liveness::Dead(DeadReason::Killed);
        }
    }
    sessions.sort_by_key(|found| std::cmp::Reverse(found.age));
    Ok(sessions)
}

/// Joins the Jobs of each session. It lives while one of them does.
fn by_session(mut jobs: Vec<Found>) -> Vec<Found> {
    jobs.sort_by_key(|job| job.generation);
    let mut sessions: BTreeMap<(String, String), Found> = BTreeMap::new();
    for mut newer in jobs {
        let key = (newer.namespace.clone(), newer.session.clone());
        if let Some(before) = sessions.remove(&key) {
            newer.age = newer.age.max(before.age);
            if before.liveness.rank() > newer.liveness.rank() {
                newer.liveness = before.liveness;
            }
            newer.older = before.older;
            newer.older.push(JobTrace {
                name: before.job_name,
                uid: Some(before.job_uid),
            });
        }
        sessions.insert(key, newer);
    }
    sessions.into_values().collect()
}

impl Liveness {
    /// Which of two Jobs' decides about their session.
    fn rank(&self) -> u8 {
        match self {
            Self::Dead(_) => 0,
            Self::Unknown(_) => 1,
            Self::Alive => 2,
        }
    }
}

/// Whether the session of `job` lives; `pods` may hold those of others.
pub(super) async fn liveness(
    server: &ApiServer,
    namespace: &str,
    job: &Job,
    pods: &[Pod],
    ask: &AskAgent,
) -> Liveness {
    let now = server.server_now().unwrap_or_else(Timestamp::now);
    match judge(job, pods, now) {
        Judgement::Settled(liveness) => liveness,
        Judgement::Ask(pod) => match time::timeout(ASK_DEADLINE, ask(agent_pod(namespace, pod))).await {
            Ok(Ok(state)) => judge_state(state),
            Ok(Err(error)) => Liveness::Unknown(format!("its agent cannot be asked: {error}")),
            Err(_) => Liveness::Unknown("its agent does not answer".to_owned()),
        },
    }
}

/// Deletes one session's Jobs by UID and waits until all of it is gone.
pub async fn remove(server: &ApiServer, found: &Found) -> Ending {
    let session = found.session.parse::<SessionId>();
    match session {
        Ok(session) => {
            let newest = JobTrace {
                name: found.job_name.clone(),
                uid: Some(found.job_uid.clone()),
            };
            let jobs = found.older.iter().cloned().chain([newest]);
            let footprint = Footprint::of_jobs(&found.namespace, session, jobs);
            end::end(server, &footprint, END_WAIT).await
        }
        // Found by our labels, so only a hand-made object gets here: it is not ours to delete.
        Err(_) => Ending::not_tried(
            &found.namespace,
            &found.session,
            ObjectRef::new("job", found.job_name.clone()),
        ),
    }
}

async fn describe(
    server: &ApiServer,
    job: &Job,
    pods: &[Pod],
    now: Timestamp,
    ask: &AskAgent,
) -> Option<Found> {
    let namespace = job.namespace()?;
    Some(Found {
        session: job.labels().get(LABEL_INSTANCE)?.clone(),
        generation: job
            .labels()
            .get(LABEL_GENERATION)
            .and_then(|text| text.parse().ok())
            .unwrap_or(1),
        older: Vec::new(),
        job_name: job.name_any(),
        job_uid: job.uid()?,
        command: job.annotations().get(ANNOTATION_COMMAND).cloned(),
        user: job.annotations().get(ANNOTATION_USER).cloned(),
        expires_at: job.annotations().get(ANNOTATION_EXPIRES_AT).cloned(),
        age: age(job, now),
        liveness: liveness(server, &namespace, job, pods, ask).await,
        namespace,
    })
}

/// What the objects alone tell.
#[derive(Debug, PartialEq)]
enum Judgement<'a> {
    Settled(Liveness),
    /// Its agent runs and must be asked.
    Ask(&'a Pod),
}

fn judge<'a>(job: &Job, pods: &'a [Pod], now: Timestamp) -> Judgement<'a> {
    if wait::job_end(job).is_some() || job.metadata.deletion_timestamp.is_some() {
        return Judgement::Settled(Liveness::Dead(DeadReason::Finished));
    }
    let mut own = pods.iter().filter(|pod| {
        pod.owner_references()
            .iter()
            .any(|owner| Some(&owner.uid) == job.metadata.uid.as_ref())
    });
    let starting = age(job, now) <= START_LEASE;
    match own.next() {
        None if starting => starting_now(),
        None => Judgement::Settled(Liveness::Dead(DeadReason::NeverStarted)),
        Some(pod) if wait::is_running(pod) => Judgement::Ask(pod),
        Some(pod) if has_ended(pod) => Judgement::Settled(Liveness::Dead(DeadReason::Finished)),
        Some(_) if starting => starting_now(),
        Some(_) => Judgement::Settled(Liveness::Unknown("its pod does not run".to_owned())),
    }
}

/// Its plugin may be waiting for it; if not, its lease ends it.
fn starting_now<'a>() -> Judgement<'a> {
    Judgement::Settled(Liveness::Unknown("it may still be starting".to_owned()))
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn judge_state(state: AgentState) -> Liveness {
    if state.attached {
        Liveness::Alive
    } else if state.seconds >= ABANDONED_AFTER.as_secs() {
        Liveness::Dead(DeadReason::Abandoned {
            seconds: state.seconds,
        })
    } else {
        Liveness::Unknown(format!("nobody attached, but only for {} s", state.seconds))
    }
}

fn agent_pod(namespace: &str, pod: &Pod) -> AgentPod {
    let containers = pod
        .spec
        .as_ref()
        .map(|spec| spec.containers.as_slice())
        .unwrap_or_default();
    let binary = containers
        .iter()
        .find(|container| container.name == AGENT_CONTAINER)
        .and_then(|container| container.command.as_ref()?.first().cloned())
        .unwrap_or_default();
    AgentPod {
        namespace: namespace.to_owned(),
        pod_name: pod.name_any(),
        container: AGENT_CONTAINER,
        command: vec![binary, "state".to_owned()],
    }
}

fn age(job: &Job, now: Timestamp) -> Duration {
    let created = job
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(now, |time| time.0);
    Duration::from_secs(u64::try_from(now.as_second() - created.as_second()).unwrap_or(0))
}

#[cfg(test)]
mod tests;
