//! The scheduler: one node, which a pod fits unless its node selector or a fault says no.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::object;
use crate::resource::Resource;
use crate::store::Key;
use crate::world::{EventText, NODE, World};

/// How often a pod that did not fit is tried again; the fault that kept it may be over.
const RETRY: Duration = Duration::from_millis(500);

const NO_MATCH: &str = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
    preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";

pub(crate) async fn run(world: Arc<World>) {
    world.follow(reconcile).await;
}

fn reconcile(world: &Arc<World>) -> Option<Duration> {
    let (_, pods) = world.store.list(Resource::Pod, None);
    let waiting = pods
        .iter()
        .filter(|pod| !pod["spec"]["nodeName"].is_string() && !object::is_terminating(pod));
    waiting.filter_map(|pod| schedule(world, pod)).min()
}

fn schedule(world: &World, pod: &Value) -> Option<Duration> {
    let key = Key::of(Resource::Pod, pod);
    let now = world.clock.stamp();
    let Some(reason) = misfit(world, pod) else {
        let placed = world.store.update(&key, |pod| {
            pod["spec"]["nodeName"] = json!(NODE);
            let condition = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now});
            object::set_condition(pod, condition);
        })?;
        let name = format!("{}/{}", object::namespace(pod), object::name(pod));
        let message = format!("Successfully assigned {name} to {NODE}");
        say(world, &placed, false, "Scheduled", &message);
        return None;
    };
    if object::condition(pod, "PodScheduled").is_none_or(|condition| condition["message"] != reason) {
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": reason, "lastTransitionTime": now,
        });
        world
            .store
            .update(&key, |pod| object::set_condition(pod, condition));
        say(world, pod, true, "FailedScheduling", &reason);
    }
    Some(RETRY)
}

/// Why the pod does not fit the node.
fn misfit(world: &World, pod: &Value) -> Option<String> {
    if let Some(text) = world.faults.unschedulable_text() {
        return Some(text);
    }
    let labels = [
        ("kubernetes.io/arch", world.options.node_arch.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/hostname", NODE),
    ];
    let selector = pod["spec"]["nodeSelector"].as_object()?;
    let fits = selector
        .iter()
        .all(|(key, value)| labels.iter().any(|&(k, v)| k == key && value == v));
    (!fits).then(|| NO_MATCH.to_owned())
}

fn say(world: &World, pod: &Value, warning: bool, reason: &str, message: &str) {
    let event = EventText {
        warning,
        reason,
        message,
        source: "default-scheduler",
        container: "",
    };
    world.record_event((Resource::Pod, pod), &event);
}
