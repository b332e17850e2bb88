//! Targets that are pods, or workloads that have some: whose pods they are and which ports these list. Pure.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Expression, Selector};

use super::group::Pick;
use super::pod::{self, NamedPort};
use super::{UpstreamError, Wanted};
use crate::cli::target::RemotePort;

/// The label of a Job's pods, where the Job itself names none.
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

/// The part of a workload that matters: which pods are its own, and what they will be like.
#[derive(Debug, Clone, Default)]
pub(super) struct Workload {
    selector: LabelSelector,
    template: PodTemplateSpec,
}

impl From<Deployment> for Workload {
    fn from(object: Deployment) -> Self {
        let spec = object.spec.unwrap_or_default();
        Self {
            selector: spec.selector,
            template: spec.template,
        }
    }
}

impl From<ReplicaSet> for Workload {
    fn from(object: ReplicaSet) -> Self {
        let spec = object.spec.unwrap_or_default();
        Self {
            selector: spec.selector,
            template: spec.template.unwrap_or_default(),
        }
    }
}

impl From<StatefulSet> for Workload {
    fn from(object: StatefulSet) -> Self {
        let spec = object.spec.unwrap_or_default();
        Self {
            selector: spec.selector,
            template: spec.template,
        }
    }
}

impl From<DaemonSet> for Workload {
    fn from(object: DaemonSet) -> Self {
        let spec = object.spec.unwrap_or_default();
        Self {
            selector: spec.selector,
            template: spec.template,
        }
    }
}

impl From<Job> for Workload {
    fn from(object: Job) -> Self {
        let spec = object.spec.unwrap_or_default();
        let by_uid = || LabelSelector {
            match_labels: Some([(CONTROLLER_UID.to_owned(), object.metadata.uid.unwrap_or_default())].into()),
            ..LabelSelector::default()
        };
        Self {
            selector: spec.selector.unwrap_or_else(by_uid),
            template: spec.template,
        }
    }
}

/// Which pods are this workload's, and the number of the port in its template.
pub(super) fn pick_of_workload(wanted: &Wanted, workload: &Workload) -> Result<(Pick, u16), UpstreamError> {
    let template = workload.template.spec.as_ref();
    let number = number_of_port(wanted, &template.map(pod::ports).unwrap_or_default())?;
    let selector: Selector = workload.selector.clone().try_into().map_err(|_| {
        unfit(
            wanted,
            "its selector has an operator that is not known here; name one of its pods",
        )
    })?;
    Ok((Pick::Labels(selector), number))
}

/// The pod itself, and whoever comes after it under its name; and the port's number.
pub(super) fn pick_of_pod(wanted: &Wanted, pod: &Pod) -> Result<(Pick, u16), UpstreamError> {
    let number = number_of_port(wanted, &pod.spec.as_ref().map(pod::ports).unwrap_or_default())?;
    Ok((Pick::Name(wanted.target.name.clone()), number))
}

/// Pods by equal labels, as a Service selects them.
pub(super) fn pick_of_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Pick {
    let equal = |(key, value): (&String, &String)| Expression::Equal(key.clone(), value.clone());
    Pick::Labels(labels.into_iter().map(equal).collect())
}

/// A name must be that of a port; a number need not be listed.
fn number_of_port(wanted: &Wanted, ports: &[NamedPort]) -> Result<u16, UpstreamError> {
    pod::number(ports, &wanted.port, wanted.protocol).ok_or_else(|| UpstreamError::NoPort {
        target: wanted.target.to_string(),
        port: wanted.port.clone(),
        protocol: wanted.protocol,
        ports: ports
            .iter()
            .map(|port| format!("{} ({}/{})", port.name, port.number, port.protocol))
            .collect(),
    })
}

pub(super) fn unfit(wanted: &Wanted, reason: impl Into<String>) -> UpstreamError {
    UpstreamError::Unfit {
        target: wanted.target.to_string(),
        reason: reason.into(),
    }
}

/// The port of a number, for what knows no names.
pub(super) fn only_number(wanted: &Wanted, reason: &str) -> Result<u16, UpstreamError> {
    match wanted.port {
        RemotePort::Number(number) => Ok(number),
        RemotePort::Name(_) => Err(unfit(wanted, reason)),
    }
}
