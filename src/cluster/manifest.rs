//! The objects of a session as JSON: Job, ConfigMap metadata, Service, NetworkPolicy.
//!
//! Pure: options in, values out, no request and no clock. The pod passes Pod Security
//! `restricted` and OpenShift's restricted-v2, so it sets neither `runAsUser` nor `fsGroup`.
//! Architecture invariant: no object carries a finalizer, and no owner reference blocks the
//! owner's deletion (a test backs it). Called by `start`.

mod command;
#[cfg(test)]
pub(super) mod fixture;

use std::{collections::BTreeMap, time::Duration};

use jiff::{Timestamp, ToSpan};
use serde_json::{Map, Value, json};

pub use self::command::redacted as redacted_command;
use super::{
    identity::{Identity, hex},
    lease::{self, LeaseTerms},
    names::{
        AGENT_CONTAINER, AGENT_IMAGE_PATH, AGENT_PATH, ANNOTATION_CLIENT_VERSION, ANNOTATION_COMMAND,
        ANNOTATION_CREATED_AT, ANNOTATION_EXPIRES_AT, ANNOTATION_USER, APP_NAME, FIRST_TARGET_PORT,
        LABEL_COMPONENT, LABEL_GENERATION, LABEL_INSTANCE, LABEL_MANAGED_BY, LABEL_NAME, LABEL_USER,
        LABEL_VERSION, SCRATCH_PATH, SessionId,
    },
    options::{AgentOptions, AgentSource, Architecture, Mesh, Resources, TransportChoice},
    patch::{self, PatchError},
    peer::Peer,
};
use crate::cli::port::Protocol;

/// How long a finished Job stays: time enough to read the logs of a crashed agent and to move the
/// Service to a successor, and gone before anyone wonders.
const TTL_SECONDS: u32 = 5;
/// The same with `--keep`: an hour to look at the pod, its log and its events.
const TTL_KEEP_SECONDS: u32 = 3600;
/// Smallest grace period that still lets the agent say goodbye; below 2.5 s the kubelet's own
/// cadence decides anyway.
const TERMINATION_GRACE_SECONDS: u32 = 1;

/// What the objects of one Job of a session are made from.
#[derive(Debug, Clone, Copy)]
pub struct AgentSpec<'a> {
    pub session: &'a SessionId,
    /// 1 for the first Job of the session.
    pub generation: u32,
    pub architecture: Architecture,
    pub options: &'a AgentOptions,
    /// `options.resources`, or what the namespace's policy made of them.
    pub resources: &'a Resources,
    pub identity: &'a Identity,
    /// SHA-256 of the session's secret: the agent checks a hello against it.
    pub secret_sha256: &'a [u8; 32],
    /// The command line for the annotation; see [`redacted_command`].
    pub command: &'a str,
    pub created: Timestamp,
}

/// The Service of `expose`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceRequest {
    pub name: String,
    pub ports: Vec<ServicePortRequest>,
    /// The user's own, beside ours.
    pub labels: BTreeMap<String, String>,
    /// The user's own, beside ours.
    pub annotations: BTreeMap<String, String>,
    /// Who may reach the ports, by a NetworkPolicy; empty is everybody, without one.
    pub allow_from: Vec<Peer>,
}

/// One port of it; the one with index `i` leads to target port 20000 + `i`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePortRequest {
    pub name: String,
    pub port: u16,
    pub protocol: Protocol,
}

impl ServiceRequest {
    /// The port the agent binds for the service port with this index.
    pub fn target_port(index: usize) -> u16 {
        u16::try_from(index).map_or(u16::MAX, |index| FIRST_TARGET_PORT.saturating_add(index))
    }
}

impl AgentSpec<'_> {
    /// Name of the Job, of its ConfigMap and of its NetworkPolicy.
    pub fn name(&self) -> String {
        self.session.object_name(self.generation)
    }

    /// The Job, with the user's patches applied to its pod template.
    pub fn job(&self) -> Result<Value, PatchError> {
        let deadline = lease::first_deadline_seconds(LeaseTerms::of(self.options));
        let ttl = if self.options.keep {
            TTL_KEEP_SECONDS
        } else {
            TTL_SECONDS
        };
        Ok(json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": self.name(), "labels": self.labels(), "annotations": self.annotations()},
            "spec": {
                "backoffLimit": 0,
                "completions": 1,
                "parallelism": 1,
                "ttlSecondsAfterFinished": ttl,
                "activeDeadlineSeconds": deadline,
                "template": self.pod_template()?,
            },
        }))
    }

    /// A pod as the Job controller would make it, for a dry run.
    pub fn dry_run_pod(&self) -> Result<Value, PatchError> {
        let mut pod = self.pod_template()?;
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["generateName"] = json!(format!("{}-", self.name()));
        Ok(pod)
    }

    /// `metadata` of the ConfigMap that holds the agent.
    pub fn config_map_metadata(&self, job_uid: &str) -> Value {
        json!({
            "name": self.name(),
            "labels": self.labels(),
            "annotations": self.annotations(),
            "ownerReferences": [owner_reference(&self.name(), job_uid)],
        })
    }

    pub fn service(&self, request: &ServiceRequest, job_uid: &str) -> Value {
        let ports: Vec<Value> = request
            .ports
            .iter()
            .enumerate()
            .map(|(index, port)| {
                json!({
                    "name": port.name,
                    "port": port.port,
                    "protocol": protocol(port.protocol),
                    "targetPort": ServiceRequest::target_port(index),
                })
            })
            .collect();
        // Ours last: the flags refuse our keys, and this does not depend on it.
        let with_users = |users: &BTreeMap<String, String>, ours: Map<String, Value>| -> Map<String, Value> {
            let users = users.iter().map(|(key, value)| (key.clone(), json!(value)));
            users.chain(ours).collect()
        };
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": request.name,
                "labels": with_users(&request.labels, self.labels()),
                "annotations": with_users(&request.annotations, self.annotations()),
                "ownerReferences": [owner_reference(&self.name(), job_uid)],
            },
            "spec": {
                "type": "ClusterIP",
                "selector": self.session.pod_selector(self.generation),
                "ports": ports,
            },
        })
    }

    /// Lets nobody but `request.allow_from` and the pod itself reach the exposed ports, and nobody any other port.
    /// The pod dials its own Service to see whether it leads back.
    pub fn network_policy(&self, request: &ServiceRequest, job_uid: &str) -> Value {
        let pod = json!({"matchLabels": self.session.pod_selector(self.generation)});
        let peers = request.allow_from.iter().map(Peer::manifest);
        let from: Vec<Value> = peers.chain([json!({"podSelector": pod})]).collect();
        let ports: Vec<Value> = request
            .ports
            .iter()
            .enumerate()
            .map(|(index, port)| {
                json!({
                    "protocol": protocol(port.protocol),
                    "port": ServiceRequest::target_port(index),
                })
            })
            .collect();
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {
                "name": self.name(),
                "labels": self.labels(),
                "annotations": self.annotations(),
                "ownerReferences": [owner_reference(&self.name(), job_uid)],
            },
            "spec": {
                "podSelector": pod,
                "policyTypes": ["Ingress"],
                "ingress": [{"from": from, "ports": ports}],
            },
        })
    }

    fn labels(&self) -> Map<String, Value> {
        let mut labels = Map::new();
        for (key, value) in [
            (LABEL_NAME, APP_NAME.to_owned()),
            (LABEL_INSTANCE, self.session.to_string()),
            (LABEL_VERSION, label_value(env!("CARGO_PKG_VERSION"))),
            (LABEL_COMPONENT, "agent".to_owned()),
            (LABEL_MANAGED_BY, APP_NAME.to_owned()),
            (LABEL_USER, self.identity.label.clone()),
            (LABEL_GENERATION, self.generation.to_string()),
        ] {
            labels.insert(key.to_owned(), Value::String(value));
        }
        labels
    }

    fn annotations(&self) -> Map<String, Value> {
        let seconds = i64::try_from(self.options.max_lifetime.as_secs()).unwrap_or(i64::MAX);
        let expires = seconds
            .try_into_span()
            .and_then(|span| self.created.checked_add(span).ok())
            .unwrap_or(Timestamp::MAX);
        let mut annotations = Map::new();
        for (key, value) in [
            (ANNOTATION_USER, self.identity.name.clone()),
            (ANNOTATION_CLIENT_VERSION, env!("CARGO_PKG_VERSION").to_owned()),
            (ANNOTATION_COMMAND, self.command.to_owned()),
            (ANNOTATION_CREATED_AT, whole_seconds(self.created)),
            (ANNOTATION_EXPIRES_AT, whole_seconds(expires)),
        ] {
            annotations.insert(key.to_owned(), Value::String(value));
        }
        annotations
    }

    fn pod_template(&self) -> Result<Value, PatchError> {
        let mut labels = self.labels();
        let mut annotations = self.annotations();
        annotations.insert(
            "kubectl.kubernetes.io/default-container".to_owned(),
            json!(AGENT_CONTAINER),
        );
        // A pod without a controller that survives it would otherwise hold its node.
        annotations.insert(
            "cluster-autoscaler.kubernetes.io/safe-to-evict".to_owned(),
            json!("true"),
        );
        if self.options.mesh == Mesh::Exclude {
            exclude_from_meshes(&mut labels, &mut annotations);
        }
        let mut template = json!({
            "metadata": {"labels": labels, "annotations": annotations},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "nodeSelector": {
                    "kubernetes.io/os": "linux",
                    "kubernetes.io/arch": self.architecture.as_str(),
                },
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [self.container()],
                "volumes": self.volumes(),
            },
        });
        if !self.options.image_pull_secrets.is_empty() {
            let secrets: Vec<Value> = self
                .options
                .image_pull_secrets
                .iter()
                .map(|name| json!({"name": name}))
                .collect();
            template["spec"]["imagePullSecrets"] = Value::Array(secrets);
        }
        patch::apply(&mut template, &self.options.patches)?;
        if self.options.transport != TransportChoice::Exec {
            open_entrance(&mut template);
        }
        Ok(template)
    }

    fn container(&self) -> Value {
        let mut mounts = vec![json!({"name": "run", "mountPath": SCRATCH_PATH})];
        let path = match self.options.source {
            AgentSource::ConfigMap { .. } => {
                mounts.insert(
                    0,
                    json!({"name": "agent", "mountPath": "/tunnel", "readOnly": true}),
                );
                AGENT_PATH
            }
            AgentSource::Image(_) => AGENT_IMAGE_PATH,
        };
        json!({
            "name": AGENT_CONTAINER,
            "image": self.options.source.image(),
            "imagePullPolicy": self.options.image_pull_policy.as_str(),
            // Static: allow-lists of managed clusters match on it.
            "command": [path, "serve"],
            "env": self.environment(),
            "resources": {"requests": self.resources.requests, "limits": self.resources.limits},
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": mounts,
        })
    }

    fn environment(&self) -> Vec<Value> {
        let allow: Vec<String> = self
            .options
            .allow_targets
            .iter()
            .map(ToString::to_string)
            .collect();
        [
            ("TUNNEL_SESSION", self.session.to_string()),
            ("TUNNEL_SECRET_SHA256", hex(self.secret_sha256)),
            ("TUNNEL_GRACE", seconds(self.options.grace)),
            ("TUNNEL_GRACE_OPEN", seconds(self.options.grace_open)),
            ("TUNNEL_HOLD", seconds(self.options.hold)),
            ("TUNNEL_ALLOW_TARGETS", allow.join(",")),
        ]
        .into_iter()
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect()
    }

    fn volumes(&self) -> Vec<Value> {
        // Memory: a disk-backed emptyDir would block the autoscaler and needs ephemeral storage.
        let mut volumes = vec![json!({"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})];
        if matches!(self.options.source, AgentSource::ConfigMap { .. }) {
            volumes.insert(
                0,
                // Files belong to root and we run as an unknown user: readable and executable by all.
                json!({"name": "agent", "configMap": {"name": self.name(), "defaultMode": 0o555}}),
            );
        }
        volumes
    }
}

/// Without `blockOwnerDeletion`: setting it needs a right on `jobs/finalizers` that `edit` lacks.
pub fn owner_reference(job_name: &str, job_uid: &str) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "name": job_name, "uid": job_uid, "controller": false})
}

/// Lets the agent take transports on its pod's loopback. In the host's network that would be the node's, where others
/// are at home: there it has none.
fn open_entrance(template: &mut Value) {
    if template["spec"]["hostNetwork"] == true {
        return;
    }
    let containers = template["spec"]["containers"].as_array_mut();
    let agent = containers
        .into_iter()
        .flatten()
        .find(|container| container["name"] == AGENT_CONTAINER);
    if let Some(Value::Array(environment)) = agent.and_then(|agent| agent.get_mut("env")) {
        environment.push(json!({"name": "TUNNEL_ENTRANCE", "value": "127.0.0.1"}));
    }
}

/// Each mesh reads its own key, some a label and some an annotation.
fn exclude_from_meshes(labels: &mut Map<String, Value>, annotations: &mut Map<String, Value>) {
    for (key, value) in [
        ("sidecar.istio.io/inject", "false"),
        ("istio.io/dataplane-mode", "none"),
        ("kuma.io/sidecar-injection", "disabled"),
    ] {
        labels.insert(key.to_owned(), json!(value));
    }
    for (key, value) in [
        ("sidecar.istio.io/inject", "false"),
        ("linkerd.io/inject", "disabled"),
        ("consul.hashicorp.com/connect-inject", "false"),
    ] {
        annotations.insert(key.to_owned(), json!(value));
    }
}

/// A label value takes no `+` of a semver build, and at most 63 characters.
fn label_value(text: &str) -> String {
    text.chars()
        .take(63)
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') {
                c
            } else {
                '-'
            }
        })
        .collect()
}

/// A port's protocol as Kubernetes spells it.
fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

/// Rounded up: less than a second is not nothing.
fn seconds(length: Duration) -> String {
    let up = u64::from(length.subsec_nanos() > 0);
    length.as_secs().saturating_add(up).to_string()
}

fn whole_seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second())
        .unwrap_or(time)
        .to_string()
}

/// Seconds as a span, unless they are more than a timestamp can hold anyway.
trait TryIntoSpan {
    fn try_into_span(self) -> Option<jiff::Span>;
}

impl TryIntoSpan for i64 {
    fn try_into_span(self) -> Option<jiff::Span> {
        // 10,000 years; `seconds()` itself panics above 20,000.
        (self < 315_360_000_000).then(|| self.seconds())
    }
}

#[cfg(test)]
mod tests;
