//! The life of a session, from nothing to nothing: start, attach, serve, drain, delete.
//!
//! `proxy`, `expose` and `forward` say what is to be served ([`Plan`]); everything else is the same for all. Whatever
//! happens on the way, what was made in the cluster is deleted at the end, and how that went is told.
//!
//! ```text
//!   bind local ports -> start the agent -> attach -> listen in the pod -> ready ... -> drain -> goodbye -> delete
//!         |                  |                |            |            |    ^                              ^
//!         |                  |                |            |            |    '-- another agent <-- gone     |
//!         '-- any failure, a signal, or the end of the session leads to ----------------------'-------------'
//! ```
//!
//! Lost transports are the session's business and never seen here; what became of a lost agent is decided in
//! [`loss`], the next one made in [`agents`]. With `--on-demand` a command has one session after the other, and none
//! in between ([`on_demand`]); the local ports ([`doors`]) stay. `doctor` has a session without any ([`trial`]).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tunnel_wire::hello::Secret;

use super::expose::{self, ExposePlan, Listening};
use super::forward::ForwardPlan;
use super::narrate::{Facts, Narrator};
use super::proxy::environment_lines;
use super::{Context, detach, ready};
use crate::cli::SessionFlags;
use crate::cli::proxy_flags::ProxyFlags;
use crate::cluster::agent::Agent;
use crate::cluster::client::{Access, ApiServer};
use crate::cluster::footprint::Footprint;
use crate::cluster::names::SessionId;
use crate::cluster::options::AgentOptions;
use crate::cluster::rights::{self, Needs};
use crate::cluster::service;
use crate::error::Error;
use crate::listener::Shell;
use crate::metrics::Metrics;
use crate::reverse::{self, Gate};
use crate::session::{Phase, SecondWay, Settings, StandingTx, WallClock, Way};
use crate::ui::event::ReadyFile;
use crate::ui::{Event, Output};

use self::agents::Live;
use self::doors::Doors;
use self::loss::{Loss, Verdict};
use self::seen::Running;

mod agents;
mod doors;
mod loss;
mod on_demand;
mod removal;
mod seen;
pub(super) mod trial;

/// How long open connections may take to end once the user asked for the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a drain takes before it is said that it does.
const DRAIN_QUIET: Duration = Duration::from_millis(100);

/// How long the agent may take to answer a goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Least `--transport-max-age`: a new connection takes a tenth of it.
const LEAST_AGE: Duration = Duration::from_secs(1);

/// How long a Service may take to have the agent as its endpoint (measured: 1.2 s with a new pod).
const SERVICE_WAIT: Duration = Duration::from_secs(5);

/// What a command is to serve.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) verb: &'static str,
    pub(super) proxy: Option<ProxyPlan<'a>>,
    pub(super) expose: Option<ExposePlan>,
    pub(super) forward: Option<ForwardPlan>,
    pub(super) session: &'a SessionFlags,
    /// The agent starts with the first connection, and goes when there was none for so long.
    pub(super) on_demand: Option<Duration>,
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

/// Runs a command until the user, the cluster or an error ends it.
pub(super) async fn run(plan: Plan<'_>, context: &Context) -> Result<(), Error> {
    let options = plan.session.agent.validate().map_err(Error::AgentFlags)?;
    if plan.session.transport_max_age.is_some_and(|age| age < LEAST_AGE) {
        return Err(Error::Usage("--transport-max-age must be at least 1s".to_owned()));
    }
    let detached = detach::detached_as(context);
    if plan.session.detach && detached.is_none() {
        return detach::run(context).await;
    }
    if detached.is_some() {
        detach::settle();
    }
    if let Some(path) = &plan.session.ready_file {
        ReadyFile::forget(path);
    }
    let narrator = Narrator::start(context.printer.clone());
    let orderly = context.shutdown.orderly();
    let access = Access::new(context.kube.overrides(), context.env.clone(), plan.verb);
    let server = tokio::select! {
        server = access.connect() => server?,
        () = orderly.cancelled() => return Ok(()),
    };
    context.last_words.in_namespace(server.namespace());
    // A target that is not there, a port that is taken and a missing right are known before anything is made.
    let doors = tokio::select! {
        doors = look_ahead(&plan, &options, &server, context) => doors?,
        () = orderly.cancelled() => return Ok(()),
    };
    let id = detached.unwrap_or_else(SessionId::random);
    let max_lifetime = plan.on_demand.is_none().then_some(options.max_lifetime);
    let running = Running::new(
        id.as_str(),
        &server,
        context,
        max_lifetime,
        narrator.standing(),
        narrator.facts(),
    );
    let metrics = bind_metrics(&plan, context).await?;
    let metrics_url = metrics
        .as_ref()
        .map(|metrics| format!("http://{}/metrics", metrics.address()));
    let _windows = running.open(metrics, context);
    let stage = Stage {
        id,
        metrics: metrics_url,
        settings: settings(plan.session),
        plan: &plan,
        context,
        access: access.pinned_to(&server),
        server: &server,
        options,
        standing_tx: narrator.standing(),
        narrator,
    };
    match plan.on_demand {
        None => stage.one_session(doors).await,
        Some(idle_timeout) => {
            let result = on_demand::run(&stage, doors, idle_timeout).await;
            stage.narrator.end().await;
            context.printer.steps_done();
            result
        }
    }
}

/// How hard the flags ask to try; the second way depends on the agent.
fn settings(flags: &SessionFlags) -> Settings {
    Settings {
        reconnect_max: flags.reconnect_max,
        transport_max_age: flags.transport_max_age,
        second: SecondWay::Off,
        clock: WallClock::default(),
    }
}

/// The port of `--metrics`.
async fn bind_metrics(plan: &Plan<'_>, context: &Context) -> Result<Option<Metrics>, Error> {
    let Some(wanted) = &plan.session.metrics else {
        return Ok(None);
    };
    let metrics = wanted.bind().await.map_err(|source| Error::Io {
        doing: format!("cannot serve metrics on {}", wanted.address()),
        source,
    })?;
    if metrics.is_reachable() {
        context.printer.warn(&format!(
            "the metrics on {} can be read from other machines",
            metrics.address()
        ));
    }
    Ok(Some(metrics))
}

/// Everything that may be refused before there is a session. The start of one asks for its rights itself; one that may
/// come in an hour must not wait for that.
async fn look_ahead(
    plan: &Plan<'_>,
    options: &AgentOptions,
    server: &ApiServer,
    context: &Context,
) -> Result<Doors, Error> {
    let doors = Doors::open(plan, server, context).await?;
    if plan.on_demand.is_some() {
        let needs = Needs {
            transport: options.transport,
            ..Needs::default()
        };
        rights::check(server, server.namespace(), needs)
            .await
            .map_err(|error| Error::Start(error.into()))?;
    }
    Ok(doors)
}

/// What all sessions of a command share.
struct Stage<'a> {
    /// Of the command; its session has the same, but each of several (`--on-demand`) its own.
    id: SessionId,
    metrics: Option<String>,
    plan: &'a Plan<'a>,
    context: &'a Context,
    access: Access,
    server: &'a ApiServer,
    options: AgentOptions,
    /// But for the second way, which depends on the agent.
    settings: Settings,
    standing_tx: StandingTx,
    narrator: Narrator,
}

/// One session.
struct Tunnel<'a> {
    stage: &'a Stage<'a>,
    footprint: Footprint,
    secret: Secret,
    began: SystemTime,
}

/// Why a session ended as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The user asked for it.
    Asked,
    /// Nobody uses it any more.
    Idle,
}

/// What is served, for as long as the command lasts.
struct Serving {
    tasks: JoinSet<()>,
    drain: CancellationToken,
    listening: Listening,
}

impl Serving {
    fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            drain: CancellationToken::new(),
            listening: Listening::none(),
        }
    }

    /// Lets open connections end, for a while; new ones are refused.
    async fn drain(&mut self) {
        self.drain.cancel();
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        // What has not ended by then is reset.
        drop(timeout(DRAIN_TIMEOUT, drained).await);
    }
}

impl Stage<'_> {
    async fn one_session(&self, doors: Doors) -> Result<(), Error> {
        let tunnel = Tunnel::new(self);
        let result = tunnel.live(doors).await;
        self.narrator.end().await;
        self.context.printer.steps_done();
        tunnel.remove(result).await
    }

    /// Serves the local ports, and says that all is ready.
    fn open_doors(&self, doors: Doors, serving: &mut Serving, agent: Option<&Agent>) -> Result<(), Error> {
        let printer = &self.context.printer;
        let (listeners, proxy_address) = (doors.listeners(), doors.proxy_address());
        let hold = self.options.hold;
        let start = match self.plan.on_demand {
            Some(_) => self.options.pod_running_timeout.max(hold),
            None => hold,
        };
        let door = self.standing_tx.door_with_start(hold, start);
        doors.serve(
            &mut serving.tasks,
            &door,
            hold,
            self.server,
            printer,
            &serving.drain,
        );
        if agent.is_some() {
            self.standing_tx.complete(Duration::ZERO);
        }
        printer.steps_done();
        let expose = self.plan.expose.as_ref();
        let mut ready = ready::event(self.server.namespace(), agent, expose, listeners);
        ready.metrics.clone_from(&self.metrics);
        ready.transport_kind = self.standing_tx.way().map(Way::as_str);
        let facts = Facts::new(ready.clone(), self.plan.session.ready_file.as_deref())?;
        let print_env = self.plan.proxy.as_ref().and_then(|proxy| proxy.print_env);
        match (print_env, proxy_address) {
            (Some(shell), Some(address)) if printer.output() == Output::Text => {
                printer.last_data(&environment_lines(shell, address, self.server, self.context));
            }
            _ => printer.event(&Event::Ready(ready)),
        }
        self.narrator.ready(facts);
        let notes = match agent {
            Some(agent) => ready::notes(agent, expose),
            None => vec![format!(
                "the first connection starts an agent in namespace {}; Ctrl-C ends this command",
                self.server.namespace()
            )],
        };
        if let Some(metrics) = &self.metrics {
            printer.note(&format!("metrics: {metrics}"));
        }
        for note in notes {
            printer.note(&note);
        }
        Ok(())
    }
}

impl<'a> Tunnel<'a> {
    fn new(stage: &'a Stage<'a>) -> Self {
        let id = match stage.plan.on_demand {
            None => stage.id.clone(),
            Some(_) => SessionId::random(),
        };
        Self {
            stage,
            footprint: Footprint::new(stage.server.namespace(), id, stage.options.keep),
            secret: Secret::new(rand::random()),
            began: SystemTime::now(),
        }
    }
}

impl Tunnel<'_> {
    /// From nothing to the end of the session: `Ok` when the user asked for it.
    async fn live(&self, doors: Doors) -> Result<(), Error> {
        let orderly = self.stage.context.shutdown.orderly();
        let mut live = tokio::select! {
            live = self.come_up() => live?,
            () = orderly.cancelled() => return Ok(()),
        };
        let mut serving = Serving::new();
        tokio::select! {
            served = self.serve(&mut live, doors, &mut serving) => served?,
            () = orderly.cancelled() => return self.leave(live, &mut serving).await,
        }
        self.watch_over(live, &mut serving).await.map(drop)
    }

    /// Keeps the session, over as many agents as it takes, until it ends as it should.
    async fn watch_over(&self, mut live: Live, serving: &mut Serving) -> Result<End, Error> {
        let orderly = self.stage.context.shutdown.orderly();
        loop {
            let session = live.running.session.clone();
            let loss = tokio::select! {
                biased;
                () = orderly.cancelled() => {
                    return self.leave(live, serving).await.map(|()| End::Asked);
                }
                loss = Loss::of(self.stage.server, &mut live, &mut serving.listening) => loss,
                () = on_demand::unused(&session, self.stage.plan.on_demand) => {
                    if on_demand::retire(&self.stage.standing_tx, session).await {
                        return self.goodbye(live).await.map(|()| End::Idle);
                    }
                    continue;
                }
            };
            let verdict = tokio::select! {
                verdict = self.judge(loss, &live) => verdict,
                () = orderly.cancelled() => {
                    return self.leave(live, serving).await.map(|()| End::Asked);
                }
            };
            let reason = match verdict {
                Verdict::Replace(reason) => reason,
                Verdict::TakenOver => return Err(self.taken_over()),
                Verdict::Lost(reason) => return Err(self.lost(reason, &live)),
            };
            live = tokio::select! {
                next = self.replace(live, reason, serving) => next?,
                // There is nothing to drain, and nobody to say goodbye to.
                () = orderly.cancelled() => return Ok(End::Asked),
            };
        }
    }

    /// Opens every door and says so.
    async fn serve(&self, live: &mut Live, doors: Doors, serving: &mut Serving) -> Result<(), Error> {
        let printer = &self.stage.context.printer;
        let gate = Gate::default();
        self.serve_incoming(live, &gate, serving);
        if let Some(service) = &live.agent.service {
            printer.step(&format!("waiting for service {}", service.name));
            serving.listening = expose::listen(&live.running.session, service).await?;
            self.wait_for_service(&live.agent).await;
            expose::announce(&live.running.session, service, &gate).await;
        }
        self.stage.open_doors(doors, serving, Some(&live.agent))
    }

    /// Waits until the Service leads to this agent, but not for ever: some clusters do not tell.
    async fn wait_for_service(&self, agent: &Agent) {
        let (
            Agent {
                namespace, pod_uid, ..
            },
            Some(service),
        ) = (agent, &agent.service)
        else {
            return;
        };
        if !service::wait_ready(self.stage.server, namespace, &service.name, pod_uid, SERVICE_WAIT).await {
            let note = format!("service {} is not reported ready yet", service.name);
            self.stage.context.printer.note(&note);
        }
    }

    /// Serves the connections that this agent accepts.
    fn serve_incoming(&self, live: &mut Live, gate: &Gate, serving: &mut Serving) {
        let Some(incoming) = live.running.incoming.take() else {
            return;
        };
        let routes = match (&self.stage.plan.expose, &live.agent.service) {
            (Some(plan), Some(service)) => plan.routes(service),
            _ => Arc::from([]),
        };
        let (traffic, drain) = (self.stage.standing_tx.traffic().clone(), serving.drain.clone());
        serving
            .tasks
            .spawn(reverse::serve(incoming, routes, gate.clone(), traffic, drain));
    }

    /// The orderly end, up to the deletion: connections drain, both ends say goodbye.
    async fn leave(&self, live: Live, serving: &mut Serving) -> Result<(), Error> {
        self.stage.standing_tx.set_phase(Phase::Draining);
        // A listener is a stream as well, but nothing to wait for.
        let listeners = live
            .agent
            .service
            .as_ref()
            .map_or(0, |service| service.ports.len());
        let said = async {
            sleep(DRAIN_QUIET).await;
            if live.running.session.streams() > listeners {
                self.stage
                    .context
                    .printer
                    .step("waiting for open connections; once more to leave at once");
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = serving.drain() => {}
            () = said => {}
            () = self.stage.context.shutdown.at_once().cancelled() => return Err(Error::SecondSignal),
        }
        self.goodbye(live).await
    }

    async fn goodbye(&self, mut live: Live) -> Result<(), Error> {
        tokio::select! {
            // The agent leaves by itself when this is not answered.
            over = timeout(GOODBYE_TIMEOUT, live.running.goodbye()) => match over {
                Ok(over) if over.is_takeover() => Err(self.taken_over()),
                Ok(_) | Err(_) => Ok(()),
            },
            () = self.stage.context.shutdown.at_once().cancelled() => Err(Error::SecondSignal),
        }
    }
}
