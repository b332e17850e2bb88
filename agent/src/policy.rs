//! Which addresses the agent may dial: a pure decision about one resolved address.
//!
//! The agent shares its network namespace with whatever a mesh injects beside it and sees the node's link;
//! nothing there was meant for whoever reaches the plugin's listener. So loopback, unspecified, link-local,
//! multicast and broadcast addresses are refused unless `TUNNEL_ALLOW_TARGETS` names them, in every spelling
//! an IPv4 address has inside IPv6. Architecture invariant: `dial` asks after resolving, for every address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The well-known NAT64 prefix, `64:ff9b::/96`: the translator dials the IPv4 address in its last 32 bits.
const NAT64_PREFIX: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// Decides which addresses may be dialled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetPolicy {
    allowed: Vec<Network>,
}

/// Why an address may not be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The pod itself, 127.0.0.0/8 or `::1`.
    #[error("a loopback address")]
    Loopback,
    /// 0.0.0.0/8 or `::`, which Linux connects to loopback.
    #[error("an unspecified address")]
    Unspecified,
    /// 169.254.0.0/16 or `fe80::/10`: the node and, in clouds, its metadata.
    #[error("a link-local address")]
    LinkLocal,
    /// 224.0.0.0/4, `ff00::/8` or the broadcast address.
    #[error("a multicast or broadcast address")]
    NotUnicast,
}

/// One entry of the allow list: an address, or a range of them in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// The text is neither an IP address nor a range in CIDR notation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither an IP address nor a range such as 10.0.0.0/8")]
pub struct ParseNetworkError(String);

impl TargetPolicy {
    /// A policy that, besides ordinary addresses, lets these through.
    pub fn new(allowed: Vec<Network>) -> Self {
        Self { allowed }
    }

    /// Parses a comma separated list of addresses and ranges; empty entries count as nothing.
    pub fn parse(list: &str) -> Result<Self, ParseNetworkError> {
        list.split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Self::new)
    }

    /// May `address` be dialled?
    pub fn check(&self, address: IpAddr) -> Result<(), Denied> {
        let address = plain(address);
        match denied(address) {
            Some(_) if self.allowed.iter().any(|network| network.contains(address)) => Ok(()),
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || ParseNetworkError(text.into());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let typed: IpAddr = address.parse().map_err(|_| invalid())?;
        let address = plain(typed);
        let bits = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => {
                let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
                // A range typed as ::ffff:127.0.0.0/104 counts from the IPv6 form's first bit.
                prefix
                    .checked_sub(bits(typed) - bits(address))
                    .ok_or_else(invalid)?
            }
            None => bits(address),
        };
        if prefix > bits(address) {
            return Err(invalid());
        }
        Ok(Self { address, prefix })
    }
}

/// The address that is really reached: an IPv4 address where the IPv6 one only wraps it.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return IpAddr::V4(v4);
    }
    let [prefix @ .., high, low] = v6.segments();
    // ::a.b.c.d, the deprecated "compatible" form; `::` and `::1` are addresses of their own.
    let compatible = prefix == [0; 6] && high != 0;
    if compatible || prefix == NAT64_PREFIX {
        return IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    }
    address
}

fn denied(address: IpAddr) -> Option<Denied> {
    match address {
        IpAddr::V4(address) => denied_v4(address),
        IpAddr::V6(address) => denied_v6(address),
    }
}

fn denied_v4(address: Ipv4Addr) -> Option<Denied> {
    if address.is_loopback() {
        Some(Denied::Loopback)
    } else if address.octets()[0] == 0 {
        Some(Denied::Unspecified)
    } else if address.is_link_local() {
        Some(Denied::LinkLocal)
    } else if address.is_multicast() || address.is_broadcast() {
        Some(Denied::NotUnicast)
    } else {
        None
    }
}

fn denied_v6(address: Ipv6Addr) -> Option<Denied> {
    if address.is_loopback() {
        Some(Denied::Loopback)
    } else if address.is_unspecified() {
        Some(Denied::Unspecified)
    } else if address.is_unicast_link_local() {
        Some(Denied::LinkLocal)
    } else if address.is_multicast() {
        Some(Denied::NotUnicast)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(allowed: &str, address: &str) -> Option<Denied> {
        TargetPolicy::parse(allowed)
            .unwrap()
            .check(address.parse().unwrap())
            .err()
    }

    #[test]
    fn ordinary_addresses_pass() {
        for address in [
            "10.96.0.1",
            "192.168.1.1",
            "1.1.1.1",
            "fd00::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
        ] {
            assert_eq!(check("", address), None, "{address}");
        }
    }

    #[test]
    fn addresses_of_the_pod_and_its_link_are_denied_in_every_spelling() {
        for (address, reason) in [
            ("127.0.0.1", Denied::Loopback),
            ("127.255.255.254", Denied::Loopback),
            ("::1", Denied::Loopback),
            ("::ffff:127.0.0.1", Denied::Loopback),
            ("::127.0.0.1", Denied::Loopback),
            ("64:ff9b::7f00:1", Denied::Loopback),
            ("0.0.0.0", Denied::Unspecified),
            ("0.1.2.3", Denied::Unspecified),
            ("::", Denied::Unspecified),
            ("::ffff:0.0.0.0", Denied::Unspecified),
            ("169.254.169.254", Denied::LinkLocal),
            ("::ffff:169.254.169.254", Denied::LinkLocal),
            ("64:ff9b::a9fe:a9fe", Denied::LinkLocal),
            ("fe80::1", Denied::LinkLocal),
            ("febf::1", Denied::LinkLocal),
            ("224.0.0.251", Denied::NotUnicast),
            ("ff02::1", Denied::NotUnicast),
            ("255.255.255.255", Denied::NotUnicast),
        ] {
            assert_eq!(check("", address), Some(reason), "{address}");
        }
    }

    #[test]
    fn the_allow_list_opens_exactly_what_it_names() {
        let allowed = "127.8.0.0/16, 169.254.20.10,,fe80::/64";
        for address in [
            "127.8.0.1",
            "127.8.255.255",
            "::ffff:127.8.1.1",
            "169.254.20.10",
            "fe80::1234",
        ] {
            assert_eq!(check(allowed, address), None, "{address}");
        }
        for address in ["127.9.0.1", "127.7.255.255", "169.254.20.11", "fe80:0:0:1::1"] {
            assert!(check(allowed, address).is_some(), "{address}");
        }
    }

    #[test]
    fn the_whole_range_has_a_mask_of_zero() {
        assert_eq!(check("0.0.0.0/0", "127.0.0.1"), None);
        assert_eq!(check("::/0", "::1"), None);
        assert_eq!(check("::/0", "127.0.0.1"), Some(Denied::Loopback));
    }

    #[test]
    fn a_mapped_range_is_the_ipv4_range_it_wraps() {
        assert_eq!(check("::ffff:127.8.0.0/112", "127.8.3.4"), None);
        assert_eq!(check("::ffff:127.8.0.0/112", "127.9.3.4"), Some(Denied::Loopback));
    }

    #[test]
    fn what_is_no_network_is_named() {
        for text in [
            "example.com",
            "10.0.0.0/33",
            "::1/129",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "::ffff:1.2.3.4/95",
            "1.2.3",
        ] {
            assert_eq!(
                TargetPolicy::parse(text),
                Err(ParseNetworkError(text.into())),
                "{text}"
            );
        }
    }
}
