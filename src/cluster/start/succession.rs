//! The next agent of a session that lost its own.
//!
//! ```text
//!   is the Job before still there?  yes: the next generation's names     no: its names again
//!   POST job, ConfigMap             as in a start, without access review and dry run
//!   its uid is known                its NetworkPolicy is made, if the session has one
//!                                   Service moves over by one patch, or is made anew if it is gone
//!                                   then the older Jobs are deleted, and the Service looked at again
//!   event Started (or status Running): done, exec now
//! ```
//!
//! The Service has to leave the Job before within 5 s of that one's end: its TTL, or our deletion,
//! takes all it still owns. Hence also the second look, at what the garbage collector was about to
//! take. Like a start, it can be undone by the footprint at any point.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Service;
use serde_json::Value;
use tokio::time::{self, Instant};

use super::{Plan, StartError, StartRequest, StartStep, Starter, prepare};
use crate::cluster::{
    agent::Agent,
    client::ApiServer,
    end,
    failure::{Failure, FailureKind},
    footprint::{Footprint, JobTrace},
    names::ObjectRef,
    service::{self, ServiceError},
};

/// How long a used-up quota may still be the ending pod's: that is gone after 2 s, and the Job
/// controller tries again 1, 3 and 7 s after its first try.
const QUOTA_PATIENCE: Duration = Duration::from_secs(8);
/// Before what a quota refused is tried again.
const QUOTA_PAUSE: Duration = Duration::from_secs(1);
/// How long the deletion of the older Jobs may hold up the new agent. They end by themselves.
const OLDER_WAIT: Duration = Duration::from_secs(3);

/// What is different from a first start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Succession {
    /// The new agent has to run by then.
    pub(super) deadline: Instant,
    /// Until then, a used-up quota is no reason to give up.
    pub(super) quota_until: Instant,
}

impl Succession {
    /// Whether what `error` says may be over before our patience is.
    pub(super) fn outlasts(&self, error: &StartError) -> bool {
        let by_quota = matches!(error, StartError::Failed(failure) if failure.kind == FailureKind::Quota);
        by_quota && Instant::now() + QUOTA_PAUSE < self.quota_until
    }
}

/// Starts another agent for the session of `previous`, under the next generation's names, or under
/// its own if its Job is gone, and returns when its container runs. The Service keeps its address
/// if it is still there; what came of it is in the agent.
///
/// At most `pod_running_timeout` in all. `request.options.max_lifetime` counts from the new Job's
/// start: give what is left of the session's. Cancel and failure as for [`super::start`].
pub async fn succeed(
    server: &ApiServer,
    request: &StartRequest,
    footprint: &Footprint,
    previous: &Agent,
    progress: &(dyn Fn(&StartStep) + Send + Sync),
) -> Result<Agent, StartError> {
    let timeout = request.options.pod_running_timeout;
    let begun = Instant::now();
    let succession = Succession {
        deadline: begun + timeout,
        quota_until: begun + QUOTA_PATIENCE.min(timeout),
    };
    progress(&StartStep::Creating);
    let work = async {
        let (preparation, present) = prepare::prepare_successor(server, previous).await?;
        if !present {
            footprint.job_gone(&previous.job_name);
        }
        let starter = Starter {
            server,
            request,
            footprint,
            progress,
            preparation: &preparation,
            succession: Some(succession),
        };
        starter
            .run(Plan::after(previous, present, &request.options))
            .await
    };
    // The attempts keep the deadline themselves, with a better reason; this bounds what is before.
    time::timeout_at(succession.deadline, work)
        .await
        .unwrap_or_else(|_| {
            let kind = FailureKind::TimedOut { after: timeout };
            let object = ObjectRef::new("job", previous.job_name.clone());
            Err(Failure::new(kind, object, "", "its successor was being created").into())
        })
}

/// Makes the Service of `manifest`, if there is one, lead to the Job `job_name`, and deletes all
/// other Jobs of the session.
pub(super) async fn hand_over(
    server: &ApiServer,
    footprint: &Footprint,
    job_name: &str,
    manifest: Option<Value>,
) -> Result<Option<Service>, ServiceError> {
    let older = footprint.jobs_besides(job_name);
    let Some(manifest) = manifest else {
        remove(server, footprint, older).await;
        return Ok(None);
    };
    let (namespace, session) = (footprint.namespace(), footprint.session());
    let service = service::hand_over(server, namespace, session, &manifest).await?;
    remove(server, footprint, older).await;
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let found = service::look_up(server, namespace, name).await?;
    let stays = found.is_some_and(|found| {
        found.metadata.uid == service.metadata.uid && found.metadata.deletion_timestamp.is_none()
    });
    if stays {
        return Ok(Some(service));
    }
    service::hand_over(server, namespace, session, &manifest)
        .await
        .map(Some)
}

/// Deletes all Jobs of the session, for a quota that counts them or what they own.
pub(super) async fn make_room(server: &ApiServer, footprint: &Footprint) {
    remove(server, footprint, footprint.jobs()).await;
    time::sleep(QUOTA_PAUSE).await;
}

/// What cannot be deleted now stays in the footprint. `--keep` keeps every Job with its log.
async fn remove(server: &ApiServer, footprint: &Footprint, jobs: Vec<JobTrace>) {
    if footprint.keep() {
        return;
    }
    let deadline = Instant::now() + OLDER_WAIT;
    let deletes = jobs
        .into_iter()
        .map(|job| end::delete(server, footprint, job, deadline));
    for error in join_all(deletes).await.into_iter().flatten() {
        tracing::debug!(%error, "a job before was not deleted");
    }
}
