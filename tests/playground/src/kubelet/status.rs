//! What the kubelet reports: the pod's status and events, in the words of a real one.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};

use super::sandbox::MountError;
use crate::object;
use crate::resource::Resource;
use crate::store::Key;
use crate::world::{EventText, World};

/// From `ErrImagePull` to `ImagePullBackOff`.
const PULL_BACK_OFF: Duration = Duration::from_millis(500);

/// Why an image cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImageTrouble {
    CannotPull,
    RunsAsRoot,
}

/// Trouble that the name of an image stands for.
pub(super) fn image_trouble(image: &str) -> Option<ImageTrouble> {
    match image.split_once('/')?.0 {
        "missing" => Some(ImageTrouble::CannotPull),
        "root" => Some(ImageTrouble::RunsAsRoot),
        _ => None,
    }
}

#[derive(Debug)]
pub(super) struct Status<'a> {
    world: &'a World,
    key: &'a Key,
    pod: &'a Value,
}

impl<'a> Status<'a> {
    pub(super) fn new(world: &'a World, key: &'a Key, pod: &'a Value) -> Self {
        Self { world, key, pod }
    }

    /// Reports the trouble and waits for ever: a real kubelet would only repeat itself.
    pub(super) async fn wait_with(&self, trouble: ImageTrouble) {
        let image = self.image();
        match trouble {
            ImageTrouble::CannotPull => {
                let text = format!(
                    "failed to pull and unpack image {image:?}: failed to resolve reference {image:?}: not found"
                );
                let message = format!("Failed to pull image {image:?}: {text}");
                self.say(true, "Failed", &message);
                self.set_waiting("ErrImagePull", &text);
                tokio::time::sleep(PULL_BACK_OFF).await;
                let message = format!("Back-off pulling image {image:?}");
                self.say(false, "BackOff", &message);
                self.set_waiting("ImagePullBackOff", &message);
            }
            ImageTrouble::RunsAsRoot => {
                let text = "container has runAsNonRoot and image will run as root";
                self.say(true, "Failed", &format!("Error: {text}"));
                self.set_waiting("CreateContainerConfigError", text);
            }
        }
        std::future::pending::<()>().await;
    }

    pub(super) fn say_failed_mount(&self, error: &MountError) {
        self.say_pod(true, "FailedMount", &error.to_string());
        self.set_waiting("ContainerCreating", "");
    }

    pub(super) fn say_pulled(&self) {
        let image = self.image();
        let message = format!("Container image {image:?} already present on machine");
        self.say(false, "Pulled", &message);
    }

    pub(super) fn say_started(&self) {
        let name = self.container();
        self.say(false, "Created", &format!("Created container: {name}"));
        self.say(false, "Started", &format!("Started container {name}"));
    }

    pub(super) fn say_killing(&self) {
        self.say(
            false,
            "Killing",
            &format!("Stopping container {}", self.container()),
        );
    }

    pub(super) fn set_running(&self, address: Ipv4Addr) {
        let now = self.world.clock.stamp();
        self.set("Running", &json!({"running": {"startedAt": now}}), true, |pod| {
            pod["status"]["podIP"] = json!(address);
            pod["status"]["podIPs"] = json!([{"ip": address}]);
        });
    }

    pub(super) fn set_start_error(&self, text: &str) {
        self.say(true, "Failed", &format!("Error: {text}"));
        let now = self.world.clock.stamp();
        let state = json!({"terminated": {
            "exitCode": 128, "reason": "StartError", "message": text,
            "startedAt": "1970-01-01T00:00:00Z", "finishedAt": now,
        }});
        self.set("Failed", &state, false, |_| {});
    }

    pub(super) fn set_ended(&self, code: i32) {
        let now = self.world.clock.stamp();
        let reason = if code == 0 { "Completed" } else { "Error" };
        let state = json!({"terminated": {
            "exitCode": code, "reason": reason, "startedAt": now, "finishedAt": now,
        }});
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        self.set(phase, &state, false, |_| {});
    }

    fn set_waiting(&self, reason: &str, message: &str) {
        let mut state = json!({"waiting": {"reason": reason}});
        if !message.is_empty() {
            state["waiting"]["message"] = json!(message);
        }
        self.set("Pending", &state, false, |_| {});
    }

    fn set(&self, phase: &str, state: &Value, ready: bool, more: impl FnOnce(&mut Value)) {
        let now = self.world.clock.stamp();
        let uid = object::uid(self.pod);
        let word = if ready { "True" } else { "False" };
        self.world.store.update(self.key, |pod| {
            if object::uid(pod) != uid {
                return;
            }
            let status = object::map_at(pod, "status");
            status.insert("phase".to_owned(), json!(phase));
            status.entry("startTime").or_insert_with(|| json!(now));
            status.entry("hostIP").or_insert_with(|| json!("127.0.0.1"));
            status.insert(
                "containerStatuses".to_owned(),
                json!([{
                    "name": self.container(), "image": self.image(), "imageID": "", "restartCount": 0,
                    "ready": ready, "started": ready, "state": state, "lastState": {},
                }]),
            );
            for kind in ["Ready", "ContainersReady"] {
                let condition = json!({"type": kind, "status": word, "lastTransitionTime": now});
                object::set_condition(pod, condition);
            }
            let initialized = json!({"type": "Initialized", "status": "True", "lastTransitionTime": now});
            object::set_condition(pod, initialized);
            more(pod);
        });
    }

    fn image(&self) -> &str {
        object::field(&self.pod["spec"]["containers"][0], "image")
    }

    fn container(&self) -> &str {
        object::field(&self.pod["spec"]["containers"][0], "name")
    }

    fn say(&self, warning: bool, reason: &str, message: &str) {
        self.event(warning, reason, message, self.container());
    }

    fn say_pod(&self, warning: bool, reason: &str, message: &str) {
        self.event(warning, reason, message, "");
    }

    fn event(&self, warning: bool, reason: &str, message: &str, container: &str) {
        let event = EventText {
            warning,
            reason,
            message,
            source: "kubelet",
            container,
        };
        self.world.record_event((Resource::Pod, self.pod), &event);
    }
}
