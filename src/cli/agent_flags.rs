//! The flags that describe the agent's pod, shared by every command that starts one.
//!
//! Owns their names, defaults and help, and checks them once into
//! [`AgentOptions`]; it starts nothing. The commands flatten [`AgentFlags`] into their own flags.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{
    cli::go_duration,
    cluster::{
        agents::{AgentBinaries, AgentBinaryError},
        options::{
            AgentOptions, AgentSource, AllowTarget, Architecture, ArchitectureError, ImagePullPolicy, Mesh,
            Resources, TransportChoice,
        },
        patch::{PatchError, PodPatch},
        quantity,
    },
};

/// Tiny, public, without a shell, and its user is a number other than root.
const BASE_IMAGE: &str = "registry.k8s.io/pause:3.10";

/// How long an agent without a transport waits: the usual reconnect after a lost network takes seconds.
const GRACE: Duration = Duration::from_secs(30);

/// The same when connections were open: somebody misses them, and a laptop changes networks in that time.
const GRACE_OPEN: Duration = Duration::from_secs(120);

/// The flags as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Agent flags")]
pub struct AgentFlags {
    /// Run the agent from this image (the binary at /tunnel-agent) instead of a ConfigMap
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["agent_binary", "base_image"])]
    pub agent_image: Option<String>,

    /// Use this agent binary instead of the built-in one
    #[arg(long, value_name = "PATH")]
    pub agent_binary: Option<PathBuf>,

    /// Image the built-in agent runs on; needs a numeric non-root user, no shell
    #[arg(long, value_name = "IMAGE", default_value = BASE_IMAGE)]
    pub base_image: String,

    /// Secret to pull the image with (repeatable)
    #[arg(long, value_name = "SECRET")]
    pub image_pull_secret: Vec<String>,

    /// When the node pulls the image
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent", ignore_case = true,
          value_parser = ["Always", "IfNotPresent", "Never"])]
    pub image_pull_policy: String,

    /// Fields to merge onto the agent's pod, as JSON or YAML, such as '{"spec":{"priorityClassName":"low"}}'
    #[arg(long, value_name = "PATCH")]
    pub patch: Vec<String>,

    /// File with such a patch; --patch is applied after it
    #[arg(long, value_name = "PATH")]
    pub patch_file: Vec<PathBuf>,

    /// Whether a service mesh may put its proxy beside the agent
    #[arg(long, value_name = "MODE", default_value = "exclude", value_parser = ["exclude", "inherit"])]
    pub mesh: String,

    /// CPU architecture of the agent's node [default: the API server's, then the other one]
    #[arg(long, value_name = "ARCH", value_parser = ["amd64", "arm64"])]
    pub arch: Option<String>,

    /// Keep the Job and its pod's log for an hour after the end, for debugging
    #[arg(long)]
    pub keep: bool,

    /// Resource requests of the agent, merged with cpu=10m,memory=16Mi; an empty value removes one
    #[arg(long, value_name = "NAME=QUANTITY", value_delimiter = ',')]
    pub requests: Vec<String>,

    /// Resource limits of the agent, merged with memory=256Mi; an empty value removes one
    #[arg(long, value_name = "NAME=QUANTITY", value_delimiter = ',')]
    pub limits: Vec<String>,

    /// How long the agent may take to start
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = go_duration::parse_duration)]
    pub pod_running_timeout: Duration,

    /// How long the agent waits for this command to come back before it ends itself [default: 2m when connections
    /// were open, else 30s]
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse_duration)]
    pub grace: Option<Duration>,

    /// How long new connections wait while the way to the agent is lost, at either end
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = go_duration::parse_duration)]
    pub hold: Duration,

    /// Maximum age of the session
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = go_duration::parse_duration)]
    pub max_lifetime: Duration,

    /// What carries the session: auto starts on exec and moves to port-forward where that is allowed and no slower;
    /// with port-forward the command fails where that cannot be had
    #[arg(long, value_name = "WAY", default_value = "auto", value_parser = ["auto", "exec", "port-forward"])]
    pub transport: String,

    /// Loopback or link-local IP or network the agent may dial (repeatable), such as 127.0.0.1
    #[arg(long, value_name = "IP|CIDR", value_delimiter = ',')]
    pub allow_target: Vec<String>,
}

/// What is wrong with the flags; all of these are usage errors but the ones about files.
#[derive(Debug, thiserror::Error)]
pub enum AgentFlagsError {
    #[error(transparent)]
    Binary(#[from] AgentBinaryError),
    #[error(transparent)]
    Patch(#[from] PatchError),
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// `--requests` or `--limits`.
    #[error("{flag}: `{text}` is not like memory=64Mi")]
    Quantity { flag: &'static str, text: String },
    #[error("--allow-target: `{text}` is not an IP address or network")]
    AllowTarget { text: String },
    #[error("{flag} must be at least {least}")]
    TooShort { flag: &'static str, least: &'static str },
    #[error("{flag} is empty")]
    Empty { flag: &'static str },
}

impl AgentFlags {
    /// Checks the flags and reads the files they name.
    ///
    /// # Errors
    /// The first flag that cannot be used.
    pub fn validate(&self) -> Result<AgentOptions, AgentFlagsError> {
        let architecture = self.arch.as_deref().map(str::parse::<Architecture>).transpose()?;
        let source = self.source(architecture)?;
        let architecture = architecture.or_else(|| only_architecture(&source));
        at_least(
            "--pod-running-timeout",
            self.pod_running_timeout,
            Duration::from_secs(1),
            "1s",
        )?;
        let (grace, grace_open) = (self.grace.unwrap_or(GRACE), self.grace.unwrap_or(GRACE_OPEN));
        at_least("--grace", grace, Duration::from_secs(1), "1s")?;
        // Shorter than the first renewal would end the session before it is ready.
        at_least(
            "--max-lifetime",
            self.max_lifetime,
            Duration::from_secs(10),
            "10s",
        )?;
        let standard = Resources::standard();
        Ok(AgentOptions {
            source,
            image_pull_policy: match self.image_pull_policy.to_ascii_lowercase().as_str() {
                "always" => ImagePullPolicy::Always,
                "never" => ImagePullPolicy::Never,
                _ => ImagePullPolicy::IfNotPresent,
            },
            image_pull_secrets: self.image_pull_secret.clone(),
            patches: self.patches()?,
            mesh: if self.mesh == "inherit" {
                Mesh::Inherit
            } else {
                Mesh::Exclude
            },
            architecture,
            keep: self.keep,
            resources: Resources {
                requests: quantities("--requests", &self.requests, standard.requests)?,
                limits: quantities("--limits", &self.limits, standard.limits)?,
            },
            pod_running_timeout: self.pod_running_timeout,
            grace,
            grace_open,
            hold: self.hold,
            max_lifetime: self.max_lifetime,
            transport: match self.transport.as_str() {
                "exec" => TransportChoice::Exec,
                "port-forward" => TransportChoice::PortForward,
                _ => TransportChoice::Auto,
            },
            allow_targets: self
                .allow_target
                .iter()
                .map(|text| {
                    text.parse::<AllowTarget>()
                        .map_err(|_| AgentFlagsError::AllowTarget { text: text.clone() })
                })
                .collect::<Result<_, _>>()?,
        })
    }

    fn source(&self, architecture: Option<Architecture>) -> Result<AgentSource, AgentFlagsError> {
        if let Some(image) = &self.agent_image {
            if image.is_empty() {
                return Err(AgentFlagsError::Empty {
                    flag: "--agent-image",
                });
            }
            return Ok(AgentSource::Image(image.clone()));
        }
        if self.base_image.is_empty() {
            return Err(AgentFlagsError::Empty { flag: "--base-image" });
        }
        let binaries = match &self.agent_binary {
            Some(path) => {
                let binaries = AgentBinaries::from_file(path)?;
                if let (Some(wanted), Some(found)) = (architecture, binaries.only())
                    && wanted != found
                {
                    let path = path.clone();
                    return Err(AgentBinaryError::WrongArchitecture { path, found, wanted }.into());
                }
                binaries
            }
            None => AgentBinaries::embedded()?,
        };
        if let Some(wanted) = architecture
            && binaries.get(wanted).is_none()
        {
            return Err(AgentBinaryError::NotEmbeddedFor(wanted).into());
        }
        Ok(AgentSource::ConfigMap {
            binaries,
            base_image: self.base_image.clone(),
        })
    }

    fn patches(&self) -> Result<Vec<PodPatch>, PatchError> {
        let files = self.patch_file.iter().map(|path| PodPatch::from_file(path));
        let texts = self.patch.iter().map(|text| PodPatch::parse(text, "--patch"));
        files.chain(texts).collect()
    }
}

fn only_architecture(source: &AgentSource) -> Option<Architecture> {
    match source {
        AgentSource::ConfigMap { binaries, .. } => binaries.only(),
        AgentSource::Image(_) => None,
    }
}

fn at_least(
    flag: &'static str,
    value: Duration,
    least: Duration,
    text: &'static str,
) -> Result<(), AgentFlagsError> {
    if value < least {
        Err(AgentFlagsError::TooShort { flag, least: text })
    } else {
        Ok(())
    }
}

fn quantities(
    flag: &'static str,
    pairs: &[String],
    mut standard: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, AgentFlagsError> {
    for pair in pairs {
        let wrong = || AgentFlagsError::Quantity {
            flag,
            text: pair.clone(),
        };
        let (name, value) = pair.split_once('=').ok_or_else(wrong)?;
        if name.is_empty() {
            return Err(wrong());
        }
        if value.is_empty() {
            standard.remove(name);
        } else if quantity::parse(value).is_some() {
            standard.insert(name.to_owned(), value.to_owned());
        } else {
            return Err(wrong());
        }
    }
    Ok(standard)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        agent: AgentFlags,
    }

    fn parse(args: &[&str]) -> AgentFlags {
        let words = std::iter::once("test").chain(args.iter().copied());
        Command::try_parse_from(words).unwrap().agent
    }

    fn validate(args: &[&str]) -> Result<AgentOptions, AgentFlagsError> {
        let with_image: Vec<&str> = ["--agent-image", "agent:1"].iter().chain(args).copied().collect();
        parse(&with_image).validate()
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let options = validate(&[]).unwrap();
        assert_eq!(options.resources, Resources::standard());
        assert_eq!(options.mesh, Mesh::Exclude);
        assert_eq!(options.image_pull_policy, ImagePullPolicy::IfNotPresent);
        assert_eq!(options.architecture, None);
        assert_eq!(options.transport, TransportChoice::Auto);
        assert_eq!(
            (options.pod_running_timeout, options.max_lifetime),
            (Duration::from_secs(60), Duration::from_secs(86_400))
        );
        assert_eq!(
            (options.grace, options.grace_open, options.hold),
            (
                Duration::from_secs(30),
                Duration::from_secs(120),
                Duration::from_secs(10)
            )
        );
        assert_eq!(parse(&[]).base_image, BASE_IMAGE);
    }

    #[test]
    fn a_given_grace_holds_with_and_without_connections() {
        let options = validate(&["--grace", "45s", "--hold", "0"]).unwrap();
        let given = Duration::from_secs(45);
        assert_eq!((options.grace, options.grace_open), (given, given));
        assert_eq!(options.hold, Duration::ZERO);
    }

    #[test]
    fn resources_merge_with_the_standard() {
        let options = validate(&[
            "--limits",
            "cpu=500m",
            "--requests",
            "cpu=20m,memory=,ephemeral-storage=16Mi",
        ])
        .unwrap();
        let pairs = |map: &BTreeMap<String, String>| {
            map.iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(",")
        };
        assert_eq!(pairs(&options.resources.limits), "cpu=500m,memory=256Mi");
        assert_eq!(
            pairs(&options.resources.requests),
            "cpu=20m,ephemeral-storage=16Mi"
        );
    }

    #[test]
    fn wrong_values_name_their_flag() {
        for (args, text) in [
            (["--limits", "cpu"], "--limits: `cpu` is not like memory=64Mi"),
            (
                ["--requests", "cpu=ten"],
                "--requests: `cpu=ten` is not like memory=64Mi",
            ),
            (
                ["--allow-target", "localhost"],
                "--allow-target: `localhost` is not an IP address or network",
            ),
            (["--grace", "0"], "--grace must be at least 1s"),
            (["--max-lifetime", "1s"], "--max-lifetime must be at least 10s"),
            (
                ["--agent-binary", "/nonexistent/agent"],
                "read agent binary /nonexistent/agent",
            ),
            (
                ["--patch", "[]"],
                "--patch: expected a map with metadata and spec of a pod, found a list",
            ),
        ] {
            let error = if args[0] == "--agent-binary" {
                parse(&args).validate().unwrap_err()
            } else {
                validate(&args).unwrap_err()
            };
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn image_and_binary_exclude_each_other() {
        let words = ["test", "--agent-image", "a", "--agent-binary", "b"];
        assert!(Command::try_parse_from(words).is_err());
    }

    #[test]
    fn allow_targets_repeat_and_split() {
        let options = validate(&["--allow-target", "127.0.0.1,::1", "--allow-target", "10.0.0.0/8"]).unwrap();
        let printed: Vec<String> = options.allow_targets.iter().map(ToString::to_string).collect();
        assert_eq!(printed, ["127.0.0.1", "::1", "10.0.0.0/8"]);
    }
}
