//! A command line of targets and their ports: `svc/web 8080:80 deploy/api :http ip/10.0.0.7 53/udp`.
//!
//! Which word is which:
//!
//! | word | is |
//! |---|---|
//! | the first | a target |
//! | with a `/`, but not `PORT/tcp` or `PORT/udp` | a target |
//! | without, right after a target | a port |
//! | a number, or with a `:` | a port |
//! | any other that could name a port as well as a pod | refused: nobody could tell |

use std::net::IpAddr;

use super::port::is_port_name;
use super::{ForwardPort, ForwardPortError, TargetError, TargetKind, TargetSpec};

/// Why words are not targets with ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// No word at all.
    #[error("no target given: type TYPE/NAME and its ports, such as `svc/web 8080:80`")]
    Nothing,
    /// A word that should be a target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A word that should be a port.
    #[error("{target}: {source}")]
    Port {
        /// Whose port.
        target: String,
        /// What is wrong with it.
        source: ForwardPortError,
    },
    /// A target, and then the end or the next one.
    #[error("{0} has no port: type `{0} PORT`, or `{0} LOCALPORT:PORT`")]
    NoPort(String),
    /// The first word is a port.
    #[error("`{0}` is a port, and the first word is a target: type `TYPE/NAME {0}`, such as `svc/web {0}`")]
    PortFirst(String),
    /// A pod or a port's name.
    #[error("`{0}` could be a pod or the name of a port: type `pod/{0}` for the pod, or `:{0}` for the port")]
    Ambiguous(String),
}

/// Targets with their ports, in the order of the words. No target is without ports.
pub fn parse_words(words: &[String]) -> Result<Vec<(TargetSpec, Vec<ForwardPort>)>, WordsError> {
    let mut all: Vec<(TargetSpec, Vec<ForwardPort>)> = Vec::new();
    for word in words {
        let Some((target, ports)) = all.last_mut() else {
            if is_port(word) {
                return Err(WordsError::PortFirst(word.clone()));
            }
            all.push((word.parse()?, Vec::new()));
            continue;
        };
        if is_port(word) || (ports.is_empty() && !word.contains('/')) {
            let port = word.parse().map_err(|source| WordsError::Port {
                target: target.to_string(),
                source,
            })?;
            ports.push(port);
            continue;
        }
        if ports.is_empty() {
            return Err(WordsError::NoPort(target.to_string()));
        }
        if is_port_name(word) {
            return Err(WordsError::Ambiguous(word.clone()));
        }
        all.push((word.parse()?, Vec::new()));
    }
    match all.last() {
        None => Err(WordsError::Nothing),
        Some((target, ports)) if ports.is_empty() => Err(WordsError::NoPort(target.to_string())),
        Some(_) => Ok(all),
    }
}

/// Whether a word can only be a port, if perhaps one with a mistake in it.
pub(crate) fn is_port(word: &str) -> bool {
    if word.parse::<IpAddr>().is_ok() {
        return false;
    }
    let (front, behind) = match word.split_once('/') {
        Some((front, behind)) => (front, Some(behind)),
        None => (word, None),
    };
    let digits = !front.is_empty() && front.bytes().all(|byte| byte.is_ascii_digit());
    let has_protocol = behind
        .is_some_and(|protocol| ["tcp", "udp"].contains(&protocol.to_ascii_lowercase().as_str()))
        // A pod may be called `tcp`.
        && TargetKind::parse(front).is_none();
    digits || front.contains(':') || has_protocol
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(line: &str) -> Result<Vec<(TargetSpec, Vec<ForwardPort>)>, WordsError> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse_words(&words)
    }

    fn print(targets: &[(TargetSpec, Vec<ForwardPort>)]) -> String {
        let words: Vec<String> = targets
            .iter()
            .flat_map(|(target, ports)| {
                std::iter::once(target.to_string()).chain(ports.iter().map(ToString::to_string))
            })
            .collect();
        words.join(" ")
    }

    #[test]
    fn command_lines() {
        for (line, expected) in [
            ("svc/web 8080:80", "svc/web 8080:80"),
            ("svc/web http", "svc/web http"),
            ("db-0 5432", "pod/db-0 5432"),
            ("http 80", "pod/http 80"),
            (
                "svc/web 8080:80 deploy/api :http pod/db-0 5432 ip/10.0.0.7 53/udp",
                "svc/web 8080:80 deploy/api :http pod/db-0 5432 ip/10.0.0.7 53/udp",
            ),
            ("svc/dns dns/udp 53/tcp", "svc/dns dns/udp 53"),
            ("svc/a 1 pod/udp 2", "svc/a 1 pod/udp 2"),
            ("svc/a 1 1 svc/a 1", "svc/a 1 1 svc/a 1"),
            ("svc/a 1 web.example 2", "svc/a 1 pod/web.example 2"),
        ] {
            assert_eq!(print(&parse(line).expect(line)), expected);
        }
    }

    #[test]
    fn refusals_tell_what_to_type() {
        for (line, expected) in [
            ("", "svc/web 8080:80"),
            ("svc/web", "svc/web has no port: type `svc/web PORT`"),
            ("svc/a svc/b 80", "svc/a has no port"),
            (
                "svc/a 80 db-1 5432",
                "`pod/db-1` for the pod, or `:db-1` for the port",
            ),
            ("80", "`svc/web 80`"),
            ("53/udp svc/dns", "`svc/web 53/udp`"),
            ("svc/a 80/sctp", "svc/a: `sctp` is not a protocol"),
            ("svc/a 8o:80", "`8o` is not a local port"),
            ("svc/a 99999", "`99999` is neither"),
            ("svc/a 80 nood/b 80", "did you mean"),
            ("fd00::1 80", "type `ip/fd00::1`"),
            ("svc/a 80 10.0.0.7 80", "type `ip/10.0.0.7`"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_back(line in "(svc/[a-z]{1,3}|pod/[a-z]{1,3}|[a-z]{1,3}|:?[0-9]{1,4}| |/udp){0,12}") {
            if let Ok(targets) = parse(&line) {
                prop_assert_eq!(parse(&print(&targets)), Ok(targets));
            }
        }

        #[test]
        fn nothing_panics(words in proptest::collection::vec(".{0,12}", 0..6)) {
            drop(parse_words(&words));
        }
    }
}
