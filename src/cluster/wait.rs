//! Judging a start: pods, events and Jobs in, "wait", "started" or "failed" out.
//!
//! Pure, so that every failure the cluster can show has a unit test. `start` feeds it; `watch`
//! and `sweep` share [`pod_failure`] and [`job_end`].

use std::collections::BTreeSet;

use k8s_openapi::api::{
    batch::v1::{Job, JobCondition},
    core::v1::{ContainerStatus, Event, Pod},
};
use std::time::Duration;

use super::{
    failure::{Failure, FailureKind},
    names::{AGENT_CONTAINER, ObjectRef},
};

/// Where a start stands, for the spinner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartStep {
    CheckingRights,
    /// Sending the agent and creating the Job.
    Creating,
    Scheduling,
    /// The node fetches this image.
    Pulling {
        image: String,
    },
    /// The container is being set up.
    Starting,
    /// The namespace's policy refused our requests and limits; the start goes on with these.
    FollowingPolicy {
        resources: String,
    },
}

/// What one observation means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Waiting,
    /// The agent's container runs.
    Started,
    Failed(Failure),
}

/// The pod a start has led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenPod {
    pub name: String,
    pub uid: String,
    /// It has a node.
    pub scheduled: bool,
}

/// Everything seen so far of one Job's start.
#[derive(Debug)]
pub struct StartWatch {
    job_name: String,
    job_uid: Option<String>,
    pod: Option<SeenPod>,
    /// Pods whose agent container an event has reported as started, since events and pods come
    /// in any order.
    started: BTreeSet<String>,
    step: StartStep,
    refused_before: bool,
    /// The last complaint that is not final, for a time-out.
    last_words: Option<(String, String)>,
}

impl StartWatch {
    pub fn new(job_name: &str) -> Self {
        Self {
            job_name: job_name.to_owned(),
            job_uid: None,
            pod: None,
            started: BTreeSet::new(),
            step: StartStep::Creating,
            refused_before: false,
            last_words: None,
        }
    }

    pub fn step(&self) -> &StartStep {
        &self.step
    }

    pub fn pod(&self) -> Option<&SeenPod> {
        self.pod.as_ref()
    }

    pub fn job_created(&mut self, uid: &str) {
        self.job_uid = Some(uid.to_owned());
        self.step = StartStep::Scheduling;
    }

    pub fn observe_pod(&mut self, pod: &Pod) -> Verdict {
        if self.is_of_another_job(pod) {
            return Verdict::Waiting;
        }
        let (Some(name), Some(uid)) = (&pod.metadata.name, &pod.metadata.uid) else {
            return Verdict::Waiting;
        };
        let scheduled = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        self.pod = Some(SeenPod {
            name: name.clone(),
            uid: uid.clone(),
            scheduled,
        });
        if scheduled && matches!(self.step, StartStep::Creating | StartStep::Scheduling) {
            self.step = StartStep::Starting;
        }
        if let Some(failure) = pod_failure(pod) {
            return Verdict::Failed(failure);
        }
        if pod.metadata.deletion_timestamp.is_some() {
            return Verdict::Failed(deleted(ObjectRef::new("pod", name.clone())));
        }
        if is_running(pod) || self.started.contains(uid) {
            Verdict::Started
        } else {
            Verdict::Waiting
        }
    }

    pub fn pod_deleted(&mut self, pod: &Pod) -> Verdict {
        if self.is_of_another_job(pod) {
            return Verdict::Waiting;
        }
        let name = pod.metadata.name.clone().unwrap_or_default();
        Verdict::Failed(pod_failure(pod).unwrap_or_else(|| deleted(ObjectRef::new("pod", name))))
    }

    pub fn observe_event(&mut self, event: &Event) -> Verdict {
        let about = &event.involved_object;
        let (name, uid) = (about.name.as_deref().unwrap_or_default(), about.uid.as_deref());
        match about.kind.as_deref() {
            Some("Job") if name == self.job_name => {
                if self.job_uid.is_some() && uid.is_some() && self.job_uid.as_deref() != uid {
                    return Verdict::Waiting;
                }
                self.observe_job_event(event)
            }
            Some("Pod") if self.is_our_pod(name, uid) => self.observe_pod_event(event, name, uid),
            _ => Verdict::Waiting,
        }
    }

    /// The start took too long: what it was waiting for.
    pub fn timed_out(&self, after: Duration) -> Failure {
        let object = match &self.pod {
            Some(pod) => ObjectRef::new("pod", pod.name.clone()),
            None => ObjectRef::new("job", self.job_name.clone()),
        };
        let (reason, text) = self.last_words.clone().unwrap_or_else(|| {
            let doing = match &self.step {
                StartStep::CheckingRights | StartStep::Creating | StartStep::FollowingPolicy { .. } => {
                    "it was being created"
                }
                StartStep::Scheduling if self.pod.is_none() => "it got no pod",
                StartStep::Scheduling => "it was waiting for a node",
                StartStep::Pulling { .. } => "its image was being pulled",
                StartStep::Starting => "its container was being set up",
            };
            (String::new(), doing.to_owned())
        });
        Failure::new(FailureKind::TimedOut { after }, object, reason, text)
    }

    /// A predecessor of the same name may still have its pod.
    fn is_of_another_job(&self, pod: &Pod) -> bool {
        let mut owners = pod.metadata.owner_references.iter().flatten();
        let job = owners.find(|owner| owner.kind == "Job");
        match (job, &self.job_uid) {
            (Some(owner), Some(uid)) => owner.uid != *uid,
            _ => false,
        }
    }

    /// The pod's name is the Job's plus 6 characters, so an event may come before its pod.
    fn is_our_pod(&self, name: &str, uid: Option<&str>) -> bool {
        match &self.pod {
            Some(pod) => pod.name == name && uid.is_none_or(|uid| uid == pod.uid),
            None => name
                .strip_prefix(self.job_name.as_str())
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|rest| !rest.contains('-')),
        }
    }

    fn observe_job_event(&mut self, event: &Event) -> Verdict {
        let (reason, text) = words(event);
        let object = ObjectRef::new("job", self.job_name.clone());
        match reason {
            "FailedCreate" => {
                let failure = Failure::denial(object, reason, text);
                // The Job controller tries again after a second: what it could not do twice, and
                // what the text says plainly, is final.
                let again = self.refused_before || event.count.is_some_and(|count| count > 1);
                if matches!(failure.kind, FailureKind::Other | FailureKind::Webhook(_)) && !again {
                    self.refused_before = true;
                    self.last_words = Some((reason.to_owned(), text.to_owned()));
                    return Verdict::Waiting;
                }
                Verdict::Failed(failure)
            }
            "DeadlineExceeded" => {
                Verdict::Failed(Failure::new(FailureKind::DeadlineExceeded, object, reason, text))
            }
            _ => Verdict::Waiting,
        }
    }

    fn observe_pod_event(&mut self, event: &Event, name: &str, uid: Option<&str>) -> Verdict {
        let (reason, text) = words(event);
        let object = || ObjectRef::new("pod", name.to_owned());
        let path = event.involved_object.field_path.as_deref().unwrap_or_default();
        let agents = path == format!("spec.containers{{{AGENT_CONTAINER}}}");
        match reason {
            "Started" if agents => {
                self.step = StartStep::Starting;
                let Some(uid) = uid else { return Verdict::Waiting };
                self.started.insert(uid.to_owned());
                if self.pod.as_ref().is_some_and(|pod| pod.uid == uid) {
                    return Verdict::Started;
                }
            }
            "Pulling" => {
                let image = text.split('"').nth(1).unwrap_or(text).to_owned();
                self.step = StartStep::Pulling { image };
            }
            "Pulled" | "Created" => self.step = StartStep::Starting,
            "Failed" => {
                if let Some(kind) = failed_event_kind(text) {
                    let text = text.strip_prefix("Error: ").unwrap_or(text);
                    return Verdict::Failed(Failure::new(kind, object(), reason, text));
                }
                self.last_words = Some((reason.to_owned(), text.to_owned()));
            }
            _ if event.type_.as_deref() == Some("Warning") => {
                self.last_words = Some((reason.to_owned(), text.to_owned()));
            }
            _ => {}
        }
        Verdict::Waiting
    }
}

/// The agent's container runs, by the pod's status (up to a second later than its event).
pub fn is_running(pod: &Pod) -> bool {
    agent_status(pod)
        .and_then(|status| status.state.as_ref())
        .is_some_and(|state| state.running.is_some())
}

/// Why this pod's agent cannot start or has ended; `None` while there is hope.
pub fn pod_failure(pod: &Pod) -> Option<Failure> {
    let status = pod.status.as_ref()?;
    let object = ObjectRef::new("pod", pod.metadata.name.clone().unwrap_or_default());
    let fail = |kind, reason: &str, text: &str| Some(Failure::new(kind, object.clone(), reason, text));

    for condition in status.conditions.iter().flatten() {
        let text = condition.message.as_deref().unwrap_or_default();
        let reason = condition.reason.as_deref().unwrap_or_default();
        match (condition.type_.as_str(), condition.status.as_str()) {
            ("PodScheduled", "False") if reason == "Unschedulable" => {
                return fail(unschedulable_kind(text), reason, text);
            }
            ("DisruptionTarget", "True") => return fail(FailureKind::Evicted, reason, text),
            _ => {}
        }
    }
    if let Some(failure) = containers(pod).find_map(|container| container_failure(&object, container)) {
        return Some(failure);
    }
    if status.phase.as_deref() == Some("Failed") {
        let reason = status.reason.as_deref().unwrap_or_default();
        let kind = match reason {
            "DeadlineExceeded" => FailureKind::DeadlineExceeded,
            "Evicted" | "Preempting" | "Terminated" | "Shutdown" | "NodeShutdown" | "NodeLost" => {
                FailureKind::Evicted
            }
            // The kubelet's own admission: the node was full or did not match after all.
            _ if reason.starts_with("OutOf") || reason == "NodeAffinity" => FailureKind::Unschedulable,
            _ => FailureKind::Other,
        };
        return fail(kind, reason, status.message.as_deref().unwrap_or_default());
    }
    None
}

/// How the Job ended, if it has: the condition's reason and text.
pub fn job_end(job: &Job) -> Option<(String, String)> {
    end_condition(job).map(|condition| {
        let reason = condition
            .reason
            .clone()
            .unwrap_or_else(|| condition.type_.clone());
        (reason, condition.message.clone().unwrap_or_default())
    })
}

/// Whether somebody deleted the Job: its TTL deletes it as well, but only seconds after its end.
pub(super) fn is_deleted(job: &Job) -> bool {
    let Some(deleted) = &job.metadata.deletion_timestamp else {
        return false;
    };
    let ended = end_condition(job).and_then(|condition| condition.last_transition_time.as_ref());
    ended.is_none_or(|ended| ended.0 >= deleted.0)
}

fn end_condition(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| {
        condition.status == "True"
            && matches!(
                condition.type_.as_str(),
                "Failed" | "FailureTarget" | "Complete" | "SuccessCriteriaMet"
            )
    })
}

pub(super) fn deleted(object: ObjectRef) -> Failure {
    Failure::new(FailureKind::Deleted, object, "", "")
}

fn agent_status(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status
        .as_ref()?
        .container_statuses
        .iter()
        .flatten()
        .find(|status| status.name == AGENT_CONTAINER)
}

/// The agent's container first, then whatever else a mesh or a patch has put into the pod.
fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let others = status.into_iter().flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
    });
    agent_status(pod)
        .into_iter()
        .chain(others.filter(|container| container.name != AGENT_CONTAINER))
}

fn container_failure(pod: &ObjectRef, container: &ContainerStatus) -> Option<Failure> {
    let state = container.state.as_ref()?;
    let is_agent = container.name == AGENT_CONTAINER;
    let fail = |kind, reason: &str, text: &str| {
        let text = if is_agent {
            text.to_owned()
        } else {
            format!("container {}: {text}", container.name)
        };
        Some(Failure::new(kind, pod.clone(), reason, text))
    };
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let text = waiting.message.as_deref().unwrap_or_default();
        return match reason {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable"
            | "SignatureValidationFailed" => fail(FailureKind::ImagePull, reason, text),
            // The kubelet has not seen the object yet; it tries again by itself.
            "CreateContainerConfigError" if text.contains("failed to sync") => None,
            "CreateContainerConfigError" => fail(FailureKind::ContainerConfig, reason, text),
            "CreateContainerError" | "RunContainerError" | "PostStartHookError" => {
                fail(FailureKind::CannotRun, reason, text)
            }
            _ => None,
        };
    }
    let ended = state.terminated.as_ref().filter(|_| is_agent)?;
    let reason = ended.reason.as_deref().unwrap_or_default();
    let text = ended.message.as_deref().unwrap_or_default();
    if reason == "OOMKilled" && text.is_empty() {
        let text = format!("exit code {}", ended.exit_code);
        return fail(FailureKind::OutOfMemory, reason, &text);
    }
    let kind = match reason {
        "StartError" | "ContainerCannotRun" => FailureKind::CannotRun,
        "OOMKilled" => FailureKind::OutOfMemory,
        _ => FailureKind::Exited {
            code: ended.exit_code,
            last_log: Vec::new(),
        },
    };
    fail(kind, reason, text)
}

/// Only the text tells whether another architecture would help.
fn unschedulable_kind(text: &str) -> FailureKind {
    if text.contains("node affinity")
        || text.contains("node selector")
        || text.contains("node(s) didn't match Pod")
    {
        FailureKind::NoMatchingNode
    } else {
        FailureKind::Unschedulable
    }
}

/// What an event `Failed` of a container is about, half a second before its status says so;
/// `None` leaves it to the status.
fn failed_event_kind(text: &str) -> Option<FailureKind> {
    if text.starts_with("Failed to pull image") {
        Some(FailureKind::ImagePull)
    } else if is_config_error(text) {
        Some(FailureKind::ContainerConfig)
    } else if text.contains("OCI runtime create failed") || text.contains("exec format error") {
        Some(FailureKind::CannotRun)
    } else {
        None
    }
}

/// An image user the pod may not run as, or a Secret or ConfigMap that a patch names.
fn is_config_error(text: &str) -> bool {
    let missing = text.ends_with(" not found") && {
        text.starts_with("Error: secret \"") || text.starts_with("Error: configmap \"")
    };
    missing || text.contains("runAsNonRoot") || text.contains("non-numeric user")
}

fn words(event: &Event) -> (&str, &str) {
    (
        event.reason.as_deref().unwrap_or_default(),
        event.message.as_deref().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests;
