//! The few questions the cluster code asks of an API server's refusal.

use super::api_error::ApiError;

/// The object does not exist, or not any more.
pub(super) fn is_not_found(error: &ApiError) -> bool {
    error.code() == Some(404)
}

/// An object of that name exists, or the precondition on its UID failed.
pub(super) fn is_conflict(error: &ApiError) -> bool {
    error.code() == Some(409)
}

pub(super) fn is_forbidden(error: &ApiError) -> bool {
    error.code() == Some(403)
}
