//! An address as SOCKS5 writes it: a type, a name or an IP address, a port (RFC 1928, section 5).
//!
//! Requests and the headers of UDP datagrams carry the same bytes. Pure: bytes in, an address out; whether
//! the address can be a target is asked by who needs one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::listener::target::{Target, TargetError};

const V4: u8 = 1;
const NAME: u8 = 3;
const V6: u8 = 4;

/// What was written. All zero is common where nothing is meant, so nothing is refused here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// A name of any form, or an IP address.
    pub(crate) host: String,
    /// May be 0.
    pub(crate) port: u16,
}

/// Why bytes are no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    /// Neither IPv4, nor IPv6, nor a name.
    #[error("unknown address type")]
    Type,
    /// A name that is not text.
    #[error("the name is not text")]
    Text,
}

impl Address {
    /// Reads the address at the start of `bytes`, and how many of them it takes; `None` when more are needed.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, AddressError> {
        let Some((&kind, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        let (host, rest) = match kind {
            V4 => match rest.split_first_chunk::<4>() {
                Some((octets, rest)) => (IpAddr::V4(Ipv4Addr::from(*octets)).to_string(), rest),
                None => return Ok(None),
            },
            V6 => match rest.split_first_chunk::<16>() {
                Some((octets, rest)) => (IpAddr::V6(Ipv6Addr::from(*octets)).to_string(), rest),
                None => return Ok(None),
            },
            NAME => {
                let Some((name, rest)) = rest
                    .split_first()
                    .and_then(|(&length, rest)| rest.split_at_checked(usize::from(length)))
                else {
                    return Ok(None);
                };
                let name = std::str::from_utf8(name).map_err(|_| AddressError::Text)?;
                (name.to_owned(), rest)
            }
            _ => return Err(AddressError::Type),
        };
        let Some((port, rest)) = rest.split_first_chunk::<2>() else {
            return Ok(None);
        };
        let port = u16::from_be_bytes(*port);
        Ok(Some((Self { host, port }, bytes.len() - rest.len())))
    }

    /// An IP address and a port, written.
    pub(crate) fn bytes(address: SocketAddr) -> Vec<u8> {
        let port = address.port().to_be_bytes();
        match address.ip() {
            IpAddr::V4(ip) => [&[V4], &ip.octets()[..], &port].concat(),
            IpAddr::V6(ip) => [&[V6], &ip.octets()[..], &port].concat(),
        }
    }

    /// The target it names.
    pub(crate) fn target(&self) -> Result<Target, TargetError> {
        Target::new(&self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Longest address, in bytes: type, length, 255 bytes of a name, port.
    const MAX_LENGTH: usize = 1 + 1 + 255 + 2;

    fn address(host: &str, port: u16) -> Address {
        Address {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn reads_the_three_types_and_leaves_what_follows() {
        let v6 = [
            &[4][..],
            &"fd00::7".parse::<Ipv6Addr>().unwrap().octets(),
            &[0, 80],
        ]
        .concat();
        for (bytes, expected) in [
            (&[1, 10, 0, 0, 7, 0, 80][..], address("10.0.0.7", 80)),
            (&v6, address("fd00::7", 80)),
            (b"\x03\x03web\x1f\x90", address("web", 8080)),
            (&[1, 0, 0, 0, 0, 0, 0], address("0.0.0.0", 0)),
            (&[3, 0, 0, 1], address("", 1)),
        ] {
            let length = bytes.len();
            assert_eq!(Address::parse(bytes), Ok(Some((expected.clone(), length))));
            let longer = [bytes, b"data"].concat();
            assert_eq!(Address::parse(&longer), Ok(Some((expected, length))));
            for cut in 0..length {
                assert_eq!(Address::parse(&bytes[..cut]), Ok(None), "{cut} of {bytes:?}");
            }
        }
    }

    #[test]
    fn refuses_other_types_and_names_that_are_no_text() {
        assert_eq!(Address::parse(&[2]), Err(AddressError::Type));
        assert_eq!(Address::parse(&[3, 1, 0xff, 0, 80]), Err(AddressError::Text));
        assert_eq!(address("web", 0).target(), Err(TargetError::Port));
        assert_eq!(address("we b", 80).target(), Err(TargetError::Host));
    }

    proptest! {
        #[test]
        fn never_panics_and_always_decides(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let parsed = Address::parse(&bytes);
            prop_assert!(bytes.len() < MAX_LENGTH || parsed != Ok(None));
        }
    }
}
