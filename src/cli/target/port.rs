//! The ports of `forward`: `[LOCAL:]REMOTE[/tcp|/udp]`. Pure.
//!
//! | typed | local port | remote port |
//! |---|---|---|
//! | `5432` | 5432 | 5432 |
//! | `8080:80` | 8080 | 80 |
//! | `:80`, `0:80` | a free one | 80 |
//! | `http` | that of `http` | the port named `http` |
//! | `53/udp` | 53, UDP | 53, UDP |

use std::fmt;
use std::str::FromStr;

use super::names;
use crate::cli::port::Protocol;

/// The port on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalPort {
    /// The remote one's number.
    Same,
    /// One that is free.
    Any,
    /// This one.
    Number(u16),
}

/// The port of the target.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RemotePort {
    /// Never 0.
    Number(u16),
    /// What the Service or the container calls it.
    Name(String),
}

/// One port to forward.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ForwardPort {
    /// Where to listen.
    pub local: LocalPort,
    /// What to reach.
    pub remote: RemotePort,
    /// What it carries.
    pub protocol: Protocol,
}

/// Why a text is not a [`ForwardPort`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForwardPortError {
    /// The local part.
    #[error("`{0}` is not a local port (1 to 65535, or nothing or 0 for any free one)")]
    Local(String),
    /// The remote part.
    #[error("`{0}` is neither a port (1 to 65535) nor the name of one (letters, digits and `-`)")]
    Remote(String),
    /// After the `/`.
    #[error("`{0}` is not a protocol: `tcp` or `udp`")]
    Protocol(String),
}

impl FromStr for ForwardPort {
    type Err = ForwardPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (ports, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, protocol)) => (ports, parse_protocol(protocol)?),
        };
        let (local, remote) = match ports.split_once(':') {
            None => (LocalPort::Same, ports),
            Some(("" | "0", remote)) => (LocalPort::Any, remote),
            Some((local, remote)) => {
                let number = number(local).ok_or_else(|| ForwardPortError::Local(local.to_owned()))?;
                (LocalPort::Number(number), remote)
            }
        };
        Ok(Self {
            local,
            remote: remote.parse()?,
            protocol,
        })
    }
}

impl FromStr for RemotePort {
    type Err = ForwardPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(number) = number(text) {
            return Ok(Self::Number(number));
        }
        if is_port_name(text) {
            return Ok(Self::Name(text.to_owned()));
        }
        Err(ForwardPortError::Remote(text.to_owned()))
    }
}

fn parse_protocol(text: &str) -> Result<Protocol, ForwardPortError> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err(ForwardPortError::Protocol(text.to_owned())),
    }
}

/// Whether a port may be called so. A container's port name has at most 15 characters, a Service's may be any
/// label; all digits would be a number.
pub(super) fn is_port_name(text: &str) -> bool {
    names::is_label(text) && text.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// A port from 1 on, in digits only.
fn number(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

impl fmt::Display for RemotePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for ForwardPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.local {
            LocalPort::Same => {}
            LocalPort::Any => f.write_str(":")?,
            LocalPort::Number(number) => write!(f, "{number}:")?,
        }
        self.remote.fmt(f)?;
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn port(local: LocalPort, remote: RemotePort, protocol: Protocol) -> ForwardPort {
        ForwardPort {
            local,
            remote,
            protocol,
        }
    }

    #[test]
    fn every_form() {
        let number = RemotePort::Number;
        let name = |name: &str| RemotePort::Name(name.to_owned());
        for (text, expected) in [
            ("80", port(LocalPort::Same, number(80), Protocol::Tcp)),
            (
                "8080:80",
                port(LocalPort::Number(8080), number(80), Protocol::Tcp),
            ),
            (":5000", port(LocalPort::Any, number(5000), Protocol::Tcp)),
            ("0:5000", port(LocalPort::Any, number(5000), Protocol::Tcp)),
            ("http", port(LocalPort::Same, name("http"), Protocol::Tcp)),
            (
                "8080:http/tcp",
                port(LocalPort::Number(8080), name("http"), Protocol::Tcp),
            ),
            ("53/udp", port(LocalPort::Same, number(53), Protocol::Udp)),
            (":dns/UDP", port(LocalPort::Any, name("dns"), Protocol::Udp)),
            (
                "tcp-prometheus-servicemonitor",
                port(
                    LocalPort::Same,
                    name("tcp-prometheus-servicemonitor"),
                    Protocol::Tcp,
                ),
            ),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_does_not_parse_is_refused() {
        for text in [
            "", "0", "65536", ":", "80:", "a:80", "70000:80", "80:70000", "80/sctp", "80/", "+80", "-a", "A",
            "1:2:3", ":0", "a_b", "80 ",
        ] {
            assert!(text.parse::<ForwardPort>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_back(
            local in prop_oneof![
                Just(LocalPort::Same), Just(LocalPort::Any), (1u16..).prop_map(LocalPort::Number),
            ],
            remote in prop_oneof![
                (1u16..).prop_map(RemotePort::Number),
                "[0-9]{0,3}[a-z][a-z0-9-]{0,10}[a-z0-9]".prop_map(RemotePort::Name),
            ],
            udp in any::<bool>(),
        ) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let port = ForwardPort { local, remote, protocol };
            prop_assert_eq!(port.to_string().parse::<ForwardPort>(), Ok(port));
        }

        #[test]
        fn nothing_panics(text in ".{0,30}") {
            drop(text.parse::<ForwardPort>());
        }
    }
}
