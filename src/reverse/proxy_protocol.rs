//! The PROXY protocol's header: who called whom, told to the local program before the caller's first byte.
//!
//! HAProxy's specification, <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, sections 2.1 (version 1,
//! a line of text) and 2.2 (version 2, binary). Pure: addresses in, bytes out; `reverse` sends them.
//!
//! The caller's address is the one the agent's pod saw. The address called is the Service's, since that is what
//! callers dial; the pod does not tell. When it is not known, or is of another family than the caller's (who then
//! dialled something else), a header cannot name both, and must not name one: version 1 says `UNKNOWN`, version 2
//! the unspecified family under the command PROXY, and the program falls back on the addresses of its connection.
//! Not `LOCAL`: that is for connections of the proxy's own, and these are somebody's.

use std::net::{IpAddr, SocketAddr};

/// The version of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Section 2.2: what no other protocol begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;
/// Families of version 2, over a stream.
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

impl ProxyProtocol {
    /// The header of a connection from `caller` to `called`.
    #[must_use]
    pub fn header(self, caller: SocketAddr, called: Option<SocketAddr>) -> Vec<u8> {
        // A listener of both families sees IPv4 callers as mapped addresses.
        let caller = canonical(caller);
        let called = called
            .map(canonical)
            .filter(|called| called.is_ipv4() == caller.is_ipv4());
        match (self, called) {
            (Self::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
            (Self::V1, Some(called)) => line(caller, called),
            (Self::V2, None) => binary(UNSPEC, &[]),
            (Self::V2, Some(called)) => {
                let family = if caller.is_ipv4() { TCP4 } else { TCP6 };
                let mut addresses = Vec::with_capacity(36);
                for ip in [caller.ip(), called.ip()] {
                    match ip {
                        IpAddr::V4(ip) => addresses.extend(ip.octets()),
                        IpAddr::V6(ip) => addresses.extend(ip.octets()),
                    }
                }
                for port in [caller.port(), called.port()] {
                    addresses.extend(port.to_be_bytes());
                }
                binary(family, &addresses)
            }
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn line(caller: SocketAddr, called: SocketAddr) -> Vec<u8> {
    let family = if caller.is_ipv4() { "TCP4" } else { "TCP6" };
    format!(
        "PROXY {family} {} {} {} {}\r\n",
        caller.ip(),
        called.ip(),
        caller.port(),
        called.port()
    )
    .into_bytes()
}

fn binary(family: u8, addresses: &[u8]) -> Vec<u8> {
    let length = u16::try_from(addresses.len()).unwrap_or(0);
    let mut header = SIGNATURE.to_vec();
    header.extend([PROXY, family]);
    header.extend(length.to_be_bytes());
    header.extend(addresses);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: ProxyProtocol, caller: &str, called: Option<&str>) -> Vec<u8> {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        version.header(address(caller), called.map(address))
    }

    #[test]
    fn version_1_is_a_line() {
        for (caller, called, expected) in [
            (
                "10.244.0.7:51234",
                Some("10.96.0.10:80"),
                "PROXY TCP4 10.244.0.7 10.96.0.10 51234 80\r\n",
            ),
            (
                "[fd00:10:244::7]:51234",
                Some("[fd00:10:96::a]:443"),
                "PROXY TCP6 fd00:10:244::7 fd00:10:96::a 51234 443\r\n",
            ),
            (
                "[::ffff:10.244.0.7]:51234",
                Some("10.96.0.10:80"),
                "PROXY TCP4 10.244.0.7 10.96.0.10 51234 80\r\n",
            ),
            ("10.244.0.7:51234", None, "PROXY UNKNOWN\r\n"),
            (
                "[fd00:10:244::7]:51234",
                Some("10.96.0.10:80"),
                "PROXY UNKNOWN\r\n",
            ),
        ] {
            let bytes = header(ProxyProtocol::V1, caller, called);
            assert_eq!(String::from_utf8(bytes).unwrap(), expected);
        }
    }

    #[test]
    fn the_longest_line_fits_the_specifications_buffer() {
        let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        assert!(header(ProxyProtocol::V1, longest, Some(longest)).len() <= 107);
    }

    #[test]
    fn version_2_over_ipv4() {
        let bytes = header(ProxyProtocol::V2, "10.244.0.7:51234", Some("10.96.0.10:80"));
        let expected = [
            0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, // signature
            0x21, 0x11, 0x00, 0x0c, // version 2, PROXY; TCP over IPv4; 12 bytes follow
            10, 244, 0, 7, 10, 96, 0, 10, // the two addresses
            0xc8, 0x22, 0x00, 0x50, // the two ports
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn version_2_over_ipv6() {
        let bytes = header(
            ProxyProtocol::V2,
            "[fd00:10:244::7]:51234",
            Some("[fd00:10:96::a]:443"),
        );
        let expected = [
            0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, // signature
            0x21, 0x21, 0x00, 0x24, // version 2, PROXY; TCP over IPv6; 36 bytes follow
            0xfd, 0x00, 0x00, 0x10, 0x02, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x07, // caller
            0xfd, 0x00, 0x00, 0x10, 0x00, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a, // called
            0xc8, 0x22, 0x01, 0xbb, // the two ports
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn version_2_without_an_address_called() {
        let expected = *b"\x0d\x0a\x0d\x0a\x00\x0d\x0aQUIT\x0a\x21\x00\x00\x00";
        assert_eq!(header(ProxyProtocol::V2, "10.244.0.7:51234", None), expected);
        let other_family = header(ProxyProtocol::V2, "[fd00::7]:51234", Some("10.96.0.10:80"));
        assert_eq!(other_family, expected);
    }
}
