//! A file of targets, for `-f`: YAML, or JSON, which is YAML too.
//!
//! ```yaml
//! targets:                     # or the list alone
//! - svc/web 8080:80 9090       # as on the command line
//! - target: svc/db
//!   namespace: other
//!   ports: [5432, 53/udp]      # a list, or one
//!   address: [127.0.0.2]       # where to listen; localhost is both families
//!   via: pod
//! ```
//!
//! Every mistake is told with its line. What the file means is checked here, what it leads to elsewhere.

use std::fmt;

use serde_saphyr::Spanned;

use super::{ForwardPort, ForwardPortError, TargetSpec, Via, WordsError, parse_words};
use crate::cluster::yaml::YamlError;
use crate::forward::bind::LocalHost;
use crate::located::Node;

/// One target of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTarget {
    /// The target, with the namespace the file names.
    pub target: TargetSpec,
    /// At least one.
    pub ports: Vec<ForwardPort>,
    /// How to reach it, if the file says so.
    pub via: Option<Via>,
    /// Where to listen, if the file says so.
    pub address: Vec<LocalHost>,
}

/// What is wrong in a file, and where.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// No YAML.
    #[error("{origin}: {source}")]
    Yaml {
        /// The file.
        origin: String,
        /// What the parser said; it knows the line.
        source: YamlError,
    },
    /// YAML that is not a list of targets.
    #[error("{origin}:{line}:{column}: {problem}")]
    At {
        /// The file.
        origin: String,
        /// From 1.
        line: u64,
        /// From 1.
        column: u64,
        /// What is wrong.
        problem: String,
    },
}

/// The targets in a file's text; `origin` is what errors call the file.
pub fn parse_file(text: &str, origin: &str) -> Result<Vec<FileTarget>, FileError> {
    let root: Spanned<Node> = serde_saphyr::from_str(text).map_err(|error| FileError::Yaml {
        origin: origin.to_owned(),
        source: error.into(),
    })?;
    read_root(&root).map_err(|Problem { at, text }| FileError::At {
        origin: origin.to_owned(),
        line: at.line(),
        column: at.column(),
        problem: text,
    })
}

struct Problem {
    at: serde_saphyr::Location,
    text: String,
}

fn problem<T>(node: &Spanned<T>, text: impl Into<String>) -> Problem {
    Problem {
        at: node.referenced,
        text: text.into(),
    }
}

fn read_root(root: &Spanned<Node>) -> Result<Vec<FileTarget>, Problem> {
    let list = match &root.value {
        Node::List(list) => list,
        Node::Map(map) => {
            if let Some((key, _)) = map.iter().find(|(key, _)| key.value != "targets") {
                let text = format!(
                    "unknown key `{}`: the list of targets is called `targets`",
                    key.value
                );
                return Err(problem(key, text));
            }
            match map.first().map(|(_, value)| (value, &value.value)) {
                Some((_, Node::List(list))) => list,
                Some((value, other)) => {
                    return Err(problem(
                        value,
                        format!("`targets` is {}, not a list", other.what()),
                    ));
                }
                None => return Err(problem(root, "no targets: `targets` is missing")),
            }
        }
        Node::Word(_) | Node::Bool(_) | Node::Other(_) => {
            let text = format!("the file is {}, not a list of targets", root.value.what());
            return Err(problem(root, text));
        }
    };
    let mut targets = Vec::new();
    for entry in list {
        match &entry.value {
            Node::Word(line) => targets.extend(read_line(entry, line)?),
            Node::Map(map) => targets.push(read_map(entry, map)?),
            Node::List(_) | Node::Bool(_) | Node::Other(_) => {
                let text = format!("a target is a line or a map, not {}", entry.value.what());
                return Err(problem(entry, text));
            }
        }
    }
    if targets.is_empty() {
        return Err(problem(root, "no targets"));
    }
    Ok(targets)
}

fn read_line(entry: &Spanned<Node>, line: &str) -> Result<Vec<FileTarget>, Problem> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let targets = parse_words(&words).map_err(|error: WordsError| problem(entry, error.to_string()))?;
    let plain = |(target, ports)| FileTarget {
        target,
        ports,
        via: None,
        address: Vec::new(),
    };
    Ok(targets.into_iter().map(plain).collect())
}

fn read_map(entry: &Spanned<Node>, map: &[(Spanned<String>, Spanned<Node>)]) -> Result<FileTarget, Problem> {
    let (mut target, mut namespace, mut via) = (None, None, None);
    let (mut ports, mut address) = (Vec::new(), Vec::new());
    for (key, value) in map {
        match key.value.as_str() {
            "target" => target = Some((value, parse::<TargetSpec>(value)?)),
            "port" | "ports" => {
                let words = some_words(value)?;
                let parsed = words.into_iter().map(|(node, word)| {
                    word.parse()
                        .map_err(|error: ForwardPortError| problem(node, error.to_string()))
                });
                ports.extend(parsed.collect::<Result<Vec<ForwardPort>, _>>()?);
            }
            "namespace" => namespace = Some(read_namespace(value)?),
            "via" => via = Some(read_via(value)?),
            "address" => {
                for (node, word) in some_words(value)? {
                    let text = || problem(node, format!("`{word}` is neither an IP address nor localhost"));
                    address.push(word.parse().map_err(|_| text())?);
                }
            }
            other => {
                let known = "target, ports, namespace, via and address";
                let text = format!("unknown key `{other}`: a target has {known}");
                return Err(problem(key, text));
            }
        }
    }
    let Some((at, mut target)) = target else {
        return Err(problem(entry, "`target` is missing"));
    };
    if ports.is_empty() {
        return Err(problem(
            entry,
            format!("{target} has no port: `ports` is missing"),
        ));
    }
    if let Some(namespace) = namespace {
        if target.namespace.as_ref().is_some_and(|named| *named != namespace) {
            let text = format!("{target} is not in namespace {namespace}: name one of them only");
            return Err(problem(at, text));
        }
        target.namespace = Some(namespace);
    }
    Ok(FileTarget {
        target,
        ports,
        via,
        address,
    })
}

fn read_namespace(value: &Spanned<Node>) -> Result<String, Problem> {
    let name = word(value)?;
    super::names::label("namespace", name).map_err(|error| problem(value, error.to_string()))
}

fn read_via(value: &Spanned<Node>) -> Result<Via, Problem> {
    let name = word(value)?;
    clap::ValueEnum::from_str(name, false)
        .map_err(|_| problem(value, format!("`{name}` is not a way: auto, agent or pod")))
}

fn parse<T>(node: &Spanned<Node>) -> Result<T, Problem>
where
    T: std::str::FromStr<Err: fmt::Display>,
{
    word(node)?
        .parse()
        .map_err(|error: T::Err| problem(node, error.to_string()))
}

fn word(node: &Spanned<Node>) -> Result<&str, Problem> {
    match &node.value {
        Node::Word(word) => Ok(word),
        other @ (Node::Map(_) | Node::List(_) | Node::Bool(_) | Node::Other(_)) => Err(problem(
            node,
            format!("a word is needed here, not {}", other.what()),
        )),
    }
}

/// The words of a list, or of one text.
fn some_words(node: &Spanned<Node>) -> Result<Vec<(&Spanned<Node>, &str)>, Problem> {
    let nodes = match &node.value {
        Node::List(list) => list.as_slice(),
        Node::Word(_) | Node::Map(_) | Node::Bool(_) | Node::Other(_) => std::slice::from_ref(node),
    };
    let mut words = Vec::new();
    for node in nodes {
        words.extend(word(node)?.split_whitespace().map(|word| (node, word)));
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn print(targets: &[FileTarget]) -> Vec<String> {
        let line = |entry: &FileTarget| {
            let mut words = vec![entry.target.to_string()];
            words.extend(entry.ports.iter().map(ToString::to_string));
            words.extend(entry.via.map(|via| format!("via {via:?}")));
            words.extend(entry.address.iter().map(|address| format!("at {address}")));
            words.join(" ")
        };
        targets.iter().map(line).collect()
    }

    #[test]
    fn lists_and_maps() {
        for (text, expected) in [
            ("- svc/web 8080:80 9090\n", vec!["svc/web 8080:80 9090"]),
            (
                "targets:\n- svc/web 80 pod/db 5432\n- db-0 1\n",
                vec!["svc/web 80", "pod/db 5432", "pod/db-0 1"],
            ),
            (
                "- {target: svc/db, namespace: other, ports: [8080:80, \"53/udp\", 9], via: pod, address: [127.0.0.2]}\n",
                vec!["svc/db.other 8080:80 53/udp 9 via Pod at 127.0.0.2"],
            ),
            (
                "- target: svc/db\n  ports: 5432\n  address: '::1'\n",
                vec!["svc/db 5432 at ::1"],
            ),
            (
                "- target: svc/db\n  ports: 5432 :http\n",
                vec!["svc/db 5432 :http"],
            ),
            (
                r#"{"targets": [{"target": "deploy/api", "ports": [":80"]}]}"#,
                vec!["deploy/api :80"],
            ),
        ] {
            assert_eq!(
                print(&parse_file(text, "t.yaml").expect(text)),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (text, expected) in [
            ("", "the file is empty"),
            ("[]", "t.yaml:1:1: no targets"),
            ("web", "t.yaml:1:1: the file is a word"),
            ("target: []", "t.yaml:1:1: unknown key `target`"),
            (
                "targets: svc/web 80",
                "t.yaml:1:10: `targets` is a word, not a list",
            ),
            ("- svc/a 80\n- svc/b\n", "t.yaml:2:3: svc/b has no port"),
            ("- 5\n", "t.yaml:1:3: `5` is a port"),
            ("- - a\n", "t.yaml:1:3: a target is a line or a map, not a list"),
            (
                "- true\n",
                "t.yaml:1:3: a target is a line or a map, not true or false",
            ),
            (
                "- target: svc/a\n  porst: 80\n",
                "t.yaml:2:3: unknown key `porst`",
            ),
            (
                "- target: svc/a\n  ports: [80, 1.5]\n",
                "t.yaml:2:15: a word is needed here",
            ),
            (
                "- target: svc/a\n  ports: [80, a:b]\n",
                "t.yaml:2:15: `a` is not a local port",
            ),
            ("- target: svc/a\n", "t.yaml:1:3: svc/a has no port"),
            ("- ports: 80\n", "t.yaml:1:3: `target` is missing"),
            (
                "- target: {a: b}\n  ports: 80\n",
                "t.yaml:1:11: a word is needed here, not a map",
            ),
            (
                "- {target: svc/a.b, ports: 1, namespace: c}\n",
                "t.yaml:1:12: svc/a.b is not in namespace c",
            ),
            (
                "- {target: svc/a, ports: 1, namespace: C}\n",
                "t.yaml:1:40: `C` cannot be the name of a namespace",
            ),
            (
                "- {target: svc/a, ports: 1, via: car}\n",
                "t.yaml:1:34: `car` is not a way",
            ),
            (
                "- {target: svc/a, ports: 1, address: lo}\n",
                "t.yaml:1:38: `lo` is neither an IP address nor localhost",
            ),
            ("- {target: svc/a, target: svc/b, ports: 1}\n", "t.yaml: "),
            ("- {target: svc/a\n", "t.yaml: "),
        ] {
            let error = parse_file(text, "t.yaml").expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "([-{}\\[\\]:, \n]|target|ports|svc/a|80){0,20}") {
            drop(parse_file(&text, "t.yaml"));
        }
    }
}
