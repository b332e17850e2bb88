//! The life of a session, from nothing to nothing: start, attach, serve, drain, delete.
//!
//! `proxy` and `expose` say what is to be served ([`Plan`]); everything else is the same for both. Whatever
//! happens on the way, what was made in the cluster is deleted at the end, and how that went is told.
//!
//! ```text
//!   bind local ports -> start the agent -> attach -> listen in the pod -> ready ... -> drain -> goodbye -> delete
//!         |                  |                |            |                |
//!         '-- any failure, a signal, or the end of the session leads to ----'--> delete
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tunnel_wire::hello::Secret;
use tunnel_wire::link::TransportEnd;

use super::attach::{AgentTransports, ask_agent};
use super::expose::{self, ExposePlan, Listening};
use super::proxy::environment_lines;
use super::words::{Reason, start_error, step_text};
use super::{Context, ready};
use crate::cli::SessionFlags;
use crate::cli::proxy_flags::ProxyFlags;
use crate::cluster::agent::Agent;
use crate::cluster::client::{Access, ApiServer};
use crate::cluster::end::{self, END_WAIT, LOST_WAIT};
use crate::cluster::failure::Failure;
use crate::cluster::footprint::Footprint;
use crate::cluster::lease::{self, LeaseEnd, LeasePhase, LeaseTerms};
use crate::cluster::names::SessionId;
use crate::cluster::options::AgentOptions;
use crate::cluster::service;
use crate::cluster::start::{self, StartRequest, StartStep};
use crate::cluster::watch as agent_watch;
use crate::error::{AttachError, Error};
use crate::forward::SessionConnector;
use crate::listener::{Bound, Listener, Shell};
use crate::reverse::{self, Gate};
use crate::session::{self, ConnectError, Running};
use crate::ui::event::ReadyFile;
use crate::ui::{Event, Output};

/// How long open connections may take to end once the user asked for the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the agent may take to answer a goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two execs into a container that is not there yet.
const ATTACH_PAUSE: Duration = Duration::from_millis(50);

/// How long a pod's status may lag behind the end of its container (the kubelet looks once a second), and the
/// pause between two looks.
const CRASH_WAIT: Duration = Duration::from_secs(2);
const CRASH_PAUSE: Duration = Duration::from_millis(200);

/// How long a Service may take to have the agent as its endpoint (measured: 1.2 s with a new pod).
const SERVICE_WAIT: Duration = Duration::from_secs(5);

/// How long the cluster may take to say why a transport ended.
const REASON_WAIT: Duration = Duration::from_secs(1);

/// What a session is to serve.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) verb: &'static str,
    pub(super) proxy: Option<ProxyPlan<'a>>,
    pub(super) expose: Option<ExposePlan>,
    pub(super) session: &'a SessionFlags,
}

/// The local port of a session.
#[derive(Debug)]
pub(super) struct ProxyPlan<'a> {
    flags: &'a ProxyFlags,
    print_env: Option<Shell>,
}

impl<'a> ProxyPlan<'a> {
    pub(super) fn new(flags: &'a ProxyFlags) -> Self {
        Self {
            flags,
            print_env: flags.print_env,
        }
    }
}

/// Runs a session until the user, the cluster or an error ends it.
pub(super) async fn run(plan: Plan<'_>, context: &Context) -> Result<(), Error> {
    let options = plan.session.agent.validate().map_err(Error::AgentFlags)?;
    if let Some(path) = &plan.session.ready_file {
        ReadyFile::forget(path);
    }
    let orderly = context.shutdown.orderly();
    let access = Access::new(context.kube.overrides(), context.env.clone(), plan.verb);
    let server = tokio::select! {
        server = access.connect() => server?,
        () = orderly.cancelled() => return Ok(()),
    };
    context.last_words.in_namespace(server.namespace());
    // A port that is taken is known before anything is made.
    let bound = match &plan.proxy {
        Some(proxy) => {
            let options = proxy
                .flags
                .options(server.namespace())
                .map_err(Error::Credentials)?;
            Some(Listener::bind(options).await?)
        }
        None => None,
    };
    for warning in bound.iter().flat_map(Bound::warnings) {
        context.printer.warn(&warning.to_string());
    }
    let footprint = Footprint::new(server.namespace(), SessionId::random(), options.keep);
    let tunnel = Tunnel {
        plan: &plan,
        context,
        server: &server,
        footprint: &footprint,
        options,
    };
    let result = tunnel.live(bound).await;
    context.printer.steps_done();
    tunnel.end(result).await
}

struct Tunnel<'a> {
    plan: &'a Plan<'a>,
    context: &'a Context,
    server: &'a ApiServer,
    footprint: &'a Footprint,
    options: AgentOptions,
}

/// A session that is up, with all that keeps it so.
struct Live {
    agent: Agent,
    running: Running,
    transports: AgentTransports,
    lease: JoinSet<LeaseEnd>,
}

impl Tunnel<'_> {
    /// From nothing to the end of the session: `Ok` when the user asked for it.
    async fn live(&self, bound: Option<Bound>) -> Result<(), Error> {
        let orderly = self.context.shutdown.orderly();
        let mut live = tokio::select! {
            live = self.come_up() => live?,
            () = orderly.cancelled() => return Ok(()),
        };
        let drain = CancellationToken::new();
        let mut serving = JoinSet::new();
        let served = self.serve(&mut live, bound, &drain, &mut serving);
        let (mut listening, ready_file) = tokio::select! {
            served = served => served?,
            () = orderly.cancelled() => return self.leave(live, drain, serving).await,
        };
        let lost = tokio::select! {
            () = orderly.cancelled() => None,
            end = live.running.closed() => Some(self.why_lost(&live, &end).await),
            end = agent_watch::watch_agent(self.server, &live.agent) => Some(Reason::of_agent(&end)),
            Some(end) = live.lease.join_next() => Some(Reason::of_lease(end.ok(), &self.options)),
            () = listening.ended() => Some(self.why_lost(&live, &TransportEnd::Ended).await),
        };
        drop(ready_file);
        match lost {
            None => self.leave(live, drain, serving).await,
            Some(Reason {
                text: reason,
                mut log,
            }) => {
                log.extend(live.transports.last_lines());
                self.context
                    .printer
                    .warn(&format!("the session is lost: {reason}"));
                let event = Event::Lost {
                    reason: reason.clone(),
                };
                self.context.printer.event(&event);
                Err(Error::Lost { reason, log })
            }
        }
    }

    /// Starts the agent and brings the session up.
    async fn come_up(&self) -> Result<Live, Error> {
        let secret = Secret::new(rand::random());
        let request = StartRequest {
            options: self.options.clone(),
            secret_sha256: *secret.digest().as_bytes(),
            command: self.context.command_line.clone(),
            service: self.plan.expose.as_ref().map(ExposePlan::service),
            ask: ask_agent(self.server),
        };
        let printer = &self.context.printer;
        let namespace = self.server.namespace();
        let progress = |step: &StartStep| {
            let text = step_text(step, namespace);
            if matches!(step, StartStep::FollowingPolicy { .. }) {
                printer.warn(&text);
            } else {
                printer.step(&text);
            }
        };
        let started = Instant::now();
        let agent = start::start(self.server, &request, self.footprint, &progress)
            .await
            .map_err(start_error)?;
        let (phase_tx, phase_rx) = watch::channel(LeasePhase::Starting);
        let mut lease = JoinSet::new();
        lease.spawn(renew(
            self.server.clone(),
            agent.clone(),
            LeaseTerms::of(&self.options),
            phase_rx,
        ));
        printer.step("attaching");
        let mut transports = AgentTransports::new(self.server.clone(), agent.clone(), printer.clone());
        let running = self.attach(&agent, &mut transports, &secret, started).await?;
        phase_tx.send_replace(LeasePhase::Attached);
        tracing::info!(
            session = %agent.session, pod = agent.pod_name, agent = %running.agent_version,
            elapsed = ?started.elapsed(), "session ready"
        );
        // The lease watches the phase for as long as it runs.
        lease.spawn(async move {
            phase_tx.closed().await;
            std::future::pending().await
        });
        Ok(Live {
            agent,
            running,
            transports,
            lease,
        })
    }

    /// Execs into the agent until it answers, fails for good, or its time is over.
    async fn attach(
        &self,
        agent: &Agent,
        transports: &mut AgentTransports,
        secret: &Secret,
        started: Instant,
    ) -> Result<Running, Error> {
        let failed = |source| Error::Attach {
            pod: agent.pod_name.clone(),
            source,
        };
        loop {
            let error = match session::connect(transports, agent.session.wire(), secret).await {
                Ok(running) => return Ok(running),
                Err(ConnectError::Transport(error)) => error,
                Err(ConnectError::Hello(error)) => AttachError::Hello {
                    error,
                    log: transports.last_lines(),
                },
            };
            if matches!(error, AttachError::Api(_)) {
                return Err(failed(error));
            }
            // "Container not found" means "not yet" as well as "not any more".
            let missing = matches!(&error, AttachError::Ended(end) if end.is_container_missing());
            let patience = if missing { Duration::ZERO } else { CRASH_WAIT };
            if let Some(failure) = self.container_failure(agent, patience).await? {
                return Err(failed(AttachError::Container(failure)));
            }
            if !missing || started.elapsed() > self.options.pod_running_timeout {
                return Err(failed(error));
            }
            tokio::time::sleep(ATTACH_PAUSE).await;
        }
    }

    /// Why the agent's container does not run, if its pod says so within `patience`.
    async fn container_failure(&self, agent: &Agent, patience: Duration) -> Result<Option<Failure>, Error> {
        let deadline = Instant::now() + patience;
        loop {
            let failure = agent_watch::container_failure(self.server, agent).await?;
            if failure.is_some() || Instant::now() >= deadline {
                return Ok(failure);
            }
            tokio::time::sleep(CRASH_PAUSE).await;
        }
    }

    /// Opens every door and says so.
    async fn serve(
        &self,
        live: &mut Live,
        bound: Option<Bound>,
        drain: &CancellationToken,
        serving: &mut JoinSet<()>,
    ) -> Result<(Listening, Option<ReadyFile>), Error> {
        let printer = &self.context.printer;
        let session = live.running.session.clone();
        let gate = Gate::default();
        let mut listening = Listening::none();
        if let Some(incoming) = live.running.incoming.take() {
            let ports = self
                .plan
                .expose
                .as_ref()
                .map_or_else(|| Arc::from([]), |plan| Arc::clone(&plan.ports));
            serving.spawn(reverse::serve(incoming, ports, gate.clone(), drain.clone()));
        }
        if let Some(service) = &live.agent.service {
            printer.step(&format!("waiting for service {}", service.name));
            listening = expose::listen(&session, service).await?;
            let Agent {
                namespace, pod_uid, ..
            } = &live.agent;
            if !service::wait_ready(self.server, namespace, &service.name, pod_uid, SERVICE_WAIT).await {
                printer.note(&format!("service {} is not reported ready yet", service.name));
            }
            expose::announce(&session, service, &gate).await;
        }
        let addresses = bound.as_ref().map(Bound::addresses).unwrap_or_default();
        if let Some(bound) = bound {
            serving.spawn(bound.serve(SessionConnector(session), drain.clone()));
        }
        printer.steps_done();
        let event = ready::event(&live.agent, self.plan.expose.as_ref(), &addresses);
        let ready_file = match &self.plan.session.ready_file {
            Some(path) => Some(ReadyFile::write(path, &event).map_err(|source| Error::Io {
                doing: format!("write the ready file {}", path.display()),
                source,
            })?),
            None => None,
        };
        let print_env = self.plan.proxy.as_ref().and_then(|proxy| proxy.print_env);
        match (print_env, addresses.first()) {
            (Some(shell), Some(address)) if printer.output() == Output::Text => {
                printer.last_data(&environment_lines(shell, *address, self.server, self.context));
            }
            _ => printer.event(&event),
        }
        for note in ready::notes(&live.agent, self.plan.expose.as_ref()) {
            printer.note(&note);
        }
        Ok((listening, ready_file))
    }

    /// The orderly end, up to the deletion: connections drain, both ends say goodbye.
    async fn leave(
        &self,
        live: Live,
        drain: CancellationToken,
        mut serving: JoinSet<()>,
    ) -> Result<(), Error> {
        let at_once = self.context.shutdown.at_once();
        drain.cancel();
        // A listener is a stream as well, but nothing to wait for.
        let listeners = live
            .agent
            .service
            .as_ref()
            .map_or(0, |service| service.ports.len());
        if live.running.session.streams() > listeners {
            self.context
                .printer
                .step("waiting for open connections; once more to leave at once");
        }
        let drained = async { while serving.join_next().await.is_some() {} };
        tokio::select! {
            () = drained_or_over(drained) => {}
            () = at_once.cancelled() => return Err(Error::SecondSignal),
        }
        tokio::select! {
            // The agent leaves by itself when this is not answered.
            _ = timeout(GOODBYE_TIMEOUT, live.running.goodbye()) => Ok(()),
            () = at_once.cancelled() => Err(Error::SecondSignal),
        }
    }

    /// Deletes what was made and tells what is left. Keeps the error the session ended with.
    async fn end(&self, result: Result<(), Error>) -> Result<(), Error> {
        let printer = &self.context.printer;
        let at_once = self.context.shutdown.at_once();
        let wait = if matches!(result, Err(Error::Lost { .. })) {
            LOST_WAIT
        } else {
            END_WAIT
        };
        let result = match result {
            Err(Error::SecondSignal) => Err(Error::SecondSignal),
            result => {
                if !self.footprint.is_empty() && !self.footprint.keep() {
                    printer.step(&format!("removing session {}", self.footprint.session()));
                }
                tokio::select! {
                    ending = end::end(self.server, self.footprint, wait) => {
                        printer.steps_done();
                        return self.told(result, &ending);
                    }
                    () = at_once.cancelled() => Err(Error::SecondSignal),
                }
            }
        };
        printer.steps_done();
        if let Err(error) = end::end_fast(self.server, self.footprint).await {
            printer.warn(&format!("the job was not deleted: {error}"));
            self.context.last_words.left(self.jobs());
        }
        result
    }

    fn told(&self, result: Result<(), Error>, ending: &end::Ending) -> Result<(), Error> {
        let mut leftovers: Vec<String> = ending.leftovers.iter().map(ToString::to_string).collect();
        if self.footprint.keep() {
            leftovers.extend(self.jobs());
            if let Some(kept) = leftovers.first() {
                self.context.printer.note(&format!(
                    "kept for an hour: {kept}, with its pod's log; remove it with `{}`",
                    ending.removal_command()
                ));
            }
        }
        if !ending.is_clean() {
            let why = ending
                .error
                .as_ref()
                .map(|error| format!(" ({error})"))
                .unwrap_or_default();
            let text = format!(
                "{ending}{why}; it goes by itself, or with `kubectl tunnel cleanup` or `{}`",
                ending.removal_command()
            );
            self.context.printer.warn(&text);
        }
        self.context.last_words.left(leftovers);
        result
    }

    /// The Jobs that were made, as `job/name`.
    fn jobs(&self) -> Vec<String> {
        let jobs = self.footprint.jobs();
        jobs.iter().map(|job| format!("job/{}", job.name)).collect()
    }

    /// Why a transport ended: what the cluster says about the agent, if it says so soon, or what was seen here.
    async fn why_lost(&self, live: &Live, end: &TransportEnd) -> Reason {
        let cluster = agent_watch::watch_agent(self.server, &live.agent);
        if let Ok(end) = timeout(REASON_WAIT, cluster).await {
            return Reason::of_agent(&end);
        }
        let mut reason = end.to_string();
        if let Some(end) = live.transports.exec_end().await {
            reason = format!("{reason} ({})", AttachError::Ended(end));
        }
        if live.running.path_suspect() {
            reason.push_str(
                "; the path may alter or cut what passes through exec: not all of the probe came back",
            );
        }
        Reason::new(reason)
    }
}

async fn drained_or_over(drained: impl Future<Output = ()>) {
    // What has not ended by then is reset with the session.
    drop(timeout(DRAIN_TIMEOUT, drained).await);
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
