//! A playground with clients, and waiting with a deadline.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::api::{Api, DeleteParams, PostParams};
use kube::client::Connection;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tunnel_playground::{Key, Options, Playground, Resource};

/// A test that hangs fails after this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Stage {
    pub(crate) playground: Playground,
    pub(crate) client: Client,
}

impl Stage {
    pub(crate) async fn start() -> Self {
        Self::start_with(Options {
            samples: false,
            ..Options::default()
        })
        .await
    }

    pub(crate) async fn start_with(options: Options) -> Self {
        let playground = Playground::start(options).await.unwrap();
        let client = client(&playground, "developer").await;
        Self { playground, client }
    }

    pub(crate) fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), "dev")
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "dev")
    }

    pub(crate) fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), "dev")
    }

    pub(crate) async fn events(&self) -> Vec<Event> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "dev");
        api.list(&kube::api::ListParams::default()).await.unwrap().items
    }

    /// Creates a Job that runs `command`; `more` is merged into its spec.
    pub(crate) async fn create_job(&self, name: &str, command: &[&str], more: &Value) -> Job {
        let mut spec = json!({
            "backoffLimit": 0,
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "agent", "image": "local", "command": command}],
                },
            },
        });
        if !more.is_null() {
            merge(&mut spec, more);
        }
        let job = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec,
        });
        let job: Job = serde_json::from_value(job).unwrap();
        self.jobs().create(&PostParams::default(), &job).await.unwrap()
    }

    /// A `ConfigMap` owned by this uid.
    pub(crate) async fn create_owned_config_map(&self, name: &str, owner_uid: &str) {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": owner_uid},
            ]},
            "data": {"a": "b"},
        });
        let map: ConfigMap = serde_json::from_value(map).unwrap();
        self.config_maps()
            .create(&PostParams::default(), &map)
            .await
            .unwrap();
    }

    /// Waits until the objects fulfil `reached`.
    pub(crate) async fn until(&self, what: &str, reached: impl Fn(&[(Key, Arc<Value>)]) -> bool) {
        if tokio::time::timeout(DEADLINE, self.playground.until(reached))
            .await
            .is_err()
        {
            panic!("never came: {what}; objects: {:#?}", self.playground.objects());
        }
    }

    /// Waits for the only pod of the app to be in a phase and returns its name.
    pub(crate) async fn pod_in(&self, app: &str, phase: &str) -> String {
        self.until(&format!("pod of {app} {phase}"), |all| {
            pod_of(all, app).is_some_and(|p| p["status"]["phase"] == phase)
        })
        .await;
        let all = self.playground.objects();
        pod_of(&all, app).unwrap()["metadata"]["name"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// The WebSocket of an exec, below kube's own reading of it.
    pub(crate) async fn raw_exec(&self, pod: &str, command: &str) -> Connection {
        let query = format!("container=agent&command={command}&stdin=true&stdout=true&stderr=true");
        let uri = format!("/api/v1/namespaces/dev/pods/{pod}/exec?{query}");
        let request = http::Request::get(uri).body(Vec::new()).unwrap();
        self.client.connect(request).await.unwrap()
    }

    /// Waits until nothing is left in the namespaces but events.
    pub(crate) async fn until_empty(&self) {
        let left = |key: &Key| !matches!(key.resource, Resource::Namespace | Resource::Event);
        self.until("empty namespaces", |all| !all.iter().any(|(key, _)| left(key)))
            .await;
    }

    /// Waits until no process runs.
    pub(crate) async fn until_no_process(&self) {
        let none = async {
            while !self.playground.processes().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, none)
            .await
            .expect("processes are left");
    }
}

pub(crate) fn pod_of<'a>(all: &'a [(Key, Arc<Value>)], app: &str) -> Option<&'a Value> {
    let mut pods = all.iter().filter(|(key, _)| key.resource == Resource::Pod);
    pods.find(|(_, pod)| pod["metadata"]["labels"]["app"] == app)
        .map(|(_, pod)| &**pod)
}

pub(crate) async fn client(playground: &Playground, user: &str) -> Client {
    let kubeconfig = Kubeconfig::read_from(playground.kubeconfig_path()).unwrap();
    let options = KubeConfigOptions {
        context: Some(user.to_owned()),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

pub(crate) fn background() -> DeleteParams {
    DeleteParams::background()
}

fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (target, patch) => target.clone_from(patch),
    }
}
