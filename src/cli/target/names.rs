//! Kubernetes' rules for names, and how far a mistyped word is from a known one. Knows no kind of target.

use super::TargetError;

/// Longest label of a DNS name.
const MAX_LABEL: usize = 63;

/// Longest DNS name, without the final dot.
const MAX_NAME: usize = 253;

const LABEL_RULE: &str = "at most 63 lower-case letters, digits and `-`, with a letter or digit at both ends";
const SUBDOMAIN_RULE: &str =
    "at most 253 lower-case letters, digits, `-` and `.`, with a letter or digit at both ends of each part";

/// A Service's or namespace's name.
///
/// A Service's first character may be a digit, although older API servers want a letter: they say so themselves.
pub(super) fn label(kind: &'static str, name: &str) -> Result<String, TargetError> {
    if is_label(name) {
        return Ok(name.to_owned());
    }
    Err(TargetError::Name {
        kind,
        name: name.to_owned(),
        rule: LABEL_RULE,
    })
}

/// A pod's or workload's name.
pub(super) fn subdomain(kind: &'static str, name: &str) -> Result<String, TargetError> {
    if name.len() <= MAX_NAME && name.split('.').all(is_part) {
        return Ok(name.to_owned());
    }
    Err(TargetError::Name {
        kind,
        name: name.to_owned(),
        rule: SUBDOMAIN_RULE,
    })
}

/// Whether DNS could know this name; one with a final dot is looked up without search domains.
pub(super) fn is_host(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let part = |part: &str| {
        (1..=MAX_LABEL).contains(&part.len())
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !part.starts_with('-')
    };
    name.len() <= MAX_NAME
        && name.split('.').all(part)
        // All digits and dots: an address with a mistake in it.
        && name.bytes().any(|byte| !byte.is_ascii_digit() && byte != b'.')
}

pub(super) fn is_label(name: &str) -> bool {
    name.len() <= MAX_LABEL && is_part(name)
}

/// One part of a subdomain; unlike a label it has no length of its own.
fn is_part(part: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
}

/// How many letters must be typed, left out or changed to get from one word to the other.
pub(super) fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, have) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, want) in to.iter().enumerate() {
            let changed = diagonal + usize::from(have != *want);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (from, to, expected) in [
            ("svc", "svc", 0),
            ("svv", "svc", 1),
            ("deplyo", "deploy", 2),
            ("", "job", 3),
        ] {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn hosts() {
        for good in ["a", "rds.internal", "A_b.c-d.", "1a", "1.2.3.4x"] {
            assert!(is_host(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "a..b",
            "-a",
            "10.0.0",
            "a b",
            "a:1",
            "a/b",
            &"a".repeat(64),
        ] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
