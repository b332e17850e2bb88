//! From a host as the user gave it to the addresses behind it.
//!
//! Names go to the hosts table first, then to the C library's `getaddrinfo`, which honours the pod's search
//! list; a resolver of our own would not fit the size budget. It blocks, so it runs on the runtime's blocking
//! pool, whose size `main` caps. Whether an address may be dialled is `policy`'s business.

use std::net::{IpAddr, SocketAddr};

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, SockType};
use tokio::task::JoinSet;

use crate::hosts::Hosts;

/// No address for a host.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    /// The name service says that there is no such name, or no address for it.
    #[error("resolve {host}: no such host")]
    NoSuchHost { host: String },
    /// The name service did not answer, or gave no useful answer.
    #[error("resolve {host}")]
    Failed { host: String, source: LookupError },
    /// The lookup died with its thread.
    #[error("resolve {host}: the lookup was given up")]
    GivenUp { host: String },
}

/// All addresses of `host`, in the order in which they should be tried; never empty.
///
/// Has no deadline of its own. Dropping the future takes a lookup that has not begun off the pool's queue.
pub(crate) async fn resolve(hosts: &Hosts, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let known = hosts.lookup(host);
    if !known.is_empty() {
        return Ok(known
            .into_iter()
            .map(|address| SocketAddr::new(address, port))
            .collect());
    }
    let mut lookup = JoinSet::new();
    let name = host.to_owned();
    lookup.spawn_blocking(move || look_up(&name, port));
    match lookup.join_next().await {
        Some(Ok(found)) => found,
        Some(Err(_)) | None => Err(ResolveError::GivenUp {
            host: host.to_owned(),
        }),
    }
}

fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
    // Without a type each address would be listed once for each of TCP, UDP and raw.
    let hints = AddrInfoHints {
        socktype: SockType::Stream.into(),
        ..AddrInfoHints::default()
    };
    let found = dns_lookup::getaddrinfo(Some(host), None, Some(hints)).map_err(|source| {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "every kind but these two is a failure to look up"
        )]
        match source.kind() {
            LookupErrorKind::NoName | LookupErrorKind::NoData => ResolveError::NoSuchHost {
                host: host.to_owned(),
            },
            _ => ResolveError::Failed {
                host: host.to_owned(),
                source,
            },
        }
    })?;
    let mut addresses = Vec::new();
    for info in found {
        let info = info.map_err(|source| ResolveError::Failed {
            host: host.to_owned(),
            source: source.into(),
        })?;
        let mut address = info.sockaddr;
        address.set_port(port);
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(ResolveError::NoSuchHost {
            host: host.to_owned(),
        });
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn resolved(hosts: &str, host: &str) -> Result<Vec<String>, ResolveError> {
        let found = resolve(&Hosts::parse(hosts).unwrap(), host, 80).await?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    #[tokio::test]
    async fn an_address_is_itself() {
        assert_eq!(resolved("", "10.0.0.1").await.unwrap(), ["10.0.0.1:80"]);
        assert_eq!(resolved("", "fd00::1").await.unwrap(), ["[fd00::1]:80"]);
    }

    #[tokio::test]
    async fn the_hosts_table_comes_before_the_resolver() {
        assert_eq!(
            resolved("127.8.0.1 localhost\n127.8.0.2 localhost", "localhost")
                .await
                .unwrap(),
            ["127.8.0.1:80", "127.8.0.2:80"]
        );
    }

    #[tokio::test]
    async fn the_resolver_lists_each_address_once_with_the_port() {
        let found = resolved("", "localhost").await.unwrap();
        assert!(found.contains(&"127.0.0.1:80".to_owned()), "{found:?}");
        assert_eq!(
            found.iter().filter(|address| *address == "127.0.0.1:80").count(),
            1,
            "{found:?}"
        );
    }

    #[tokio::test]
    async fn legacy_spellings_of_an_address_do_not_hide_it_from_the_policy() {
        assert_eq!(resolved("", "127.1").await.unwrap(), ["127.0.0.1:80"]);
        assert_eq!(resolved("", "0x7f000001").await.unwrap(), ["127.0.0.1:80"]);
    }

    #[tokio::test]
    async fn what_is_no_name_fails_without_asking_anyone() {
        assert!(matches!(
            resolved("", "a\0b").await,
            Err(ResolveError::Failed { .. })
        ));
        assert!(resolved("", "").await.is_err());
    }
}
