//! A small Kubernetes API server on loopback, with the controllers and the kubelet the plugin needs.
//!
//! It is the hermetic stand-in for tests and the stage of the demo. It proves that our parts are
//! wired together; it never proves how Kubernetes behaves. Linux only: pods and Services get
//! loopback addresses of their own (127.8.x.y).
//!
//! ```text
//! plugin -> http (auth, routes) -> store -> watches
//!                                    |  ^
//!                                    v  |
//!              jobs, scheduler, kubelet, services, gc      each follows the store and changes it
//!                                 |        |
//!                        local processes   relays and hosts files
//! ```
//!
//! A request is answered by `http`, an exec by `exec`, a port-forward by `port_forward`. All objects are untyped JSON in `store`; no
//! controller calls another one. `World` owns tasks and processes, so that dropping a [`Playground`]
//! ends them. A Service port is a real port of this machine, see [`Playground::service_ports`] for the limits
//! that brings.

mod addresses;
mod audit;
mod auth;
mod clock;
mod exec;
mod faults;
mod gc;
mod http;
mod jobs;
mod kubeconfig;
mod kubelet;
mod line;
mod object;
mod options;
mod port_forward;
mod processes;
mod resource;
mod samples;
mod scheduler;
mod services;
mod store;
mod websocket;
mod world;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

pub use audit::Request;
pub use auth::{Rights, Rule, User};
pub use faults::Faults;
pub use options::{ImageFiles, Options};
pub use resource::Resource;
pub use samples::{HTTP_PORT, LATE_REPLY, TCP_PORT};
pub use store::Key;
use world::World;

/// How long the samples may take to come up.
const SAMPLES_DEADLINE: Duration = Duration::from_secs(10);

/// What `start` was doing when it failed.
#[derive(Debug, thiserror::Error)]
pub enum PlaygroundError {
    /// No temporary folder, or no free block of addresses.
    #[error("prepare the playground")]
    Prepare(#[source] io::Error),
    /// The API server's own port.
    #[error("listen for api requests")]
    Listen(#[source] io::Error),
    /// The kubeconfig.
    #[error("write {}", path.display())]
    Kubeconfig {
        /// Where it was to be.
        path: PathBuf,
        /// Why it is not.
        #[source]
        source: io::Error,
    },
    /// The sample Services did not become ready.
    #[error("start the sample services: they were not ready within {}s", SAMPLES_DEADLINE.as_secs())]
    Samples,
}

/// A running playground. Dropping it kills its processes and removes its files.
#[derive(Debug)]
pub struct Playground {
    world: Arc<World>,
    address: SocketAddr,
    kubeconfig: PathBuf,
}

impl Playground {
    /// Starts everything and returns when the API server answers and the samples are reachable.
    pub async fn start(options: Options) -> Result<Self, PlaygroundError> {
        let world = Arc::new(World::new(options).await.map_err(PlaygroundError::Prepare)?);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .map_err(PlaygroundError::Listen)?;
        let address = listener.local_addr().map_err(PlaygroundError::Listen)?;
        let path = world
            .options
            .kubeconfig
            .clone()
            .unwrap_or_else(|| world.root.path().join("kubeconfig"));
        let text = kubeconfig::text(&world.options, address);
        std::fs::write(&path, text).map_err(|source| PlaygroundError::Kubeconfig {
            path: path.clone(),
            source,
        })?;
        let playground = Self {
            world,
            address,
            kubeconfig: path,
        };
        playground.create_namespaces();
        let world = &playground.world;
        world.spawn(http::run(Arc::clone(world), listener));
        world.spawn(gc::run(Arc::clone(world)));
        world.spawn(jobs::run(Arc::clone(world)));
        world.spawn(scheduler::run(Arc::clone(world)));
        world.spawn(kubelet::run(Arc::clone(world)));
        world.spawn(services::run(Arc::clone(world)));
        if world.options.samples {
            samples::create(world);
            if let Err(error) = playground.wait_for_samples().await {
                playground.stop().await;
                return Err(error);
            }
        }
        Ok(playground)
    }

    fn create_namespaces(&self) {
        for name in &self.world.options.namespaces {
            let namespace = json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
            });
            self.world.store.create(Resource::Namespace, namespace);
        }
    }

    async fn wait_for_samples(&self) -> Result<(), PlaygroundError> {
        let ready = |objects: &[(Key, Arc<Value>)]| {
            let mut pods = objects.iter().filter(|(key, _)| key.resource == Resource::Pod);
            let endpoints = |key: &Key| {
                let slices = objects
                    .iter()
                    .filter(|(other, _)| other.resource == Resource::EndpointSlice);
                slices
                    .filter(|(_, slice)| object::is_owned_by(slice, uid_of(objects, key)))
                    .any(|(_, slice)| slice["endpoints"][0]["conditions"]["ready"] == true)
            };
            pods.all(|(pod, _)| endpoints(&Key::new(Resource::Service, &pod.namespace, &pod.name)))
        };
        timeout(SAMPLES_DEADLINE, self.until(ready))
            .await
            .map_err(|_| PlaygroundError::Samples)
    }

    /// Waits until the objects fulfil a condition. Give it a deadline of your own.
    pub async fn until(&self, reached: impl Fn(&[(Key, Arc<Value>)]) -> bool) {
        let mut revision_rx = self.world.store.subscribe();
        loop {
            revision_rx.borrow_and_update();
            if reached(&self.objects()) || revision_rx.changed().await.is_err() {
                return;
            }
        }
    }

    /// The kubeconfig file; its contexts are called like the users.
    pub fn kubeconfig_path(&self) -> &Path {
        &self.kubeconfig
    }

    /// Where the API server listens (plain HTTP).
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All objects there are.
    pub fn objects(&self) -> Vec<(Key, Arc<Value>)> {
        self.world.store.all()
    }

    /// The objects with label `app.kubernetes.io/name=kubectl-tunnel`: what a session made and has not removed.
    pub fn tunnel_objects(&self) -> Vec<Key> {
        let ours =
            |object: &Value| object["metadata"]["labels"]["app.kubernetes.io/name"] == "kubectl-tunnel";
        self.objects()
            .into_iter()
            .filter(|(_, object)| ours(object))
            .map(|(key, _)| key)
            .collect()
    }

    /// All requests answered so far, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.world.audit.all()
    }

    /// What can be broken.
    pub fn faults(&self) -> &Faults {
        &self.world.faults
    }

    /// Process ids of the containers and execs that run.
    pub fn processes(&self) -> Vec<i32> {
        self.world.processes.running()
    }

    /// The loopback address of a Service, by namespace and name.
    pub fn service_address(&self, namespace: &str, name: &str) -> Option<Ipv4Addr> {
        let service = self
            .world
            .store
            .get(&Key::new(Resource::Service, namespace, name))?;
        service["spec"]["clusterIP"].as_str()?.parse().ok()
    }

    /// The ports at which a Service answers now, in the order of its spec. A port is missing while no pod is ready,
    /// when it is below 1024 and the right to bind it is not there (root, or the sysctl
    /// `net.ipv4.ip_unprivileged_port_start`), or when a program of this machine listens on it on all addresses.
    pub fn service_ports(&self, namespace: &str, name: &str) -> Vec<u16> {
        let service = self
            .world
            .store
            .get(&Key::new(Resource::Service, namespace, name));
        let uid = service.as_ref().map_or("", |service| object::uid(service));
        let ports = service
            .as_ref()
            .and_then(|service| service["spec"]["ports"].as_array());
        let numbers = ports
            .into_iter()
            .flatten()
            .filter_map(|port| u16::try_from(port["port"].as_u64()?).ok());
        numbers
            .filter(|&port| self.world.listening.holds(uid, port))
            .collect()
    }

    /// Kills all processes, ends all tasks and removes the files.
    pub async fn stop(self) {
        self.world.end().await;
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        self.world.kill();
    }
}

/// Serves the sample web program on a listener until dropped; each answer begins with `hello from GREETING`.
pub async fn serve_web(listener: TcpListener, greeting: String) {
    samples::web::serve(listener, greeting, Duration::ZERO).await;
}

fn uid_of<'a>(objects: &'a [(Key, Arc<Value>)], key: &Key) -> &'a str {
    objects
        .iter()
        .find(|(other, _)| other == key)
        .map_or("", |(_, object)| object::uid(object))
}
