//! The waiting part of an attempt: what its tasks report, until the container runs or cannot.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, api::ListParams};
use serde_json::Value;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{self, Instant, MissedTickBehavior},
};

use super::{
    super::{StartError, succession},
    Attempt, Created, Signal, refused,
};
use crate::cluster::{
    agent::{Agent, AgentService},
    client::ApiServer,
    failure::{Failure, FailureKind},
    follow::Change,
    footprint::Footprint,
    manifest::AgentSpec,
    names::{AGENT_IMAGE_PATH, AGENT_PATH},
    network_policy,
    options::AgentSource,
    service::{self, ServiceError},
    wait::{self, StartWatch, Verdict},
};

/// How often the Job itself is looked at: its deletion before it has a pod is seen nowhere else.
const JOB_INTERVAL: Duration = Duration::from_secs(2);

/// The Service's place in a start.
enum Wanted {
    Nothing,
    /// The pod has no node yet.
    NotYet,
    Requested,
    Created(AgentService),
}

/// The way to the pod for callers in the cluster.
struct Entrance {
    server: ApiServer,
    footprint: Footprint,
    job_name: String,
    policy: Option<Value>,
    service: Option<Value>,
    /// The Service may be there, and older Jobs are.
    succeeds: bool,
}

impl Entrance {
    async fn make(self) -> Result<Option<Service>, StartError> {
        let namespace = self.footprint.namespace();
        if let Some(policy) = self.policy {
            network_policy::create(&self.server, namespace, policy)
                .await
                .map_err(|error| refused("networkpolicy", &self.job_name, error))?;
        }
        let name = self
            .service
            .as_ref()
            .and_then(|service| service["metadata"]["name"].as_str());
        let name = name.unwrap_or_default().to_owned();
        let made = match self.service {
            service if self.succeeds => {
                succession::hand_over(&self.server, &self.footprint, &self.job_name, service).await
            }
            Some(service) => service::create(&self.server, namespace, service).await.map(Some),
            None => Ok(None),
        };
        made.map_err(|error| match error {
            ServiceError::Api(error) => refused("service", &name, error),
            ServiceError::Foreign { .. } | ServiceError::Taken { .. } | ServiceError::Stuck { .. } => {
                error.into()
            }
        })
    }
}

/// The waiting part of an attempt.
pub(super) struct Run<'a> {
    attempt: &'a Attempt<'a>,
    job: &'a Created,
    watch: StartWatch,
    waiting_for_upload: bool,
    service: Wanted,
    /// The quota's refusal of a successor's pod: the pod before may still be ending.
    no_room: Option<Failure>,
    /// The container runs.
    running: bool,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        attempt: &'a Attempt<'a>,
        job: &'a Created,
        watch: StartWatch,
        waiting_for_upload: bool,
    ) -> Self {
        let starter = attempt.starter;
        let service = if starter.request.service.is_some() || starter.succession.is_some() {
            Wanted::NotYet
        } else {
            Wanted::Nothing
        };
        Self {
            attempt,
            job,
            watch,
            waiting_for_upload,
            service,
            no_room: None,
            running: false,
        }
    }

    pub(super) async fn until_started(
        &mut self,
        signals: &mut mpsc::Receiver<Signal>,
        tasks: &mut JoinSet<()>,
        signal_tx: &mpsc::Sender<Signal>,
    ) -> Result<Agent, StartError> {
        let starter = self.attempt.starter;
        let timeout = starter.request.options.pod_running_timeout;
        let (deadline, quota_until) = match starter.succession {
            Some(succession) => (succession.deadline, succession.quota_until),
            None => (Instant::now() + timeout, Instant::now()),
        };
        let (deadline, quota_over) = (time::sleep_until(deadline), time::sleep_until(quota_until));
        tokio::pin!(deadline, quota_over);
        let mut look = time::interval_at(Instant::now() + JOB_INTERVAL, JOB_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.request_service(tasks, signal_tx);
            if let Some(agent) = self.agent() {
                return Ok(agent);
            }
            tokio::select! {
                signal = signals.recv() => {
                    if let Some(signal) = signal {
                        self.observe(signal)?;
                    }
                }
                _ = look.tick() => self.look_at_the_job().await?,
                () = &mut quota_over, if self.no_room.is_some() => {
                    if let Some(failure) = self.no_room.take() {
                        return Err(failure.into());
                    }
                }
                () = &mut deadline => return Err(self.watch.timed_out(timeout).into()),
            }
        }
    }

    fn observe(&mut self, signal: Signal) -> Result<(), StartError> {
        let before = self.watch.step().clone();
        let verdict = match signal {
            Signal::Pod(change) => match *change {
                Change::Applied(pod) => {
                    let verdict = self.watch.observe_pod(&pod);
                    self.no_room.take_if(|_| self.watch.pod().is_some());
                    verdict
                }
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
                self.service = match result.map_err(|error| *error)? {
                    Some(service) => Wanted::Created(service::describe(&service)),
                    None => Wanted::Nothing,
                };
                Verdict::Waiting
            }
        };
        if *self.watch.step() != before {
            (self.attempt.starter.progress)(self.watch.step());
        }
        match verdict {
            Verdict::Waiting => Ok(()),
            Verdict::Started => {
                self.running = true;
                Ok(())
            }
            // The Job controller tries again after 1 and 3 s.
            Verdict::Failed(failure) if failure.kind == FailureKind::Quota && self.may_get_room() => {
                self.no_room.get_or_insert(failure);
                Ok(())
            }
            Verdict::Failed(failure) => Err(failure.into()),
        }
    }

    fn may_get_room(&self) -> bool {
        let succession = self.attempt.starter.succession;
        succession.is_some_and(|succession| Instant::now() < succession.quota_until)
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
        let pods: Api<Pod> = Api::namespaced(
            attempt.starter.server.client(),
            attempt.starter.footprint.namespace(),
        );
        let params = ListParams::default().labels(&attempt.starter.footprint.session().label_selector());
        let found = attempt
            .starter
            .server
            .request(("list", "pods"), pods.list(&params))
            .await;
        let failure = found
            .ok()
            .and_then(|list| list.items.iter().find_map(wait::pod_failure));
        Err(failure.unwrap_or(job_failure).into())
    }

    /// Asks for the Service when the Job is final: with the pod's node, or at once in a succession,
    /// where the Service is to leave a Job that may go. Before it comes the NetworkPolicy, if one is
    /// wanted, so that the Service never leads to a pod that others may reach.
    fn request_service(&mut self, tasks: &mut JoinSet<()>, signal_tx: &mpsc::Sender<Signal>) {
        let starter = self.attempt.starter;
        let due = starter.succession.is_some() || self.watch.pod().is_some_and(|pod| pod.scheduled);
        if !matches!(self.service, Wanted::NotYet) || !due {
            return;
        }
        let spec = self.attempt.spec.get();
        let entrance = Entrance {
            server: starter.server.clone(),
            footprint: starter.footprint.clone(),
            job_name: self.job.name.clone(),
            policy: starter
                .request
                .service
                .as_ref()
                .filter(|wanted| !wanted.allow_from.is_empty())
                .map(|wanted| {
                    starter.footprint.network_policy_requested();
                    spec.network_policy(wanted, &self.job.uid)
                }),
            service: starter.request.service.as_ref().map(|wanted| {
                starter.footprint.service_requested(&wanted.name);
                spec.service(wanted, &self.job.uid)
            }),
            succeeds: starter.succession.is_some(),
        };
        let signal_tx = signal_tx.clone();
        tasks.spawn(async move {
            let result = entrance.make().await.map_err(Box::new);
            // A receiver that is gone needs no result.
            let result = result.map(|service| service.map(Box::new));
            drop(signal_tx.send(Signal::Service(result)).await);
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
            namespace: self.attempt.starter.footprint.namespace().to_owned(),
            session: spec.session.clone(),
            generation: spec.generation,
            job_name: self.job.name.clone(),
            job_uid: self.job.uid.clone(),
            pod_name: pod.name.clone(),
            pod_uid: pod.uid.clone(),
            architecture: spec.architecture,
            resources: spec.resources.clone(),
            port_forward: self.attempt.starter.preparation.granted.port_forward,
            binary: match spec.options.source {
                AgentSource::ConfigMap { .. } => AGENT_PATH,
                AgentSource::Image(_) => AGENT_IMAGE_PATH,
            },
            service,
        })
    }
}
