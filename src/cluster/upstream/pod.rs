//! What is kept of a pod: small, since a namespace may hold thousands. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodSpec};

use crate::cli::port::Protocol;
use crate::cli::target::RemotePort;

/// One pod as the watch last saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodState {
    pub(super) name: String,
    pub(super) uid: String,
    /// Empty while it has none.
    pub(super) ip: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) ports: Vec<NamedPort>,
    pub(super) life: Life,
}

/// Where a pod is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Life {
    /// It may be dialled by whoever asks for a pod of its kind.
    Ready,
    /// It runs, but does not want to be asked yet; why, in a fragment.
    Running(String),
    /// It does not run: not yet, or not any more.
    Down(String),
    /// It is being deleted.
    Terminating,
}

/// A port a container lists by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedPort {
    pub(super) name: String,
    pub(super) number: u16,
    pub(super) protocol: Protocol,
}

impl PodState {
    pub(super) fn of(pod: Pod) -> Self {
        let life = life(&pod);
        let ports = pod.spec.as_ref().map(ports).unwrap_or_default();
        let ip = pod.status.and_then(|status| status.pod_ip).unwrap_or_default();
        Self {
            name: pod.metadata.name.unwrap_or_default(),
            uid: pod.metadata.uid.unwrap_or_default(),
            ip,
            labels: pod.metadata.labels.unwrap_or_default(),
            ports,
            life,
        }
    }

    /// The port's number here.
    pub(super) fn number(&self, port: &RemotePort, protocol: Protocol) -> Option<u16> {
        number(&self.ports, port, protocol)
    }

    /// Whether it can be dialled: by a group, or by its own name.
    pub(super) fn is_usable(&self, by_name: bool) -> bool {
        let alive = match &self.life {
            Life::Ready => true,
            Life::Running(_) => by_name,
            Life::Down(_) | Life::Terminating => false,
        };
        alive && !self.ip.is_empty()
    }

    /// Why it cannot be dialled, in a fragment.
    pub(super) fn trouble(&self) -> String {
        match &self.life {
            Life::Ready | Life::Running(_) if self.ip.is_empty() => "has no address".to_owned(),
            Life::Ready => "is ready".to_owned(),
            Life::Running(why) | Life::Down(why) => why.clone(),
            Life::Terminating => "is being deleted".to_owned(),
        }
    }
}

/// The number of a port among the named ones; a number is itself, since containers need not list their ports.
pub(super) fn number(ports: &[NamedPort], port: &RemotePort, protocol: Protocol) -> Option<u16> {
    match port {
        RemotePort::Number(number) => Some(*number),
        RemotePort::Name(name) => ports
            .iter()
            .find(|known| known.name == *name && known.protocol == protocol)
            .map(|known| known.number),
    }
}

/// The named ports of all containers that run for the pod's whole life.
pub(super) fn ports(spec: &PodSpec) -> Vec<NamedPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let lists = spec.containers.iter().chain(sidecars);
    let listed = lists.flat_map(|container: &Container| container.ports.iter().flatten());
    listed.filter_map(named_port).collect()
}

fn named_port(port: &ContainerPort) -> Option<NamedPort> {
    let protocol = match port.protocol.as_deref() {
        None | Some("" | "TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        // Nothing here carries it.
        Some(_) => return None,
    };
    Some(NamedPort {
        name: port.name.clone()?,
        number: u16::try_from(port.container_port).ok()?,
        protocol,
    })
}

fn life(pod: &Pod) -> Life {
    if pod.metadata.deletion_timestamp.is_some() {
        return Life::Terminating;
    }
    let status = pod.status.as_ref();
    let phase = status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending");
    let ready = status.and_then(|status| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.find(|condition| condition.type_ == "Ready")
    });
    match phase {
        "Running" if ready.is_some_and(|condition| condition.status == "True") => Life::Ready,
        "Running" => Life::Running(
            waiting(pod).map_or_else(|| "is not ready".to_owned(), |why| format!("waits: {why}")),
        ),
        "Succeeded" => Life::Down("has ended".to_owned()),
        "Failed" => Life::Down("has failed".to_owned()),
        _ => Life::Down(waiting(pod).map_or_else(|| "is pending".to_owned(), |why| format!("waits: {why}"))),
    }
}

/// Why a container waits, such as `CrashLoopBackOff`, or why the pod has no node.
fn waiting(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    let mut containers = init.chain(status.container_statuses.iter().flatten());
    let reason = containers.find_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone());
    reason.or_else(|| {
        let mut conditions = status.conditions.iter().flatten();
        let unscheduled = |condition: &&k8s_openapi::api::core::v1::PodCondition| {
            condition.type_ == "PodScheduled" && condition.status == "False"
        };
        conditions.find(unscheduled)?.reason.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn state(pod: Value) -> PodState {
        PodState::of(serde_json::from_value(pod).unwrap())
    }

    fn condition(kind: &str, status: &str) -> Value {
        json!({"type": kind, "status": status, "reason": "Because"})
    }

    #[test]
    fn the_parts_of_a_life() {
        let waiting = json!([{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff"}}}]);
        let down = |why: &str| Life::Down(why.to_owned());
        for (status, expected) in [
            (json!({}), down("is pending")),
            (
                json!({"phase": "Running", "conditions": [condition("Ready", "True")]}),
                Life::Ready,
            ),
            (
                json!({"phase": "Running", "conditions": [condition("Ready", "False")]}),
                Life::Running("is not ready".to_owned()),
            ),
            (
                json!({"phase": "Pending", "containerStatuses": waiting}),
                down("waits: ImagePullBackOff"),
            ),
            (
                json!({"phase": "Pending", "conditions": [condition("PodScheduled", "False")]}),
                down("waits: Because"),
            ),
            (json!({"phase": "Failed"}), down("has failed")),
            (json!({"phase": "Succeeded"}), down("has ended")),
        ] {
            assert_eq!(
                state(json!({"metadata": {}, "status": status})).life,
                expected,
                "{status}"
            );
        }
        let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"phase": "Running", "conditions": [condition("Ready", "True")]}});
        assert_eq!(state(deleted).life, Life::Terminating);
    }

    #[test]
    fn an_unready_pod_is_dialled_by_its_own_name_only_and_never_without_an_address() {
        let pod = |ip: &str| state(json!({"metadata": {}, "status": {"phase": "Running", "podIP": ip}}));
        assert!(pod("10.0.0.1").is_usable(true));
        assert!(!pod("10.0.0.1").is_usable(false));
        assert!(!pod("").is_usable(true));
        assert_eq!(pod("").trouble(), "has no address");
    }

    #[test]
    fn ports_are_found_by_name_and_protocol() {
        let port = |name: &str, number: u16, protocol: &str| json!({"name": name, "containerPort": number, "protocol": protocol});
        let pod = state(json!({"metadata": {}, "spec": {
            "containers": [
                {"name": "a", "ports": [{"containerPort": 1}, port("dns", 53, "UDP")]},
                {"name": "b", "ports": [port("dns", 5353, "TCP"), port("s", 9, "SCTP")]},
            ],
            "initContainers": [
                {"name": "sidecar", "restartPolicy": "Always", "ports": [port("admin", 15000, "TCP")]},
                {"name": "once", "ports": [port("gone", 7, "TCP")]},
            ],
        }}));
        let number = |name: &str, protocol| pod.number(&RemotePort::Name(name.to_owned()), protocol);
        assert_eq!(number("dns", Protocol::Tcp), Some(5353));
        assert_eq!(number("dns", Protocol::Udp), Some(53));
        assert_eq!(number("admin", Protocol::Tcp), Some(15000));
        assert_eq!(number("gone", Protocol::Tcp), None);
        assert_eq!(number("s", Protocol::Tcp), None);
        assert_eq!(pod.number(&RemotePort::Number(4), Protocol::Tcp), Some(4));
    }
}
