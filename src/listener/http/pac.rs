//! `/proxy.pac`: tells a browser which names to send here. Everything else stays direct, so that the page
//! can be set for good and does no harm while no session runs for those names.

use std::net::SocketAddr;

/// The script, for a proxy at `own`.
pub(crate) fn script(own: SocketAddr, cluster_domain: &str) -> String {
    let domain: String = cluster_domain
        .trim_matches('.')
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        .collect();
    format!(
        "function FindProxyForURL(url, host) {{\n  \
           host = host.toLowerCase().replace(/\\.$/, \"\");\n  \
           if (host === \"localhost\" || dnsDomainIs(host, \".localhost\")) return \"DIRECT\";\n  \
           if (host.indexOf(\":\") < 0 && isPlainHostName(host)) return \"PROXY {own}\";\n  \
           if (dnsDomainIs(host, \".svc\") || dnsDomainIs(host, \".{domain}\")) return \"PROXY {own}\";\n  \
           return \"DIRECT\";\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_this_port_and_the_cluster_domain() {
        let script = script("127.0.0.1:6080".parse().unwrap(), "cluster.local");
        assert!(script.contains("return \"PROXY 127.0.0.1:6080\";"), "{script}");
        assert!(
            script.contains("dnsDomainIs(host, \".cluster.local\")"),
            "{script}"
        );
        assert_eq!(script.matches('{').count(), script.matches('}').count());
    }

    #[test]
    fn a_domain_cannot_leave_its_string() {
        let script = script("127.0.0.1:6080".parse().unwrap(), "a\"); alert(\"");
        assert!(script.contains("\".aalert\""), "{script}");
    }
}
