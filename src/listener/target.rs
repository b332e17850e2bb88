//! Where a connection shall go: a host as the user wrote it, and a port.
//!
//! The host is not looked up here and never changed: names are resolved by the agent, in the cluster. The
//! syntax is checked, so that nothing but a name or an address can reach the wire. Used by every protocol
//! of the listener.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Longest name DNS can carry, without the final dot.
const MAX_NAME: usize = 253;

/// Longest label of a name.
const MAX_LABEL: usize = 63;

/// A host and a port that a stream shall be opened to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// A name or an IP literal; IPv6 without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

/// Why a text names no target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Neither a DNS name nor an IP address.
    #[error("the host is neither a name nor an address")]
    Host,
    /// A port outside 1-65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// No port, where one is needed.
    #[error("the port is missing")]
    NoPort,
}

impl Target {
    /// A target of a host without brackets (name or IP literal) and a port.
    ///
    /// # Errors
    /// The host is neither a name nor an address, or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, TargetError> {
        if port == 0 {
            return Err(TargetError::Port);
        }
        if host.parse::<IpAddr>().is_err() && !is_name(host) {
            return Err(TargetError::Host);
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }

    /// Parses `host`, `host:port`, `[v6]` or `[v6]:port`, as in a Host header or a CONNECT line.
    ///
    /// # Errors
    /// Says which part is wrong; without `default_port` a missing port is an error too.
    pub fn parse(authority: &str, default_port: Option<u16>) -> Result<Self, TargetError> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(TargetError::Host)?;
                host.parse::<Ipv6Addr>().map_err(|_| TargetError::Host)?;
                let port = match port {
                    "" => None,
                    port => Some(port.strip_prefix(':').ok_or(TargetError::Port)?),
                };
                (host, port)
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if !authority.starts_with('[') && host.contains(':') {
            return Err(TargetError::Host);
        }
        let port = match port {
            // `host:` with nothing behind it means the default port (RFC 3986).
            None | Some("") => default_port.ok_or(TargetError::NoPort)?,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| TargetError::Port)?
            }
            Some(_) => return Err(TargetError::Port),
        };
        Self::new(host, port)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Whether the text is a DNS name (letters, digits, `-`, `_`), with or without its final dot.
fn is_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.len() <= MAX_NAME
        && host.split('.').all(|label| {
            (1..=MAX_LABEL).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_addresses() {
        for (text, host, port, shown) in [
            ("web", "web", 80, "web:80"),
            ("web:", "web", 80, "web:80"),
            (
                "web.dev.svc.cluster.local.:8081",
                "web.dev.svc.cluster.local.",
                8081,
                "web.dev.svc.cluster.local.:8081",
            ),
            ("My_Pod-0.web:1", "My_Pod-0.web", 1, "My_Pod-0.web:1"),
            ("10.0.0.7:65535", "10.0.0.7", 65535, "10.0.0.7:65535"),
            ("[::1]", "::1", 80, "[::1]:80"),
            ("[fd00::a]:443", "fd00::a", 443, "[fd00::a]:443"),
        ] {
            let target = Target::parse(text, Some(80)).unwrap();
            assert_eq!((target.host.as_str(), target.port), (host, port), "{text}");
            assert_eq!(target.to_string(), shown);
        }
    }

    #[test]
    fn refuses_what_is_no_target() {
        let long = "a".repeat(64);
        let longer = ["abcdefg"; 40].join(".");
        for (text, error) in [
            ("", TargetError::Host),
            (":80", TargetError::Host),
            (".", TargetError::Host),
            ("a..b", TargetError::Host),
            ("user@web:80", TargetError::Host),
            ("we b:80", TargetError::Host),
            ("w\u{e4}b:80", TargetError::Host),
            ("fd00::a:443", TargetError::Port),
            ("[::1", TargetError::Host),
            ("[web]:80", TargetError::Host),
            ("[fe80::1%eth0]:80", TargetError::Host),
            ("[::1]80", TargetError::Port),
            ("web:0", TargetError::Port),
            ("web:65536", TargetError::Port),
            ("web:+80", TargetError::Port),
            ("web:80:80", TargetError::Port),
            ("web", TargetError::NoPort),
            (long.as_str(), TargetError::Host),
            (longer.as_str(), TargetError::Host),
        ] {
            let default = (error != TargetError::NoPort).then_some(80);
            assert_eq!(Target::parse(text, default), Err(error), "{text}");
        }
    }
}
