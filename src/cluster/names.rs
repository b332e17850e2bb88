//! What our objects are called: session id, object names, label and annotation keys.
//!
//! Everything that finds our objects again (the end, the sweep, the agent's env) reads these
//! constants, so this is the one place where a name is spelled.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// The container the agent runs in; sidecars may stand beside it.
pub const AGENT_CONTAINER: &str = "agent";
/// Where the agent's binary is when it comes from the ConfigMap.
pub const AGENT_PATH: &str = "/tunnel/agent";
/// Where an `--agent-image` must hold the agent's binary.
pub const AGENT_IMAGE_PATH: &str = "/tunnel-agent";
/// Memory-backed scratch for the agent's unix socket.
pub const SCRATCH_PATH: &str = "/run/tunnel";
/// Key of the binary in the ConfigMap.
pub const CONFIG_MAP_KEY: &str = "agent";
/// Fixed by `app.kubernetes.io/name` and `managed-by`.
pub const APP_NAME: &str = "kubectl-tunnel";
/// `fieldManager` of every write, so that a conflict names us.
pub const FIELD_MANAGER: &str = "kubectl-tunnel";

/// Keys of labels and annotations under it are ours alone.
pub const OWN_PREFIX: &str = "kubectl-tunnel.dev/";

pub const LABEL_NAME: &str = "app.kubernetes.io/name";
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
pub const LABEL_VERSION: &str = "app.kubernetes.io/version";
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// First 16 hex digits of the SHA-256 of the user's name: a user name is no legal label value.
pub const LABEL_USER: &str = "kubectl-tunnel.dev/user";
/// Counts the Jobs of one session from 1.
pub const LABEL_GENERATION: &str = "kubectl-tunnel.dev/generation";

pub const ANNOTATION_USER: &str = "kubectl-tunnel.dev/user";
pub const ANNOTATION_CLIENT_VERSION: &str = "kubectl-tunnel.dev/client-version";
pub const ANNOTATION_COMMAND: &str = "kubectl-tunnel.dev/command";
pub const ANNOTATION_CREATED_AT: &str = "kubectl-tunnel.dev/created-at";
pub const ANNOTATION_EXPIRES_AT: &str = "kubectl-tunnel.dev/expires-at";

/// Target port of the first exposed port; the port with index `i` gets this plus `i`.
///
/// High, since the agent is not root: no port below 1024 and no sysctl is needed in the pod.
pub const FIRST_TARGET_PORT: u16 = 20_000;

const ID_LENGTH: usize = 6;

/// The short id all objects of one session share: a letter, then letters and digits.
///
/// 6 characters are 1.5 billion ids: with a thousand sessions in one namespace a new id
/// meets an old one in one of a million starts, and then the API server refuses the Job's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionId(tunnel_wire::hello::SessionId);

/// The text is no session id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a session id is {ID_LENGTH} lower-case letters and digits, the first a letter")]
pub struct SessionIdError;

impl SessionId {
    pub fn random() -> Self {
        const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
        const ALL: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let pick = |set: &[u8]| char::from(set[rand::random_range(0..set.len())]);
        let text: String = (0..ID_LENGTH)
            .map(|index| pick(if index == 0 { LETTERS } else { ALL }))
            .collect();
        Self(text.parse().expect("made of letters and digits"))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The same id as the hello carries it.
    pub fn wire(&self) -> &tunnel_wire::hello::SessionId {
        &self.0
    }

    /// Name of the Job and of the ConfigMap: `tunnel-<id>`, later generations `tunnel-<id>-<n>`.
    pub fn object_name(&self, generation: u32) -> String {
        if generation <= 1 {
            format!("tunnel-{self}")
        } else {
            format!("tunnel-{self}-{generation}")
        }
    }

    /// Selects everything this session owns.
    pub fn label_selector(&self) -> String {
        format!("{LABEL_NAME}={APP_NAME},{LABEL_INSTANCE}={self}")
    }

    /// Selects the pod of one generation; also the selector of the Service.
    pub fn pod_selector(&self, generation: u32) -> BTreeMap<String, String> {
        [
            (LABEL_NAME, APP_NAME.to_owned()),
            (LABEL_INSTANCE, self.to_string()),
            (LABEL_GENERATION, generation.to_string()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SessionId {
    type Err = SessionIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id: tunnel_wire::hello::SessionId = text.parse().map_err(|_| SessionIdError)?;
        let legal = text.len() == ID_LENGTH && text.starts_with(|first: char| first.is_ascii_lowercase());
        if legal { Ok(Self(id)) } else { Err(SessionIdError) }
    }
}

/// An object for messages: `job/tunnel-x7k2p9`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRef {
    /// Lower-case kind as kubectl takes it: `job`, `pod`, `configmap`, `service`, `networkpolicy`.
    pub kind: &'static str,
    pub name: String,
}

impl ObjectRef {
    pub fn new(kind: &'static str, name: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// Selects everything any session of any user made; narrow it by [`LABEL_USER`].
pub fn managed_selector() -> String {
    format!("{LABEL_MANAGED_BY}={APP_NAME},{LABEL_NAME}={APP_NAME}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_are_ids() {
        for _ in 0..200 {
            let id = SessionId::random();
            assert_eq!(id.as_str().parse(), Ok(id.clone()));
        }
    }

    #[test]
    fn names_carry_the_generation_from_the_second_on() {
        let id: SessionId = "x7k2p9".parse().unwrap();
        assert_eq!(id.object_name(1), "tunnel-x7k2p9");
        assert_eq!(id.object_name(2), "tunnel-x7k2p9-2");
    }

    #[test]
    fn refuses_other_texts() {
        for text in ["", "7xk2p9", "X7k2p9", "x7k2p", "x7k2p99", "x7k-p9"] {
            assert_eq!(text.parse::<SessionId>(), Err(SessionIdError), "{text}");
        }
    }
}
