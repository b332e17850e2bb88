//! YAML errors without the text they are about.
//!
//! The parser quotes the lines around an error. In a kubeconfig those hold tokens and keys, which must not reach a
//! terminal, a log or a JSON event; and a cause is one line. Used for every YAML a user gives us.

use std::fmt;

use serde_saphyr::UserMessageFormatter;

/// What is wrong with a YAML text, and in which line.
#[derive(Debug)]
pub struct YamlError(Box<serde_saphyr::Error>);

impl From<Box<serde_saphyr::Error>> for YamlError {
    fn from(error: Box<serde_saphyr::Error>) -> Self {
        Self(error)
    }
}

impl From<serde_saphyr::Error> for YamlError {
    fn from(error: serde_saphyr::Error) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The library's own words are for programmers: they name its options.
        let error = self.0.without_snippet();
        f.write_str(&error.render_with_formatter(&UserMessageFormatter))
    }
}

// Deliberately without a source: that one quotes the text.
impl std::error::Error for YamlError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_around_an_error_are_not_quoted() {
        let text = "clusters: {server: x\nusers:\n- user: {token: sesame}\n";
        let error = serde_saphyr::from_str::<serde_json::Value>(text).unwrap_err();
        let text = YamlError::from(error).to_string();
        assert!(!text.contains("sesame") && !text.contains('\n'), "{text}");
        assert!(text.contains("line"), "{text}");
    }
}
