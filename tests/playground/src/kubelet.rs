//! The kubelet: from a scheduled pod to a process on this machine, and back.
//!
//! ```text
//! image -> volumes -> process started -> Running -> ended -> waits for its deletion -> object removed
//!   \________\________ deleted meanwhile: SIGTERM, grace, SIGKILL ______/
//! ```
//!
//! One task per pod. Containers are not restarted, whatever `restartPolicy` says; images are not
//! pulled: `missing/...` plays a failed pull, `crash/...` a crash, `root/...` a refused user,
//! `playground/...` runs a sample in this process, and a container without a command only waits.

mod container;
mod sandbox;
mod status;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::object;
use crate::resource::Resource;
use crate::store::{DeleteOptions, Key};
use crate::world::World;
use container::{Container, StartError};
use status::Status;

pub(crate) use sandbox::{Sandbox, Sandboxes};

/// First wait for a volume that is not there; doubled each time, as measured.
const FIRST_MOUNT_RETRY: Duration = Duration::from_millis(500);

/// One pod under this kubelet.
#[derive(Clone, Debug)]
struct Pod {
    world: Arc<World>,
    key: Key,
    uid: String,
}

pub(crate) async fn run(world: Arc<World>) {
    let mut known = HashSet::new();
    world.follow(move |world| adopt(world, &mut known)).await;
}

/// Starts a task for each pod that is new on the node.
fn adopt(world: &Arc<World>, known: &mut HashSet<String>) -> Option<Duration> {
    let (_, pods) = world.store.list(Resource::Pod, None);
    known.retain(|uid| pods.iter().any(|pod| object::uid(pod) == uid));
    for pod in pods.iter().filter(|pod| pod["spec"]["nodeName"].is_string()) {
        if known.insert(object::uid(pod).to_owned()) {
            let key = Key::of(Resource::Pod, pod);
            let task = Pod {
                world: Arc::clone(world),
                key,
                uid: object::uid(pod).to_owned(),
            };
            world.spawn(task.live());
        }
    }
    None
}

impl Pod {
    async fn live(self) {
        let Some(pod) = self.read() else { return };
        let Some(address) = self.world.addresses.take() else {
            tracing::warn!(pod = self.key.name, "no address is free");
            return;
        };
        tokio::select! {
            sandbox = self.prepare(&pod, address) => self.run(&pod, &sandbox).await,
            () = self.deleted() => {}
        }
        // What remains to do is only to let the object go once somebody deletes it.
        self.deleted().await;
        let at_once = DeleteOptions {
            grace: Some(0),
            uid: Some(self.uid.clone()),
            ..DeleteOptions::default()
        };
        if let Err(error) = self.world.store.delete(&self.key, &at_once) {
            tracing::debug!(pod = self.key.name, %error, "pod was gone already");
        }
        self.gone().await;
        self.world.sandboxes.remove(&self.uid);
        self.world.addresses.give_back(address);
    }

    /// Image, volumes and environment; waits for ever where a real pod would.
    async fn prepare(&self, pod: &Value, address: std::net::Ipv4Addr) -> Arc<Sandbox> {
        tokio::time::sleep(self.world.options.start_delay).await;
        let image = object::field(&pod["spec"]["containers"][0], "image");
        if let Some(trouble) = status::image_trouble(image) {
            self.status(pod).wait_with(trouble).await;
        }
        let mut delay = FIRST_MOUNT_RETRY;
        loop {
            match Sandbox::make(&self.world, pod, address).await {
                Ok(sandbox) => {
                    let sandbox = Arc::new(sandbox);
                    self.world.sandboxes.insert(&self.uid, &sandbox);
                    return sandbox;
                }
                Err(error) => self.status(pod).say_failed_mount(&error),
            }
            tokio::time::sleep(delay).await;
            delay *= 2;
        }
    }

    async fn run(&self, pod: &Value, sandbox: &Arc<Sandbox>) {
        let status = self.status(pod);
        status.say_pulled();
        let mut container = match Container::start(&self.world, pod, sandbox).await {
            Ok(container) => container,
            Err(StartError { text }) => {
                sandbox.end();
                status.set_start_error(&text);
                return;
            }
        };
        sandbox.begin();
        status.say_started();
        let running = async {
            tokio::time::sleep(self.world.options.running_delay).await;
            status.set_running(sandbox.address());
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            code = container.wait() => Some(code),
            () = running => None,
            () = self.deleted() => None,
        };
        let code = match ended {
            Some(code) => code,
            None => self.terminate(&mut container, &status).await,
        };
        sandbox.end();
        status.set_ended(code);
    }

    /// SIGTERM, then SIGKILL when the grace period (which a later DELETE may shorten) is over.
    async fn terminate(&self, container: &mut Container, status: &Status<'_>) -> i32 {
        status.say_killing();
        container.terminate();
        let began = Instant::now();
        let mut revision_rx = self.world.store.subscribe();
        loop {
            revision_rx.borrow_and_update();
            let grace = self
                .read()
                .and_then(|pod| pod["metadata"]["deletionGracePeriodSeconds"].as_u64());
            let deadline = began + Duration::from_secs(grace.unwrap_or(0));
            tokio::select! {
                code = container.wait() => return code,
                () = tokio::time::sleep_until(deadline) => {
                    container.kill();
                    return container.wait().await;
                }
                changed = revision_rx.changed() => if changed.is_err() { return -1 },
            }
        }
    }

    fn status<'a>(&'a self, pod: &'a Value) -> Status<'a> {
        Status::new(&self.world, &self.key, pod)
    }

    /// The pod as it is, while it is still this one and not a successor of the same name.
    fn read(&self) -> Option<Arc<Value>> {
        self.world
            .store
            .get(&self.key)
            .filter(|pod| object::uid(pod) == self.uid)
    }

    /// Waits until somebody deletes the pod.
    async fn deleted(&self) {
        self.until(|pod| pod.is_none_or(object::is_terminating)).await;
    }

    async fn gone(&self) {
        self.until(|pod| pod.is_none()).await;
    }

    async fn until(&self, reached: impl Fn(Option<&Value>) -> bool) {
        let mut revision_rx = self.world.store.subscribe();
        loop {
            revision_rx.borrow_and_update();
            if reached(self.read().as_deref()) || revision_rx.changed().await.is_err() {
                return;
            }
        }
    }
}
