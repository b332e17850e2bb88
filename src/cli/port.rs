//! The ports of `expose`: what the cluster dials and which local program answers. Pure.
//!
//! | typed | Service port | local program |
//! |---|---|---|
//! | `1234` | 1234 | localhost:1234 |
//! | `80:1234` | 80 | localhost:1234 |
//! | `80:db.lan:5432` | 80 | db.lan:5432 |
//! | `80:[::1]:5432` | 80 | `[::1]:5432` |
//! | `db.lan:5432` | 5432 | db.lan:5432 |
//! | `80:unix:/run/app.sock` | 80 | the unix socket /run/app.sock |
//! | `53:5353/udp` | 53, UDP | localhost:5353, UDP |
//!
//! `/tcp` or `/udp` stands at the end and is always the protocol: a socket whose path ends that way is written with
//! `/tcp` behind it. A host called `unix` cannot be named; its address can.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use tunnel_wire::Protocol;

/// One exposed port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// The Service's port.
    pub service: u16,
    /// What its connections go through.
    pub protocol: Protocol,
    /// Who answers.
    pub program: Program,
}

/// A program on the laptop, or one that the laptop can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// By TCP or UDP.
    Port {
        /// A name or an IP address without brackets.
        host: String,
        /// Its port.
        port: u16,
    },
    /// By a unix socket.
    Unix(PathBuf),
}

/// Why a text is not a [`PortSpec`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Not a number from 1 to 65535.
    #[error("`{0}` is not a port (1 to 65535)")]
    NotAPort(String),
    /// The host part is empty or has characters no host has.
    #[error("`{0}` is not a host name or address")]
    NotAHost(String),
    /// An IPv6 address without brackets, or too many parts.
    #[error(
        "`{0}` is not PORT, SERVICEPORT:LOCALPORT, SERVICEPORT:HOST:LOCALPORT or SERVICEPORT:unix:PATH (an IPv6 address goes in brackets)"
    )]
    Form(String),
    /// Something else after the last slash, or a protocol in the middle.
    #[error("`{0}`: a protocol is /tcp or /udp and stands at the end, as in 53:5353/udp")]
    Protocol(String),
    /// A unix socket has no number that the Service could take.
    #[error("which service port leads to {}? type `SERVICEPORT:{}`, such as `80:{}`", .0, .0, .0)]
    NoServicePort(String),
    /// No path, or one that no socket can have.
    #[error("`{path}` is not the path of a unix socket: {reason}")]
    NotAPath {
        /// What stands there.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Datagrams for a unix socket.
    #[error(
        "`{0}`: a unix socket takes no UDP; leave `/udp` out (a socket whose path ends in /udp: `{0}/tcp`)"
    )]
    UnixUdp(String),
}

/// What comes before the path of a unix socket.
const UNIX: &str = "unix:";

impl FromStr for PortSpec {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with(UNIX) {
            return Err(PortError::NoServicePort(text.to_owned()));
        }
        if let Some((service, rest)) = text.split_once(':')
            && let Some(path) = rest.strip_prefix(UNIX)
        {
            return Ok(Self {
                service: port(service)?,
                protocol: Protocol::Tcp,
                program: Program::Unix(socket(path, text)?),
            });
        }
        let (ports, protocol) = match text.rsplit_once('/') {
            Some((ports, word)) => (
                ports,
                Protocol::from_word(word).ok_or_else(|| PortError::Protocol(text.to_owned()))?,
            ),
            None => (text, Protocol::Tcp),
        };
        if ports.contains('/') {
            return Err(PortError::Protocol(text.to_owned()));
        }
        let (service, host, port) = numbers(ports)?;
        let program = Program::Port { host, port };
        Ok(Self {
            service,
            protocol,
            program,
        })
    }
}

/// Service port, host and local port of a text without a protocol.
fn numbers(text: &str) -> Result<(u16, String, u16), PortError> {
    let localhost = || "localhost".to_owned();
    let (front, local) = text
        .rsplit_once(':')
        .map_or((None, text), |(front, local)| (Some(front), local));
    let local = port(local)?;
    let Some(front) = front else {
        return Ok((local, localhost(), local));
    };
    if let Ok(service) = port(front) {
        return Ok((service, localhost(), local));
    }
    let (service, name) = if let Some(start) = front.find('[') {
        (
            front[..start].strip_suffix(':').unwrap_or(&front[..start]),
            &front[start..],
        )
    } else {
        front.split_once(':').unwrap_or(("", front))
    };
    let service = if service.is_empty() { local } else { port(service)? };
    Ok((service, host(name, text)?, local))
}

fn port(text: &str) -> Result<u16, PortError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ => Err(PortError::NotAPort(text.to_owned())),
    }
}

fn host(name: &str, whole: &str) -> Result<String, PortError> {
    if let Some(inner) = name.strip_prefix('[') {
        let address = inner
            .strip_suffix(']')
            .and_then(|inner| inner.parse::<std::net::Ipv6Addr>().ok());
        return address
            .map(|ip| ip.to_string())
            .ok_or_else(|| PortError::NotAHost(name.to_owned()));
    }
    if name.contains(':') {
        return Err(PortError::Form(whole.to_owned()));
    }
    let valid = !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && !name.starts_with(['-', '.']);
    // All digits: somebody's port that is out of range, not a host.
    if valid && !name.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(name.to_owned())
    } else {
        Err(PortError::NotAHost(name.to_owned()))
    }
}

/// The path of a unix socket; `whole` is what it stands in.
fn socket(text: &str, whole: &str) -> Result<PathBuf, PortError> {
    let path = match text.rsplit_once('/') {
        Some((path, word)) => match Protocol::from_word(word) {
            Some(Protocol::Tcp) => path,
            Some(Protocol::Udp) => return Err(PortError::UnixUdp(whole.to_owned())),
            None => text,
        },
        None => text,
    };
    let wrong = |reason: String| PortError::NotAPath {
        path: path.to_owned(),
        reason,
    };
    if path.is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    check_socket(Path::new(path)).map_err(|error| wrong(error.to_string()))?;
    Ok(path.into())
}

/// A path fits into an address, of which there are about a hundred bytes, or no dial can succeed.
#[cfg(unix)]
fn check_socket(path: &Path) -> std::io::Result<()> {
    std::os::unix::net::SocketAddr::from_pathname(path).map(drop)
}

#[cfg(not(unix))]
fn check_socket(_: &Path) -> std::io::Result<()> {
    Err(std::io::Error::other("this system has no unix sockets"))
}

impl PortSpec {
    /// The local program as messages name it: `host:port`, with brackets where needed, or `unix:PATH`.
    #[must_use]
    pub fn local_address(&self) -> String {
        self.program.to_string()
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Port { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl fmt::Display for PortSpec {
    /// Parses back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.program)?;
        let looks_like_protocol = match &self.program {
            Program::Unix(path) => {
                let text = path.to_string_lossy();
                let last = text.rsplit_once('/').map(|(_, word)| word);
                last.and_then(Protocol::from_word).is_some()
            }
            Program::Port { .. } => false,
        };
        if self.protocol != Protocol::Tcp || looks_like_protocol {
            write!(f, "/{}", self.protocol)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(service: u16, host: &str, port: u16) -> PortSpec {
        let host = host.to_owned();
        PortSpec {
            service,
            protocol: Protocol::Tcp,
            program: Program::Port { host, port },
        }
    }

    fn udp(service: u16, host: &str, port: u16) -> PortSpec {
        PortSpec {
            protocol: Protocol::Udp,
            ..spec(service, host, port)
        }
    }

    #[test]
    fn every_form() {
        for (text, expected) in [
            ("1234", spec(1234, "localhost", 1234)),
            ("1234/tcp", spec(1234, "localhost", 1234)),
            ("80:1234", spec(80, "localhost", 1234)),
            ("80:db.lan:5432", spec(80, "db.lan", 5432)),
            ("80:127.0.0.1:5432", spec(80, "127.0.0.1", 5432)),
            ("80:[::1]:5432", spec(80, "::1", 5432)),
            ("[::1]:5432", spec(5432, "::1", 5432)),
            ("db.lan:5432", spec(5432, "db.lan", 5432)),
            ("5353/udp", udp(5353, "localhost", 5353)),
            ("53:5353/udp", udp(53, "localhost", 5353)),
            ("53:[::1]:5353/udp", udp(53, "::1", 5353)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_unix_socket_has_a_service_port_and_a_path() {
        for (text, path) in [
            ("80:unix:/run/app.sock", "/run/app.sock"),
            ("80:unix:app.sock", "app.sock"),
            ("80:unix:/run/a:b c.sock", "/run/a:b c.sock"),
            ("80:unix:/run/app.sock/tcp", "/run/app.sock"),
            ("80:unix:/run/udp/tcp", "/run/udp"),
        ] {
            let parsed: PortSpec = text.parse().unwrap();
            assert_eq!(parsed.program, Program::Unix(path.into()), "{text}");
            assert_eq!((parsed.service, parsed.protocol), (80, Protocol::Tcp));
        }
        let error = |text: &str| text.parse::<PortSpec>().unwrap_err().to_string();
        assert!(error("unix:/run/app.sock").contains("`80:unix:/run/app.sock`"));
        assert!(error("80:unix:").contains("it is empty"));
        assert!(error("80:unix:/tcp").contains("it is empty"));
        assert!(error("x:unix:/run/app.sock").contains("`x` is not a port"));
        assert!(error("80:unix:/run/app.sock/udp").contains("takes no UDP"));
        assert!(error(&format!("80:unix:/{}", "x".repeat(200))).contains("not the path of a unix socket"));
    }

    #[test]
    fn what_does_not_parse_is_refused() {
        for text in [
            "",
            "0",
            "65536",
            "80:",
            ":80",
            "80:0",
            "a",
            "80:a",
            "::1:80",
            "80:-x:1",
            "70000:80",
            "80:[::1:5432",
            "+80",
            "80:x y:1",
            "1:2:3:4",
            "/udp",
            "80/",
            "80/UDP",
        ] {
            assert!(text.parse::<PortSpec>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_protocol_stands_at_the_end() {
        for text in [
            "53/udp:5353/udp",
            "53/udp:5353",
            "53/sctp",
            "53/udp/udp",
            "53:a/b:1/udp",
        ] {
            let error = PortError::Protocol(text.to_owned());
            assert_eq!(text.parse::<PortSpec>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_back(service in 1u16.., local in 1u16.., v6 in any::<bool>(), datagrams in any::<bool>()) {
            let host = if v6 { "fd00::1" } else { "a-b.c" };
            let spec = if datagrams { udp(service, host, local) } else { spec(service, host, local) };
            prop_assert_eq!(spec.to_string().parse::<PortSpec>(), Ok(spec));
        }

        #[cfg(unix)]
        #[test]
        fn a_socket_that_is_printed_parses_back(service in 1u16.., path in "/?[^\0]{1,20}(/tcp|/udp|/)?") {
            let spec = PortSpec { service, protocol: Protocol::Tcp, program: Program::Unix(path.into()) };
            prop_assert_eq!(spec.to_string().parse::<PortSpec>(), Ok(spec));
        }

        #[test]
        fn nothing_panics(text in "([0-9]{1,5}:(unix:)?)?.{0,40}") {
            drop(text.parse::<PortSpec>());
        }
    }
}
