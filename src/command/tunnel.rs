//! The life of a session, from nothing to nothing: start, attach, serve, drain, delete.
//!
//! `proxy` and `expose` say what is to be served ([`Plan`]); everything else is the same for both. Whatever
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
//! [`loss`], the next one made in [`agents`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tunnel_wire::hello::Secret;

use super::expose::{self, ExposePlan, Listening};
use super::narrate::{Facts, Narrator};
use super::proxy::environment_lines;
use super::{Context, ready};
use crate::cli::SessionFlags;
use crate::cli::proxy_flags::ProxyFlags;
use crate::cluster::agent::Agent;
use crate::cluster::client::{Access, ApiServer};
use crate::cluster::footprint::Footprint;
use crate::cluster::names::SessionId;
use crate::cluster::options::AgentOptions;
use crate::cluster::service;
use crate::error::Error;
use crate::forward::SessionConnector;
use crate::listener::{Bound, Listener, LocalAddress, Shell};
use crate::reverse::{self, Gate};
use crate::session::{Phase, Settings, StandingTx, WallClock};
use crate::ui::event::ReadyFile;
use crate::ui::{Event, Output};

use self::agents::Live;
use self::loss::{Loss, Verdict};

mod agents;
mod loss;
mod removal;

/// How long open connections may take to end once the user asked for the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the agent may take to answer a goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Least `--transport-max-age`: a new connection takes a tenth of it.
const LEAST_AGE: Duration = Duration::from_secs(1);

/// How long a Service may take to have the agent as its endpoint (measured: 1.2 s with a new pod).
const SERVICE_WAIT: Duration = Duration::from_secs(5);

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
    if plan.session.transport_max_age.is_some_and(|age| age < LEAST_AGE) {
        return Err(Error::Usage("--transport-max-age must be at least 1s".to_owned()));
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
        settings: Settings {
            reconnect_max: plan.session.reconnect_max,
            transport_max_age: plan.session.transport_max_age,
            clock: WallClock::default(),
        },
        plan: &plan,
        context,
        access: access.pinned_to(&server),
        server: &server,
        footprint: &footprint,
        options,
        secret: Secret::new(rand::random()),
        standing_tx: narrator.standing(),
        narrator,
        began: SystemTime::now(),
    };
    let result = tunnel.live(bound).await;
    tunnel.narrator.end().await;
    context.printer.steps_done();
    tunnel.remove(result).await
}

struct Tunnel<'a> {
    plan: &'a Plan<'a>,
    context: &'a Context,
    access: Access,
    server: &'a ApiServer,
    footprint: &'a Footprint,
    options: AgentOptions,
    settings: Settings,
    secret: Secret,
    standing_tx: StandingTx,
    narrator: Narrator,
    began: SystemTime,
}

/// What is served while the session lasts.
struct Serving {
    tasks: JoinSet<()>,
    drain: CancellationToken,
    listening: Listening,
}

impl Tunnel<'_> {
    /// From nothing to the end of the session: `Ok` when the user asked for it.
    async fn live(&self, bound: Option<Bound>) -> Result<(), Error> {
        let orderly = self.context.shutdown.orderly();
        let mut live = tokio::select! {
            live = self.come_up() => live?,
            () = orderly.cancelled() => return Ok(()),
        };
        let mut serving = Serving {
            tasks: JoinSet::new(),
            drain: CancellationToken::new(),
            listening: Listening::none(),
        };
        tokio::select! {
            served = self.serve(&mut live, bound, &mut serving) => served?,
            () = orderly.cancelled() => return self.leave(live, serving).await,
        }
        loop {
            let loss = tokio::select! {
                biased;
                () = orderly.cancelled() => return self.leave(live, serving).await,
                loss = Loss::of(self.server, &mut live, &mut serving.listening) => loss,
            };
            let verdict = tokio::select! {
                verdict = self.judge(loss, &live) => verdict,
                () = orderly.cancelled() => return self.leave(live, serving).await,
            };
            let reason = match verdict {
                Verdict::Replace(reason) => reason,
                Verdict::TakenOver => return Err(self.taken_over()),
                Verdict::Lost(reason) => return Err(self.lost(reason, &live)),
            };
            live = tokio::select! {
                next = self.replace(live, reason, &mut serving) => next?,
                // There is nothing to drain, and nobody to say goodbye to.
                () = orderly.cancelled() => return Ok(()),
            };
        }
    }

    /// Opens every door and says so.
    async fn serve(&self, live: &mut Live, bound: Option<Bound>, serving: &mut Serving) -> Result<(), Error> {
        let printer = &self.context.printer;
        let gate = Gate::default();
        self.serve_incoming(live, &gate, serving);
        if let Some(service) = &live.agent.service {
            printer.step(&format!("waiting for service {}", service.name));
            serving.listening = expose::listen(&live.running.session, service).await?;
            self.wait_for_service(&live.agent).await;
            expose::announce(&live.running.session, service, &gate).await;
        }
        let addresses = bound.as_ref().map(Bound::addresses).unwrap_or_default();
        if let Some(bound) = bound {
            let door = self.standing_tx.door(self.options.hold);
            serving
                .tasks
                .spawn(bound.serve(SessionConnector(door), serving.drain.clone()));
        }
        self.standing_tx.complete(Duration::ZERO);
        printer.steps_done();
        let ready = ready::event(&live.agent, self.plan.expose.as_ref(), &addresses);
        let facts = Facts::new(ready.clone(), self.plan.session.ready_file.as_deref())?;
        let print_env = self.plan.proxy.as_ref().and_then(|proxy| proxy.print_env);
        match (print_env, addresses.iter().find_map(LocalAddress::tcp)) {
            (Some(shell), Some(address)) if printer.output() == Output::Text => {
                printer.last_data(&environment_lines(shell, address, self.server, self.context));
            }
            _ => printer.event(&Event::Ready(ready)),
        }
        self.narrator.ready(facts);
        for note in ready::notes(&live.agent, self.plan.expose.as_ref()) {
            printer.note(&note);
        }
        Ok(())
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
        if !service::wait_ready(self.server, namespace, &service.name, pod_uid, SERVICE_WAIT).await {
            let note = format!("service {} is not reported ready yet", service.name);
            self.context.printer.note(&note);
        }
    }

    /// Serves the connections that this agent accepts.
    fn serve_incoming(&self, live: &mut Live, gate: &Gate, serving: &mut Serving) {
        let Some(incoming) = live.running.incoming.take() else {
            return;
        };
        let routes = match (&self.plan.expose, &live.agent.service) {
            (Some(plan), Some(service)) => plan.routes(service),
            _ => Arc::from([]),
        };
        let drain = serving.drain.clone();
        serving
            .tasks
            .spawn(reverse::serve(incoming, routes, gate.clone(), drain));
    }

    /// The orderly end, up to the deletion: connections drain, both ends say goodbye.
    async fn leave(&self, mut live: Live, mut serving: Serving) -> Result<(), Error> {
        let at_once = self.context.shutdown.at_once();
        self.standing_tx.set_phase(Phase::Draining);
        serving.drain.cancel();
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
        let drained = async { while serving.tasks.join_next().await.is_some() {} };
        tokio::select! {
            // What has not ended by then is reset with the session.
            _ = timeout(DRAIN_TIMEOUT, drained) => {}
            () = at_once.cancelled() => return Err(Error::SecondSignal),
        }
        tokio::select! {
            // The agent leaves by itself when this is not answered.
            over = timeout(GOODBYE_TIMEOUT, live.running.goodbye()) => match over {
                Ok(over) if over.is_takeover() => Err(self.taken_over()),
                Ok(_) | Err(_) => Ok(()),
            },
            () = at_once.cancelled() => Err(Error::SecondSignal),
        }
    }
}
