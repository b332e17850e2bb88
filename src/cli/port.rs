//! The ports of `expose`: what the cluster dials and which local program answers. Pure.
//!
//! | typed | Service port | local program |
//! |---|---|---|
//! | `1234` | 1234 | localhost:1234 |
//! | `80:1234` | 80 | localhost:1234 |
//! | `80:db.lan:5432` | 80 | db.lan:5432 |
//! | `80:[::1]:5432` | 80 | [::1]:5432 |
//! | `db.lan:5432` | 5432 | db.lan:5432 |

use std::fmt;
use std::str::FromStr;

/// What a port carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub enum Protocol {
    /// Streams of bytes.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One exposed port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// The Service's port.
    pub service: u16,
    /// The local program's host: a name or an IP address without brackets.
    pub host: String,
    /// The local program's port.
    pub local: u16,
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
        "`{0}` is not PORT, SERVICEPORT:LOCALPORT or SERVICEPORT:HOST:LOCALPORT (an IPv6 address goes in brackets)"
    )]
    Form(String),
}

impl FromStr for PortSpec {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (front, local) = text
            .rsplit_once(':')
            .map_or((None, text), |(front, local)| (Some(front), local));
        let local = port(local)?;
        let Some(front) = front else {
            return Ok(Self {
                service: local,
                host: "localhost".to_owned(),
                local,
            });
        };
        if let Ok(service) = port(front) {
            return Ok(Self {
                service,
                host: "localhost".to_owned(),
                local,
            });
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
        Ok(Self {
            service,
            host: host(name, text)?,
            local,
        })
    }
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

impl PortSpec {
    /// `host:port` of the local program, with brackets where needed.
    #[must_use]
    pub fn local_address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.local)
        } else {
            format!("{}:{}", self.host, self.local)
        }
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.local_address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(service: u16, host: &str, local: u16) -> PortSpec {
        let host = host.to_owned();
        PortSpec { service, host, local }
    }

    #[test]
    fn every_form() {
        for (text, expected) in [
            ("1234", spec(1234, "localhost", 1234)),
            ("80:1234", spec(80, "localhost", 1234)),
            ("80:db.lan:5432", spec(80, "db.lan", 5432)),
            ("80:127.0.0.1:5432", spec(80, "127.0.0.1", 5432)),
            ("80:[::1]:5432", spec(80, "::1", 5432)),
            ("[::1]:5432", spec(5432, "::1", 5432)),
            ("db.lan:5432", spec(5432, "db.lan", 5432)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
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
        ] {
            assert!(text.parse::<PortSpec>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_back(service in 1u16.., local in 1u16.., v6 in any::<bool>()) {
            let host = if v6 { "fd00::1" } else { "a-b.c" };
            let spec = PortSpec { service, host: host.to_owned(), local };
            prop_assert_eq!(spec.to_string().parse::<PortSpec>(), Ok(spec));
        }

        #[test]
        fn nothing_panics(text in ".{0,40}") {
            drop(text.parse::<PortSpec>());
        }
    }
}
