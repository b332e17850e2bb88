//! What stops a measurement. A bench tells people what went wrong; no code decides anything by it.

use std::error::Error;

/// Any error, with its words.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// A failure in our own words.
pub(crate) fn failure<T>(words: impl Into<String>) -> Result<T, Failure> {
    Err(words.into().into())
}

/// Says what was being done when it failed.
pub(crate) trait Doing<T> {
    /// `what: the error`.
    fn doing(self, what: &str) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> Doing<T> for Result<T, E> {
    fn doing(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| format!("{what}: {}", error.into()).into())
    }
}
