//! What a browser says of the page that asks: `Sec-Fetch-Site` and `Origin`. Programs that are no browsers
//! send neither, and nothing is concluded from that.
//!
//! Shared by the doors that can read headers. Pure: header values in, what was said out, if it is reason to
//! refuse.

use std::net::IpAddr;

use super::names::in_cluster;
use super::target::Target;

/// What says that another site's page asks for `host`, if something does.
pub(crate) fn other_site<'a>(
    mut sites: impl Iterator<Item = &'a [u8]>,
    mut origins: impl Iterator<Item = &'a [u8]>,
    host: &str,
) -> Option<String> {
    let site = sites.find(|site| !matches!(*site, b"same-origin" | b"none"));
    if let Some(site) = site {
        return Some(format!("Sec-Fetch-Site: {}", String::from_utf8_lossy(site)));
    }
    origins
        .find(|origin| {
            origin_authority(origin).is_none_or(|(authority, _)| !same_authority(&authority, host))
        })
        .map(foreign)
}

/// What says that a page from outside the cluster and the laptop asks, in a browser that uses us as its proxy.
pub(crate) fn foreign_page<'a>(
    mut origins: impl Iterator<Item = &'a [u8]>,
    target: &Target,
    cluster_domain: &str,
) -> Option<String> {
    let known = |origin: &[u8]| {
        let host =
            origin_authority(origin).and_then(|(authority, port)| Target::parse(&authority, Some(port)).ok());
        host.is_some_and(|host| {
            let name = host
                .host
                .strip_suffix('.')
                .unwrap_or(&host.host)
                .to_ascii_lowercase();
            let address = name.parse::<IpAddr>();
            host.host.eq_ignore_ascii_case(&target.host)
                || address.is_ok_and(|address| address.is_loopback())
                || name == "localhost"
                || name.ends_with(".localhost")
                || in_cluster(&name, cluster_domain)
        })
    };
    origins.find(|origin| !known(origin)).map(foreign)
}

fn foreign(origin: &[u8]) -> String {
    format!("Origin: {}", String::from_utf8_lossy(origin))
}

/// The authority of an origin `scheme://authority`, with the scheme's port; none for `null`.
fn origin_authority(origin: &[u8]) -> Option<(String, u16)> {
    let (scheme, authority) = std::str::from_utf8(origin).ok()?.split_once("://")?;
    Some((
        authority.to_owned(),
        if scheme.eq_ignore_ascii_case("https") {
            443
        } else {
            80
        },
    ))
}

/// Whether an origin's authority is the one of the Host header. A page that came through this port came
/// over plain HTTP, where a missing port is 80.
fn same_authority(origin: &str, host: &str) -> bool {
    match (Target::parse(origin, Some(80)), Target::parse(host, Some(80))) {
        (Ok(origin), Ok(host)) => origin.port == host.port && origin.host.eq_ignore_ascii_case(&host.host),
        (Err(_), _) | (_, Err(_)) => false,
    }
}
