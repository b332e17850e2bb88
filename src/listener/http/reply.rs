//! Answers of our own: an error told in HTTP, with a line for people and the next thing to try.
//!
//! `Proxy-Status` (RFC 9209) tells programs that the answer is ours and not the upstream's.

use tunnel_wire::RefusalCode;

use super::head::{FramingError, HeadError};
use super::route::RouteError;
use crate::listener::DialError;
use crate::listener::connection::Ended;
use crate::listener::target::Target;
use crate::program;

/// An answer of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// An error type of RFC 9209, if this is an error.
    error: Option<&'static str>,
    content_type: &'static str,
    headers: &'static str,
    body: String,
    /// For the log, where no query and no password may be: they can stand in a request target.
    reason: String,
}

impl Reply {
    fn error(status: u16, error: &'static str, reason: &str, next: &str) -> Self {
        let body = format!("{}: {reason}\nnext: {next}\n", program::name());
        Self {
            status,
            error: Some(error),
            content_type: "text/plain; charset=utf-8",
            headers: "",
            body,
            reason: reason.to_owned(),
        }
    }

    /// What the log says of the request that is answered.
    pub(crate) fn ended(&self) -> Ended {
        if self.error.is_some() {
            Ended::Rejected(self.reason.clone())
        } else {
            Ended::Complete
        }
    }

    /// What it says to people.
    pub(crate) fn text(&self) -> &str {
        &self.body
    }

    /// The browser's proxy script.
    pub(crate) fn pac(script: String) -> Self {
        Self {
            status: 200,
            error: None,
            content_type: "application/x-ns-proxy-autoconfig",
            headers: "",
            body: script,
            reason: String::new(),
        }
    }

    /// The upstream could not be reached.
    pub(crate) fn dial(target: &Target, error: &DialError, namespace: &str) -> Self {
        let (status, kind) = match error.code {
            RefusalCode::NoSuchHost | RefusalCode::ResolveFailed => (502, "dns_error"),
            RefusalCode::ConnectionRefused => (502, "connection_refused"),
            RefusalCode::TimedOut => (504, "connection_timeout"),
            RefusalCode::Unreachable => (502, "destination_ip_unroutable"),
            RefusalCode::NotAllowed => (403, "destination_ip_prohibited"),
            RefusalCode::TooManyStreams | RefusalCode::ResourceExhausted => (503, "connection_limit_reached"),
            RefusalCode::ShuttingDown => (503, "destination_unavailable"),
            RefusalCode::AddressInUse | RefusalCode::Unsupported | RefusalCode::Other => {
                (502, "proxy_internal_error")
            }
        };
        let reason = format!("cannot reach {target}: {}", reason(error));
        Self::error(status, kind, &reason, &next(target, error.code, namespace))
    }

    /// The upstream ended the connection instead of answering.
    pub(crate) fn no_answer(target: &Target) -> Self {
        let reason = format!("{target} ended the connection without an answer");
        let next =
            "see its log; a port that does not speak plain HTTP does this too (then use CONNECT or SOCKS5)";
        Self::error(502, "connection_terminated", &reason, next)
    }

    /// The upstream answered something that is not HTTP.
    pub(crate) fn bad_answer(target: &Target, why: &str) -> Self {
        let reason = format!("the answer of {target} cannot be passed on: {why}");
        Self::error(
            502,
            "http_protocol_error",
            &reason,
            "reach a port that does not speak HTTP/1 by CONNECT or SOCKS5",
        )
    }

    /// The request head is not one.
    pub(crate) fn bad_head(error: HeadError) -> Self {
        match error {
            HeadError::Version => Self::error(
                505,
                "http_request_error",
                &error.to_string(),
                "send HTTP/2 through CONNECT (TLS programs do so by themselves) or SOCKS5",
            ),
            HeadError::BareLineFeed | HeadError::Syntax(_) | HeadError::Folded => {
                Self::bad_request(&error.to_string())
            }
        }
    }

    /// The end of the request cannot be told.
    pub(crate) fn bad_framing(error: FramingError) -> Self {
        Self::bad_request(&error.to_string())
    }

    /// The request breaks the rules.
    pub(crate) fn bad_request(reason: &str) -> Self {
        Self::error(
            400,
            "http_request_error",
            reason,
            "correct the request; it was not passed on",
        )
    }

    /// The request head is too long.
    pub(crate) fn too_large(limit: usize) -> Self {
        let reason = format!("the request head is longer than {limit} bytes");
        Self::error(
            431,
            "http_request_error",
            &reason,
            "send fewer or shorter headers (cookies are the usual reason)",
        )
    }

    /// The request head did not arrive in time.
    pub(crate) fn too_slow() -> Self {
        Self::error(
            408,
            "http_request_error",
            "the request head did not arrive in time",
            "send the request again",
        )
    }

    /// The request goes nowhere.
    pub(crate) fn unrouted(error: &RouteError, cluster_domain: &str) -> Self {
        let reason = error.to_string();
        let mut reply = match error {
            RouteError::Misdirected(_) => Self::error(
                421,
                "destination_not_found",
                &reason,
                &format!(
                    "ask for NAME.localhost, a service name, NAME.NAMESPACE.svc or a name below {cluster_domain}, \
                     or use this port as an HTTP or SOCKS5 proxy"
                ),
            ),
            RouteError::CrossSite(_) => Self::error(
                403,
                "http_request_denied",
                &reason,
                "open the address yourself, or call it from a page of the same host and port",
            ),
            RouteError::Form(_) => Self::error(
                400,
                "http_request_error",
                &reason,
                "use http://, or CONNECT for everything else",
            ),
            RouteError::Target { .. } | RouteError::HostCount => Self::bad_request(&reason),
        };
        reply.reason = match error {
            RouteError::Target { error, .. } => error.to_string(),
            RouteError::Form(_) => "a form of request target this proxy does not take".to_owned(),
            // A text that is no host may be anything.
            RouteError::Misdirected(host) if Target::parse(host, Some(80)).is_err() => {
                "the Host header is neither a name nor an address".to_owned()
            }
            RouteError::Misdirected(_) | RouteError::HostCount | RouteError::CrossSite(_) => reason,
        };
        reply
    }

    /// No password, or a wrong one.
    pub(crate) fn unauthenticated() -> Self {
        let reason = "this proxy asks for a user and a password of its --auth-file";
        let next = "put them into the proxy's address: http://USER:PASSWORD@HOST:PORT";
        let mut reply = Self::error(407, "http_request_denied", reason, next);
        reply.headers = "Proxy-Authenticate: Basic realm=\"kubectl tunnel\", charset=\"UTF-8\"\r\n";
        reply
    }

    /// Host routing cannot carry a password for us.
    pub(crate) fn host_routing_off() -> Self {
        let reason = "with --auth-file requests are not routed by their Host header";
        Self::error(
            403,
            "http_request_denied",
            reason,
            "use this port as an HTTP or SOCKS5 proxy, with user and password",
        )
    }

    /// The bytes to send; without the body when it answers a HEAD request.
    pub(crate) fn bytes(&self, head_request: bool, close: bool) -> Vec<u8> {
        let status = self.status;
        let proxy_status = self
            .error
            .map(|error| format!("Proxy-Status: kubectl-tunnel; error={error}\r\n"))
            .unwrap_or_default();
        let mut out = format!(
            "HTTP/1.1 {status} {phrase}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\n{proxy_status}{}{}\r\n",
            self.content_type,
            self.body.len(),
            self.headers,
            if close { "Connection: close\r\n" } else { "" },
            phrase = phrase(status),
        );
        if !head_request {
            out.push_str(&self.body);
        }
        out.into_bytes()
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

/// What happened, for people: the agent's words, on one line.
fn reason(error: &DialError) -> String {
    let words = match error.code {
        RefusalCode::NoSuchHost => "no such host",
        RefusalCode::ResolveFailed => "the cluster's name servers do not answer",
        RefusalCode::ConnectionRefused => "connection refused",
        RefusalCode::TimedOut => "no answer in time",
        RefusalCode::Unreachable => "no route to it",
        RefusalCode::NotAllowed => {
            "loopback, unspecified and link-local addresses are not dialled from the pod"
        }
        RefusalCode::TooManyStreams => "the session carries as many connections as it may",
        RefusalCode::ResourceExhausted => "the agent has no room for another connection",
        RefusalCode::ShuttingDown => "the session ended",
        RefusalCode::AddressInUse => "the address is in use",
        RefusalCode::Unsupported => "the agent cannot do this",
        RefusalCode::Other => "the connection failed",
    };
    let detail: String = error.detail.chars().filter(|c| !c.is_control()).collect();
    if detail.is_empty() {
        words.to_owned()
    } else if detail.to_ascii_lowercase().contains(words) {
        detail
    } else {
        format!("{words} ({detail})")
    }
}

/// The next command to type.
fn next(target: &Target, code: RefusalCode, namespace: &str) -> String {
    let service = service_of(&target.host, namespace);
    match (code, service) {
        (RefusalCode::NoSuchHost, Some((_, namespace))) => format!("kubectl get services -n {namespace}"),
        (RefusalCode::NoSuchHost, None) => {
            format!(
                "check the name; it is looked up in a pod of namespace {namespace}, as NAME or NAME.NAMESPACE"
            )
        }
        (RefusalCode::ResolveFailed, _) => "kubectl get pods -n kube-system -l k8s-app=kube-dns".to_owned(),
        (
            RefusalCode::ConnectionRefused | RefusalCode::TimedOut | RefusalCode::Unreachable,
            Some((name, namespace)),
        ) => {
            format!(
                "kubectl get service,endpointslices,networkpolicies -n {namespace} (ports and endpoints of {name})"
            )
        }
        (RefusalCode::ConnectionRefused | RefusalCode::TimedOut | RefusalCode::Unreachable, None) => {
            format!("check host and port as seen from a pod: kubectl get networkpolicies -n {namespace}")
        }
        (RefusalCode::NotAllowed, _) => {
            format!(
                "if this is meant: {} proxy -n {namespace} --allow-target ADDRESS",
                program::name()
            )
        }
        (RefusalCode::TooManyStreams | RefusalCode::ResourceExhausted, _) => {
            "end some connections and try again".to_owned()
        }
        (RefusalCode::ShuttingDown, _) => format!("{} proxy -n {namespace}", program::name()),
        (RefusalCode::AddressInUse | RefusalCode::Unsupported | RefusalCode::Other, _) => {
            "try again; -v=2 shows what the plugin and the agent do".to_owned()
        }
    }
}

/// The Service and namespace a cluster name most likely means.
fn service_of<'a>(host: &'a str, namespace: &'a str) -> Option<(&'a str, &'a str)> {
    if host.parse::<std::net::IpAddr>().is_ok() {
        return None;
    }
    let labels: Vec<&str> = host.trim_end_matches('.').split('.').collect();
    match labels.as_slice() {
        [name] => Some((name, namespace)),
        [name, namespace] => Some((name, namespace)),
        [front @ .., name, namespace, "svc"] if front.len() < 2 => Some((name, namespace)),
        labels => {
            let svc = labels
                .iter()
                .position(|&label| label == "svc")
                .filter(|&at| at >= 2)?;
            Some((labels[svc - 2], labels[svc - 1]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(reply: &Reply, head_request: bool) -> String {
        String::from_utf8(reply.bytes(head_request, true)).unwrap()
    }

    fn failed(host: &str, code: RefusalCode, detail: &str) -> Reply {
        let target = Target {
            host: host.into(),
            port: 81,
        };
        Reply::dial(
            &target,
            &DialError {
                code,
                detail: detail.into(),
            },
            "dev",
        )
    }

    #[test]
    fn says_what_where_why_and_what_next() {
        let reply = failed(
            "web",
            RefusalCode::ConnectionRefused,
            "dial 10.0.0.7:81: connection refused",
        );
        assert_eq!(reply.status, 502);
        assert_eq!(
            reply.body,
            "kubectl tunnel: cannot reach web:81: dial 10.0.0.7:81: connection refused\n\
             next: kubectl get service,endpointslices,networkpolicies -n dev (ports and endpoints of web)\n"
        );
        assert!(text(&reply, false).ends_with(&reply.body));
        assert!(text(&reply, true).ends_with("\r\n\r\n"));
        assert!(text(&reply, true).contains("Proxy-Status: kubectl-tunnel; error=connection_refused\r\n"));
    }

    #[test]
    fn each_cause_has_its_status() {
        for (code, status) in [
            (RefusalCode::NoSuchHost, 502),
            (RefusalCode::ResolveFailed, 502),
            (RefusalCode::TimedOut, 504),
            (RefusalCode::NotAllowed, 403),
            (RefusalCode::TooManyStreams, 503),
            (RefusalCode::ShuttingDown, 503),
            (RefusalCode::Other, 502),
        ] {
            assert_eq!(failed("web", code, "").status, status, "{code:?}");
        }
    }

    #[test]
    fn a_detail_cannot_add_lines() {
        let reply = failed("web", RefusalCode::Other, "a\r\nSet-Cookie: b");
        assert_eq!(reply.body.lines().count(), 2);
    }

    #[test]
    fn finds_the_service_in_a_name() {
        for (host, service) in [
            ("web", Some(("web", "dev"))),
            ("web.prod", Some(("web", "prod"))),
            ("web.prod.svc", Some(("web", "prod"))),
            ("pod-0.web.prod.svc", Some(("web", "prod"))),
            ("pod-0.web.prod.svc.cluster.local.", Some(("web", "prod"))),
            ("api.corp.example", None),
            ("10.0.0.7", None),
        ] {
            assert_eq!(service_of(host, "dev"), service, "{host}");
        }
    }
}
