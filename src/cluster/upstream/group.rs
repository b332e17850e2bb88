//! The pods behind one target, and which of them to dial.

use tokio::time::Instant;

use crate::cli::port::Protocol;
use crate::cli::target::RemotePort;

/// The pods of a pod name or a selector, as the watch knows them. Clones share what they know.
#[derive(Debug, Clone)]
pub struct PodGroup {}

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

/// There is no pod to dial; the text says what is there instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoPod(String);

impl PodGroup {
    /// What the user named, for messages.
    pub fn target(&self) -> &str {
        todo!()
    }

    /// A pod for a connection: a ready one at random, of those that failed least recently; not of `avoid` while
    /// there is another. Waits until the deadline for one to become ready.
    pub async fn choose(
        &self,
        port: &RemotePort,
        protocol: Protocol,
        avoid: &[String],
        deadline: Instant,
    ) -> Result<ChosenPod, NoPod> {
        todo!()
    }

    /// Remembers that a pod was chosen and could not be reached: the others come first for a while.
    pub fn failed(&self, pod: &ChosenPod) {
        todo!()
    }
}
