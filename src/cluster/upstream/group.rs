//! The pods behind one target, and which of them to dial.
//!
//! What is known of the pods comes from [`super::Watches`]; while the API server is away it stays as it was. Which
//! pod failed lately is remembered here: the watch learns of a dead node a minute late.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::core::{Selector, SelectorExt};
use rand::seq::IteratorRandom;
use tokio::sync::watch;
use tokio::time::{self, Instant};

use super::pod::PodState;
use crate::cli::port::Protocol;
use crate::cli::target::RemotePort;
use crate::cluster::answer::is_forbidden;
use crate::cluster::api_error::ApiError;

/// How long a pod that could not be reached comes after those that could.
///
/// Longer than a container's restart, shorter than anybody waits to see an even share again.
const FAILURE_MEMORY: Duration = Duration::from_secs(30);

/// Most pods that a message tells about one by one.
const TOLD: usize = 4;

/// The pods of a pod's name or a selector, as the watch knows them. Clones share what they know.
#[derive(Debug, Clone)]
pub struct PodGroup(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    target: String,
    namespace: String,
    pick: Pick,
    /// Written by the watch, read by whoever chooses.
    known_tx: watch::Sender<Known>,
    failures: Mutex<HashMap<Identity, Instant>>,
}

/// Which pods belong to a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pick {
    /// The pod of this name, also its successors.
    Name(String),
    /// All whose labels match.
    Labels(Selector),
}

impl Pick {
    /// Whether the user named the pod: then it need not be ready.
    fn by_name(&self) -> bool {
        matches!(self, Self::Name(_))
    }

    pub(super) fn matches(&self, pod: &PodState) -> bool {
        match self {
            Self::Name(name) => pod.name == *name,
            Self::Labels(selector) => selector.matches(&pod.labels),
        }
    }
}

/// What is known of a group's pods.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Whether the pods were listed at all.
    pub(super) listed: bool,
    /// Why the pods cannot be listed now.
    pub(super) trouble: Option<ApiError>,
    /// By name.
    pub(super) pods: BTreeMap<String, Arc<PodState>>,
}

impl Known {
    fn is_forbidden(&self) -> bool {
        !self.listed && self.trouble.as_ref().is_some_and(is_forbidden)
    }
}

/// Tells a pod from its successor of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Identity {
    name: String,
    ip: String,
}

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenPod {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub name: String,
    /// Its address, without brackets.
    pub ip: String,
    /// The number of the port.
    pub port: u16,
}

/// Why there is no pod to dial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPod {
    /// The API server has not told which pods there are.
    #[error("the pods behind {target} are not known: {cause}")]
    Unknown {
        /// What the user named.
        target: String,
        /// What the API server said.
        cause: String,
    },
    /// The pod that was named is not there, or does not run.
    #[error("{target} {trouble}")]
    Named {
        /// What the user named.
        target: String,
        /// A fragment, such as `is being deleted`.
        trouble: String,
    },
    /// None of the pods is ready.
    #[error("no ready pod behind {target}: 0 of {total}{}", trouble_text(*total, troubles))]
    NoneReady {
        /// What the user named.
        target: String,
        /// How many pods there are.
        total: usize,
        /// Some of them, each with what it waits for.
        troubles: Vec<String>,
    },
    /// There are ready pods, but the port is a name none of them knows.
    #[error("no pod behind {target} has a {protocol} port named {port}")]
    NoPort {
        /// What the user named.
        target: String,
        /// The name.
        port: String,
        /// Its protocol.
        protocol: Protocol,
    },
}

fn trouble_text(total: usize, troubles: &[String]) -> String {
    if troubles.is_empty() {
        return String::new();
    }
    let more = total - troubles.len();
    let more = if more > 0 {
        format!(", and {more} more")
    } else {
        String::new()
    };
    format!(" ({}{more})", troubles.join(", "))
}

impl PodGroup {
    pub(super) fn new(target: String, namespace: String, pick: Pick) -> Self {
        Self(Arc::new(Inner {
            target,
            namespace,
            pick,
            known_tx: watch::Sender::new(Known::default()),
            failures: Mutex::default(),
        }))
    }

    /// What the user named, for messages.
    pub fn target(&self) -> &str {
        &self.0.target
    }

    /// Where its pods are.
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    pub(super) fn pick(&self) -> &Pick {
        &self.0.pick
    }

    /// Changes what is known; wakes those who wait for a pod if `change` says so.
    pub(super) fn update(&self, change: impl FnOnce(&mut Known) -> bool) {
        self.0.known_tx.send_if_modified(change);
    }

    /// A pod for a connection: a ready one at random, of those that failed least recently; not of `avoid` while
    /// there is another. Waits until the deadline for one to become ready. A pod that was named itself need only run.
    ///
    /// # Errors
    /// Tells what there is instead.
    pub async fn choose(
        &self,
        port: &RemotePort,
        protocol: Protocol,
        avoid: &[String],
        deadline: Instant,
    ) -> Result<ChosenPod, NoPod> {
        let mut known_rx = self.0.known_tx.subscribe();
        let mut late = false;
        loop {
            let (chosen, forbidden) = {
                let known = known_rx.borrow_and_update();
                let chosen = self.choose_of(&known, port, protocol, avoid);
                (chosen, known.is_forbidden())
            };
            // Waiting gives no pod another port, and nobody another right.
            if late || forbidden || matches!(chosen, Ok(_) | Err(NoPod::NoPort { .. })) {
                return chosen;
            }
            // What is said at the end is what is known then.
            late = time::timeout_at(deadline, known_rx.changed()).await.is_err();
        }
    }

    /// Remembers that a pod was chosen and could not be reached: the others come first for a while.
    pub fn failed(&self, pod: &ChosenPod) {
        let mut failures = self.0.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        failures.retain(|_, failed| now - *failed < FAILURE_MEMORY);
        let identity = Identity {
            name: pod.name.clone(),
            ip: pod.ip.clone(),
        };
        failures.insert(identity, now);
    }

    /// Resolves once `pod` is no pod to dial any more: gone, being deleted, or not ready.
    pub async fn lost(&self, pod: &ChosenPod) {
        let mut known_rx = self.0.known_tx.subscribe();
        let is_lost = |known: &Known| {
            !known
                .pods
                .get(&pod.name)
                .is_some_and(|state| state.ip == pod.ip && state.is_usable(self.0.pick.by_name()))
        };
        // The sender lives in `self`.
        drop(known_rx.wait_for(is_lost).await);
    }

    fn choose_of(
        &self,
        known: &Known,
        port: &RemotePort,
        protocol: Protocol,
        avoid: &[String],
    ) -> Result<ChosenPod, NoPod> {
        let by_name = self.0.pick.by_name();
        let usable: Vec<&PodState> = known
            .pods
            .values()
            .map(AsRef::as_ref)
            .filter(|pod| pod.is_usable(by_name))
            .collect();
        if usable.is_empty() {
            return Err(self.no_pod(known));
        }
        let with_port: Vec<(&PodState, u16)> = usable
            .iter()
            .filter_map(|pod| Some((*pod, pod.number(port, protocol)?)))
            .collect();
        let (pod, port) = self
            .least_failed(&with_port, avoid)
            .ok_or_else(|| NoPod::NoPort {
                target: self.0.target.clone(),
                port: port.to_string(),
                protocol,
            })?;
        Ok(ChosenPod {
            namespace: self.0.namespace.clone(),
            name: pod.name.clone(),
            ip: pod.ip.clone(),
            port,
        })
    }

    fn least_failed<'a>(
        &self,
        pods: &[(&'a PodState, u16)],
        avoid: &[String],
    ) -> Option<(&'a PodState, u16)> {
        let failures = self.0.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // Lower is better: first those not to avoid, then those that never failed, then the oldest failure.
        let rank = |pod: &PodState| {
            let identity = Identity {
                name: pod.name.clone(),
                ip: pod.ip.clone(),
            };
            let failed = failures
                .get(&identity)
                .copied()
                .filter(|failed| now - *failed < FAILURE_MEMORY);
            (avoid.contains(&pod.name), failed)
        };
        let best = pods.iter().map(|(pod, _)| rank(pod)).min()?;
        let best = pods.iter().filter(|(pod, _)| rank(pod) == best);
        best.choose(&mut rand::rng()).copied()
    }

    fn no_pod(&self, known: &Known) -> NoPod {
        let target = self.0.target.clone();
        if !known.listed {
            let cause = known.trouble.as_ref().map_or_else(
                || "the API server has not answered yet".to_owned(),
                ToString::to_string,
            );
            return NoPod::Unknown { target, cause };
        }
        if let Pick::Name(name) = &self.0.pick {
            let trouble = known.pods.get(name).map_or_else(
                || format!("is not there (in namespace {})", self.0.namespace),
                |pod| pod.trouble(),
            );
            return NoPod::Named { target, trouble };
        }
        let troubles = known
            .pods
            .values()
            .take(TOLD)
            .map(|pod| format!("{} {}", pod.name, pod.trouble()));
        NoPod::NoneReady {
            target,
            total: known.pods.len(),
            troubles: troubles.collect(),
        }
    }
}

#[cfg(test)]
mod tests;
