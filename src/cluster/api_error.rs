//! What went wrong with a request to the API server, in types for the exit code and in kubectl's words for people.
//!
//! kube's error is taken apart once, here: the API server's own answer becomes a variant by its code and reason, the
//! rest is looked for in the chain of sources, down to the system's error number, never in a message's text. The types
//! keep text instead of sources, so that they can be cloned and shown by several waiters. Who decides about exit
//! codes and hints is `error`.

mod connect;
mod credential;

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use kube::client::UpgradeConnectionError;
use kube::core::Status;

pub use self::connect::ConnectFailure;
pub use self::credential::{CredentialError, CredentialPlugin};

/// The longest part of an answer that is shown. Proxies answer with whole pages.
const MAX_SHOWN: usize = 300;

/// One request, for errors and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Kubernetes' verb: `create`, `get`, `list`, `watch`, `patch`, `delete`.
    pub verb: &'static str,
    /// The resource as `kubectl auth can-i` takes it: `jobs`, `pods/exec`, or a path such as `/version`.
    pub resource: &'static str,
    /// The object's name, if one is meant.
    pub name: Option<String>,
    /// The namespace; filled in with the one in use.
    pub namespace: Option<String>,
}

impl Call {
    /// A request for this verb and resource, in the namespace in use.
    pub fn new(verb: &'static str, resource: &'static str) -> Self {
        Self {
            verb,
            resource,
            name: None,
            namespace: None,
        }
    }

    /// The same for one object.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The same in another namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }
}

impl From<(&'static str, &'static str)> for Call {
    fn from((verb, resource): (&'static str, &'static str)) -> Self {
        Self::new(verb, resource)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, " {name}"))
    }
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No connection, or the connection broke.
    #[error("{}", unreachable_text(server, cause))]
    Unreachable {
        /// Host and port.
        server: String,
        /// Who or what refused.
        cause: ConnectFailure,
    },
    /// No answer in time.
    #[error("the server {server} did not answer `{call}` within {timeout:?}")]
    Deadline {
        /// Host and port.
        server: String,
        /// The request.
        call: Call,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// No credentials to send: nothing was asked of the API server.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// 401: no credentials, or expired or wrong ones.
    #[error("You must be logged in to the server ({message})")]
    Unauthenticated {
        /// Host and port.
        server: String,
        /// The API server's words.
        message: String,
    },
    /// 403: a missing right, a quota, or an admission rule; the message tells which.
    #[error("Error from server (Forbidden): {message}")]
    Forbidden {
        /// The request; verb, resource and namespace make the `kubectl auth can-i` line.
        call: Call,
        /// The API server's words.
        message: String,
    },
    /// 404.
    #[error("Error from server (NotFound): {message}")]
    NotFound {
        /// The request.
        call: Call,
        /// The API server's words.
        message: String,
    },
    /// 409: an object of this name is there.
    #[error("Error from server (AlreadyExists): {message}")]
    AlreadyExists {
        /// The request.
        call: Call,
        /// The API server's words.
        message: String,
    },
    /// 409 otherwise: a precondition failed, or the object changed meanwhile.
    #[error("Error from server (Conflict): {message}")]
    Conflict {
        /// The request.
        call: Call,
        /// The API server's words.
        message: String,
    },
    /// 400 or 422: the object is not valid.
    #[error("Error from server ({reason}): {message}")]
    Invalid {
        /// The request.
        call: Call,
        /// `Invalid` or `BadRequest`.
        reason: String,
        /// The API server's words.
        message: String,
    },
    /// Any other refusal, also of something between us and the API server.
    #[error("Error from server ({reason}): {message}")]
    Server {
        /// The request.
        call: Call,
        /// HTTP status code.
        code: u16,
        /// Kubernetes' reason, or the HTTP status in words.
        reason: String,
        /// The words of the answer, shortened.
        message: String,
    },
    /// The WebSocket was not granted; mostly a proxy that knows no `WebSocket`s.
    #[error("`{call}` was not upgraded to a WebSocket: {cause}")]
    Upgrade {
        /// The request.
        call: Call,
        /// What was wrong with the answer.
        cause: String,
    },
    /// The answer cannot be read as what was asked for.
    #[error("unexpected answer to `{call}`: {cause}")]
    UnexpectedAnswer {
        /// The request.
        call: Call,
        /// What was wrong with it.
        cause: String,
    },
}

impl ApiError {
    /// The HTTP status code, if the API server (or something before it) answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Unauthenticated { .. } => Some(401),
            Self::Forbidden { .. } => Some(403),
            Self::NotFound { .. } => Some(404),
            Self::AlreadyExists { .. } | Self::Conflict { .. } => Some(409),
            Self::Invalid { reason, .. } => Some(if reason == "BadRequest" { 400 } else { 422 }),
            Self::Server { code, .. } => Some(*code),
            Self::Unreachable { .. }
            | Self::Deadline { .. }
            | Self::Credentials(_)
            | Self::Upgrade { .. }
            | Self::UnexpectedAnswer { .. } => None,
        }
    }

    /// Whether it is about reaching the API server or being known to it, whatever was asked.
    pub fn is_about_access(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Deadline { .. }
                | Self::Credentials(_)
                | Self::Unauthenticated { .. }
        )
    }

    /// Whether the same request may succeed a little later: the line or the API server is in trouble, not we.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { cause, .. } => cause.is_transient(),
            Self::Deadline { .. } => true,
            Self::Server { code, .. } => *code == 429 || *code >= 500,
            Self::Credentials(_)
            | Self::Unauthenticated { .. }
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::AlreadyExists { .. }
            | Self::Conflict { .. }
            | Self::Invalid { .. }
            | Self::Upgrade { .. }
            | Self::UnexpectedAnswer { .. } => false,
        }
    }

    /// Takes kube's error apart.
    pub(super) fn new(
        call: Call,
        server: &str,
        plugin: Option<&CredentialPlugin>,
        error: kube::Error,
    ) -> Self {
        let unexpected = |cause: String| Self::UnexpectedAnswer {
            call: call.clone(),
            cause,
        };
        if let kube::Error::SerdeError(cause) = &error {
            return unexpected(cause.to_string());
        }
        if let kube::Error::FromUtf8(cause) = &error {
            return unexpected(cause.to_string());
        }
        // A connection that breaks just behind a granted handshake is no refusal.
        if let kube::Error::UpgradeConnection(refused) = &error
            && !matches!(refused, UpgradeConnectionError::GetPendingUpgrade(_))
        {
            let cause = refused.to_string();
            return Self::Upgrade { call, cause };
        }
        if let kube::Error::Api(status) = error {
            return Self::from_status(call, server, *status);
        }
        if let Some(auth) = sources(&error).find_map(|error| error.downcast_ref()) {
            return Self::Credentials(CredentialError::new(auth, plugin));
        }
        Self::Unreachable {
            server: server.to_owned(),
            cause: ConnectFailure::find(&error),
        }
    }

    fn from_status(call: Call, server: &str, status: Status) -> Self {
        let message = shorten(&status.message);
        // kube makes a status with a reason of its own from an answer that is none.
        // A refusal by something between us and the API server has no reason (`client/pool`).
        let reason = if status.reason.is_empty() {
            http_reason(status.code)
        } else {
            status.reason
        };
        match (status.code, reason.as_str()) {
            (401, _) => Self::Unauthenticated {
                server: server.to_owned(),
                message,
            },
            (403, _) => Self::Forbidden { call, message },
            (404, _) => Self::NotFound { call, message },
            (409, "AlreadyExists") => Self::AlreadyExists { call, message },
            (409, _) => Self::Conflict { call, message },
            (400 | 422, _) => Self::Invalid {
                call,
                reason,
                message,
            },
            (code, _) => Self::Server {
                call,
                code,
                reason,
                message,
            },
        }
    }
}

fn unreachable_text(server: &str, cause: &ConnectFailure) -> String {
    if *cause == ConnectFailure::Refused {
        return format!(
            "The connection to the server {server} was refused - did you specify the right host or port?"
        );
    }
    format!("Unable to connect to the server {server}: {cause}")
}

fn http_reason(code: u16) -> String {
    let words = http::StatusCode::from_u16(code)
        .ok()
        .and_then(|status| status.canonical_reason());
    words.map_or_else(|| code.to_string(), str::to_owned)
}

/// One line of at most [`MAX_SHOWN`] characters.
pub(super) fn shorten(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(MAX_SHOWN) {
        line.truncate(end);
        line.push_str(" ...");
    }
    line
}

/// The error and everything that caused it, also what `io::Error` hides.
fn sources<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| source(error))
}

fn source<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<std::io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, reason: &str, message: &str) -> ApiError {
        let status = Status::failure(message, reason).with_code(code);
        ApiError::new(
            Call::new("create", "jobs"),
            "api:6443",
            None,
            kube::Error::Api(status.boxed()),
        )
    }

    #[test]
    fn answers_become_kubectls_sentences() {
        let cases = [
            (
                401,
                "Unauthorized",
                "Unauthorized",
                "You must be logged in to the server (Unauthorized)",
            ),
            (
                403,
                "Forbidden",
                "jobs is forbidden",
                "Error from server (Forbidden): jobs is forbidden",
            ),
            (
                404,
                "NotFound",
                "jobs \"x\" not found",
                "Error from server (NotFound): jobs \"x\" not found",
            ),
            (
                409,
                "AlreadyExists",
                "there",
                "Error from server (AlreadyExists): there",
            ),
            (
                409,
                "Conflict",
                "changed",
                "Error from server (Conflict): changed",
            ),
            (422, "Invalid", "no", "Error from server (Invalid): no"),
            (400, "BadRequest", "no", "Error from server (BadRequest): no"),
            (
                500,
                "InternalError",
                "oops",
                "Error from server (InternalError): oops",
            ),
            (
                502,
                "",
                "<html>\n bad</html>",
                "Error from server (Bad Gateway): <html> bad</html>",
            ),
            (599, "", "odd", "Error from server (599): odd"),
        ];
        for (code, reason, message, expected) in cases {
            let error = status(code, reason, message);
            assert_eq!((error.to_string().as_str(), error.code()), (expected, Some(code)));
        }
        assert!(matches!(
            status(409, "AlreadyExists", ""),
            ApiError::AlreadyExists { .. }
        ));
        assert!(
            matches!(status(403, "Forbidden", ""), ApiError::Forbidden { call, .. } if call.verb == "create")
        );
        let transient: Vec<u16> = [401, 403, 404, 409, 422, 429, 500, 503]
            .into_iter()
            .filter(|code| status(*code, "", "").is_transient())
            .collect();
        assert_eq!(transient, [429, 500, 503]);
    }

    #[test]
    fn pages_are_shortened() {
        let error = status(503, "", &"long ".repeat(1000)).to_string();
        assert!(error.len() < MAX_SHOWN + 60 && error.ends_with(" ..."), "{error}");
    }

    #[test]
    fn calls_read_like_commands() {
        assert_eq!(
            Call::new("delete", "jobs").named("tunnel-a").to_string(),
            "delete jobs tunnel-a"
        );
        assert_eq!(Call::from(("get", "/version")).to_string(), "get /version");
    }
}
