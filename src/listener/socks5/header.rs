//! The header in front of each datagram of an association (RFC 1928, section 7).
//!
//! ```text
//!  0        2      3
//!  +--------+------+---------------------+------+
//!  | 00 00  | FRAG | type, address, port | data |
//!  +--------+------+---------------------+------+
//! ```
//!
//! Pure: bytes in, their parts out. A reply carries the very header its target was called with, so that a program
//! finds the name or address it knows; none is written anew.

use super::address::{Address, AddressError};

/// Bytes in front of the address.
const FRONT: usize = 3;

/// A datagram taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    /// Where it shall go. Nothing is said of whether it can be a target.
    pub(super) address: Address,
    /// All in front of the data.
    pub(super) header: &'a [u8],
    /// What it carries; may be empty.
    pub(super) data: &'a [u8],
}

/// Why a datagram is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    /// It ends within its header.
    #[error("the header is cut short")]
    Short,
    /// The first two bytes are reserved.
    #[error("the reserved bytes are not zero")]
    Reserved,
    /// A part of a larger datagram. Fragments are optional to serve, and no program is known to send them.
    #[error("it is a fragment")]
    Fragment,
    /// Its address cannot be read.
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// Takes a datagram apart.
pub(super) fn parse(datagram: &[u8]) -> Result<Parts<'_>, HeaderError> {
    let Some((&[a, b, fragment], rest)) = datagram.split_first_chunk::<FRONT>() else {
        return Err(HeaderError::Short);
    };
    if (a, b) != (0, 0) {
        return Err(HeaderError::Reserved);
    }
    if fragment != 0 {
        return Err(HeaderError::Fragment);
    }
    let (address, length) = Address::parse(rest)?.ok_or(HeaderError::Short)?;
    let (header, data) = datagram.split_at(FRONT + length);
    Ok(Parts {
        address,
        header,
        data,
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    /// A header for the target, as a program writes it.
    fn header(address: &Address) -> Vec<u8> {
        let written = match address.host.parse() {
            Ok(ip) => Address::bytes(SocketAddr::new(ip, address.port)),
            Err(_) => [
                &[3, u8::try_from(address.host.len()).unwrap()],
                address.host.as_bytes(),
                &address.port.to_be_bytes(),
            ]
            .concat(),
        };
        [&[0; FRONT], &written[..]].concat()
    }

    #[test]
    fn drops_fragments_and_what_is_no_header() {
        let whole = b"\0\0\0\x03\x03dns\0\x35query";
        let parts = parse(whole).unwrap();
        assert_eq!(
            (parts.address.host.as_str(), parts.address.port, parts.data),
            ("dns", 53, &b"query"[..])
        );
        assert_eq!(parts.header, b"\0\0\0\x03\x03dns\0\x35");
        for cut in 0..whole.len() - 5 {
            assert_eq!(parse(&whole[..cut]), Err(HeaderError::Short), "{cut}");
        }
        assert_eq!(parse(&whole[..whole.len() - 5]).unwrap().data, b"");
        for (bytes, error) in [
            (&b"\0\0\x01\x01\x0a\0\0\x07\0\x35x"[..], HeaderError::Fragment),
            (b"\0\0\x80\x01\x0a\0\0\x07\0\x35x", HeaderError::Fragment),
            (b"\0\x01\0\x01\x0a\0\0\x07\0\x35x", HeaderError::Reserved),
            (b"\0\0\0\x02\x0a\0\0\x07\0\x35x", AddressError::Type.into()),
            (b"\0\0\0\x03\x01\xff\0\x35x", AddressError::Text.into()),
        ] {
            assert_eq!(parse(bytes), Err(error), "{bytes:?}");
        }
    }

    fn any_address() -> impl Strategy<Value = Address> {
        let host = prop_oneof![
            any::<[u8; 4]>().prop_map(|ip| std::net::IpAddr::from(ip).to_string()),
            any::<[u8; 16]>().prop_map(|ip| std::net::IpAddr::from(ip).to_string()),
            "[A-Za-z][A-Za-z0-9.-]{0,200}",
        ];
        (host, any::<u16>()).prop_map(|(host, port)| Address { host, port })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            address in any_address(),
            data in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            let header = header(&address);
            let datagram = [&header[..], &data].concat();
            let parts = parse(&datagram).unwrap();
            prop_assert_eq!(&parts.address, &address);
            prop_assert_eq!(parts.header, &header);
            prop_assert_eq!(parts.data, &data);
        }

        #[test]
        fn never_panics_and_loses_no_byte(datagram in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(parts) = parse(&datagram) {
                prop_assert_eq!([parts.header, parts.data].concat(), datagram);
            }
        }
    }
}
