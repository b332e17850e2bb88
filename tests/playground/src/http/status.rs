//! `Status` bodies: the form in which an API server refuses.
//!
//! Texts and reasons are those of a real one, since clients show them to people.

use http::StatusCode;
use serde_json::{Value, json};

use crate::resource::Resource;

/// A refusal on its way to the client.
#[derive(Clone, Debug)]
pub(crate) struct Refusal(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Value,
}

impl Refusal {
    pub(crate) fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
        }))
    }

    pub(crate) fn code(&self) -> StatusCode {
        self.0.code
    }

    /// The `Status` object.
    pub(crate) fn body(&self) -> Value {
        let mut body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.0.message, "reason": self.0.reason, "code": self.0.code.as_u16(),
        });
        if !self.0.details.is_null() {
            body["details"] = self.0.details.clone();
        }
        body
    }

    fn with_details(mut self, details: Value) -> Self {
        self.0.details = details;
        self
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn no_such_path() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).with_details(json!({}))
    }

    pub(crate) fn not_found(resource: Resource, name: &str) -> Self {
        let message = format!("{} {name:?} not found", resource.qualified());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(resource, name)
    }

    pub(crate) fn already_exists(resource: Resource, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", resource.qualified());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(resource, name)
    }

    pub(crate) fn conflict(resource: Resource, name: &str, why: &dyn std::fmt::Display) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {}",
            resource.qualified(),
            capital(why)
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(resource, name)
    }

    pub(crate) fn forbidden(resource: Resource, name: &str, why: &str) -> Self {
        let named = if name.is_empty() {
            String::new()
        } else {
            format!(" {name:?}")
        };
        let message = format!("{}{named} is forbidden: {why}", resource.qualified());
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(resource, name)
    }

    /// 422 with one cause.
    pub(crate) fn invalid(resource: Resource, name: &str, field: &str, cause: &str, text: &str) -> Self {
        let message = format!("{} {name:?} is invalid: {field}: {text}", resource.kind());
        let details = json!({
            "name": name, "kind": resource.kind(), "group": resource.group(),
            "causes": [{"reason": cause, "message": text, "field": field}],
        });
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).with_details(details)
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    fn about(self, resource: Resource, name: &str) -> Self {
        let mut details = json!({"kind": resource.plural()});
        if !name.is_empty() {
            details["name"] = json!(name);
        }
        if !resource.group().is_empty() {
            details["group"] = json!(resource.group());
        }
        self.with_details(details)
    }
}

fn capital(text: &dyn std::fmt::Display) -> String {
    let text = text.to_string();
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
