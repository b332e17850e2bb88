//! What Kubernetes takes as a label or an annotation, and the ones a user may put on our Service.
//!
//! Pure. A wrong one is found here, before anything is created, instead of by the API server after the Job is.
//! The rules are those of the API's validation: a key is a name, or a DNS subdomain, a slash and a name.

use std::collections::BTreeMap;

use super::names::{
    LABEL_COMPONENT, LABEL_INSTANCE, LABEL_MANAGED_BY, LABEL_NAME, LABEL_VERSION, OWN_PREFIX,
};

/// Longest name, and longest value of a label.
const LONGEST: usize = 63;
/// Longest prefix of a key.
const LONGEST_PREFIX: usize = 253;
/// Most bytes of all the user's annotations: the API takes 256 KiB of all, and ours need less than 4.
const ANNOTATIONS: usize = 252 * 1024;

/// Why a text is no label or annotation of the user's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("`{0}` is not KEY=VALUE")]
    Form(String),
    #[error(
        "`{0}` is no key: up to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends, after an optional DNS name and `/`"
    )]
    Key(String),
    #[error(
        "`{0}` is no label value: up to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends"
    )]
    Value(String),
    #[error("{0} is set by {name}, which finds its objects by it; choose another key", name = crate::program::name())]
    Ours(String),
    #[error("{0} is named twice")]
    Twice(String),
    #[error("all annotations together may have {ANNOTATIONS} bytes")]
    TooLong,
}

/// The labels in `texts`, each `KEY=VALUE`.
pub fn labels(texts: &[String]) -> Result<BTreeMap<String, String>, LabelError> {
    let labels = pairs(texts)?;
    match labels.values().find(|value| !is_value(value)) {
        Some(value) => Err(LabelError::Value(value.clone())),
        None => Ok(labels),
    }
}

/// The annotations in `texts`, each `KEY=VALUE` with any value.
pub fn annotations(texts: &[String]) -> Result<BTreeMap<String, String>, LabelError> {
    let annotations = pairs(texts)?;
    let size: usize = annotations
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if size > ANNOTATIONS {
        return Err(LabelError::TooLong);
    }
    Ok(annotations)
}

fn pairs(texts: &[String]) -> Result<BTreeMap<String, String>, LabelError> {
    let mut pairs = BTreeMap::new();
    for text in texts {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| LabelError::Form(text.clone()))?;
        if !is_key(key) {
            return Err(LabelError::Key(key.to_owned()));
        }
        if is_ours(key) {
            return Err(LabelError::Ours(key.to_owned()));
        }
        if pairs.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(LabelError::Twice(key.to_owned()));
        }
    }
    Ok(pairs)
}

/// Other keys of `app.kubernetes.io`, such as `part-of`, are the user's.
fn is_ours(key: &str) -> bool {
    [
        LABEL_NAME,
        LABEL_INSTANCE,
        LABEL_VERSION,
        LABEL_COMPONENT,
        LABEL_MANAGED_BY,
    ]
    .contains(&key)
        || key.starts_with(OWN_PREFIX)
}

/// A qualified name.
pub(super) fn is_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_name(name),
        None => is_name(text),
    }
}

/// A label value; empty is one.
pub(super) fn is_value(text: &str) -> bool {
    text.is_empty() || is_name(text)
}

/// An RFC 1123 label, which a namespace's name is.
pub(super) fn is_dns_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = |byte: Option<u8>| byte.is_some_and(plain);
    text.len() <= LONGEST
        && ends(text.bytes().next())
        && ends(text.bytes().last())
        && text.bytes().all(|byte| plain(byte) || byte == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= LONGEST_PREFIX && text.split('.').all(is_dns_label)
}

fn is_name(text: &str) -> bool {
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= LONGEST
        && ends(text.bytes().next())
        && ends(text.bytes().last())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn labels_of_the_user() {
        let texts = owned(&[
            "team=a",
            "example.com/Tier=b_1.c-d",
            "empty=",
            "app.kubernetes.io/part-of=x",
        ]);
        let labels = labels(&texts).unwrap();
        assert_eq!(labels["example.com/Tier"], "b_1.c-d");
        assert_eq!(labels["empty"], "");
        assert_eq!(labels.len(), 4);
    }

    #[test]
    fn wrong_labels_are_named() {
        let long = format!("{}=x", "k".repeat(64));
        let long_value = format!("k={}", "v".repeat(64));
        for (text, part) in [
            ("team", "`team` is not KEY=VALUE"),
            ("=x", "`` is no key"),
            ("-a=x", "`-a` is no key"),
            ("a/b/c=x", "`a/b/c` is no key"),
            ("Example.com/a=x", "`Example.com/a` is no key"),
            ("a..b/c=x", "`a..b/c` is no key"),
            ("/c=x", "`/c` is no key"),
            ("a/=x", "`a/` is no key"),
            (&long, "is no key"),
            ("a=b=c", "`b=c` is no label value"),
            ("a=b c", "`b c` is no label value"),
            ("a=-b", "`-b` is no label value"),
            (&long_value, "is no label value"),
            (
                "app.kubernetes.io/name=x",
                "app.kubernetes.io/name is set by kubectl tunnel",
            ),
            ("app.kubernetes.io/instance=x", "is set by"),
            ("kubectl-tunnel.dev/generation=9", "is set by"),
            ("kubectl-tunnel.dev/anything=9", "is set by"),
        ] {
            let error = labels(&owned(&[text])).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let twice = labels(&owned(&["a=1", "a=2"])).unwrap_err();
        assert_eq!(twice, LabelError::Twice("a".to_owned()));
    }

    #[test]
    fn annotations_take_any_value_but_not_our_keys() {
        let annotations = annotations(&owned(&["example.com/note=any = {\"text\"}: \u{e4}"])).unwrap();
        assert_eq!(annotations["example.com/note"], "any = {\"text\"}: \u{e4}");
        for (text, part) in [("kubectl-tunnel.dev/user=x", "is set by"), ("a b=x", "is no key")] {
            let error = super::annotations(&owned(&[text])).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let long = format!("a={}", "x".repeat(ANNOTATIONS));
        assert_eq!(super::annotations(&[long]), Err(LabelError::TooLong));
    }
}
