//! Who may reach the exposed ports: `--allow-from` as typed, and as a peer of a NetworkPolicy. Pure.
//!
//! | typed | lets in |
//! |---|---|
//! | `app=web,tier!=db` | pods of the session's namespace with these labels |
//! | `namespace/NAME` | all pods of that namespace |
//! | `namespace/NAME:app=web` | pods of that namespace with these labels |
//! | `10.1.0.0/16`, `10.1.2.3`, `fd00::/8` | addresses, of pods or others |

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::label;

/// The label that every namespace carries with its own name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
const NAMESPACE: &str = "namespace/";

/// Some callers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Pods.
    Pods {
        /// Where; `None` is the session's namespace.
        namespace: Option<String>,
        /// Which; an empty one selects all.
        selector: Selector,
    },
    /// Addresses.
    Addresses(IpNet),
}

/// Labels that pods must and must not have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    equal: BTreeMap<String, String>,
    different: BTreeMap<String, String>,
}

/// The text is none of the forms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}`: {reason}; give pods by their labels (`app=web,tier!=db`), a namespace (`namespace/NAME`), both \
     (`namespace/NAME:app=web`), or addresses (`10.1.0.0/16`)"
)]
pub struct PeerError {
    text: String,
    reason: String,
}

impl FromStr for Peer {
    type Err = PeerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|reason| PeerError {
            text: text.to_owned(),
            reason,
        })
    }
}

fn parse(text: &str) -> Result<Peer, String> {
    if let Some(rest) = text.strip_prefix(NAMESPACE) {
        let (name, selector) = match rest.split_once(':') {
            Some((name, selector)) => (name, selector.parse()?),
            None => (rest, Selector::default()),
        };
        if !label::is_dns_label(name) {
            return Err(format!("`{name}` is no name of a namespace"));
        }
        return Ok(Peer::Pods {
            namespace: Some(name.to_owned()),
            selector,
        });
    }
    if text.contains('=') {
        return Ok(Peer::Pods {
            namespace: None,
            selector: text.parse()?,
        });
    }
    if let Ok(net) = text.parse::<IpNet>() {
        return Ok(Peer::Addresses(net.trunc()));
    }
    text.parse::<IpAddr>()
        .map(|address| Peer::Addresses(address.into()))
        .map_err(|_| "neither labels, namespace nor addresses".to_owned())
}

impl FromStr for Selector {
    /// A reason in words, for [`PeerError`].
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut selector = Self::default();
        for term in text.split(',') {
            let (key, value) = term
                .split_once('=')
                .ok_or_else(|| format!("`{term}` is neither KEY=VALUE nor KEY!=VALUE"))?;
            let (key, set) = match key.strip_suffix('!') {
                Some(key) => (key, &mut selector.different),
                None => (key, &mut selector.equal),
            };
            if !label::is_key(key) {
                return Err(format!("`{key}` is no label key"));
            }
            if !label::is_value(value) {
                return Err(format!("`{value}` is no label value"));
            }
            // Two values of one label at once: no pod has them, and one would be lost here.
            if set.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(format!("`{key}` is named twice"));
            }
        }
        Ok(selector)
    }
}

impl Peer {
    /// As an entry of `from` in an ingress rule.
    pub(super) fn manifest(&self) -> Value {
        match self {
            Self::Pods {
                namespace: None,
                selector,
            } => json!({"podSelector": selector.manifest()}),
            Self::Pods {
                namespace: Some(name),
                selector,
            } => {
                let mut peer = json!({"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: name}}});
                if *selector != Selector::default() {
                    peer["podSelector"] = selector.manifest();
                }
                peer
            }
            Self::Addresses(net) => json!({"ipBlock": {"cidr": net.to_string()}}),
        }
    }
}

impl Selector {
    fn manifest(&self) -> Value {
        let mut selector = Map::new();
        if !self.equal.is_empty() {
            selector.insert("matchLabels".to_owned(), json!(self.equal));
        }
        if !self.different.is_empty() {
            let expressions: Vec<Value> = self
                .different
                .iter()
                .map(|(key, value)| json!({"key": key, "operator": "NotIn", "values": [value]}))
                .collect();
            selector.insert("matchExpressions".to_owned(), Value::Array(expressions));
        }
        Value::Object(selector)
    }
}

impl fmt::Display for Peer {
    /// As it may be typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods {
                namespace: None,
                selector,
            } => selector.fmt(f),
            Self::Pods {
                namespace: Some(name),
                selector,
            } => {
                write!(f, "{NAMESPACE}{name}")?;
                if *selector != Selector::default() {
                    write!(f, ":{selector}")?;
                }
                Ok(())
            }
            Self::Addresses(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Addresses(net) => net.fmt(f),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let equal = self.equal.iter().map(|(key, value)| format!("{key}={value}"));
        let different = self
            .different
            .iter()
            .map(|(key, value)| format!("{key}!={value}"));
        f.write_str(&equal.chain(different).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_and_what_it_becomes() {
        for (text, manifest) in [
            ("app=web", json!({"podSelector": {"matchLabels": {"app": "web"}}})),
            (
                "app=web,tier!=db,example.com/x=",
                json!({"podSelector": {
                    "matchLabels": {"app": "web", "example.com/x": ""},
                    "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["db"]}],
                }}),
            ),
            (
                "namespace/shop",
                json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}),
            ),
            (
                "namespace/shop:app=web",
                json!({
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}},
                    "podSelector": {"matchLabels": {"app": "web"}},
                }),
            ),
            ("10.1.2.3/16", json!({"ipBlock": {"cidr": "10.1.0.0/16"}})),
            ("10.1.2.3", json!({"ipBlock": {"cidr": "10.1.2.3/32"}})),
            ("fd00::/8", json!({"ipBlock": {"cidr": "fd00::/8"}})),
        ] {
            let peer: Peer = text.parse().unwrap();
            assert_eq!(peer.manifest(), manifest, "{text}");
            assert_eq!(peer.to_string().parse(), Ok(peer.clone()), "{text}");
        }
        assert_eq!("10.1.2.3".parse::<Peer>().unwrap().to_string(), "10.1.2.3");
    }

    #[test]
    fn anything_else_shows_the_forms() {
        for text in [
            "",
            "web",
            "app",
            "app=web,",
            "app=web,tier",
            "app==web",
            "app=a,app=b",
            "app!=a,app!=b",
            "!app",
            "-a=b",
            "app=b c",
            "namespace/",
            "namespace/Shop",
            "namespace/shop:",
            "namespace/shop:app",
            "namespace/a/b",
            "10.1.0.0/33",
            "10.1.2.3:80",
            "example.com",
        ] {
            let error = text.parse::<Peer>().unwrap_err().to_string();
            assert!(error.contains("(`namespace/NAME:app=web`)"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_prints_and_parses_back(text in "(namespace/[a-z]{0,4}:?)?[a-z.=!,0-9:/]{0,30}") {
            if let Ok(peer) = text.parse::<Peer>() {
                prop_assert_eq!(peer.to_string().parse(), Ok(peer));
            }
        }
    }
}
