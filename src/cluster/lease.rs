//! The session's lease: `activeDeadlineSeconds` of its Job, renewed while we live.
//!
//! When the renewing stops - crash, power loss, lost network - the Job controller ends the Job and
//! the rest goes by owner reference; nothing of ours has to run for that. Times are the API
//! server's, from its `Date` header, never the laptop's clock. [`deadline_seconds`] is pure;
//! [`renew`] is the task around it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use tokio::{sync::watch, time};

use super::{
    answer::{is_conflict, is_not_found},
    api_error::ApiError,
    client::ApiServer,
    names::FIELD_MANAGER,
    options::AgentOptions,
};

/// The lease at creation: an agent that never ran has nothing else to end it. Long enough for one
/// image pull between two renewals, short enough to leave nothing a minute after a `kill -9`.
pub const START_LEASE: Duration = Duration::from_secs(40);
/// Renewal interval until the first hello: three tries within [`START_LEASE`].
const START_INTERVAL: Duration = Duration::from_secs(10);
/// Renewal interval of a running session.
const INTERVAL: Duration = Duration::from_secs(60);
/// Shortest lease of a running session: four renewals may fail.
const SHORTEST_LEASE: Duration = Duration::from_secs(5 * 60);
/// How much later than the session's own end at its maximum age the Job's comes: time to drain and
/// to say why, instead of being cut off by the cluster.
const EXPIRY_MARGIN: Duration = Duration::from_secs(15);
/// Pause after a renewal that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// The lengths that decide the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    /// The longer one of the agent's grace periods.
    pub grace: Duration,
    pub max_lifetime: Duration,
}

impl LeaseTerms {
    pub fn of(options: &AgentOptions) -> Self {
        Self {
            grace: options.grace.max(options.grace_open),
            max_lifetime: options.max_lifetime,
        }
    }
}

/// Whether the agent can end itself by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeasePhase {
    /// No hello yet.
    Starting,
    /// The agent knows us and ends itself after its grace period.
    Attached,
}

/// What the Job's deadline has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseDecision {
    /// `activeDeadlineSeconds`, counted from the Job's start.
    Renew(u64),
    /// The session has reached its maximum age.
    Expired,
}

/// The lease of a new Job, in seconds.
pub fn first_deadline_seconds(terms: LeaseTerms) -> u64 {
    START_LEASE.min(latest_end(terms)).as_secs()
}

/// The deadline that gives the session a whole lease from now on, but ends soon after its maximum
/// age.
pub fn deadline_seconds(
    start: Timestamp,
    server_now: Timestamp,
    phase: LeasePhase,
    terms: LeaseTerms,
) -> LeaseDecision {
    // A start time in the future comes from rounding or from a second API server's clock.
    let age = Duration::from_secs(u64::try_from(server_now.as_second() - start.as_second()).unwrap_or(0));
    if age >= terms.max_lifetime {
        return LeaseDecision::Expired;
    }
    let lease = match phase {
        LeasePhase::Starting => START_LEASE,
        // The agent's own end comes before ours, also when a renewal was late.
        LeasePhase::Attached => SHORTEST_LEASE.max(
            terms
                .grace
                .saturating_mul(2)
                .saturating_add(Duration::from_secs(60)),
        ),
    };
    LeaseDecision::Renew(age.saturating_add(lease).min(latest_end(terms)).as_secs())
}

fn latest_end(terms: LeaseTerms) -> Duration {
    terms.max_lifetime.saturating_add(EXPIRY_MARGIN)
}

/// Why the renewing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEnd {
    /// `--max-lifetime` is reached.
    Expired,
    /// The Job is gone, or another one has its name.
    Gone,
}

/// Renews the lease until the Job is gone or the session has its maximum age; dropping the future
/// stops it. A renewal that fails is tried again every 5 s: the lease outlives several, and
/// whether the cluster is lost is for the transport to say.
pub async fn renew(
    server: &ApiServer,
    namespace: &str,
    job_name: &str,
    job_uid: &str,
    terms: LeaseTerms,
    mut phase: watch::Receiver<LeasePhase>,
) -> LeaseEnd {
    let mut pause = START_INTERVAL;
    loop {
        tokio::select! {
            () = time::sleep(pause) => {}
            // The first hello: the longer lease counts from here, not from the next turn. A sender
            // that is gone leaves the phase as it is.
            Ok(()) = phase.changed() => {}
        }
        let current = *phase.borrow_and_update();
        pause = match renew_once(server, namespace, job_name, job_uid, terms, current).await {
            Ok(Renewal::Done { left }) => {
                let interval = match current {
                    LeasePhase::Starting => START_INTERVAL,
                    LeasePhase::Attached => INTERVAL,
                };
                interval.min(left)
            }
            Ok(Renewal::Ended(end)) => return end,
            Err(error) => {
                tracing::debug!(%error, job = job_name, "lease not renewed");
                RETRY_PAUSE
            }
        };
    }
}

enum Renewal {
    /// `left`: until the maximum age.
    Done {
        left: Duration,
    },
    Ended(LeaseEnd),
}

async fn renew_once(
    server: &ApiServer,
    namespace: &str,
    job_name: &str,
    job_uid: &str,
    terms: LeaseTerms,
    phase: LeasePhase,
) -> Result<Renewal, ApiError> {
    let jobs: Api<Job> = Api::namespaced(server.client(), namespace);
    let job = match server.request(("get", "jobs"), jobs.get(job_name)).await {
        Ok(job) => job,
        Err(error) if is_not_found(&error) => return Ok(Renewal::Ended(LeaseEnd::Gone)),
        Err(error) => return Err(error),
    };
    if job.metadata.uid.as_deref() != Some(job_uid) {
        return Ok(Renewal::Ended(LeaseEnd::Gone));
    }
    // The answer just came, so it has told the time; an intermediary that strips `Date` leaves our own clock.
    let now = server.server_now().unwrap_or_else(Timestamp::now);
    // Without a start time the deadline has not begun to count.
    let start = job
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref())
        .map_or(now, |time| time.0);
    let deadline = match deadline_seconds(start, now, phase, terms) {
        LeaseDecision::Renew(deadline) => deadline,
        LeaseDecision::Expired => return Ok(Renewal::Ended(LeaseEnd::Expired)),
    };
    // The UID makes the patch a conflict if another Job has the name by now.
    let patch = Patch::Merge(serde_json::json!({
        "metadata": {"uid": job_uid},
        "spec": {"activeDeadlineSeconds": deadline},
    }));
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match server
        .request(("patch", "jobs"), jobs.patch(job_name, &params, &patch))
        .await
    {
        Ok(_) => {}
        Err(error) if is_not_found(&error) || is_conflict(&error) => {
            return Ok(Renewal::Ended(LeaseEnd::Gone));
        }
        Err(error) => return Err(error),
    }
    let age = Duration::from_secs(u64::try_from(now.as_second() - start.as_second()).unwrap_or(0));
    let left = terms.max_lifetime.saturating_sub(age).max(Duration::from_secs(1));
    Ok(Renewal::Done { left })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: LeaseTerms = LeaseTerms {
        grace: Duration::from_secs(30),
        max_lifetime: Duration::from_secs(86_400),
    };

    fn decide(age: i64, phase: LeasePhase, terms: LeaseTerms) -> LeaseDecision {
        let start = Timestamp::from_second(1_760_000_000).unwrap();
        let now = Timestamp::from_second(1_760_000_000 + age).unwrap();
        deadline_seconds(start, now, phase, terms)
    }

    #[test]
    fn a_whole_lease_from_now_on() {
        assert_eq!(decide(0, LeasePhase::Starting, TERMS), LeaseDecision::Renew(40));
        assert_eq!(decide(10, LeasePhase::Starting, TERMS), LeaseDecision::Renew(50));
        assert_eq!(decide(10, LeasePhase::Attached, TERMS), LeaseDecision::Renew(310));
        assert_eq!(
            decide(3600, LeasePhase::Attached, TERMS),
            LeaseDecision::Renew(3900)
        );
    }

    #[test]
    fn a_long_grace_makes_a_longer_lease() {
        let terms = LeaseTerms {
            grace: Duration::from_secs(600),
            ..TERMS
        };
        assert_eq!(
            decide(100, LeasePhase::Attached, terms),
            LeaseDecision::Renew(100 + 1260)
        );
    }

    #[test]
    fn the_cluster_ends_it_soon_after_we_do() {
        assert_eq!(
            decide(86_390, LeasePhase::Attached, TERMS),
            LeaseDecision::Renew(86_415)
        );
        assert_eq!(
            decide(86_400, LeasePhase::Attached, TERMS),
            LeaseDecision::Expired
        );
        let short = LeaseTerms {
            max_lifetime: Duration::from_secs(10),
            ..TERMS
        };
        assert_eq!(decide(0, LeasePhase::Starting, short), LeaseDecision::Renew(25));
        assert_eq!(
            (first_deadline_seconds(TERMS), first_deadline_seconds(short)),
            (40, 25)
        );
        let endless = LeaseTerms {
            grace: Duration::MAX,
            max_lifetime: Duration::MAX,
        };
        assert!(matches!(
            decide(5, LeasePhase::Attached, endless),
            LeaseDecision::Renew(_)
        ));
    }

    #[test]
    fn a_start_in_the_future_is_now() {
        assert_eq!(decide(-3, LeasePhase::Attached, TERMS), LeaseDecision::Renew(300));
    }
}
