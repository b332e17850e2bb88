//! Workloads whose pods run the target program, with its ports by name.

use std::time::Duration;

use serde_json::{Value, json};
use tunnel_test_target as ports;

use super::kinds::FIXTURE;
use super::namespace::Namespace;
use super::{poll, target};

/// Kinds that keep pods running, as `forward` calls them, each with its API version and kind.
pub(crate) const WORKLOADS: [(&str, &str, &str); 5] = [
    ("deploy", "apps/v1", "Deployment"),
    ("rs", "apps/v1", "ReplicaSet"),
    ("sts", "apps/v1", "StatefulSet"),
    ("ds", "apps/v1", "DaemonSet"),
    ("job", "batch/v1", "Job"),
];

impl Namespace {
    /// Creates a workload of this kind and name, with the program of [`Namespace::target`] `web`; its pods have the
    /// label `app` with the name. Does not wait for them.
    pub(crate) async fn workload(&self, short: &str, name: &str, replicas: u32) {
        let (_, version, kind) = WORKLOADS
            .into_iter()
            .find(|(known, ..)| *known == short)
            .unwrap_or_else(|| panic!("{short} is not in the table"));
        let labels = json!({"app": name, FIXTURE: "true"});
        let mut object = json!({
            "apiVersion": version, "kind": kind,
            "metadata": {"name": name, "labels": labels},
            "spec": {"template": {"metadata": {"labels": labels}, "spec": pod_spec()}},
        });
        let spec = &mut object["spec"];
        match kind {
            "Job" => spec["template"]["spec"]["restartPolicy"] = json!("Never"),
            "DaemonSet" => spec["selector"] = json!({"matchLabels": {"app": name}}),
            _ => {
                spec["selector"] = json!({"matchLabels": {"app": name}});
                spec["replicas"] = json!(replicas);
            }
        }
        if kind == "StatefulSet" {
            spec["serviceName"] = json!(name);
        }
        let file = self.folder().join(format!("{short}-{name}.json"));
        std::fs::write(&file, object.to_string()).expect("write the workload");
        self.kubectl_ok(&["create", "-f", &file.display().to_string()])
            .await;
    }

    /// Waits until all pods with the label `app` and this name are ready.
    pub(crate) async fn wait_pods_ready(&self, app: &str) {
        let label = format!("app={app}");
        // `kubectl wait` fails where there is nothing to wait for yet.
        poll(Duration::from_secs(30), "a pod of the workload", async || {
            let names = self.kubectl_ok(&["get", "pod", "-l", &label, "-o", "name"]).await;
            (!names.trim().is_empty()).then_some(())
        })
        .await;
        let wait = [
            "wait",
            "--for=condition=Ready",
            "pod",
            "-l",
            &label,
            "--timeout=60s",
        ];
        self.kubectl_ok(&wait).await;
    }
}

/// As a program that is asked to leave and takes two seconds for it.
fn pod_spec() -> Value {
    let mut spec = target::pod("web")["spec"].clone();
    spec["terminationGracePeriodSeconds"] = json!(2);
    spec["containers"][0]["ports"] = json!([
        {"name": "http", "containerPort": ports::HTTP},
        {"name": "echo", "containerPort": ports::ECHO},
        {"name": "first", "containerPort": ports::END_FIRST},
        {"name": "inner", "containerPort": ports::LOOPBACK},
    ]);
    spec
}
