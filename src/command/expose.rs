//! `kubectl tunnel expose`: a Service whose connections come to local programs.
//!
//! It parses name and ports, has the agent listen, and decides when the Service may be announced. The
//! connections themselves are `reverse`'s.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, select_all};
use tokio::time::timeout;
use tunnel_wire::{Open, OpenError, Protocol, Session, Stream};

use super::Context;
use super::tunnel::{self, Plan, ProxyPlan};
use crate::cli::ExposeArgs;
use crate::cli::port::PortSpec;
use crate::cluster::agent::AgentService;
use crate::cluster::manifest::{ServicePortRequest, ServiceRequest};
use crate::error::Error;
use crate::reverse::Gate;

/// How long the ClusterIP may take to lead to the agent.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one dial of the check may take, and the pause after one that was refused. A round trip inside
/// the cluster takes a millisecond.
const CHECK_DIAL: Duration = Duration::from_millis(60);

/// How long readiness waits for the checks' own connections to disappear again.
const CHECK_SETTLE: Duration = Duration::from_millis(500);

/// Longest Service name (RFC 1035 label).
const MAX_NAME: usize = 63;

/// Runs until the user or the session ends it.
pub(super) async fn run(arguments: &ExposeArgs, context: &Context) -> Result<(), Error> {
    let expose = ExposePlan::parse(&arguments.name_and_ports)?;
    if let Some(flag) = arguments.proxy_flags.given().filter(|_| !arguments.proxy) {
        return Err(Error::Usage(format!("{flag} is for the proxy: add `--proxy`")));
    }
    arguments.proxy_flags.check().map_err(Error::Usage)?;
    let plan = Plan {
        verb: "expose",
        proxy: arguments.proxy.then(|| ProxyPlan::new(&arguments.proxy_flags)),
        expose: Some(expose),
        session: &arguments.session,
    };
    tunnel::run(plan, context).await
}

/// What is to be exposed, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExposePlan {
    pub(super) name: String,
    pub(super) ports: Arc<[PortSpec]>,
}

impl ExposePlan {
    fn parse(words: &[String]) -> Result<Self, Error> {
        let (name, ports) = match words {
            [first, rest @ ..] if !rest.is_empty() && is_service_name(first) => (Some(first.clone()), rest),
            [only] if is_service_name(only) => {
                return Err(Error::Usage(format!(
                    "which local port? type `kubectl tunnel expose {only} PORT`"
                )));
            }
            [first, _, ..] if first.parse::<PortSpec>().is_err() => {
                return Err(Error::Usage(format!(
                    "`{first}` is no port and no service name (lower-case letters, digits and dashes)"
                )));
            }
            all => (None, all),
        };
        let ports = ports
            .iter()
            .map(|text| {
                text.parse::<PortSpec>()
                    .map_err(|error| Error::Usage(error.to_string()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        for (index, port) in ports.iter().enumerate() {
            if ports[..index].iter().any(|other| other.service == port.service) {
                return Err(Error::Usage(format!(
                    "service port {} is named twice",
                    port.service
                )));
            }
        }
        let Some(first) = ports.first() else {
            return Err(Error::Usage(
                "which local port? type `kubectl tunnel expose PORT`".to_owned(),
            ));
        };
        let name = name.unwrap_or_else(|| format!("tunnel-{}", first.service));
        Ok(Self {
            name,
            ports: ports.into(),
        })
    }

    /// The Service to make. Its port names are only there because several ports need some.
    pub(super) fn service(&self) -> ServiceRequest {
        let port = |spec: &PortSpec| ServicePortRequest {
            name: format!("port-{}", spec.service),
            port: spec.service,
        };
        ServiceRequest {
            name: self.name.clone(),
            ports: self.ports.iter().map(port).collect(),
        }
    }
}

/// RFC 1035: lower-case letters, digits and dashes, beginning with a letter, not ending with a dash.
fn is_service_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
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
            protocol: Protocol::Tcp,
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

/// Dials the ClusterIP from the pod, once a port, until it leads to the agent or [`CHECK_TIMEOUT`] is over,
/// and opens the gate for all but the checks' own connections.
pub(super) async fn announce(session: &Session, service: &AgentService, gate: &Gate) {
    let mut checks = Checks::default();
    if !service.cluster_ip.is_empty() {
        let each = service
            .ports
            .iter()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<ExposePlan, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        ExposePlan::parse(&words).map_err(|error| error.to_string())
    }

    #[test]
    fn the_name_is_optional() {
        let plan = parse(&["1234"]).unwrap();
        assert_eq!((plan.name.as_str(), plan.ports.len()), ("tunnel-1234", 1));
        let plan = parse(&["api", "80:1234", "443:8443"]).unwrap();
        assert_eq!((plan.name.as_str(), plan.ports.len()), ("api", 2));
        assert_eq!(parse(&["8080:1234"]).unwrap().name, "tunnel-8080");
        assert_eq!(
            plan.service().ports[1],
            ServicePortRequest {
                name: "port-443".to_owned(),
                port: 443
            }
        );
    }

    #[test]
    fn what_is_missing_or_double_is_said() {
        assert!(parse(&["api"]).unwrap_err().contains("which local port"));
        assert!(parse(&["80:1", "80:2"]).unwrap_err().contains("named twice"));
        assert!(parse(&["Api", "80"]).unwrap_err().contains("no service name"));
        assert!(parse(&["80", "api"]).is_err());
    }
}
