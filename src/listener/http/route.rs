//! Where one HTTP request goes, and whether it may: decided from its head alone.
//!
//! Three forms arrive. `CONNECT host:port` and `GET http://host/` come from programs that were told to use
//! a proxy. `GET /` comes from anybody who can open a connection to this port, so also from a web page in
//! the user's browser: it is routed by its Host header, and only
//! - to names that no page can make its own (`names`): a page that rebinds its name to 127.0.0.1 still sends
//!   its own name, and gets 421;
//! - when the browser does not say that another site asks (`Sec-Fetch-Site`, `Origin`): 403.
//!
//! A browser that was told to use the proxy is protected by its own rules (names are names there, not this
//! port). Still, an `Origin` from outside the cluster and the laptop gets 403 in absolute form too.
//! Inside CONNECT nothing can be seen.
//!
//! In absolute form the target is dialled and the Host header stays as sent, also when it differs: that is
//! how a virtual host is asked for behind another name.
//!
//! Architecture invariant: no I/O here.

use std::net::SocketAddr;

use super::head::RequestHead;
use crate::listener::browser::{foreign_page, other_site};
use crate::listener::names::{Place, is_own, target_of_name};
use crate::listener::target::{Target, TargetError};

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `CONNECT`: a connection to the target.
    Tunnel(Target),
    /// The target, with the request target to send there and the Host header to add if there is none.
    Forward {
        /// What to dial.
        target: Target,
        /// In origin form.
        path: String,
        /// The authority of an absolute-form request that came without a Host header.
        host: Option<String>,
    },
    /// `/proxy.pac` of our own, for the address the request came in at.
    ProxyPac(SocketAddr),
}

/// Why a request goes nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouteError {
    /// The target is not written properly.
    #[error("the request target `{text}` cannot be used: {error}")]
    Target {
        /// As given.
        text: String,
        /// What is wrong with it.
        error: TargetError,
    },
    /// A form or scheme that is not proxied.
    #[error("the request target `{0}` has a form this proxy does not take")]
    Form(String),
    /// No Host header, or several.
    #[error("a request needs exactly one Host header")]
    HostCount,
    /// The Host header names nothing in the cluster.
    #[error("`{0}` names nothing in the cluster")]
    Misdirected(String),
    /// Another site's page asks.
    #[error("this request comes from a web page of another site ({0})")]
    CrossSite(String),
}

/// Where the request goes.
pub(crate) fn route(head: &RequestHead, place: Place<'_>) -> Result<Route, RouteError> {
    let mut hosts = head.fields.values("host");
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(String::from_utf8_lossy(host).into_owned()),
        (None, _) if head.minor == 0 || head.method == "CONNECT" => None,
        (None, _) | (Some(_), Some(_)) => return Err(RouteError::HostCount),
    };
    if head.method == "CONNECT" {
        return Ok(Route::Tunnel(parse(&head.target, &head.target, None)?));
    }
    if head.target.starts_with('/') || head.target == "*" {
        return by_host(head, host.as_deref().unwrap_or_default(), place);
    }
    let (authority, path) = absolute(head)?;
    let target = parse(authority, &head.target, Some(80))?;
    if let Some(said) = foreign_page(head.fields.values("origin"), &target, place.cluster_domain) {
        return Err(RouteError::CrossSite(said));
    }
    let host = host.is_none().then(|| authority.to_owned());
    Ok(Route::Forward { target, path, host })
}

fn parse(authority: &str, text: &str, default_port: Option<u16>) -> Result<Target, RouteError> {
    Target::parse(authority, default_port).map_err(|error| RouteError::Target {
        text: text.to_owned(),
        error,
    })
}

/// Splits `http://authority/path` into the authority and the origin form of the rest.
fn absolute(head: &RequestHead) -> Result<(&str, String), RouteError> {
    let wrong = || RouteError::Form(head.target.clone());
    let (scheme, rest) = head.target.split_once("://").ok_or_else(wrong)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("ws") {
        return Err(wrong());
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = match path.chars().next() {
        Some('/') => path.to_owned(),
        // RFC 9112, 3.2.4: without a path, OPTIONS asks the server as a whole.
        None if head.method == "OPTIONS" => "*".to_owned(),
        Some(_) | None => format!("/{path}"),
    };
    Ok((authority, path))
}

/// Routes a request that was sent to us as if we were its server.
fn by_host(head: &RequestHead, host: &str, place: Place<'_>) -> Result<Route, RouteError> {
    let misdirected = || RouteError::Misdirected(host.to_owned());
    let asked = Target::parse(host, Some(80)).map_err(|_| misdirected())?;
    let sites = head.fields.values("sec-fetch-site");
    if let Some(said) = other_site(sites, head.fields.values("origin"), host) {
        return Err(RouteError::CrossSite(said));
    }
    if let Some(own) = place.own.filter(|own| is_own(&asked, *own)) {
        let page = matches!(head.method.as_str(), "GET" | "HEAD") && head.target == "/proxy.pac";
        return if page {
            Ok(Route::ProxyPac(own))
        } else {
            Err(misdirected())
        };
    }
    let target = target_of_name(&asked, place).ok_or_else(misdirected)?;
    Ok(Route::Forward {
        target,
        path: head.target.clone(),
        host: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[expect(clippy::unwrap_in_result, reason = "the head itself is right in these tests")]
    fn routed(first_line: &str, headers: &str) -> Result<Route, RouteError> {
        let text = format!("{first_line} HTTP/1.1\r\n{headers}\r\n");
        let head = RequestHead::parse(Bytes::from(text)).unwrap();
        let own = "127.0.0.1:6080".parse().ok();
        route(
            &head,
            Place {
                own,
                cluster_domain: "cluster.local",
            },
        )
    }

    #[expect(clippy::unnecessary_wraps, reason = "compared with what route returns")]
    fn to(host: &str, port: u16, path: &str) -> Result<Route, RouteError> {
        let target = Target {
            host: host.to_owned(),
            port,
        };
        Ok(Route::Forward {
            target,
            path: path.to_owned(),
            host: None,
        })
    }

    #[test]
    fn routes_by_host() {
        for (host, target, port) in [
            ("web", "web", 80),
            ("web:8081", "web", 8081),
            ("Web", "Web", 80),
            ("api.dev.svc:8081", "api.dev.svc", 8081),
            ("api.dev.svc.cluster.local", "api.dev.svc.cluster.local", 80),
            ("api.dev.svc.Cluster.Local.:80", "api.dev.svc.Cluster.Local.", 80),
            ("pod-0.web.dev.svc", "pod-0.web.dev.svc", 80),
            ("web.localhost:6080", "web", 80),
            ("Web.dev.localhost:6080", "Web.dev", 80),
            ("web.localhost:8081", "web", 8081),
            ("web.localhost", "web", 80),
        ] {
            assert_eq!(
                routed("GET /a?b", &format!("Host: {host}\r\n")),
                to(target, port, "/a?b"),
                "{host}"
            );
        }
        assert_eq!(routed("OPTIONS *", "Host: web\r\n"), to("web", 80, "*"));
    }

    #[test]
    fn any_other_host_is_misdirected() {
        for host in [
            "",
            "evil.example",
            "web.dev",
            "10.0.0.7",
            "10.0.0.7:8081",
            "[::1]",
            "[fd00::7]:80",
            "127.0.0.1:6080",
            "127.0.0.1",
            "localhost",
            "localhost:6080",
            "2130706433",
            "0x7f000001",
            "127.1",
            "127.0.0.1.localhost",
            "localhost.localhost",
            "svc.evil.example",
            "evilsvc.example",
            ".svc",
            "xcluster.local",
            "cluster.local",
            "web.cluster.local.evil.example",
            "user@web",
            "web:port",
            "a b",
        ] {
            let answer = routed("GET /", &format!("Host: {host}\r\n"));
            assert_eq!(answer, Err(RouteError::Misdirected(host.to_owned())), "{host}");
        }
    }

    #[test]
    fn the_cluster_domain_can_be_another() {
        let head = |host: &str| {
            RequestHead::parse(Bytes::from(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))).unwrap()
        };
        let place = Place {
            own: "127.0.0.1:1".parse().ok(),
            cluster_domain: "K8s.corp.example.",
        };
        assert!(route(&head("web.dev.svc.k8s.corp.example"), place).is_ok());
        assert!(route(&head("web.dev.svc.cluster.local"), place).is_err());
        assert!(route(&head("corp.example"), place).is_err());
    }

    #[test]
    fn other_sites_get_nothing() {
        for header in [
            "Sec-Fetch-Site: cross-site",
            "Sec-Fetch-Site: same-site",
            "sec-fetch-site: nonsense",
            "Origin: null",
            "Origin: http://evil.example",
            "Origin: http://web.localhost",
            "Origin: https://web.localhost",
            "Origin: http://web.localhost:6081",
            "Origin: web.localhost:6080",
            "Origin: http://web.localhost:6080\r\nOrigin: http://evil.example",
            "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site",
        ] {
            let answer = routed("GET /", &format!("Host: web.localhost:6080\r\n{header}\r\n"));
            assert!(
                matches!(answer, Err(RouteError::CrossSite(_))),
                "{header}: {answer:?}"
            );
        }
        let own = "Host: 127.0.0.1:6080\r\nSec-Fetch-Site: same-site\r\n";
        assert!(matches!(
            routed("GET /proxy.pac", own),
            Err(RouteError::CrossSite(_))
        ));
        for header in [
            "Sec-Fetch-Site: none",
            "Sec-Fetch-Site: same-origin\r\nOrigin: http://WEB.localhost:6080",
        ] {
            assert!(
                routed("POST /", &format!("Host: web.localhost:6080\r\n{header}\r\n")).is_ok(),
                "{header}"
            );
        }
        assert!(routed("POST /", "Host: web\r\nOrigin: http://web:80\r\n").is_ok());
    }

    #[test]
    fn pages_from_outside_get_nothing_through_a_browsers_proxy_either() {
        for (origin, allowed) in [
            ("http://web", true),
            ("http://other.dev.svc.cluster.local:8080", true),
            ("http://localhost:3000", true),
            ("https://app.localhost", true),
            ("http://127.0.0.1:3000", true),
            ("http://[::1]:3000", true),
            ("http://evil.example", false),
            ("null", false),
            ("http://10.0.0.9", false),
        ] {
            let answer = routed("POST http://web/", &format!("Host: web\r\nOrigin: {origin}\r\n"));
            assert_eq!(answer.is_ok(), allowed, "{origin}");
        }
        assert!(
            routed(
                "POST http://api.corp.example/",
                "Host: x\r\nOrigin: https://api.corp.example\r\n"
            )
            .is_ok()
        );
    }

    #[test]
    fn takes_the_forms_of_a_proxy() {
        assert_eq!(routed("GET http://web", "Host: web\r\n"), to("web", 80, "/"));
        assert_eq!(
            routed("GET HTTP://web:81?a", "Host: web\r\n"),
            to("web", 81, "/?a")
        );
        assert_eq!(
            routed("GET http://[fd00::7]:81/a//b", "Host: x\r\n"),
            to("fd00::7", 81, "/a//b")
        );
        assert_eq!(
            routed("GET ws://10.0.0.7/a", "Host: x\r\n"),
            to("10.0.0.7", 80, "/a")
        );
        assert_eq!(routed("OPTIONS http://web", "Host: web\r\n"), to("web", 80, "*"));
        let tunnel = Target {
            host: "web".into(),
            port: 443,
        };
        assert_eq!(routed("CONNECT web:443", ""), Ok(Route::Tunnel(tunnel)));
        assert_eq!(
            routed("GET /proxy.pac", "Host: 127.0.0.1:6080\r\n"),
            Ok(Route::ProxyPac("127.0.0.1:6080".parse().unwrap()))
        );
        assert_eq!(
            routed("HEAD /proxy.pac", "Host: LOCALHOST:6080\r\n"),
            Ok(Route::ProxyPac("127.0.0.1:6080".parse().unwrap()))
        );
        assert_eq!(
            routed("GET /proxy.pac", "Host: web\r\n"),
            to("web", 80, "/proxy.pac")
        );
    }

    #[test]
    fn refuses_forms_it_cannot_serve() {
        for (line, headers) in [
            ("CONNECT web", ""),
            ("CONNECT web:0", ""),
            ("CONNECT http://web/", ""),
            ("GET https://web/", "Host: web\r\n"),
            ("GET ftp://web/", "Host: web\r\n"),
            ("GET http:///x", "Host: web\r\n"),
            ("GET http://u@web/", "Host: web\r\n"),
            ("GET web", "Host: web\r\n"),
            ("GET http://we\\b/", "Host: web\r\n"),
            ("POST /proxy.pac", "Host: localhost:6080\r\n"),
        ] {
            assert!(routed(line, headers).is_err(), "{line}");
        }
        assert_eq!(routed("GET /", ""), Err(RouteError::HostCount));
        assert_eq!(routed("GET http://web/", ""), Err(RouteError::HostCount));
        assert_eq!(
            routed("GET /", "Host: web\r\nHost: web\r\n"),
            Err(RouteError::HostCount)
        );
        assert_eq!(
            routed("GET http://web/", "Host: a\r\nhost: b\r\n"),
            Err(RouteError::HostCount)
        );
    }
}
