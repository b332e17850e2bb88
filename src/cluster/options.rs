//! How the agent is to run: the checked form of the agent flags.
//!
//! `cli/agent_flags.rs` makes it once; manifest, start and lease only read it.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr, time::Duration};

use ipnet::IpNet;

use super::{agents::AgentBinaries, patch::PodPatch};

/// Everything the user may say about the agent's pod.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    pub source: AgentSource,
    pub image_pull_policy: ImagePullPolicy,
    pub image_pull_secrets: Vec<String>,
    /// Applied to the pod template in this order.
    pub patches: Vec<PodPatch>,
    pub mesh: Mesh,
    /// `None`: guess from the API server's platform, then try the other one.
    pub architecture: Option<Architecture>,
    /// Leave the Job behind at the end, for debugging.
    pub keep: bool,
    pub resources: Resources,
    /// How long the agent may take from the first request to its start.
    pub pod_running_timeout: Duration,
    /// How long the agent waits for a new transport before it exits by itself.
    pub grace: Duration,
    /// The same when connections were open.
    pub grace_open: Duration,
    /// How long a new connection waits for a transport, at either end.
    pub hold: Duration,
    /// The session's maximum age.
    pub max_lifetime: Duration,
    /// Which ways lead to the agent; its entrance for port-forward is open accordingly.
    pub transport: TransportChoice,
    /// Loopback and link-local targets the agent may dial nevertheless.
    pub allow_targets: Vec<AllowTarget>,
}

/// What carries the session between here and the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportChoice {
    /// Exec, and port-forward where that may be had and is better.
    #[default]
    Auto,
    /// Exec alone.
    Exec,
    /// Port-forward, once exec has carried the session's secret.
    PortForward,
}

/// Where the agent's binary comes from.
#[derive(Debug, Clone)]
pub enum AgentSource {
    /// A ConfigMap of ours, mounted into a container of `base_image`.
    ConfigMap {
        binaries: AgentBinaries,
        base_image: String,
    },
    /// An image that holds the agent at [`super::names::AGENT_IMAGE_PATH`].
    Image(String),
}

impl AgentSource {
    /// The image the container runs.
    pub fn image(&self) -> &str {
        match self {
            Self::ConfigMap { base_image, .. } => base_image,
            Self::Image(image) => image,
        }
    }

    /// Whether an agent for this architecture can be had.
    pub fn offers(&self, architecture: Architecture) -> bool {
        match self {
            Self::ConfigMap { binaries, .. } => binaries.get(architecture).is_some(),
            Self::Image(_) => true,
        }
    }
}

/// CPU architecture in Kubernetes' spelling (label `kubernetes.io/arch`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Amd64 => Self::Arm64,
            Self::Arm64 => Self::Amd64,
        }
    }

    /// From `/version`'s `platform`, such as `linux/arm64`.
    pub fn from_platform(platform: &str) -> Option<Self> {
        platform.rsplit('/').next()?.parse().ok()
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no architecture we build for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown architecture, known are amd64 and arm64")]
pub struct ArchitectureError;

impl FromStr for Architecture {
    type Err = ArchitectureError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "amd64" | "x86_64" => Ok(Self::Amd64),
            "arm64" | "aarch64" => Ok(Self::Arm64),
            _ => Err(ArchitectureError),
        }
    }
}

/// Whether a service mesh may put its proxy beside the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mesh {
    /// Ask every known mesh to stay out.
    Exclude,
    /// Whatever the namespace says.
    Inherit,
}

/// `imagePullPolicy` of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImagePullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl ImagePullPolicy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// Requests and limits of the agent's container, quantities as written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    pub requests: BTreeMap<String, String>,
    pub limits: BTreeMap<String, String>,
}

impl fmt::Display for Resources {
    /// As the flags take them: `--requests cpu=10m,memory=16Mi --limits memory=256Mi`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |map: &BTreeMap<String, String>| {
            let pairs: Vec<String> = map
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            pairs.join(",")
        };
        write!(
            f,
            "--requests {} --limits {}",
            list(&self.requests),
            list(&self.limits)
        )
    }
}

impl Resources {
    /// What the agent gets unless told otherwise.
    ///
    /// No CPU limit: a throttled relay stalls every stream on it. The memory limit leaves room for
    /// the 96 MiB that a session may hold in flight.
    pub fn standard() -> Self {
        let map = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        Self {
            requests: map(&[("cpu", "10m"), ("memory", "16Mi")]),
            limits: map(&[("memory", "256Mi")]),
        }
    }
}

/// One `--allow-target`: an address or a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowTarget(IpNet);

/// The text is neither an address nor a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an IP address or network, give one like 127.0.0.1 or 169.254.0.0/16")]
pub struct AllowTargetError;

impl FromStr for AllowTarget {
    type Err = AllowTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self(net.trunc()));
        }
        text.parse::<IpAddr>()
            .map(|address| Self(address.into()))
            .map_err(|_| AllowTargetError)
    }
}

impl fmt::Display for AllowTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            write!(f, "{}", self.0.addr())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allow_targets_are_addresses_or_networks() {
        for (text, printed) in [
            ("127.0.0.1", "127.0.0.1"),
            ("169.254.169.254/16", "169.254.0.0/16"),
            ("::1", "::1"),
            ("fe80::/10", "fe80::/10"),
        ] {
            assert_eq!(text.parse::<AllowTarget>().unwrap().to_string(), printed);
        }
        for text in ["", "localhost", "10.0.0.0/33", "10.0.0.1:80"] {
            assert_eq!(text.parse::<AllowTarget>(), Err(AllowTargetError), "{text}");
        }
    }

    #[test]
    fn platform_names_the_architecture() {
        assert_eq!(
            Architecture::from_platform("linux/amd64"),
            Some(Architecture::Amd64)
        );
        assert_eq!(
            Architecture::from_platform("linux/arm64"),
            Some(Architecture::Arm64)
        );
        assert_eq!(Architecture::from_platform("linux/s390x"), None);
    }
}
