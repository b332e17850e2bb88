//! The cluster that is measured on: a namespace of the run's own with the target program in it.
//!
//! Made and removed as administrator; what is measured is done by the developer, whose kubeconfig this file writes.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, Config};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::failure::{Doing, Failure, failure};
use crate::settings::Settings;
use crate::{objects, process, raw};

/// How long the cluster may take for anything that is not measured.
const PATIENCE: Duration = Duration::from_secs(90);

/// A namespace with a running target, until [`Cluster::remove`].
pub(crate) struct Cluster {
    pub(crate) namespace: String,
    pub(crate) admin: Client,
    /// Kubeconfigs of the run.
    folder: Folder,
    /// `https://host:port` and name of the cluster in the developer's kubeconfig.
    server: String,
    known_as: String,
}

/// A folder that only we can read, until dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl Cluster {
    /// A name for the namespace, and a client; nothing is made yet, so that what fails later can be removed.
    pub(crate) async fn connect(settings: &Settings) -> Result<Self, Failure> {
        let namespace = format!("tunnel-bench-{}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(&namespace));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder.0)
            .doing("a folder for kubeconfigs")?;
        let developer = folder.0.join("developer");
        std::fs::copy(&settings.developer, &developer).doing("copy the developer's kubeconfig")?;
        let at = format!("--namespace={namespace}");
        kubectl_config(&developer, &["set-context", "--current", &at]).await?;
        let (known_as, server) = cluster_of(&developer)?;
        Ok(Self {
            namespace,
            admin: client(&settings.admin).await?,
            folder,
            server,
            known_as,
        })
    }

    /// Makes the namespace, and waits until the target answers in it.
    pub(crate) async fn fill(&self, settings: &Settings) -> Result<(), Failure> {
        let name = &self.namespace;
        let namespaces: Api<Namespace> = Api::all(self.admin.clone());
        let post = PostParams::default();
        namespaces
            .create(&post, &parse(objects::namespace(name))?)
            .await
            .doing("create the namespace")?;
        let bindings: Api<RoleBinding> = self.objects();
        let developer = user_name(&self.kubeconfig()).await?;
        let binding = objects::lets_edit(&developer);
        bindings
            .create(&post, &parse(binding)?)
            .await
            .doing("let the developer edit")?;
        let accounts: Api<ServiceAccount> = self.objects();
        poll("the namespace's service account", async || {
            Ok(accounts.get_opt("default").await?)
        })
        .await?;
        let program = std::fs::read(&settings.target).doing("the target program")?;
        let program = base64::engine::general_purpose::STANDARD.encode(program);
        let maps: Api<ConfigMap> = self.objects();
        maps.create(&post, &parse(objects::program(&program))?)
            .await
            .doing("deliver the target")?;
        let pods: Api<Pod> = self.objects();
        pods.create(&post, &parse(objects::pod(&settings.base_image))?)
            .await
            .doing("start the target")?;
        let services: Api<Service> = self.objects();
        services
            .create(&post, &parse(objects::service())?)
            .await
            .doing("name the target")?;
        poll("the target pod", async || {
            let pod = pods.get(objects::POD).await?;
            let conditions = pod
                .status
                .and_then(|status| status.conditions)
                .unwrap_or_default();
            let ready = conditions
                .iter()
                .any(|one| one.type_ == "Ready" && one.status == "True");
            Ok(ready.then_some(()))
        })
        .await?;
        poll("the target by its name", async || {
            let port = tunnel_test_target::ECHO.to_string();
            let words = ["call", "first-replies", objects::NAME, &port, "1"];
            let said = raw::run(&self.admin, self.pod(), &words).await?;
            Ok((!said.is_empty()).then_some(()))
        })
        .await
    }

    /// The target's pod.
    pub(crate) fn pod(&self) -> raw::Pod<'_> {
        raw::Pod {
            namespace: &self.namespace,
            name: objects::POD,
            container: objects::CONTAINER,
            program: objects::PROGRAM,
        }
    }

    /// The process of the agent in this pod, if the node is this machine.
    pub(crate) async fn agent_process(&self, pod: &str) -> Option<u32> {
        let pods: Api<Pod> = self.objects();
        let pod = pods.get(pod).await.ok()?;
        process::agent_of(pod.metadata.uid.as_deref()?)
    }

    /// The developer's kubeconfig, with the namespace as the current one.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.0.join("developer")
    }

    /// A file of the run's own.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }

    /// `host:port` of the API server.
    pub(crate) fn api_server(&self) -> &str {
        self.server.trim_start_matches("https://")
    }

    /// The developer's kubeconfig, with the API server at this address.
    pub(crate) async fn kubeconfig_through(&self, name: &str, address: &str) -> Result<PathBuf, Failure> {
        let kubeconfig = self.file(name);
        std::fs::copy(self.kubeconfig(), &kubeconfig)?;
        let server = format!("--server=https://{address}");
        kubectl_config(&kubeconfig, &["set-cluster", &self.known_as, &server]).await?;
        Ok(kubeconfig)
    }

    /// Removes the namespace; its objects follow on their own.
    pub(crate) async fn remove(&self) -> Result<(), Failure> {
        let namespaces: Api<Namespace> = Api::all(self.admin.clone());
        if namespaces.get_opt(&self.namespace).await?.is_some() {
            let now = DeleteParams::default();
            namespaces
                .delete(&self.namespace, &now)
                .await
                .doing("delete the namespace")?;
        }
        Ok(())
    }

    fn objects<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.admin.clone(), &self.namespace)
    }
}

/// A client for a kubeconfig.
pub(crate) async fn client(kubeconfig: &Path) -> Result<Client, Failure> {
    let read = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let mut config =
        Config::from_custom_kubeconfig(read, &kube::config::KubeConfigOptions::default()).await?;
    config.proxy_url = None;
    Ok(Client::try_from(config)?)
}

/// Asks every 50 ms until there is an answer. An error is no answer yet, but it is told in the end.
async fn poll<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<Option<T>, Failure>) -> Result<T, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask().await;
        match answer {
            Ok(Some(answer)) => return Ok(answer),
            Err(error) if Instant::now() > deadline => return Err(error).doing(what),
            Ok(None) if Instant::now() > deadline => {
                return failure(format!("{what}: not within {PATIENCE:?}"));
            }
            Ok(None) | Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Objects are written as JSON and sent as types.
fn parse<K: serde::de::DeserializeOwned>(object: Value) -> Result<K, Failure> {
    Ok(serde_json::from_value(object)?)
}

/// Name and server of the current context's cluster.
fn cluster_of(kubeconfig: &Path) -> Result<(String, String), Failure> {
    let read = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let context = read
        .contexts
        .iter()
        .find(|context| Some(&context.name) == read.current_context.as_ref())
        .and_then(|context| context.context.as_ref());
    let name = context.map(|context| context.cluster.clone());
    let cluster = read
        .clusters
        .iter()
        .find(|cluster| Some(&cluster.name) == name.as_ref());
    let server = cluster.and_then(|cluster| cluster.cluster.as_ref()?.server.clone());
    match (name, server) {
        (Some(name), Some(server)) => Ok((name, server)),
        _ => failure("the developer's kubeconfig has no current context with a server"),
    }
}

async fn kubectl_config(kubeconfig: &Path, arguments: &[&str]) -> Result<(), Failure> {
    let mut command = Command::new("kubectl");
    command
        .arg("config")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(arguments);
    output(command).await.map(drop)
}

/// How the cluster calls whoever has this kubeconfig.
async fn user_name(kubeconfig: &Path) -> Result<String, Failure> {
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(kubeconfig);
    command.args(["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]);
    output(command).await
}

/// The stdout of a command that must succeed.
pub(crate) async fn output(mut command: Command) -> Result<String, Failure> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let output = command.kill_on_drop(true).output().await.doing(&name)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        failure(format!(
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }
}
