//! The agent's configuration: what the pod's environment says, validated once.
//!
//! The command line is static so that a pod spec never holds a secret and never needs quoting; everything else
//! is a `TUNNEL_*` variable. This module reads no environment and no file itself: `main` hands the variables
//! and the hosts file's text in.

use std::net::IpAddr;
use std::num::ParseIntError;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tunnel_wire::hello::{InvalidDigest, InvalidSessionId, SecretDigest, SessionId};

use crate::hosts::{Hosts, ParseHostsError};
use crate::policy::{ParseNetworkError, TargetPolicy};

/// The session's id, the same as in the Job's name.
pub const SESSION: &str = "TUNNEL_SESSION";
/// SHA-256 of the session's secret, 64 hexadecimal digits.
pub const SECRET_SHA256: &str = "TUNNEL_SECRET_SHA256";
/// Seconds the agent outlives its last transport while no connection is open, decimal.
pub const GRACE: &str = "TUNNEL_GRACE";
/// Seconds the agent outlives its last transport for the connections that were open, decimal.
pub const GRACE_OPEN: &str = "TUNNEL_GRACE_OPEN";
/// Seconds a connection to an exposed port waits for a transport, decimal.
pub const HOLD: &str = "TUNNEL_HOLD";
/// Addresses and ranges that may be dialled although they are loopback, link-local and the like.
pub const ALLOW_TARGETS: &str = "TUNNEL_ALLOW_TARGETS";
/// The loopback address of the entrance, where transports come by port-forward; without it there is none.
pub const ENTRANCE: &str = "TUNNEL_ENTRANCE";
/// Path of the unix socket between `serve` and `attach`.
pub const SOCKET: &str = "TUNNEL_SOCKET";
/// The address that listeners bind and upstreams are dialled from.
pub const BIND: &str = "TUNNEL_BIND";
/// Path of a hosts file that is consulted before the resolver.
pub const HOSTS: &str = "TUNNEL_HOSTS";

/// In a memory-backed volume of the pod: the root file system is read-only, and an abstract socket could be
/// reached by every container of the pod.
pub const DEFAULT_SOCKET: &str = "/run/tunnel/agent.sock";

/// How long the agent stays after its last transport ended with no connection open, unless told otherwise.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// How long the agent stays after its last transport ended with connections open, unless told otherwise. A
/// person who waits for a network to come back has more to lose then.
pub const DEFAULT_GRACE_OPEN: Duration = Duration::from_secs(120);

/// How long a connection to an exposed port waits for a transport, unless told otherwise: as long as the plugin
/// holds its own while it reconnects.
pub const DEFAULT_HOLD: Duration = Duration::from_secs(10);

/// How long the agent waits for its first attach. The plugin attaches within a second of the container's
/// start, so after this the plugin has died on the way.
pub const FIRST_ATTACH: Duration = Duration::from_secs(20);

/// What one agent needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Id of the session that the agent belongs to; the hello must name it.
    pub session: SessionId,
    /// SHA-256 of the secret that the hello must prove.
    pub secret: SecretDigest,
    /// How long the agent waits for the first attach.
    pub first_attach: Duration,
    /// How long the agent waits after its last transport ended with no connection open.
    pub grace: Duration,
    /// How long the agent waits after its last transport ended with connections open.
    pub grace_open: Duration,
    /// How long a connection to an exposed port waits for a transport before it is reset.
    pub hold: Duration,
    /// Where transports come by port-forward, if they may.
    pub entrance: Option<IpAddr>,
    /// Which addresses may be dialled.
    pub targets: TargetPolicy,
    /// The address that listeners bind and upstreams are dialled from; none means any.
    pub bind: Option<IpAddr>,
    /// Names that are known without asking the resolver.
    pub hosts: Hosts,
    /// Where the hosts table was read from. The playground replaces the file whenever a Service comes or goes.
    pub hosts_file: Option<PathBuf>,
}

/// The environment does not describe an agent.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable without which nothing can be proven is absent or empty.
    #[error("the environment variable {0} is not set")]
    Missing(&'static str),
    /// Not a session's id.
    #[error("read {SESSION}")]
    Session(#[from] InvalidSessionId),
    /// Not a digest. The value is not repeated, it may be the secret itself by mistake.
    #[error("read {SECRET_SHA256}")]
    Secret(#[from] InvalidDigest),
    /// Not a whole number of seconds.
    #[error("{name} is not a whole number of seconds: '{value}'")]
    Seconds {
        /// The variable.
        name: &'static str,
        /// As it was set.
        value: String,
        /// What is wrong with it.
        source: ParseIntError,
    },
    /// An entry of the allow list is no address and no range.
    #[error("read {ALLOW_TARGETS}")]
    AllowTargets(#[from] ParseNetworkError),
    /// Not an IP address.
    #[error("{BIND} is not an IP address: '{0}'")]
    Bind(String),
    /// Not a loopback address: other pods could reach it.
    #[error("{ENTRANCE} is not a loopback address: '{0}'")]
    Entrance(String),
    /// The hosts file cannot be read.
    #[error("read the hosts file {}", path.display())]
    ReadHosts {
        /// As it was set.
        path: PathBuf,
        /// Why it cannot be read.
        source: std::io::Error,
    },
    /// The hosts file has an invalid line.
    #[error("parse the hosts file {}", path.display())]
    ParseHosts {
        /// As it was set.
        path: PathBuf,
        /// Which line.
        source: ParseHostsError,
    },
}

impl Config {
    /// Reads the configuration through `var` (a variable's value, by name) and `read` (a file's text, by path).
    ///
    /// An empty variable counts as an absent one.
    pub fn from_env(
        var: impl Fn(&str) -> Option<String>,
        read: impl FnOnce(&Path) -> std::io::Result<String>,
    ) -> Result<Self, ConfigError> {
        let set = |name| var(name).filter(|value| !value.is_empty());
        let session = set(SESSION).ok_or(ConfigError::Missing(SESSION))?.parse()?;
        let secret = set(SECRET_SHA256)
            .ok_or(ConfigError::Missing(SECRET_SHA256))?
            .parse()?;
        let seconds = |name, default| match set(name) {
            Some(value) => match value.parse::<u32>() {
                Ok(seconds) => Ok(Duration::from_secs(seconds.into())),
                Err(source) => Err(ConfigError::Seconds { name, value, source }),
            },
            None => Ok(default),
        };
        let grace = seconds(GRACE, DEFAULT_GRACE)?;
        let grace_open = seconds(GRACE_OPEN, DEFAULT_GRACE_OPEN)?;
        let hold = seconds(HOLD, DEFAULT_HOLD)?;
        let entrance = match set(ENTRANCE) {
            Some(value) => match value.parse::<IpAddr>() {
                Ok(address) if address.is_loopback() => Some(address),
                Ok(_) | Err(_) => return Err(ConfigError::Entrance(value)),
            },
            None => None,
        };
        let targets = TargetPolicy::parse(&set(ALLOW_TARGETS).unwrap_or_default())?;
        let bind = match set(BIND) {
            Some(value) => Some(value.parse().map_err(|_| ConfigError::Bind(value))?),
            None => None,
        };
        let hosts_file = set(HOSTS).map(PathBuf::from);
        let hosts = match hosts_file.clone() {
            Some(path) => match read(&path) {
                Ok(text) => Hosts::parse(&text).map_err(|source| ConfigError::ParseHosts { path, source })?,
                Err(source) => return Err(ConfigError::ReadHosts { path, source }),
            },
            None => Hosts::default(),
        };
        Ok(Self {
            session,
            secret,
            first_attach: FIRST_ATTACH,
            grace,
            grace_open,
            hold,
            entrance,
            targets,
            bind,
            hosts,
            hosts_file,
        })
    }

    /// The hosts table as it is now; the one of the start while the file cannot be read.
    pub(crate) fn current_hosts(&self) -> Hosts {
        let text = self
            .hosts_file
            .as_ref()
            .and_then(|path| std::fs::read_to_string(path).ok());
        text.and_then(|text| Hosts::parse(&text).ok())
            .unwrap_or_else(|| self.hosts.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "00ff10a0b0c0d0e0f00102030405060708090a0b0c0d0e0f1011121314151617";

    fn parse(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let required = [(SESSION, "k7x2pq"), (SECRET_SHA256, DIGEST)];
        Config::from_env(
            |name| {
                let mut all = vars.iter().chain(&required);
                all.find(|(known, _)| *known == name)
                    .map(|(_, value)| (*value).into())
            },
            |path| match path.to_str() {
                Some("hosts") => Ok("127.8.0.1 web\n".into()),
                Some("bad") => Ok("web\n".into()),
                _ => Err(std::io::ErrorKind::NotFound.into()),
            },
        )
    }

    #[test]
    fn the_defaults_are_those_of_a_pod() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.session.as_str(), "k7x2pq");
        assert_eq!(config.secret.to_string(), DIGEST);
        assert_eq!(config.grace, DEFAULT_GRACE);
        assert_eq!(config.grace_open, DEFAULT_GRACE_OPEN);
        assert_eq!(config.hold, DEFAULT_HOLD);
        assert_eq!(config.first_attach, FIRST_ATTACH);
        assert_eq!(config.targets, TargetPolicy::default());
        assert_eq!(config.entrance, None);
        assert_eq!(config.bind, None);
        assert_eq!(config.hosts, Hosts::default());
    }

    #[test]
    fn every_variable_is_read() {
        let config = parse(&[
            (GRACE, "3"),
            (GRACE_OPEN, "4"),
            (HOLD, "0"),
            (ENTRANCE, "127.9.0.9"),
            (ALLOW_TARGETS, "127.8.0.0/16"),
            (BIND, "127.8.0.9"),
            (HOSTS, "hosts"),
        ])
        .unwrap();
        assert_eq!(config.grace, Duration::from_secs(3));
        assert_eq!(config.grace_open, Duration::from_secs(4));
        assert_eq!(config.hold, Duration::ZERO);
        assert_eq!(config.entrance, Some("127.9.0.9".parse().unwrap()));
        assert_eq!(config.targets, TargetPolicy::parse("127.8.0.0/16").unwrap());
        assert_eq!(config.bind, Some("127.8.0.9".parse().unwrap()));
        assert_eq!(config.hosts.lookup("web").len(), 1);
    }

    #[test]
    fn an_empty_variable_is_an_absent_one() {
        let config = parse(&[(GRACE, ""), (ALLOW_TARGETS, ""), (BIND, ""), (HOSTS, "")]).unwrap();
        assert_eq!(config.grace, DEFAULT_GRACE);
        assert!(matches!(
            parse(&[(SESSION, "")]),
            Err(ConfigError::Missing(SESSION))
        ));
        assert!(matches!(
            parse(&[(SECRET_SHA256, "")]),
            Err(ConfigError::Missing(SECRET_SHA256))
        ));
    }

    #[test]
    fn each_error_names_its_variable() {
        for (name, value) in [
            (SESSION, "K7"),
            (SECRET_SHA256, "abc"),
            (SECRET_SHA256, &DIGEST.replace('f', "g")),
            (GRACE, "30s"),
            (GRACE, "-1"),
            (GRACE_OPEN, "2m"),
            (HOLD, "0.5"),
            (ENTRANCE, "on"),
            (ENTRANCE, "0.0.0.0"),
            (ENTRANCE, "10.1.2.3"),
            (ALLOW_TARGETS, "web"),
            (BIND, "web"),
        ] {
            let error = parse(&[(name, value)]).unwrap_err();
            assert!(error.to_string().contains(name), "{name}={value}: {error}");
        }
        assert!(matches!(
            parse(&[(HOSTS, "none")]),
            Err(ConfigError::ReadHosts { .. })
        ));
        assert!(matches!(
            parse(&[(HOSTS, "bad")]),
            Err(ConfigError::ParseHosts { .. })
        ));
    }
}
