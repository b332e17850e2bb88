//! Which names are routed to the cluster for a program that was not told to use a proxy.
//!
//! Such a program may be a web page in the user's browser: a page can send any bytes of its own name to
//! 127.0.0.1, by rebinding it. So only names are taken that no page can make its own: `NAME.localhost`,
//! single labels, `*.svc` and the cluster domain. Addresses are not names. Shared by what is routed by Host
//! header, by TLS server name and by HTTP/2 authority, so that none of them is a way around another.
//!
//! Architecture invariant: no I/O here.

use std::net::{IpAddr, SocketAddr};

use super::target::Target;

/// What routing by name depends on besides the name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The address the connection came in at; none at a unix socket.
    pub(crate) own: Option<SocketAddr>,
    /// Such as `cluster.local`.
    pub(crate) cluster_domain: &'a str,
}

/// The target of a name that is routed without being asked for as a proxy; none for every other.
pub(crate) fn target_of_name(asked: &Target, place: Place<'_>) -> Option<Target> {
    let name = asked
        .host
        .strip_suffix('.')
        .unwrap_or(&asked.host)
        .to_ascii_lowercase();
    if let Some(service) = name.strip_suffix(".localhost") {
        if is_numeric(service) || service == "localhost" || service.ends_with(".localhost") {
            return None;
        }
        // A browser puts this port behind the name; it cannot mean the target's.
        let port = if place.own.is_some_and(|own| own.port() == asked.port) {
            80
        } else {
            asked.port
        };
        return Target::new(&asked.host[..service.len()], port).ok();
    }
    in_cluster(&name, place.cluster_domain).then(|| asked.clone())
}

/// Whether the cluster's DNS answers for this name (lower case, no final dot), whoever owns other names.
pub(crate) fn in_cluster(name: &str, cluster_domain: &str) -> bool {
    let below = |domain: &str| {
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        name.strip_suffix(&domain)
            .is_some_and(|front| front.len() > 1 && front.ends_with('.'))
    };
    !is_numeric(name) && name != "localhost" && (!name.contains('.') || below("svc") || below(cluster_domain))
}

/// Whether some resolver would read the name as an IPv4 address (`127.1`, `0x7f000001`, `2130706433`).
fn is_numeric(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let digits = last.strip_prefix("0x").map_or_else(
        || last.bytes().all(|b| b.is_ascii_digit()),
        |hex| hex.bytes().all(|b| b.is_ascii_hexdigit()),
    );
    digits || name.contains(':')
}

/// Whether the target is this port under a name that no other machine can have.
pub(crate) fn is_own(asked: &Target, own: SocketAddr) -> bool {
    if asked.port != own.port() {
        return false;
    }
    match asked.host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address.to_canonical() == own.ip().to_canonical(),
        Err(_) => asked.host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str, port: u16, own: Option<&str>) -> Option<String> {
        let place = Place {
            own: own.map(|own| own.parse().unwrap()),
            cluster_domain: "cluster.local",
        };
        let asked = Target::parse(host, Some(port)).unwrap();
        target_of_name(&asked, place).map(|target| target.to_string())
    }

    #[test]
    fn the_port_of_localhost_names_is_the_listeners_only_where_it_has_one() {
        let own = Some("127.0.0.1:6080");
        for (host, port, own, expected) in [
            ("web.localhost", 443, own, "web:443"),
            ("web.localhost", 6080, own, "web:80"),
            ("web.localhost", 6080, None, "web:6080"),
            ("web.dev.svc", 443, None, "web.dev.svc:443"),
        ] {
            assert_eq!(target(host, port, own).as_deref(), Some(expected), "{host}");
        }
    }

    #[test]
    fn names_of_others_and_addresses_are_not_routed() {
        for host in [
            "evil.example",
            "10.0.0.7",
            "127.1",
            "localhost",
            "cluster.local",
            "[::1]",
        ] {
            assert_eq!(target(host, 443, None), None, "{host}");
        }
        let asked = Target::parse("localhost:6080", None).unwrap();
        assert!(is_own(&asked, "127.0.0.1:6080".parse().unwrap()));
        assert!(!is_own(&asked, "127.0.0.1:6081".parse().unwrap()));
    }
}
