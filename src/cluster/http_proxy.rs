//! Which proxy leads to the API server: the cluster's `proxy-url`, else the environment by Go's rules.
//!
//! Go's rules are those of `golang.org/x/net/http/httpproxy`, which kubectl follows. kube has rules of its own
//! (it compares `NO_PROXY` with the proxy's address instead of the API server's), so its environment reading is not
//! used. This file decides; it opens no connection. `kubeconfig` calls it, `client/connector` dials.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use http::uri::{Parts, PathAndQuery};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;

use super::env::Env;

/// How a proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// HTTP CONNECT over plain TCP.
    Http,
    /// HTTP CONNECT over TLS.
    Https,
    /// SOCKS5; names are resolved by the proxy.
    Socks5,
}

/// A proxy to go through. Its Display has no credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    kind: ProxyKind,
    /// Scheme, host and port, always with an explicit port and without user information.
    address: Uri,
    credentials: Option<(String, String)>,
}

/// Why a `proxy-url` of the kubeconfig cannot be used. What the environment holds is never an error, as in Go.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProxyError {
    /// Not a URL with a host.
    #[error("proxy-url `{0}` is not a URL with a host")]
    Invalid(String),
    /// A scheme that neither we nor kubectl speak.
    #[error("proxy-url has the unsupported scheme `{0}`; must be http, https or socks5")]
    UnsupportedScheme(String),
}

impl Proxy {
    /// How to speak to it.
    pub fn kind(&self) -> ProxyKind {
        self.kind
    }

    /// Scheme, host and port, without credentials.
    pub fn address(&self) -> &Uri {
        &self.address
    }

    /// User and password, percent-decoded.
    pub fn credentials(&self) -> Option<(&str, &str)> {
        self.credentials
            .as_ref()
            .map(|(user, password)| (user.as_str(), password.as_str()))
    }

    /// Reads a URL, the port filled in and the credentials taken out.
    fn parse(url: &str) -> Result<Self, ProxyError> {
        // The text may hold a password: an error shows only what stands behind the last `@`.
        let invalid = || ProxyError::Invalid(url.rsplit('@').next().unwrap_or_default().to_owned());
        let uri: Uri = url.parse().map_err(|_| invalid())?;
        let scheme = uri.scheme_str().ok_or_else(invalid)?.to_ascii_lowercase();
        let (kind, default_port) = match scheme.as_str() {
            "http" => (ProxyKind::Http, 80),
            "https" => (ProxyKind::Https, 443),
            "socks5" | "socks5h" => (ProxyKind::Socks5, 1080),
            _ => return Err(ProxyError::UnsupportedScheme(scheme)),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(invalid)?;
        if has_wrong_port(&uri) {
            return Err(invalid());
        }
        let port = uri.port_u16().unwrap_or(default_port);
        let mut parts = Parts::default();
        parts.scheme = Some(scheme.parse().map_err(|_| invalid())?);
        parts.authority = Some(format!("{host}:{port}").parse().map_err(|_| invalid())?);
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
        let address = Uri::from_parts(parts).map_err(|_| invalid())?;
        let userinfo = uri
            .authority()
            .and_then(|authority| authority.as_str().rsplit_once('@'));
        let credentials = userinfo.map(|(userinfo, _)| {
            let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
            (decode(user), decode(password))
        });
        Ok(Self {
            kind,
            address,
            credentials,
        })
    }
}

/// Whether there is a port that is none: `http` reads `h:99999` as `h` without a port.
pub(super) fn has_wrong_port(uri: &Uri) -> bool {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host_and_port = authority.rsplit('@').next().unwrap_or_default();
    let port = host_and_port
        .strip_prefix(uri.host().unwrap_or_default())
        .unwrap_or_default();
    uri.port_u16().is_none() && !matches!(port, "" | ":")
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self
            .address
            .authority()
            .map_or("", |authority| authority.as_str());
        write!(f, "{}://{host}", self.address.scheme_str().unwrap_or("http"))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// The proxy for this API server, if any. `proxy_url` is the kubeconfig's; it wins over the environment and is not
/// subject to `NO_PROXY`.
pub fn proxy_for(server: &Uri, proxy_url: Option<&str>, env: &Env) -> Result<Option<Proxy>, ProxyError> {
    if let Some(url) = proxy_url.filter(|url| !url.is_empty()) {
        return Proxy::parse(url).map(Some);
    }
    Ok(from_environment(server, env))
}

fn from_environment(server: &Uri, env: &Env) -> Option<Proxy> {
    let (names, default_port) = match server.scheme_str()? {
        "https" => (["HTTPS_PROXY", "https_proxy"], 443),
        "http" => (["HTTP_PROXY", "http_proxy"], 80),
        _ => return None,
    };
    let value = env.any_var(&names)?;
    let with_scheme = if value.contains("://") {
        value.to_owned()
    } else {
        format!("http://{value}")
    };
    let Ok(proxy) = Proxy::parse(&with_scheme) else {
        tracing::warn!(
            variable = names[0],
            "the proxy variable holds no usable proxy and is ignored"
        );
        return None;
    };
    let host = server.host()?;
    let port = server.port_u16().unwrap_or(default_port);
    let no_proxy = env.any_var(&["NO_PROXY", "no_proxy"]).unwrap_or_default();
    goes_through_proxy(host, port, no_proxy).then_some(proxy)
}

/// Go's `useProxy`: whether connections to this host and port take the proxy.
fn goes_through_proxy(host: &str, port: u16, no_proxy: &str) -> bool {
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .trim()
        .to_ascii_lowercase();
    let ip = host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
        return false;
    }
    !no_proxy
        .split(',')
        .any(|entry| exempts(&entry.trim().to_ascii_lowercase(), &host, ip, port))
}

/// Whether one entry of `NO_PROXY` names this host. Entries that mean nothing are skipped.
fn exempts(entry: &str, host: &str, ip: Option<IpAddr>, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Ok(net) = entry.parse::<IpNet>() {
        return ip.is_some_and(|ip| net.contains(&ip));
    }
    let (name, entry_port) = split_host_port(entry);
    if name.is_empty() || entry_port.is_some_and(|wanted| wanted != port.to_string()) {
        return false;
    }
    if let Ok(entry_ip) = name.parse::<IpAddr>() {
        return ip == Some(entry_ip.to_canonical());
    }
    // `*.example.com` is `.example.com`: the names below it, but not itself.
    let name = name
        .strip_prefix("*.")
        .map_or_else(|| name.to_owned(), |rest| format!(".{rest}"));
    match name.strip_prefix('.') {
        Some(_) => host.ends_with(&name),
        None => host == name || host.ends_with(&format!(".{name}")),
    }
}

/// Go's `net.SplitHostPort`, falling back to the whole entry without a port. An empty port is no condition.
fn split_host_port(entry: &str) -> (&str, Option<&str>) {
    if let Some(bracketed) = entry.strip_prefix('[') {
        return match bracketed.split_once("]:") {
            Some((host, port)) => (host, Some(port).filter(|port| !port.is_empty())),
            None => (entry, None),
        };
    }
    match entry.split_once(':') {
        // A second colon makes it a bare IPv6 address.
        Some((host, port)) if !port.contains(':') => (host, Some(port).filter(|port| !port.is_empty())),
        _ => (entry, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    fn via(server: &str, vars: &[(&str, &str)]) -> Option<String> {
        let env = Env::from_vars(vars.iter().copied());
        proxy_for(&uri(server), None, &env)
            .unwrap()
            .map(|proxy| proxy.to_string())
    }

    #[test]
    fn no_proxy_by_gos_rules() {
        // API server, NO_PROXY, does it go through the proxy?
        let cases = [
            ("https://api.example.com:6443", "", true),
            ("https://api.example.com:6443", ",, ,", true),
            ("https://api.example.com:6443", "api.example.com,", false),
            ("https://api.example.com:6443", "API.Example.Com", false),
            ("https://API.example.com:6443", "api.example.com", false),
            ("https://api.example.com:6443", "example.com", false),
            ("https://api.example.com:6443", ".example.com", false),
            ("https://api.example.com:6443", "*.example.com", false),
            ("https://example.com:6443", "example.com", false),
            ("https://example.com:6443", ".example.com", true),
            ("https://example.com:6443", "*.example.com", true),
            ("https://notexample.com:6443", "example.com", true),
            ("https://api.example.com:6443", "other.com , example.com", false),
            ("https://api.example.com:6443", "*", false),
            ("https://api.example.com:6443", "other.com,*", false),
            ("https://api.example.com:6443", "example.com:6443", false),
            ("https://api.example.com:6443", "example.com:443", true),
            ("https://api.example.com", "example.com:443", false),
            ("http://api.example.com", "example.com:80", false),
            ("https://api.example.com:6443", "example.com:", false),
            ("https://api.example.com:6443", ":6443", true),
            ("https://10.1.2.3:6443", "10.1.2.3", false),
            ("https://10.1.2.3:6443", "10.1.2.3:6443", false),
            ("https://10.1.2.3:6443", "10.1.2.3:443", true),
            ("https://10.1.2.3:6443", "10.0.0.0/8", false),
            ("https://10.1.2.3:6443", "10.9.9.9/8", false),
            ("https://10.1.2.3:6443", "192.168.0.0/16", true),
            // Names are compared with addresses too, as text.
            ("https://10.1.2.3:6443", "1.2.3", false),
            ("https://10.1.2.3:6443", "2.3.4", true),
            ("https://[fd00::1]:6443", "fd00::1", false),
            ("https://[fd00::1]:6443", "[fd00::1]:6443", false),
            ("https://[fd00::1]:6443", "[fd00::1]:443", true),
            ("https://[fd00::1]:6443", "fd00::/8", false),
            ("https://[fd00::1]:6443", "[fd00::1]", true),
            ("https://[::ffff:10.1.2.3]:6443", "10.0.0.0/8", false),
            // Loopback never takes a proxy.
            ("https://localhost:6443", "", false),
            ("https://127.0.0.1:6443", "", false),
            ("https://127.8.0.1:6443", "", false),
            ("https://[::1]:6443", "", false),
            ("https://localhost.example.com:6443", "", true),
            // The proxy's own address says nothing about the API server.
            ("https://api.example.com:6443", "proxy.corp", true),
        ];
        for (server, no_proxy, through) in cases {
            let vars = [
                ("HTTPS_PROXY", "http://proxy.corp:3128"),
                ("HTTP_PROXY", "http://proxy.corp:3128"),
                ("NO_PROXY", no_proxy),
            ];
            let expected = through.then(|| "http://proxy.corp:3128".to_owned());
            assert_eq!(
                via(server, &vars),
                expected,
                "{server} with NO_PROXY={no_proxy:?}"
            );
        }
    }

    #[test]
    fn the_variable_follows_the_scheme_and_upper_case_wins() {
        let https = "https://api.example.com:6443";
        let http = "http://api.example.com:8080";
        assert_eq!(via(https, &[("HTTP_PROXY", "http://a:1")]), None);
        assert_eq!(via(http, &[("HTTPS_PROXY", "http://a:1")]), None);
        assert_eq!(
            via(http, &[("http_proxy", "http://a:1")]),
            Some("http://a:1".to_owned())
        );
        assert_eq!(
            via(
                https,
                &[("HTTPS_PROXY", "http://a:1"), ("https_proxy", "http://b:1")]
            ),
            Some("http://a:1".to_owned())
        );
        assert_eq!(
            via(https, &[("HTTPS_PROXY", ""), ("https_proxy", "http://b:1")]),
            Some("http://b:1".to_owned())
        );
        assert_eq!(
            via(
                https,
                &[("HTTPS_PROXY", "http://a:1"), ("no_proxy", "example.com")]
            ),
            None
        );
        assert_eq!(
            via(
                https,
                &[
                    ("HTTPS_PROXY", "http://a:1"),
                    ("NO_PROXY", "x.org"),
                    ("no_proxy", "example.com")
                ]
            ),
            Some("http://a:1".to_owned())
        );
        assert_eq!(via(https, &[("ALL_PROXY", "http://a:1")]), None);
    }

    #[test]
    fn forms_of_a_proxy_address() {
        let cases = [
            ("http://proxy", "http://proxy:80", ProxyKind::Http),
            ("https://proxy", "https://proxy:443", ProxyKind::Https),
            ("socks5://proxy", "socks5://proxy:1080", ProxyKind::Socks5),
            ("socks5h://proxy:9050/", "socks5h://proxy:9050", ProxyKind::Socks5),
            ("HTTP://proxy:3128/ignored", "http://proxy:3128", ProxyKind::Http),
            ("http://[fd00::2]:3128", "http://[fd00::2]:3128", ProxyKind::Http),
            (
                "http://ana:s%40crets@proxy:3128",
                "http://proxy:3128",
                ProxyKind::Http,
            ),
        ];
        for (url, shown, kind) in cases {
            let proxy = Proxy::parse(url).unwrap();
            assert_eq!((proxy.to_string().as_str(), proxy.kind()), (shown, kind), "{url}");
        }
        let proxy = Proxy::parse("http://ana:s%40c%3Aret@proxy:3128").unwrap();
        assert_eq!(proxy.credentials(), Some(("ana", "s@c:ret")));
        assert!(!format!("{proxy:?} {proxy}").contains("ret"));
        assert_eq!(
            via("https://api.x:1", &[("HTTPS_PROXY", "proxy:3128")]),
            Some("http://proxy:3128".to_owned())
        );
        assert_eq!(
            via("https://api.x:1", &[("HTTPS_PROXY", "proxy")]),
            Some("http://proxy:80".to_owned())
        );
        assert_eq!(via("https://api.x:1", &[("HTTPS_PROXY", "http://")]), None);
    }

    #[test]
    fn proxy_url_wins_and_must_be_right() {
        let env = Env::from_vars([("HTTPS_PROXY", "http://env:1"), ("NO_PROXY", "*")]);
        let server = uri("https://127.0.0.1:6443");
        let proxy = proxy_for(&server, Some("socks5://mine:1"), &env)
            .unwrap()
            .unwrap();
        assert_eq!(proxy.to_string(), "socks5://mine:1");
        assert_eq!(proxy_for(&server, Some(""), &env), Ok(None));
        assert_eq!(
            proxy_for(&server, Some("ftp://mine:1"), &env),
            Err(ProxyError::UnsupportedScheme("ftp".to_owned()))
        );
        let wrong = proxy_for(&server, Some("http://ana:secret@mine:99999"), &env).unwrap_err();
        assert_eq!(wrong, ProxyError::Invalid("mine:99999".to_owned()));
    }
}
