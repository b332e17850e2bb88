//! The kinds of objects a session could leave behind, and how to read and write them as an administrator.

use std::collections::BTreeSet;

use kube::api::{Api, ApiResource, DynamicObject, ListParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Client, Config};
use serde_json::Value;

use super::settings::Settings;

/// Objects of a test itself carry this label; the endpoint slices of its Services inherit it.
pub(crate) const FIXTURE: &str = "tunnel-test/fixture";

/// API version, kind and plural of everything in a namespace that is watched for leftovers.
const KINDS: [(&str, &str, &str); 15] = [
    ("v1", "Pod", "pods"),
    ("batch/v1", "Job", "jobs"),
    ("v1", "ConfigMap", "configmaps"),
    ("v1", "Service", "services"),
    ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"),
    ("v1", "Secret", "secrets"),
    ("v1", "ServiceAccount", "serviceaccounts"),
    ("apps/v1", "Deployment", "deployments"),
    ("apps/v1", "ReplicaSet", "replicasets"),
    ("v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    ("coordination.k8s.io/v1", "Lease", "leases"),
    ("rbac.authorization.k8s.io/v1", "Role", "roles"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    ("networking.k8s.io/v1", "Ingress", "ingresses"),
];

/// What Kubernetes itself puts into each namespace.
const STANDARD: [&str; 2] = ["configmaps/kube-root-ca.crt", "serviceaccounts/default"];

/// The administrator's view of one cluster.
#[derive(Clone)]
pub(crate) struct Admin {
    client: Client,
}

impl Admin {
    /// Connects as the administrator.
    pub(crate) async fn connect() -> Self {
        let kubeconfig =
            kube::config::Kubeconfig::read_from(&Settings::get().admin).expect("KUBECONFIG is readable");
        let config = Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
            .await
            .expect("KUBECONFIG is a kubeconfig");
        Self {
            client: Client::try_from(config).expect("the kubeconfig makes a client"),
        }
    }

    /// The objects of one kind, by its plural.
    pub(crate) fn objects(&self, namespace: &str, plural: &str) -> Api<DynamicObject> {
        let (version, kind, plural) = KINDS
            .into_iter()
            .chain([
                ("v1", "Event", "events"),
                ("v1", "ResourceQuota", "resourcequotas"),
                ("v1", "LimitRange", "limitranges"),
            ])
            .find(|(_, _, known)| *known == plural)
            .unwrap_or_else(|| panic!("{plural} is not in the table"));
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    /// Creates an object of a test's own, marked as such.
    pub(crate) async fn create(&self, namespace: &str, plural: &str, mut object: Value) {
        object["metadata"]["labels"][FIXTURE] = Value::from("true");
        let object: DynamicObject = serde_json::from_value(object).expect("the object has metadata");
        self.objects(namespace, plural)
            .create(&PostParams::default(), &object)
            .await
            .unwrap_or_else(|error| panic!("create {plural} in {namespace}: {error}"));
    }

    /// Everything in the namespace that neither Kubernetes nor the test put there, as `plural/name`.
    pub(crate) async fn strangers(&self, namespace: &str) -> Result<BTreeSet<String>, kube::Error> {
        let others = ListParams::default().labels(&format!("!{FIXTURE}"));
        let lists = futures::future::try_join_all(KINDS.into_iter().map(async |(_, _, plural)| {
            let list = self.objects(namespace, plural).list_metadata(&others).await?;
            Ok::<_, kube::Error>(
                list.items
                    .into_iter()
                    .map(|object| format!("{plural}/{}", object.metadata.name.unwrap_or_default()))
                    .collect::<Vec<_>>(),
            )
        }))
        .await?;
        Ok(lists
            .into_iter()
            .flatten()
            .filter(|name| !STANDARD.contains(&name.as_str()))
            .collect())
    }

    /// The client, for requests that only one test makes.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }
}
