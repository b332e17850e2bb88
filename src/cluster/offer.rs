//! What there is to name in a cluster: namespaces, targets of `forward`, and their ports.
//!
//! For who completes a line. Nothing is explained: whatever cannot be listed is `None`.

use std::fmt::Debug;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, PodSpec, Service};
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::client::ApiServer;
use crate::cli::target::{TargetKind, TargetSpec};

/// More than anybody reads, and little enough for one answer.
const MOST: u32 = 500;

/// A port that can be typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortOffer {
    /// 1 to 65535.
    pub number: i32,
    /// What the Service or the container calls it.
    pub name: Option<String>,
    /// Whether it carries UDP.
    pub is_udp: bool,
}

/// The namespaces, for who may list them.
pub async fn namespaces(server: &ApiServer) -> Option<Vec<String>> {
    let api: Api<Namespace> = Api::all(server.client());
    let params = ListParams::default().limit(MOST);
    let list = server
        .request(("list", "namespaces"), api.list(&params))
        .await
        .ok()?;
    Some(list.iter().map(ResourceExt::name_any).collect())
}

/// The names of all objects of a kind, each with a few words.
pub async fn targets(server: &ApiServer, kind: TargetKind) -> Option<Vec<(String, String)>> {
    match kind {
        TargetKind::Service => {
            let about = |one: &Service| service_ports(one).iter().map(port_words).collect();
            offered(server, "services", about).await
        }
        TargetKind::Pod => {
            let phase = |one: &Pod| one.status.clone().and_then(|status| status.phase);
            offered(server, "pods", |one| vec![phase(one).unwrap_or_default()]).await
        }
        TargetKind::Deployment => {
            let pods = |one: &Deployment| one.status.as_ref()?.ready_replicas;
            offered(server, "deployments", |one| ready(pods(one))).await
        }
        TargetKind::ReplicaSet => {
            let pods = |one: &ReplicaSet| one.status.as_ref()?.ready_replicas;
            offered(server, "replicasets", |one| ready(pods(one))).await
        }
        TargetKind::StatefulSet => {
            let pods = |one: &StatefulSet| one.status.as_ref()?.ready_replicas;
            offered(server, "statefulsets", |one| ready(pods(one))).await
        }
        TargetKind::DaemonSet => {
            let pods = |one: &DaemonSet| Some(one.status.as_ref()?.number_ready);
            offered(server, "daemonsets", |one| ready(pods(one))).await
        }
        TargetKind::Job => {
            let all = list::<Job>(server, "jobs").await?;
            // Our own sessions are Jobs, and nothing to forward to.
            let others = all.into_iter().filter(|job| {
                job.labels().get(super::names::LABEL_NAME).map(String::as_str) != Some(super::names::APP_NAME)
            });
            let others: Vec<Job> = others.collect();
            Some(named(&others, |one| {
                ready(one.status.as_ref().and_then(|status| status.ready))
            }))
        }
        TargetKind::Host | TargetKind::Ip => None,
    }
}

/// All objects of a kind by name, each with a few words.
async fn offered<K>(
    server: &ApiServer,
    plural: &'static str,
    about: impl Fn(&K) -> Vec<String>,
) -> Option<Vec<(String, String)>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    Some(named(&list(server, plural).await?, about))
}

/// The ports of a target, as it declares them.
pub async fn ports(server: &ApiServer, target: &TargetSpec) -> Option<Vec<PortOffer>> {
    let name = target.name.as_str();
    let space = target.namespace.as_deref();
    match target.kind {
        TargetKind::Service => {
            let service: Service = get(server, "services", space, name).await?;
            Some(service_ports(&service))
        }
        TargetKind::Pod => {
            let pod: Pod = get(server, "pods", space, name).await?;
            Some(container_ports(pod.spec.as_ref()?))
        }
        TargetKind::Deployment => {
            let one: Deployment = get(server, "deployments", space, name).await?;
            Some(container_ports(one.spec?.template.spec.as_ref()?))
        }
        TargetKind::ReplicaSet => {
            let one: ReplicaSet = get(server, "replicasets", space, name).await?;
            Some(container_ports(one.spec?.template?.spec.as_ref()?))
        }
        TargetKind::StatefulSet => {
            let one: StatefulSet = get(server, "statefulsets", space, name).await?;
            Some(container_ports(one.spec?.template.spec.as_ref()?))
        }
        TargetKind::DaemonSet => {
            let one: DaemonSet = get(server, "daemonsets", space, name).await?;
            Some(container_ports(one.spec?.template.spec.as_ref()?))
        }
        TargetKind::Job => {
            let one: Job = get(server, "jobs", space, name).await?;
            Some(container_ports(one.spec?.template.spec.as_ref()?))
        }
        TargetKind::Host | TargetKind::Ip => None,
    }
}

async fn list<K>(server: &ApiServer, plural: &'static str) -> Option<Vec<K>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::namespaced(server.client(), server.namespace());
    let params = ListParams::default().limit(MOST);
    let list = server.request(("list", plural), api.list(&params)).await.ok()?;
    Some(list.items)
}

async fn get<K>(server: &ApiServer, plural: &'static str, namespace: Option<&str>, name: &str) -> Option<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let namespace = namespace.unwrap_or_else(|| server.namespace());
    let api: Api<K> = Api::namespaced(server.client(), namespace);
    server.request(("get", plural), api.get(name)).await.ok()
}

fn named<K: ResourceExt>(all: &[K], about: impl Fn(&K) -> Vec<String>) -> Vec<(String, String)> {
    all.iter()
        .map(|one| (one.name_any(), about(one).join(", ")))
        .collect()
}

fn ready(pods: Option<i32>) -> Vec<String> {
    vec![format!("{} ready", pods.unwrap_or_default())]
}

fn port_words(port: &PortOffer) -> String {
    let protocol = if port.is_udp { "/udp" } else { "" };
    format!("{}{protocol}", port.number)
}

fn service_ports(service: &Service) -> Vec<PortOffer> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let ports = ports.map(|port| PortOffer {
        number: port.port,
        name: port.name.clone(),
        is_udp: port.protocol.as_deref() == Some("UDP"),
    });
    ports.collect()
}

fn container_ports(spec: &PodSpec) -> Vec<PortOffer> {
    let ports = spec
        .containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten());
    let ports = ports.map(|port| PortOffer {
        number: port.container_port,
        name: port.name.clone(),
        is_udp: port.protocol.as_deref() == Some("UDP"),
    });
    ports.collect()
}
