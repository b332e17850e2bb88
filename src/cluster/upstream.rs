//! From targets to upstreams: what `forward` dials for what the user named.
//!
//! [`resolve`] checks all targets against the cluster and creates nothing. Services, hosts and addresses become a
//! name or address to dial; pods and workloads a [`PodGroup`], of which a pod is chosen for each connection.

mod group;
mod list;
mod lookup;
mod pod;
mod pods;
mod service;
mod slices;
mod watches;

use std::collections::BTreeMap;

pub use self::group::{ChosenPod, NoPod, PodGroup};
use self::lookup::{Found, Key, Object};
use self::pods::{only_number, pick_of_pod, pick_of_workload, unfit};
use self::service::{own_number, pods_behind, port_at_name};
use self::slices::Slices;
pub use self::watches::Watches;
use super::answer::is_forbidden;
use super::api_error::ApiError;
use super::client::ApiServer;
use crate::cli::port::Protocol;
pub use crate::cli::target::Via;
use crate::cli::target::{RemotePort, TargetKind, TargetSpec};

/// One port of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What the user named; without a namespace it is in the one in use.
    pub target: TargetSpec,
    /// Its port.
    pub port: RemotePort,
    /// What the port carries.
    pub protocol: Protocol,
    /// How to reach it. `Auto` is like `Agent` here: only `Pod` changes what is looked up.
    pub via: Via,
}

/// What is dialled for one [`Wanted`].
#[derive(Debug, Clone)]
pub enum Upstream {
    /// Always the same.
    Name {
        /// A name for the cluster's DNS, or an address without brackets.
        host: String,
        /// Never 0.
        port: u16,
    },
    /// Some pod of these.
    Pods {
        /// Where to [`PodGroup::choose`].
        group: PodGroup,
        /// The pod's port, for [`PodGroup::choose`]: of a Service it is the target port.
        port: RemotePort,
    },
}

/// What was found for one [`Wanted`].
#[derive(Debug, Clone)]
pub struct Target {
    /// What is dialled.
    pub upstream: Upstream,
    /// The number of the port that the user named: the Service's own, or the container's.
    pub number: u16,
}

/// What was found.
#[derive(Debug)]
pub struct Resolved {
    /// One for each wanted, in their order.
    pub targets: Vec<Target>,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// Why a target cannot be forwarded to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// There is no such object.
    #[error("{kind} \"{name}\" not found in namespace {namespace}")]
    NotFound {
        /// In the singular, as kubectl spells it.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Where it was looked for.
        namespace: String,
    },
    /// It has no such port.
    #[error("{target} has no {protocol} port {port}: {}", ports_text(ports))]
    NoPort {
        /// The target.
        target: String,
        /// What was asked for.
        port: RemotePort,
        /// Of this protocol.
        protocol: Protocol,
        /// Those it has, for people.
        ports: Vec<String>,
    },
    /// It cannot be done, whatever the cluster holds.
    #[error("{target}: {reason}")]
    Unfit {
        /// The target.
        target: String,
        /// Why, and what to type instead.
        reason: String,
    },
    /// A right is missing, or the API server cannot be reached.
    #[error("{target} cannot be looked up")]
    Api {
        /// The target.
        target: String,
        /// What the API server said.
        source: ApiError,
    },
}

fn ports_text(ports: &[String]) -> String {
    if ports.is_empty() {
        return "it lists none".to_owned();
    }
    format!("it has {}", ports.join(", "))
}

/// Looks up all targets at once. Creates nothing.
///
/// # Errors
/// Of all targets that cannot be forwarded to, the first in the order of `wanted`.
pub async fn resolve(server: &ApiServer, wanted: &[Wanted]) -> Result<Resolved, UpstreamError> {
    for one in wanted {
        check_words(one)?;
    }
    let place = |one: &Wanted| Place::of(one, server.namespace());
    let keys = wanted.iter().filter_map(|one| place(one).key()).collect();
    let found = lookup::look_up(server, keys).await;
    let slices = slices::look_up(server, wanted.iter().map(|one| (one, place(one))), &found).await;
    let mut resolving = Resolving {
        own_namespace: server.namespace(),
        found,
        slices,
        groups: BTreeMap::new(),
        unchecked: BTreeMap::new(),
    };
    let targets = wanted
        .iter()
        .map(|one| resolving.target(one, place(one)))
        .collect::<Result<_, _>>()?;
    Ok(Resolved {
        targets,
        warnings: resolving.warnings(),
    })
}

/// What no cluster can make good.
fn check_words(wanted: &Wanted) -> Result<(), UpstreamError> {
    if wanted.via != Via::Pod {
        return Ok(());
    }
    if matches!(wanted.target.kind, TargetKind::Host | TargetKind::Ip) {
        return Err(unfit(
            wanted,
            "only the agent reaches hosts and addresses; leave --via=pod out",
        ));
    }
    if wanted.protocol == Protocol::Udp {
        return Err(unfit(
            wanted,
            "the API server's port-forward carries TCP only; leave --via=pod out for UDP",
        ));
    }
    Ok(())
}

/// Where a target is.
#[derive(Debug, Clone)]
struct Place {
    kind: TargetKind,
    namespace: String,
    name: String,
}

impl Place {
    fn of(wanted: &Wanted, own_namespace: &str) -> Self {
        let TargetSpec {
            kind,
            name,
            namespace,
        } = wanted.target.clone();
        Self {
            kind,
            namespace: namespace.unwrap_or_else(|| own_namespace.to_owned()),
            name,
        }
    }

    /// The object to read; `None` for what is none.
    fn key(self) -> Option<Key> {
        let Self {
            kind,
            namespace,
            name,
        } = self;
        (!matches!(kind, TargetKind::Host | TargetKind::Ip)).then_some(Key {
            kind,
            namespace,
            name,
        })
    }
}

/// All that was read, on its way to upstreams.
struct Resolving<'a> {
    own_namespace: &'a str,
    found: Found,
    slices: Slices,
    /// Ports of one target share a group, and so one watch.
    groups: BTreeMap<Key, PodGroup>,
    /// Ports of Services that may not be read, by namespace.
    unchecked: BTreeMap<String, Vec<String>>,
}

impl Resolving<'_> {
    fn target(&mut self, wanted: &Wanted, place: Place) -> Result<Target, UpstreamError> {
        let Some(key) = place.clone().key() else {
            let reason = "a host or address has no port names; type a number";
            let port = only_number(wanted, reason)?;
            let upstream = Upstream::Name {
                host: place.name,
                port,
            };
            return Ok(Target {
                upstream,
                number: port,
            });
        };
        let object = match self.found.get(&key) {
            Some(Ok(Some(object))) => object,
            Some(Err(error)) => return self.unread(wanted, &key, error.clone()),
            Some(Ok(None)) | None => {
                return Err(UpstreamError::NotFound {
                    kind: singular(key.kind),
                    name: key.name,
                    namespace: key.namespace,
                });
            }
        };
        let (pick, port, number) = match object {
            Object::Service(service) if wanted.via == Via::Pod => {
                let (pick, port) = pods_behind(wanted, service)?;
                (pick, port, own_number(wanted, service).unwrap_or_default())
            }
            Object::Service(service) => {
                let slices = self.slices.of(&key, wanted)?;
                let port = port_at_name(wanted, service, slices)?;
                return Ok(Target {
                    upstream: name(&key, port),
                    number: own_number(wanted, service).unwrap_or(port),
                });
            }
            Object::Pod(pod) => {
                let (pick, number) = pick_of_pod(wanted, pod)?;
                (pick, wanted.port.clone(), number)
            }
            Object::Workload(workload) => {
                let (pick, number) = pick_of_workload(wanted, workload)?;
                (pick, wanted.port.clone(), number)
            }
        };
        let group = self
            .groups
            .entry(key)
            .or_insert_with_key(|key| PodGroup::new(wanted.target.to_string(), key.namespace.clone(), pick));
        let upstream = Upstream::Pods {
            group: group.clone(),
            port,
        };
        Ok(Target { upstream, number })
    }

    /// A Service of another namespace can be dialled although we may not read it.
    fn unread(&mut self, wanted: &Wanted, key: &Key, error: ApiError) -> Result<Target, UpstreamError> {
        if let (TargetKind::Service, RemotePort::Number(port), Via::Auto | Via::Agent) =
            (key.kind, &wanted.port, wanted.via)
            && is_forbidden(&error)
            && key.namespace != self.own_namespace
        {
            let unchecked = self.unchecked.entry(key.namespace.clone()).or_default();
            unchecked.push(format!("{} {port}", wanted.target));
            return Ok(Target {
                upstream: name(key, *port),
                number: *port,
            });
        }
        Err(UpstreamError::Api {
            target: wanted.target.to_string(),
            source: error,
        })
    }

    fn warnings(&self) -> Vec<String> {
        let warning = |(namespace, ports): (&String, &Vec<String>)| {
            format!(
                "services in namespace {namespace} may not be read; not checked: {}",
                ports.join(", ")
            )
        };
        self.unchecked.iter().map(warning).collect()
    }
}

/// By its name without the cluster's domain, which is for the pod's resolver to know.
fn name(key: &Key, port: u16) -> Upstream {
    Upstream::Name {
        host: format!("{}.{}.svc", key.name, key.namespace),
        port,
    }
}

fn singular(kind: TargetKind) -> &'static str {
    match kind {
        TargetKind::Service => "service",
        TargetKind::Pod => "pod",
        TargetKind::Deployment => "deployment",
        TargetKind::ReplicaSet => "replicaset",
        TargetKind::StatefulSet => "statefulset",
        TargetKind::DaemonSet => "daemonset",
        TargetKind::Job => "job",
        TargetKind::Host => "host",
        TargetKind::Ip => "address",
    }
}

// The playground is for Linux only.
#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
