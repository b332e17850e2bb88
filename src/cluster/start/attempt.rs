//! One Job's start, up to its container running or a reason why not.

mod create;

use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Event, Pod, Service},
};
use kube::{
    Api,
    api::{ListParams, WatchParams},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{self, Instant, MissedTickBehavior},
};

use self::create::Posted;
use super::{OwnedSpec, Plan, StartError, StartRequest, StartStep, prepare::Preparation};
use crate::cluster::{
    agent::{Agent, AgentService},
    agents::AgentBinaryError,
    answer::is_not_found,
    api_error::ApiError,
    client::ApiServer,
    crash_log, end,
    failure::{Failure, FailureKind},
    follow::{self, Change, Subject},
    footprint::Footprint,
    lease::{self, LeasePhase, LeaseTerms},
    manifest::AgentSpec,
    names::{AGENT_IMAGE_PATH, AGENT_PATH, ObjectRef},
    options::AgentSource,
    service::{self, ServiceError},
    upload::{Completion, Upload},
    wait::{self, StartWatch, Verdict},
};

/// How often the Job itself is looked at: its deletion before it has a pod is seen nowhere else.
const JOB_INTERVAL: Duration = Duration::from_secs(2);
/// How long the Job of a plan that is given up may take to go.
const REPLAN_DEADLINE: Duration = Duration::from_secs(5);
/// Changes waiting for the loop; the watches stop reading when it is full.
const SIGNALS: usize = 64;

pub(super) struct Attempt<'a> {
    pub(super) server: &'a ApiServer,
    pub(super) request: &'a StartRequest,
    pub(super) footprint: &'a Footprint,
    pub(super) progress: &'a (dyn Fn(&StartStep) + Send + Sync),
    pub(super) preparation: &'a Preparation,
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
    Service(Result<Box<Service>, ServiceError>),
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
                        return Err(refused("configmap", &self.spec.get().name(), error).into());
                    }
                }
                (Some(completion), true)
            }
            None => (None, false),
        };
        let job = self.create_job(plan).await?;
        if let Some(completion) = completion {
            completion.complete(&self.spec.get(), &job.uid).map_err(|error| {
                let object = ObjectRef::new("job", job.name.clone());
                Failure::new(FailureKind::Other, object, "", error.to_string())
            })?;
        }
        seen.job_created(&job.uid);
        (self.progress)(seen.step());

        let mut run = Run {
            attempt: &self,
            job: &job,
            watch: seen,
            waiting_for_upload,
            service: if self.request.service.is_some() {
                Wanted::NotYet
            } else {
                Wanted::Nothing
            },
            running: false,
        };
        // A slow pull outlasts the first lease. Whether the Job is still there is the run's to see.
        let (_phase_tx, phase_rx) = watch::channel(LeasePhase::Starting);
        let terms = LeaseTerms::of(&self.request.options);
        let namespace = self.footprint.namespace();
        let renewing = lease::renew(self.server, namespace, &job.name, &job.uid, terms, phase_rx);
        let started = tokio::select! {
            started = run.until_started(&mut signals, &mut tasks, &signal_tx) => started,
            never = renewing.then(|_| std::future::pending()) => never,
        };
        match started {
            Ok(agent) => Ok(agent),
            Err(StartError::Failed(failure)) => self.replan(plan, failure, &job).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Starts sending the ConfigMap, unless the agent comes from an image.
    fn begin_upload(
        &self,
        tasks: &mut JoinSet<()>,
        signal_tx: &mpsc::Sender<Signal>,
    ) -> Result<Option<Completion>, StartError> {
        let AgentSource::ConfigMap { binaries, .. } = &self.request.options.source else {
            return Ok(None);
        };
        let architecture = self.spec.architecture;
        let binary = binaries
            .get(architecture)
            .ok_or(AgentBinaryError::NotEmbeddedFor(architecture))?;
        let upload = Upload::new(self.footprint.namespace(), &self.spec.get(), binary);
        let (request, completion) = upload.start(self.server);
        let signal_tx = signal_tx.clone();
        tasks.spawn(async move {
            let result = request.await;
            // A receiver that is gone needs no result.
            drop(signal_tx.send(Signal::Uploaded(result)).await);
        });
        Ok(Some(completion))
    }

    fn follow(&self, tasks: &mut JoinSet<()>, signal_tx: &mpsc::Sender<Signal>) {
        let namespace = self.footprint.namespace();
        let selector: Vec<String> = self
            .footprint
            .session()
            .pod_selector(self.spec.generation)
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        tasks.spawn(follow::follow(
            self.server.clone(),
            Subject {
                resource: "pods",
                namespace: namespace.to_owned(),
                params: WatchParams::default().labels(&selector.join(",")),
                version: String::new(),
            },
            signal_tx.clone(),
            |change: Change<Pod>| Signal::Pod(Box::new(change)),
        ));
        if let Some(version) = &self.preparation.events_from {
            tasks.spawn(follow::follow(
                self.server.clone(),
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
        if !self.preparation.granted.dry_run {
            return Ok(());
        }
        loop {
            let spec = self.spec.get();
            let object = ObjectRef::new("job", spec.name());
            let Some(failure) =
                create::dry_run(self.server, self.footprint.namespace(), &spec, object).await?
            else {
                return Ok(());
            };
            let Some(next) = plan.answer(&failure, &self.request.options) else {
                // What only a bare pod of ours is refused for may be fine for the Job's.
                if is_the_namespaces(&failure.kind) {
                    return Err(failure.into());
                }
                tracing::debug!(%failure, "dry run refused for a reason that may not concern a job");
                return Ok(());
            };
            *plan = next;
            self.spec.resources = plan.resources.clone();
            (self.progress)(&plan.following());
        }
    }

    async fn create_job(&self, plan: &Plan) -> Result<Created, StartError> {
        debug_assert_eq!(plan.generation, self.spec.generation);
        let spec = self.spec.get();
        let name = spec.name();
        let namespace = self.footprint.namespace();
        self.footprint.job_requested(&name);
        match create::job(self.server, namespace, &spec).await {
            Ok(Posted::Created(uid)) => {
                self.footprint.job_created(&name, &uid);
                tracing::info!(job = %name, "job created");
                Ok(Created { name, uid })
            }
            Ok(Posted::Refused(error)) => {
                self.footprint.job_gone(&name);
                Err(error)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives this Job up for another plan, or the start for good.
    async fn replan(&self, plan: &Plan, mut failure: Failure, job: &Created) -> Result<Agent, Setback> {
        if let Some(mut next) = plan.answer(&failure, &self.request.options) {
            let deadline = Instant::now() + REPLAN_DEADLINE;
            let namespace = self.footprint.namespace();
            end::delete_by_uid(self.server, namespace, &job.name, &job.uid, deadline).await?;
            self.footprint.job_gone(&job.name);
            next.generation += 1;
            return Err(Setback::Replan { next, failure });
        }
        if failure.kind == FailureKind::Deleted {
            failure = self.why_deleted(job, failure).await;
        }
        if self.preparation.granted.pod_logs {
            crash_log::add_to(&mut failure, self.server, self.footprint.namespace()).await;
        }
        Err(failure.into())
    }

    /// A pod goes with its Job, and a Job's deadline deletes its pod: the Job knows which.
    async fn why_deleted(&self, job: &Created, failure: Failure) -> Failure {
        self.job_failure(job).await.ok().flatten().unwrap_or(failure)
    }

    /// Whether the Job has ended or is gone.
    async fn job_failure(&self, job: &Created) -> Result<Option<Failure>, ApiError> {
        let jobs: Api<Job> = Api::namespaced(self.server.client(), self.footprint.namespace());
        let object = ObjectRef::new("job", job.name.clone());
        match self.server.request(("get", "jobs"), jobs.get(&job.name)).await {
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
fn is_the_namespaces(kind: &FailureKind) -> bool {
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

/// The Service's place in a start.
enum Wanted {
    Nothing,
    /// The pod has no node yet.
    NotYet,
    Requested,
    Created(AgentService),
}

/// The waiting part of an attempt.
struct Run<'a> {
    attempt: &'a Attempt<'a>,
    job: &'a Created,
    watch: StartWatch,
    waiting_for_upload: bool,
    service: Wanted,
    /// The container runs.
    running: bool,
}

impl Run<'_> {
    async fn until_started(
        &mut self,
        signals: &mut mpsc::Receiver<Signal>,
        tasks: &mut JoinSet<()>,
        signal_tx: &mpsc::Sender<Signal>,
    ) -> Result<Agent, StartError> {
        let timeout = self.attempt.request.options.pod_running_timeout;
        let deadline = time::sleep(timeout);
        tokio::pin!(deadline);
        let mut look = time::interval_at(Instant::now() + JOB_INTERVAL, JOB_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                signal = signals.recv() => {
                    if let Some(signal) = signal {
                        self.observe(signal)?;
                    }
                }
                _ = look.tick() => self.look_at_the_job().await?,
                () = &mut deadline => return Err(self.watch.timed_out(timeout).into()),
            }
            self.request_service(tasks, signal_tx);
            if let Some(agent) = self.agent() {
                return Ok(agent);
            }
        }
    }

    fn observe(&mut self, signal: Signal) -> Result<(), StartError> {
        let before = self.watch.step().clone();
        let verdict = match signal {
            Signal::Pod(change) => match *change {
                Change::Applied(pod) => self.watch.observe_pod(&pod),
                Change::Deleted(pod) => self.watch.pod_deleted(&pod),
                Change::Opened => Verdict::Waiting,
            },
            Signal::Event(change) => match *change {
                Change::Applied(event) => self.watch.observe_event(&event),
                Change::Deleted(_) | Change::Opened => Verdict::Waiting,
            },
            Signal::Uploaded(result) => {
                result.map_err(|error| refused("configmap", &self.job.name, error))?;
                self.waiting_for_upload = false;
                Verdict::Waiting
            }
            Signal::Service(result) => {
                let service = result.map_err(|error| {
                    if let ServiceError::Api(error) = error {
                        refused("service", self.service_name(), error)
                    } else {
                        error.into()
                    }
                })?;
                self.service = Wanted::Created(service::describe(&service));
                Verdict::Waiting
            }
        };
        if *self.watch.step() != before {
            (self.attempt.progress)(self.watch.step());
        }
        match verdict {
            Verdict::Waiting => Ok(()),
            Verdict::Started => {
                self.running = true;
                Ok(())
            }
            Verdict::Failed(failure) => Err(failure.into()),
        }
    }

    fn service_name(&self) -> &str {
        self.attempt
            .request
            .service
            .as_ref()
            .map_or("", |service| &service.name)
    }

    /// Also the safety net for a watch that was cut while its pod was deleted.
    async fn look_at_the_job(&self) -> Result<(), StartError> {
        match self.attempt.job_failure(self.job).await {
            Ok(None) => Ok(()),
            // The pod tells more about the same end, and its change is on the way.
            Ok(Some(failure)) if failure.kind == FailureKind::Other && self.watch.pod().is_some() => {
                self.look_at_the_pod(failure).await
            }
            Ok(Some(failure)) => Err(failure.into()),
            Err(error) => {
                tracing::debug!(%error, "cannot look at the job");
                Ok(())
            }
        }
    }

    async fn look_at_the_pod(&self, job_failure: Failure) -> Result<(), StartError> {
        let attempt = self.attempt;
        let pods: Api<Pod> = Api::namespaced(attempt.server.client(), attempt.footprint.namespace());
        let params = ListParams::default().labels(&attempt.footprint.session().label_selector());
        let found = attempt.server.request(("list", "pods"), pods.list(&params)).await;
        let failure = found
            .ok()
            .and_then(|list| list.items.iter().find_map(wait::pod_failure));
        Err(failure.unwrap_or(job_failure).into())
    }

    fn request_service(&mut self, tasks: &mut JoinSet<()>, signal_tx: &mpsc::Sender<Signal>) {
        let scheduled = self.watch.pod().is_some_and(|pod| pod.scheduled);
        let (Wanted::NotYet, true, Some(wanted)) = (&self.service, scheduled, &self.attempt.request.service)
        else {
            return;
        };
        let attempt = self.attempt;
        attempt.footprint.service_requested(&wanted.name);
        let manifest = attempt.spec.get().service(wanted, &self.job.uid);
        let (server, namespace) = (attempt.server.clone(), attempt.footprint.namespace().to_owned());
        let signal_tx = signal_tx.clone();
        tasks.spawn(async move {
            let result = service::create(&server, &namespace, manifest).await;
            // A receiver that is gone needs no result.
            drop(signal_tx.send(Signal::Service(result.map(Box::new))).await);
        });
        self.service = Wanted::Requested;
    }

    /// The agent, once nothing is waited for any more.
    fn agent(&self) -> Option<Agent> {
        if !self.running || self.waiting_for_upload {
            return None;
        }
        let service = match &self.service {
            Wanted::Nothing => None,
            Wanted::Created(service) => Some(service.clone()),
            Wanted::NotYet | Wanted::Requested => return None,
        };
        let pod = self.watch.pod()?;
        let spec: AgentSpec<'_> = self.attempt.spec.get();
        Some(Agent {
            namespace: self.attempt.footprint.namespace().to_owned(),
            session: spec.session.clone(),
            generation: spec.generation,
            job_name: self.job.name.clone(),
            job_uid: self.job.uid.clone(),
            pod_name: pod.name.clone(),
            pod_uid: pod.uid.clone(),
            architecture: spec.architecture,
            resources: spec.resources.clone(),
            binary: match spec.options.source {
                AgentSource::ConfigMap { .. } => AGENT_PATH,
                AgentSource::Image(_) => AGENT_IMAGE_PATH,
            },
            service,
        })
    }
}
