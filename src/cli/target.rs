//! What `forward` leads to, as it is typed: targets here, their ports in [`port`], a command line of both in
//! [`words`], a file of them in [`file`]. Pure: whether there is such a target, `cluster::upstream` finds out.
//!
//! | typed | is |
//! |---|---|
//! | `svc/db`, `svc/db.other`, `svc/db.other.svc.cluster.local` | a Service, here or in another namespace |
//! | `pod/db-0`, `db-0` | a pod |
//! | `deploy/api`, `rs/..`, `sts/..`, `ds/..`, `job/..` | a ready pod of a workload |
//! | `host/rds.internal`, `ip/10.0.0.7`, `ip/fd00::1` | what the cluster can reach by this name or address |

mod file;
mod names;
mod port;
mod words;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

pub use self::file::{FileError, FileTarget, parse_file};
pub use self::port::{ForwardPort, ForwardPortError, LocalPort, RemotePort};
pub(crate) use self::words::is_port;
pub use self::words::{WordsError, parse_words};

/// The kinds of targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TargetKind {
    /// A Service.
    Service,
    /// One pod.
    Pod,
    /// The pods of a Deployment.
    Deployment,
    /// The pods of a ReplicaSet.
    ReplicaSet,
    /// The pods of a StatefulSet.
    StatefulSet,
    /// The pods of a DaemonSet.
    DaemonSet,
    /// The pods of a Job.
    Job,
    /// A name the cluster's DNS knows.
    Host,
    /// An address.
    Ip,
}

/// What a kind is called, canonical first, and the API group kubectl may add.
const TYPES: [(TargetKind, &[&str], &str); 9] = [
    (TargetKind::Service, &["svc", "service", "services"], ""),
    (TargetKind::Pod, &["pod", "po", "pods"], ""),
    (
        TargetKind::Deployment,
        &["deploy", "deployment", "deployments"],
        "apps",
    ),
    (
        TargetKind::ReplicaSet,
        &["rs", "replicaset", "replicasets"],
        "apps",
    ),
    (
        TargetKind::StatefulSet,
        &["sts", "statefulset", "statefulsets"],
        "apps",
    ),
    (TargetKind::DaemonSet, &["ds", "daemonset", "daemonsets"], "apps"),
    (TargetKind::Job, &["job", "jobs"], "batch"),
    (TargetKind::Host, &["host"], ""),
    (TargetKind::Ip, &["ip"], ""),
];

impl TargetKind {
    /// Each once, the usual ones first.
    pub const ALL: [Self; 9] = [
        Self::Service,
        Self::Pod,
        Self::Deployment,
        Self::ReplicaSet,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::Job,
        Self::Host,
        Self::Ip,
    ];

    /// What it leads to, in a few words.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::Service => "a service, by its name in the cluster",
            Self::Pod => "one pod",
            Self::Deployment => "a ready pod of a deployment",
            Self::ReplicaSet => "a ready pod of a replica set",
            Self::StatefulSet => "a ready pod of a stateful set",
            Self::DaemonSet => "a ready pod of a daemon set",
            Self::Job => "a ready pod of a job",
            Self::Host => "a name that the cluster can resolve",
            Self::Ip => "an address that the cluster can reach",
        }
    }

    /// The short name, as in `deploy/api`.
    #[must_use]
    pub fn short(self) -> &'static str {
        TYPES
            .iter()
            .find(|(kind, ..)| *kind == self)
            .map_or("", |(_, names, _)| names[0])
    }

    /// Parses a type as kubectl takes it: any case, with or without its group.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let (name, group) = text.split_once('.').unwrap_or((&text, ""));
        let group = group.strip_prefix("v1.").unwrap_or(group);
        TYPES
            .iter()
            .find(|(_, names, own)| names.contains(&name) && (group.is_empty() || group == *own))
            .map(|(kind, ..)| *kind)
    }
}

/// How to reach a target's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, clap::ValueEnum)]
pub enum Via {
    /// Whatever fits.
    #[default]
    Auto,
    /// The agent dials them from inside the cluster.
    Agent,
    /// The API server's port-forward: reaches what listens on the pod's loopback only; TCP only.
    Pod,
}

/// What the user named.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetSpec {
    /// Its kind.
    pub kind: TargetKind,
    /// The object's name, the host, or the address without brackets.
    pub name: String,
    /// The namespace, where one is named; else the one in use.
    pub namespace: Option<String>,
}

/// Why a text is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not one of the types.
    #[error("`{given}` is not a type of target: {why}; the types are {}", known_types())]
    UnknownType {
        /// What was typed before the `/`.
        given: String,
        /// A reason or a suggestion.
        why: String,
    },
    /// Nothing after the `/`, or nothing at all.
    #[error("`{0}` names no target: type TYPE/NAME, such as `svc/web`, or the name of a pod")]
    Empty(String),
    /// Kubernetes allows no such name.
    #[error("`{name}` cannot be the name of a {kind}: {rule}")]
    Name {
        /// What it should be the name of.
        kind: &'static str,
        /// What was typed.
        name: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// A Service's name with more behind it.
    #[error(
        "`{0}` is not a service: type `svc/NAME`, `svc/NAME.NAMESPACE` or `svc/NAME.NAMESPACE.svc.CLUSTERDOMAIN`; any other name is `host/{0}`"
    )]
    ServiceDomain(String),
    /// `ip/` with something else.
    #[error("`{0}` is not an IP address; a name is `host/{0}`")]
    NotAnAddress(String),
    /// An address without a type, or as a host.
    #[error("`{0}` is an address: type `ip/{0}`")]
    Address(String),
}

fn known_types() -> String {
    let names: Vec<&str> = TYPES.iter().map(|(_, names, _)| names[0]).collect();
    names.join(", ")
}

impl FromStr for TargetSpec {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, name) = match text.split_once('/') {
            // Kubernetes would allow it as a pod's name; nobody means that.
            None if text.parse::<IpAddr>().is_ok() => {
                return Err(TargetError::Address(text.to_owned()));
            }
            None => (TargetKind::Pod, text),
            Some((given, name)) => {
                let unknown = || TargetError::UnknownType {
                    given: given.to_owned(),
                    why: why_unknown(given),
                };
                (TargetKind::parse(given).ok_or_else(unknown)?, name)
            }
        };
        if name.is_empty() {
            return Err(TargetError::Empty(text.to_owned()));
        }
        let (name, namespace) = match kind {
            TargetKind::Service => service(name)?,
            TargetKind::Host => (host(name)?, None),
            TargetKind::Ip => (address(name)?, None),
            TargetKind::Pod => (names::subdomain("pod", name)?, None),
            TargetKind::Deployment => (names::subdomain("deployment", name)?, None),
            TargetKind::ReplicaSet => (names::subdomain("replica set", name)?, None),
            TargetKind::StatefulSet => (names::subdomain("stateful set", name)?, None),
            TargetKind::DaemonSet => (names::subdomain("daemon set", name)?, None),
            TargetKind::Job => (names::subdomain("job", name)?, None),
        };
        Ok(Self {
            kind,
            name,
            namespace,
        })
    }
}

/// `NAME[.NAMESPACE[.svc[.CLUSTERDOMAIN]]]`. No Service has a dot in its name.
fn service(text: &str) -> Result<(String, Option<String>), TargetError> {
    let mut parts = text.strip_suffix('.').unwrap_or(text).splitn(4, '.');
    let name = names::label("service", parts.next().unwrap_or_default())?;
    let namespace = match parts.next() {
        Some(namespace) => Some(names::label("namespace", namespace)?),
        None => None,
    };
    match (parts.next(), parts.next()) {
        (None, _) | (Some("svc"), None) => {}
        (Some("svc"), Some(domain)) if names::is_host(domain) => {}
        _ => return Err(TargetError::ServiceDomain(text.to_owned())),
    }
    Ok((name, namespace))
}

fn host(text: &str) -> Result<String, TargetError> {
    if text.parse::<IpAddr>().is_ok() || text.starts_with('[') {
        return Err(TargetError::Address(text.to_owned()));
    }
    if names::is_host(text) {
        return Ok(text.to_owned());
    }
    Err(TargetError::Name {
        kind: "host",
        name: text.to_owned(),
        rule: "a host name is made of letters, digits, `-`, `_` and dots",
    })
}

fn address(text: &str) -> Result<String, TargetError> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = match inner {
        Some(inner) => inner.parse::<Ipv6Addr>().map(IpAddr::V6),
        None => text.parse(),
    };
    address
        .map(|address| address.to_string())
        .map_err(|_| TargetError::NotAnAddress(text.to_owned()))
}

/// Why there is no such type: a reason where one is known, else what may have been meant.
fn why_unknown(given: &str) -> String {
    let given = given.to_ascii_lowercase();
    let name = given.split('.').next().unwrap_or_default();
    let reason = match name {
        "no" | "node" | "nodes" => "a node runs no program of yours; dial its address with `ip/ADDRESS`",
        "ing" | "ingress" | "ingresses" => "an ingress listens nowhere itself; name the service behind it",
        "ep" | "endpoints" | "endpointslice" | "endpointslices" => {
            "name the service the endpoints belong to, or an address with `ip/ADDRESS`"
        }
        "cj" | "cronjob" | "cronjobs" => "name one of its jobs; `kubectl get jobs` lists them",
        "ns" | "namespace" | "namespaces" => "name a namespace with `-n`, or type `svc/NAME.NAMESPACE`",
        "rc" | "replicationcontroller" | "replicationcontrollers" => {
            "name one of its pods; `kubectl get pods` lists them"
        }
        _ => "",
    };
    if !reason.is_empty() {
        return reason.to_owned();
    }
    let nearest = TYPES
        .iter()
        .flat_map(|(_, names, _)| names.iter())
        .map(|known| (names::distance(name, known), *known))
        .min();
    match nearest {
        Some((distance, known)) if distance <= 2 && distance < name.len() => {
            format!("did you mean `{known}`?")
        }
        _ => "there is nothing like it".to_owned(),
    }
}

impl fmt::Display for TargetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.short(), self.name)?;
        match &self.namespace {
            Some(namespace) if self.kind == TargetKind::Service => write!(f, ".{namespace}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
