//! The agents of a session: the first one, and each that takes the place of one that is gone.
//!
//! An agent is started, attached to and kept alive by its lease here. What becomes of it is decided in
//! [`super::loss`].

use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::super::attach::{AgentLog, AgentTransports, ask_agent};
use super::super::expose::{self, ExposePlan};
use super::super::ready;
use super::super::words::{Reason, start_error, step_text};
use super::{Serving, Tunnel};
use crate::cluster::agent::Agent;
use crate::cluster::client::ApiServer;
use crate::cluster::failure::Failure;
use crate::cluster::lease::{self, LeaseEnd, LeasePhase, LeaseTerms};
use crate::cluster::options::{AgentOptions, TransportChoice};
use crate::cluster::service::ServiceError;
use crate::cluster::start::{self, StartError, StartRequest, StartStep};
use crate::cluster::watch as agent_watch;
use crate::error::{AttachError, Error};
use crate::reverse::Gate;
use crate::session::{self, ConnectError, Phase, Running, SecondWay, Settings};

/// Between two execs into a container that is not there yet.
const ATTACH_PAUSE: Duration = Duration::from_millis(50);

/// How long a pod's status may lag behind the end of its container (the kubelet looks once a second), and the
/// pause between two looks.
const CRASH_WAIT: Duration = Duration::from_secs(2);
const CRASH_PAUSE: Duration = Duration::from_millis(200);

/// Between two tries to start another agent on an API server that does not answer.
const SUCCEED_PAUSE: Duration = Duration::from_secs(1);

/// A session that is up, with all that keeps it so.
pub(super) struct Live {
    pub(super) agent: Agent,
    pub(super) running: Running<AttachError>,
    pub(super) lease: JoinSet<LeaseEnd>,
    pub(super) log: AgentLog,
    pub(super) since: Instant,
    /// Agents before this one that ended at once.
    pub(super) short_lives: u32,
}

impl Tunnel<'_> {
    /// Starts the agent and brings the session up.
    pub(super) async fn come_up(&self) -> Result<Live, Error> {
        self.come_up_telling(&|_| ()).await
    }

    /// The same; `seen` is told each step of the start, and none for the attach behind them.
    pub(super) async fn come_up_telling(
        &self,
        seen: &(dyn Fn(Option<&StartStep>) + Send + Sync),
    ) -> Result<Live, Error> {
        let request = self.start_request(self.stage.options.clone());
        let started = Instant::now();
        let agent = start::start(self.stage.server, &request, &self.footprint, &|step| {
            self.progress(step);
            seen(Some(step));
        })
        .await
        .map_err(start_error)?;
        seen(None);
        self.stage.context.printer.step("attaching");
        self.attach(agent, LeaseTerms::of(&self.stage.options), started, None)
            .await
    }

    /// Another agent in the place of one that is gone: its connections are reset, what is served stays.
    pub(super) async fn replace(
        &self,
        mut gone: Live,
        reason: Reason,
        serving: &mut Serving,
    ) -> Result<Live, Error> {
        let short_lives = Self::short_lives(&gone);
        gone.running.close();
        self.say_gone(&reason);
        let previous = gone.agent.clone();
        let lost = |failure: String| {
            self.lost(
                Reason {
                    text: format!("{}; no other agent: {failure}", reason.text),
                    log: reason.log.clone(),
                },
                &gone,
            )
        };
        let began = Instant::now();
        let patient_until = began
            + self
                .stage
                .settings
                .reconnect_max
                .max(self.stage.options.pod_running_timeout);
        let (agent, terms) = self.succeed(&previous, patient_until, &lost).await?;
        let mut live = self
            .attach(agent, terms, began, Some(patient_until))
            .await
            .map_err(|error| lost(error.to_string()))?;
        live.short_lives = short_lives;
        let gate = Gate::default();
        gate.open(0);
        self.serve_incoming(&mut live, &gate, serving);
        if let Some(service) = &live.agent.service {
            serving.listening = expose::listen(&live.running.session, service)
                .await
                .map_err(|error| lost(error.to_string()))?;
            // Ready means that callers in the cluster get through as well.
            self.wait_for_service(&live.agent).await;
        }
        self.say_replaced(&previous, &live.agent, &reason);
        self.stage.standing_tx.complete(began.elapsed());
        Ok(live)
    }

    fn say_gone(&self, reason: &Reason) {
        self.stage.standing_tx.begin_anew(&reason.text);
        for line in &reason.log {
            self.stage
                .context
                .printer
                .note(&format!("the agent said: {line}"));
        }
    }

    fn say_replaced(&self, previous: &Agent, agent: &Agent, reason: &Reason) {
        let moved = ready::replacement(previous, agent, &reason.text);
        for warning in moved.warnings {
            self.stage.context.printer.warn(&warning);
        }
        self.stage.context.printer.event(&moved.event);
        self.stage
            .narrator
            .agent(Some(agent), self.stage.plan.expose.as_ref());
    }

    /// Starts the next agent; an API server that does not answer is tried for as long as a lost transport is.
    async fn succeed(
        &self,
        previous: &Agent,
        deadline: Instant,
        lost: &dyn Fn(String) -> Error,
    ) -> Result<(Agent, LeaseTerms), Error> {
        let mut attempt = 1;
        loop {
            let mut options = self.stage.options.clone();
            options.max_lifetime = self.lifetime_left();
            let terms = LeaseTerms::of(&options);
            let request = self.start_request(options);
            let progress = |step: &StartStep| {
                tracing::info!("{}", step_text(step, self.stage.server.namespace()));
            };
            let error =
                match start::succeed(self.stage.server, &request, &self.footprint, previous, &progress).await
                {
                    Ok(agent) => return Ok((agent, terms)),
                    Err(error) => error,
                };
            let passing = matches!(
                error,
                StartError::Api(_) | StartError::Service(ServiceError::Api(_))
            );
            if !passing || Instant::now() + SUCCEED_PAUSE >= deadline {
                return Err(lost(error.to_string()));
            }
            attempt += 1;
            self.stage.standing_tx.set_phase(Phase::Reconnecting {
                reason: error.to_string().into(),
                attempt,
            });
            sleep(SUCCEED_PAUSE).await;
            if let Err(error) = self.stage.server.renew(&self.stage.access).await {
                tracing::debug!(%error, "credentials not renewed");
            }
        }
    }

    /// What is left of `--max-lifetime`, by the clock on the wall: the cluster's goes on while we sleep.
    pub(super) fn lifetime_left(&self) -> Duration {
        let age = SystemTime::now().duration_since(self.began).unwrap_or_default();
        self.stage.options.max_lifetime.saturating_sub(age)
    }

    fn start_request(&self, options: AgentOptions) -> StartRequest {
        StartRequest {
            options,
            secret_sha256: *self.secret.digest().as_bytes(),
            command: self.stage.context.command_line.clone(),
            service: self.stage.plan.expose.as_ref().map(ExposePlan::service),
            ask: ask_agent(self.stage.server),
        }
    }

    fn progress(&self, step: &StartStep) {
        let text = step_text(step, self.stage.server.namespace());
        if matches!(step, StartStep::FollowingPolicy { .. }) {
            self.stage.context.printer.warn(&text);
        } else {
            self.stage.context.printer.step(&text);
        }
    }

    /// Attaches to a started agent and takes its lease over. An API server that does not answer is waited for
    /// until `patient_until`.
    async fn attach(
        &self,
        agent: Agent,
        terms: LeaseTerms,
        started: Instant,
        patient_until: Option<Instant>,
    ) -> Result<Live, Error> {
        let (phase_tx, phase_rx) = watch::channel(LeasePhase::Starting);
        let mut lease = JoinSet::new();
        lease.spawn(renew(self.stage.server.clone(), agent.clone(), terms, phase_rx));
        let transports = AgentTransports::new(
            self.stage.server.clone(),
            self.stage.access.clone(),
            agent.clone(),
            self.stage.context.printer.clone(),
        );
        let log = transports.log();
        let running = self
            .connect(&agent, transports, &log, started, patient_until)
            .await?;
        // The lease keeps the last phase it was told.
        phase_tx.send_replace(LeasePhase::Attached);
        tracing::info!(
            session = %agent.session, pod = agent.pod_name, agent = %running.agent_version,
            elapsed = ?started.elapsed(), "session ready"
        );
        Ok(Live {
            agent,
            running,
            lease,
            log,
            since: Instant::now(),
            short_lives: 0,
        })
    }

    /// Execs into the agent until it answers, fails for good, or its time is over.
    async fn connect(
        &self,
        agent: &Agent,
        mut transports: AgentTransports,
        log: &AgentLog,
        started: Instant,
        patient_until: Option<Instant>,
    ) -> Result<Running<AttachError>, Error> {
        let failed = |source| Error::Attach {
            pod: agent.pod_name.clone(),
            source,
        };
        let session = agent.session.wire();
        let settings = &Settings {
            second: self.second_way(agent, patient_until.is_some()),
            ..self.stage.settings.clone()
        };
        loop {
            let connected = session::connect(
                transports,
                session,
                &self.secret,
                settings,
                &self.stage.standing_tx,
            )
            .await;
            let error;
            (transports, error) = match connected {
                Ok(running) => return Ok(running),
                Err((transports, ConnectError::Transport(error))) => (transports, error),
                Err((transports, ConnectError::Hello(error))) => {
                    let log = log.lines();
                    (transports, AttachError::Hello { error, log })
                }
                Err((_, ConnectError::Second(error))) => return Err(failed(AttachError::Second(error))),
            };
            let patient = patient_until.is_some_and(|until| Instant::now() + SUCCEED_PAUSE < until);
            if matches!(error, AttachError::Api(_)) {
                if patient {
                    sleep(SUCCEED_PAUSE).await;
                    continue;
                }
                return Err(failed(error));
            }
            // "Container not found" means "not yet" as well as "not any more".
            let missing = matches!(&error, AttachError::Ended(end) if end.is_container_missing());
            let patience = if missing { Duration::ZERO } else { CRASH_WAIT };
            match self.container_failure(agent, patience).await {
                Ok(Some(failure)) => return Err(failed(AttachError::Container(failure))),
                Ok(None) => {}
                Err(_) if patient => {}
                Err(error) => return Err(error),
            }
            if !missing || started.elapsed() > self.stage.options.pod_running_timeout {
                return Err(failed(error));
            }
            sleep(ATTACH_PAUSE).await;
        }
    }

    /// What is wanted of the second way to this agent. A `successor` is worth having without.
    fn second_way(&self, agent: &Agent, successor: bool) -> SecondWay {
        match self.stage.options.transport {
            TransportChoice::Exec => SecondWay::Off,
            TransportChoice::Auto if !agent.port_forward => {
                tracing::info!("the session stays on exec, port-forward is not allowed here");
                SecondWay::Off
            }
            // The first loss is the end, and no other way is worth that.
            TransportChoice::Auto if self.stage.settings.reconnect_max.is_zero() => SecondWay::Off,
            TransportChoice::Auto => SecondWay::IfBetter,
            TransportChoice::PortForward if successor => SecondWay::Preferred,
            TransportChoice::PortForward => SecondWay::Required,
        }
    }

    /// Why the agent's container does not run, if its pod says so within `patience`.
    async fn container_failure(&self, agent: &Agent, patience: Duration) -> Result<Option<Failure>, Error> {
        let deadline = Instant::now() + patience;
        loop {
            let failure = agent_watch::container_failure(self.stage.server, agent).await?;
            if failure.is_some() || Instant::now() >= deadline {
                return Ok(failure);
            }
            sleep(CRASH_PAUSE).await;
        }
    }
}

async fn renew(
    server: ApiServer,
    agent: Agent,
    terms: LeaseTerms,
    phase: watch::Receiver<LeasePhase>,
) -> LeaseEnd {
    lease::renew(
        &server,
        &agent.namespace,
        &agent.job_name,
        &agent.job_uid,
        terms,
        phase,
    )
    .await
}
