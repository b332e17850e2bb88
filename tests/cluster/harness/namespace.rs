//! A fresh namespace: Pod Security `restricted`, the developer may `edit`, nothing else; gone after the test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kube::api::{ListParams, ObjectMeta};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::kinds::Admin;
use super::settings::Settings;
use super::{poll, say, within};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// How long the cluster's controllers may take to prepare a namespace. After some restarts of the API server in a row
/// they look at it again only after most of a minute.
const PREPARED: Duration = Duration::from_secs(90);

/// The namespace of one test. Dropping it deletes it, after a panic too.
pub(crate) struct Namespace {
    name: String,
    admin: Admin,
    /// Kubeconfigs whose current namespace is this one.
    folder: tempfile::TempDir,
}

impl Namespace {
    /// Makes the namespace and waits until a pod could start in it.
    pub(crate) async fn create() -> Self {
        let name = format!(
            "tunnel-test-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let admin = Admin::connect().await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let namespace = Self { name, admin, folder };
        namespace.fill().await;
        namespace
    }

    async fn fill(&self) {
        let name = &self.name;
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {
                "tunnel-test": "true", "pod-security.kubernetes.io/enforce": "restricted"}},
        });
        let namespaces = kube::Api::<k8s_openapi::api::core::v1::Namespace>::all(self.admin.client().clone());
        let object = serde_json::from_value(object).expect("a Namespace");
        namespaces
            .create(&kube::api::PostParams::default(), &object)
            .await
            .expect("create the namespace");
        self.let_edit("developer", json!({"kind": "User", "name": developer_name()}))
            .await;
        self.kubeconfig_of(&Settings::get().developer, "developer");
        poll(PREPARED, "the namespace's service account", async || {
            let accounts = self
                .admin
                .objects(name, "serviceaccounts")
                .list(&ListParams::default())
                .await
                .ok()?;
            let maps = self
                .admin
                .objects(name, "configmaps")
                .list(&ListParams::default())
                .await
                .ok()?;
            (!accounts.items.is_empty() && !maps.items.is_empty()).then_some(())
        })
        .await;
        poll(PREPARED, "the developer's rights", async || {
            let output = self
                .kubectl(Who::Developer, &["auth", "can-i", "create", "jobs"])
                .await;
            output.status.success().then_some(())
        })
        .await;
    }

    /// Binds `ClusterRole` `edit` to one more user.
    pub(crate) async fn let_edit(&self, name: &str, mut subject: Value) {
        if subject["kind"] == "User" {
            subject["apiGroup"] = json!("rbac.authorization.k8s.io");
        }
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": format!("{name}-edits")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
            "subjects": [subject],
        });
        self.admin.create(&self.name, "rolebindings", binding).await;
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn admin(&self) -> &Admin {
        &self.admin
    }

    /// A folder for files of the test.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Creates an object of the test's own in the namespace.
    pub(crate) async fn create_object(&self, plural: &str, object: Value) {
        self.admin.create(&self.name, plural, object).await;
    }

    /// The developer's kubeconfig, with this namespace as the current one.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("developer")
    }

    /// A copy of `source` with this namespace as the current one.
    pub(crate) fn kubeconfig_of(&self, source: &Path, name: &str) -> PathBuf {
        let copy = self.folder.path().join(name);
        std::fs::copy(source, &copy).expect("copy the kubeconfig");
        let namespace = format!("--namespace={}", self.name);
        kubectl_config(&copy, &["set-context", "--current", &namespace]);
        copy
    }

    /// Runs kubectl to its end, in this namespace.
    pub(crate) async fn kubectl(&self, who: Who, arguments: &[&str]) -> Output {
        let kubeconfig = match who {
            Who::Admin => Settings::get().admin.clone(),
            Who::Developer => self.kubeconfig(),
        };
        let mut command = tokio::process::Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--namespace", &self.name])
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        within(Duration::from_secs(60), "kubectl", command.output())
            .await
            .expect("kubectl runs")
    }

    /// The same, as administrator and successful; returns its stdout.
    pub(crate) async fn kubectl_ok(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(Who::Admin, arguments).await;
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "kubectl {arguments:?}: {stdout}{stderr}");
        stdout.into_owned()
    }

    /// A token of a `ServiceAccount` made for it, who may `edit` here, as a kubeconfig.
    pub(crate) async fn second_user(&self) -> PathBuf {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "second"}});
        self.create_object("serviceaccounts", account).await;
        self.let_edit(
            "second",
            json!({"kind": "ServiceAccount", "name": "second", "namespace": self.name}),
        )
        .await;
        let token = self
            .kubectl_ok(&["create", "token", "second", "--duration=1h"])
            .await;
        let kubeconfig = self.kubeconfig_of(&Settings::get().developer, "second");
        kubectl_config(
            &kubeconfig,
            &["set-credentials", "second", &format!("--token={}", token.trim())],
        );
        kubectl_config(&kubeconfig, &["set-context", "--current", "--user=second"]);
        poll(Duration::from_secs(20), "the second user's rights", async || {
            let review = ["auth", "can-i", "create", "jobs", "--as"];
            let user = format!("system:serviceaccount:{}:second", self.name);
            let output = self
                .kubectl(Who::Admin, &[&review[..], &[user.as_str()]].concat())
                .await;
            output.status.success().then_some(())
        })
        .await;
        kubeconfig
    }

    /// Everything here that is not the test's own.
    pub(crate) async fn strangers(&self) -> BTreeSet<String> {
        self.admin
            .strangers(&self.name)
            .await
            .expect("list the namespace")
    }

    /// Waits until the namespace is as it was before, and returns how long that took.
    pub(crate) async fn wait_empty(&self, limit: Duration) -> Duration {
        let started = Instant::now();
        loop {
            // The API server may be unreachable for a while in a test: each question has a deadline of its own.
            let left = timeout(Duration::from_secs(5), self.admin.strangers(&self.name)).await;
            if matches!(&left, Ok(Ok(left)) if left.is_empty()) {
                return started.elapsed();
            }
            assert!(
                started.elapsed() < limit,
                "still in the namespace after {limit:?}: {left:?}"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the namespace itself is gone.
    pub(crate) async fn wait_gone(&self) {
        let namespaces = kube::Api::<k8s_openapi::api::core::v1::Namespace>::all(self.admin.client().clone());
        while namespaces
            .get_opt(&self.name)
            .await
            .expect("get the namespace")
            .is_some()
        {
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until an object of this kind exists that is not the test's own, and returns its metadata.
    pub(crate) async fn wait_stranger(&self, plural: &str, limit: Duration) -> ObjectMeta {
        let others = ListParams::default().labels(&format!("!{}", super::kinds::FIXTURE));
        let objects = self.admin.objects(&self.name, plural);
        poll(limit, &format!("one of {plural}"), async || {
            let list = objects.list_metadata(&others).await.expect("list the namespace");
            list.items.into_iter().map(|object| object.metadata).next()
        })
        .await
    }

    /// The events of the namespace, as `REASON MESSAGE`.
    pub(crate) async fn events(&self) -> Vec<String> {
        let list = self
            .admin
            .objects(&self.name, "events")
            .list(&ListParams::default())
            .await
            .expect("list events");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        list.items
            .iter()
            .map(|event| format!("{} {}", text(&event.data["reason"]), text(&event.data["message"])))
            .collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let admin = &Settings::get().admin;
        let kubectl = |arguments: &[&str]| {
            let mut command = Command::new("kubectl");
            command
                .arg("--kubeconfig")
                .arg(admin)
                .args(["--request-timeout=10s"])
                .args(arguments);
            command.stdin(Stdio::null()).output().map_or_else(
                |error| error.to_string(),
                |output| {
                    format!(
                        "{}{}",
                        String::from_utf8_lossy(&output.stdout),
                        String::from_utf8_lossy(&output.stderr)
                    )
                },
            )
        };
        let name = self.name.as_str();
        if std::thread::panicking() {
            say(&format!("--- {name}"));
            say(&kubectl(&["-n", name, "get", "jobs,pods,configmaps,services"]));
            say(&kubectl(&[
                "-n",
                name,
                "get",
                "events",
                "--sort-by=.metadata.creationTimestamp",
            ]));
        }
        say(kubectl(&["delete", "namespace", name, "--wait=false", "--ignore-not-found"]).trim_end());
    }
}

/// Whose kubectl.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Who {
    Admin,
    Developer,
}

/// `kubectl config` on one file.
pub(crate) fn kubectl_config(kubeconfig: &Path, arguments: &[&str]) {
    let mut command = Command::new("kubectl");
    let output = command
        .arg("config")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(arguments)
        .output();
    let output = output.expect("kubectl runs");
    assert!(
        output.status.success(),
        "kubectl config {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// How the cluster calls the developer.
fn developer_name() -> String {
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(&Settings::get().developer);
    let output = command
        .args(["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])
        .output();
    let output = output.expect("kubectl runs");
    assert!(
        output.status.success(),
        "kubectl auth whoami: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
