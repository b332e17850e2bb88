//! `kubectl tunnel expose`: a Service whose connections come to local programs.
//!
//! It has the agent listen, and decides when the Service may be announced. What is exposed is checked in [`plan`];
//! the connections themselves are `reverse`'s.

mod plan;

use std::time::Duration;

use futures::future::{join_all, select_all};
use tokio::time::timeout;
use tunnel_wire::{Open, OpenError, Protocol, Session, Stream};

pub(super) use self::plan::ExposePlan;
use super::Context;
use super::tunnel::{self, Plan, ProxyPlan};
use crate::cli::ExposeArgs;
use crate::cli::proxy_flags::ProxyFlags;
use crate::cluster::agent::AgentService;
use crate::error::Error;
use crate::reverse::Gate;

/// How long the ClusterIP may take to lead to the agent.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one dial of the check may take, and the pause after one that was refused. A round trip inside
/// the cluster takes a millisecond.
const CHECK_DIAL: Duration = Duration::from_millis(60);

/// How long readiness waits for the checks' own connections to disappear again.
const CHECK_SETTLE: Duration = Duration::from_millis(500);

/// Runs until the user or the session ends it.
pub(super) async fn run(arguments: &ExposeArgs, context: &Context) -> Result<(), Error> {
    let expose = ExposePlan::parse(&arguments.name_and_ports, &arguments.flags)?;
    if arguments.proxy {
        arguments.proxy_flags.check().map_err(Error::Usage)?;
    } else if let Some(flag) = ProxyFlags::names().find(|flag| context.settings.typed(flag)) {
        return Err(Error::Usage(format!("--{flag} is for the proxy: add `--proxy`")));
    }
    let plan = Plan {
        verb: "expose",
        proxy: arguments.proxy.then(|| ProxyPlan::new(&arguments.proxy_flags)),
        expose: Some(expose),
        forward: None,
        session: &arguments.session,
        on_demand: None,
    };
    tunnel::run(plan, context).await
}

/// The agent's listeners: each is a stream, and ends with it.
#[derive(Debug)]
pub(super) struct Listening(Vec<Stream>);

impl Listening {
    /// No listeners: never ends.
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    /// Resolves when one of the listeners has ended.
    pub(super) async fn ended(&mut self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        select_all(self.0.iter_mut().map(|stream| Box::pin(stream.ended()))).await;
    }
}

/// Has the agent listen on every target port of the Service.
pub(super) async fn listen(session: &Session, service: &AgentService) -> Result<Listening, Error> {
    let streams = join_all(service.ports.iter().enumerate().map(|(index, port)| async move {
        let listener = u16::try_from(index).unwrap_or(u16::MAX);
        let open = Open::Listen {
            protocol: port.protocol,
            listener,
            port: port.target_port,
        };
        let failed = |source| Error::Listen {
            port: port.port,
            source,
        };
        let mut stream = session.open(&open).await.map_err(failed)?;
        stream.opened().await.map_err(failed)?;
        Ok(stream)
    }));
    Ok(Listening(
        streams.await.into_iter().collect::<Result<_, Error>>()?,
    ))
}

/// Dials the ClusterIP from the pod, once a TCP port, until it leads to the agent or [`CHECK_TIMEOUT`] is over,
/// and opens the gate for all but the checks' own connections.
pub(super) async fn announce(session: &Session, service: &AgentService, gate: &Gate) {
    let mut checks = Checks::default();
    if !service.cluster_ip.is_empty() {
        let each = service
            .ports
            .iter()
            .filter(|port| port.protocol == Protocol::Tcp)
            .map(|port| check(session, &service.cluster_ip, port.port));
        for one in join_all(each).await {
            checks.reached += one.reached;
            checks.unknown += one.unknown;
        }
        // Mostly they are gone at once. Those that are not are the gate's to sort out.
        drop(timeout(CHECK_SETTLE, gate.given_up(checks.reached)).await);
        tracing::debug!(?checks, "cluster ip checked");
    }
    gate.open(checks.reached + checks.unknown);
}

/// Connections of our own that the agent's listeners may see.
#[derive(Debug, Default)]
struct Checks {
    /// They got there.
    reached: usize,
    /// They were given up before anybody said so.
    unknown: usize,
}

async fn check(session: &Session, cluster_ip: &str, port: u16) -> Checks {
    let open = Open::Dial {
        protocol: Protocol::Tcp,
        patience_ms: 0,
        host: cluster_ip.to_owned(),
        port,
    };
    let mut checks = Checks::default();
    let dials = async {
        loop {
            let mut stream = session.open(&open).await?;
            // The node drops what comes before it knows the Service, and TCP asks again only after a second.
            checks.unknown += 1;
            let opened = timeout(CHECK_DIAL, stream.opened()).await;
            stream.abort("only a check");
            match opened {
                Ok(Ok(())) => {
                    checks.unknown -= 1;
                    checks.reached += 1;
                    return Ok::<_, OpenError>(());
                }
                Ok(Err(_)) => {
                    checks.unknown -= 1;
                    tokio::time::sleep(CHECK_DIAL).await;
                }
                Err(_) => {}
            }
        }
    };
    // A node without hairpin never leads back: no error.
    drop(timeout(CHECK_TIMEOUT, dials).await);
    checks
}
