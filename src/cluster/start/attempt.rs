//! One Job's start, up to its container running or a reason why not.

pub(super) mod create;
mod run;

use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Event, Pod, Service},
};
use kube::{Api, api::WatchParams};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use self::{
    create::{Mode, Posted, Verdict},
    run::Run,
};
use super::{OwnedSpec, Plan, StartError, Starter};
use crate::cluster::{
    agent::Agent,
    agents::AgentBinaryError,
    answer::{is_conflict, is_not_found},
    api_error::ApiError,
    crash_log, end,
    failure::{Failure, FailureKind},
    follow::{self, Change, Subject},
    lease::{self, LeasePhase, LeaseTerms},
    names::ObjectRef,
    options::AgentSource,
    upload::{Completion, Upload},
    wait::{self, StartWatch},
};

/// How long the Job of a plan that is given up may take to go.
const REPLAN_DEADLINE: Duration = Duration::from_secs(5);
/// Changes waiting for the loop; the watches stop reading when it is full.
const SIGNALS: usize = 64;

pub(super) struct Attempt<'a> {
    pub(super) starter: Starter<'a>,
    pub(super) spec: OwnedSpec<'a>,
}

/// Why an attempt led to no agent.
pub(super) enum Setback {
    Final(StartError),
    /// Another plan is worth trying; this one's Job is deleted.
    Replan {
        next: Plan,
        failure: Failure,
    },
    /// Another Job of this session has the name, or its ConfigMap still does.
    NameTaken,
}

impl<E: Into<StartError>> From<E> for Setback {
    fn from(error: E) -> Self {
        Self::Final(error.into())
    }
}

/// What the tasks of an attempt report.
enum Signal {
    Pod(Box<Change<Pod>>),
    Event(Box<Change<Event>>),
    Uploaded(Result<(), ApiError>),
    /// The Service leads to the new Job, if one is wanted, and its NetworkPolicy was made before; in a succession the
    /// older Jobs are deleted.
    Service(Result<Option<Box<Service>>, Box<StartError>>),
}

/// The Job that was posted.
struct Created {
    name: String,
    uid: String,
}

impl Attempt<'_> {
    /// `plan` is the one that made `self.spec`; a refused dry run may still change its resources.
    pub(super) async fn run(mut self, plan: &mut Plan) -> Result<Agent, Setback> {
        let (signal_tx, mut signals) = mpsc::channel(SIGNALS);
        // Aborted when this attempt ends, however it does.
        let mut tasks = JoinSet::new();
        let upload = self.begin_upload(&mut tasks, &signal_tx)?;
        self.follow(&mut tasks, &signal_tx);
        self.dry_run(plan).await?;

        let mut seen = StartWatch::new(&self.spec.get().name());
        let (completion, waiting_for_upload) = match upload {
            Some(mut completion) => {
                // An upload that failed already is a signal, and read before the Job is made.
                completion.handed_over().await;
                while let Ok(signal) = signals.try_recv() {
                    if let Signal::Uploaded(Err(error)) = signal {
                        return Err(self.setback(refused("configmap", &self.spec.get().name(), error)));
                    }
                }
                (Some(completion), true)
            }
            None => (None, false),
        };
        let created = self.create_job(plan).await;
        let job = created.map_err(|error| self.setback(error))?;
        if let Some(completion) = completion {
            completion.complete(&self.spec.get(), &job.uid).map_err(|error| {
                let object = ObjectRef::new("job", job.name.clone());
                Failure::new(FailureKind::Other, object, "", error.to_string())
            })?;
        }
        seen.job_created(&job.uid);
        (self.starter.progress)(seen.step());

        let mut run = Run::new(&self, &job, seen, waiting_for_upload);
        // A slow pull outlasts the first lease. Whether the Job is still there is the run's to see.
        let (_phase_tx, phase_rx) = watch::channel(LeasePhase::Starting);
        let terms = LeaseTerms::of(&self.starter.request.options);
        let namespace = self.starter.footprint.namespace();
        let renewing = lease::renew(
            self.starter.server,
            namespace,
            &job.name,
            &job.uid,
            terms,
            phase_rx,
        );
        let started = tokio::select! {
            started = run.until_started(&mut signals, &mut tasks, &signal_tx) => started,
            never = renewing.then(|_| std::future::pending()) => never,
        };
        match started {
            Ok(agent) => Ok(agent),
            Err(StartError::Failed(failure)) => self.replan(plan, failure, &job).await,
            Err(error) => Err(self.setback(error)),
        }
    }

    fn setback(&self, error: StartError) -> Setback {
        if self.is_name_taken(&error) {
            Setback::NameTaken
        } else {
            Setback::Final(error)
        }
    }

    /// Only in a succession: nobody else makes names with the id of a session that is up.
    fn is_name_taken(&self, error: &StartError) -> bool {
        self.starter.succession.is_some() && matches!(error, StartError::Api(error) if is_conflict(error))
    }

    /// Starts sending the ConfigMap, unless the agent comes from an image.
    fn begin_upload(
        &self,
        tasks: &mut JoinSet<()>,
        signal_tx: &mpsc::Sender<Signal>,
    ) -> Result<Option<Completion>, StartError> {
        let AgentSource::ConfigMap { binaries, .. } = &self.starter.request.options.source else {
            return Ok(None);
        };
        let architecture = self.spec.architecture;
        let binary = binaries
            .get(architecture)
            .ok_or(AgentBinaryError::NotEmbeddedFor(architecture))?;
        let upload = Upload::new(self.starter.footprint.namespace(), &self.spec.get(), binary);
        let (request, completion) = upload.start(self.starter.server);
        let signal_tx = signal_tx.clone();
        tasks.spawn(async move {
            let result = request.await;
            // A receiver that is gone needs no result.
            drop(signal_tx.send(Signal::Uploaded(result)).await);
        });
        Ok(Some(completion))
    }

    fn follow(&self, tasks: &mut JoinSet<()>, signal_tx: &mpsc::Sender<Signal>) {
        let namespace = self.starter.footprint.namespace();
        let selector: Vec<String> = self
            .starter
            .footprint
            .session()
            .pod_selector(self.spec.generation)
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        tasks.spawn(follow::follow(
            self.starter.server.clone(),
            Subject {
                resource: "pods",
                namespace: namespace.to_owned(),
                params: WatchParams::default().labels(&selector.join(",")),
                version: String::new(),
            },
            signal_tx.clone(),
            |change: Change<Pod>| Signal::Pod(Box::new(change)),
        ));
        if let Some(version) = &self.starter.preparation.events_from {
            tasks.spawn(follow::follow(
                self.starter.server.clone(),
                Subject {
                    resource: "events",
                    namespace: namespace.to_owned(),
                    params: WatchParams::default(),
                    version: version.clone(),
                },
                signal_tx.clone(),
                |change: Change<Event>| Signal::Event(Box::new(change)),
            ));
        }
    }

    /// Posts the pod with `dryRun`, which tells at once what would otherwise be an event on the
    /// Job, and follows what the namespace's policy asks for. Takes place while the agent is being
    /// sent, so it costs no time.
    async fn dry_run(&mut self, plan: &mut Plan) -> Result<(), StartError> {
        if !self.starter.preparation.granted.dry_run {
            return Ok(());
        }
        loop {
            let spec = self.spec.get();
            let object = ObjectRef::new("job", spec.name());
            let Verdict::Refused(failure) = create::dry_run(
                self.starter.server,
                self.starter.footprint.namespace(),
                &spec,
                object,
            )
            .await?
            else {
                return Ok(());
            };
            let Some(next) = plan.answer(&failure, &self.starter.request.options) else {
                // What only a bare pod of ours is refused for may be fine for the Job's.
                if is_the_namespaces(&failure.kind) {
                    return Err(failure.into());
                }
                tracing::debug!(%failure, "dry run refused for a reason that may not concern a job");
                return Ok(());
            };
            *plan = next;
            self.spec.resources = plan.resources.clone();
            (self.starter.progress)(&plan.following());
        }
    }

    async fn create_job(&self, plan: &Plan) -> Result<Created, StartError> {
        debug_assert_eq!(plan.generation, self.spec.generation);
        let spec = self.spec.get();
        let name = spec.name();
        let namespace = self.starter.footprint.namespace();
        self.starter.footprint.job_requested(&name);
        match create::job(self.starter.server, namespace, &spec, Mode::Real).await {
            Ok(Posted::Created(uid)) => {
                self.starter.footprint.job_created(&name, &uid);
                tracing::info!(job = %name, "job created");
                Ok(Created { name, uid })
            }
            Ok(Posted::Refused(error)) => {
                // A taken name may be a request of ours whose answer was lost: it stays in doubt.
                if !self.is_name_taken(&error) {
                    self.starter.footprint.job_gone(&name);
                }
                Err(error)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives this Job up for another plan, or the start for good.
    async fn replan(&self, plan: &Plan, mut failure: Failure, job: &Created) -> Result<Agent, Setback> {
        if let Some(mut next) = plan.answer(&failure, &self.starter.request.options) {
            // In a succession this Job may own the Service, which the next one takes from it first.
            if self.starter.succession.is_none() {
                let deadline = Instant::now() + REPLAN_DEADLINE;
                let namespace = self.starter.footprint.namespace();
                end::delete_by_uid(self.starter.server, namespace, &job.name, &job.uid, deadline).await?;
                self.starter.footprint.job_gone(&job.name);
            }
            next.generation += 1;
            return Err(Setback::Replan { next, failure });
        }
        if failure.kind == FailureKind::Deleted {
            failure = self.why_deleted(job, failure).await;
        }
        if self.starter.preparation.granted.pod_logs {
            crash_log::add_to(
                &mut failure,
                self.starter.server,
                self.starter.footprint.namespace(),
            )
            .await;
        }
        Err(failure.into())
    }

    /// A pod goes with its Job, and a Job's deadline deletes its pod: the Job knows which.
    async fn why_deleted(&self, job: &Created, failure: Failure) -> Failure {
        self.job_failure(job).await.ok().flatten().unwrap_or(failure)
    }

    /// Whether the Job has ended or is gone.
    async fn job_failure(&self, job: &Created) -> Result<Option<Failure>, ApiError> {
        let jobs: Api<Job> =
            Api::namespaced(self.starter.server.client(), self.starter.footprint.namespace());
        let object = ObjectRef::new("job", job.name.clone());
        match self
            .starter
            .server
            .request(("get", "jobs"), jobs.get(&job.name))
            .await
        {
            Ok(found) if found.metadata.uid.as_ref() != Some(&job.uid) => Ok(Some(wait::deleted(object))),
            Ok(found) => Ok(wait::job_end(&found).map(|(reason, text)| {
                let kind = if reason == "DeadlineExceeded" {
                    FailureKind::DeadlineExceeded
                } else {
                    FailureKind::Other
                };
                Failure::new(kind, object, reason, text)
            })),
            Err(error) if is_not_found(&error) => Ok(Some(wait::deleted(object))),
            Err(error) => Err(error),
        }
    }
}

/// A request that failed: by the namespace's policy, or otherwise.
fn refused(kind: &'static str, name: &str, error: ApiError) -> StartError {
    match Failure::policy_refusal(ObjectRef::new(kind, name), &error) {
        Some(failure) => failure.into(),
        None => error.into(),
    }
}

/// Refusals that hold for the Job's pod as for any other in the namespace.
pub(super) fn is_the_namespaces(kind: &FailureKind) -> bool {
    matches!(
        kind,
        FailureKind::Quota
            | FailureKind::QuotaDemands(_)
            | FailureKind::LimitRange
            | FailureKind::PodSecurity
            | FailureKind::ServiceAccount
            | FailureKind::PriorityClass
            | FailureKind::Invalid
            | FailureKind::NamespaceTerminating
    )
}
