//! From a host as the user gave it to the addresses behind it.
//!
//! Names go to the hosts table first, then to the C library's `getaddrinfo`, which honours the pod's search
//! list; a resolver of our own would not fit the size budget. It blocks, so it runs on the runtime's blocking
//! pool, whose size `main` caps. What it found serves the connections of the next moment too ([`Recent`]): the search
//! list makes six questions of a Service's name. Whether an address may be dialled is `policy`'s business.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, SockType};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::hosts::Hosts;

/// How long what was found is used again: far below what a cluster's name service itself remembers (5 s and more).
const FRESH: Duration = Duration::from_secs(1);

/// Names remembered; one more puts the oldest out.
const NAMES: usize = 64;

/// What the resolver of this process found last.
static RECENT: Mutex<Recent> = Mutex::new(Recent(Vec::new()));

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
    let with_port = |found: &[IpAddr]| {
        let addresses = found.iter().map(|address| SocketAddr::new(*address, port));
        addresses.collect()
    };
    if let Some(found) = recent(|recent| recent.get(host, Instant::now()).map(with_port)) {
        return Ok(found);
    }
    let mut lookup = JoinSet::new();
    let name = host.to_owned();
    lookup.spawn_blocking(move || look_up(&name));
    match lookup.join_next().await {
        Some(Ok(found)) => {
            let found = found?;
            let addresses = with_port(&found);
            recent(|recent| recent.put(host, found, Instant::now()));
            Ok(addresses)
        }
        Some(Err(_)) | None => Err(ResolveError::GivenUp {
            host: host.to_owned(),
        }),
    }
}

fn recent<T>(with: impl FnOnce(&mut Recent) -> T) -> T {
    with(&mut RECENT.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Names and what was found for them, the oldest first. Failures are asked again.
struct Recent(Vec<(String, Vec<IpAddr>, Instant)>);

impl Recent {
    fn get(&self, host: &str, now: Instant) -> Option<&[IpAddr]> {
        let known = self.0.iter().find(|(name, _, _)| name == host)?;
        (now.saturating_duration_since(known.2) < FRESH).then_some(&known.1)
    }

    fn put(&mut self, host: &str, found: Vec<IpAddr>, now: Instant) {
        self.0.retain(|(name, _, _)| name != host);
        if self.0.len() == NAMES {
            self.0.remove(0);
        }
        self.0.push((host.to_owned(), found, now));
    }
}

fn look_up(host: &str) -> Result<Vec<IpAddr>, ResolveError> {
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
        let address = info.sockaddr.ip();
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

    #[tokio::test(start_paused = true)]
    async fn what_was_found_serves_for_a_moment_and_the_oldest_goes_first() {
        let start = Instant::now();
        let mut recent = Recent(Vec::new());
        let address = |last: u8| vec![IpAddr::from([10, 0, 0, last])];
        recent.put("web", address(1), start);
        assert_eq!(recent.get("web", start + FRESH / 2), Some(&address(1)[..]));
        assert_eq!(recent.get("web", start + FRESH), None);
        recent.put("web", address(2), start + FRESH);
        assert_eq!(recent.get("web", start + FRESH), Some(&address(2)[..]));
        assert_eq!(recent.get("web.open", start + FRESH), None);
        for name in 0..NAMES {
            recent.put(&format!("name-{name}"), address(3), start + FRESH);
        }
        assert_eq!(recent.get("web", start + FRESH), None);
        assert_eq!(recent.0.len(), NAMES);
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
