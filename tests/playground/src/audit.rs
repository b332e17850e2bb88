//! The list of requests a test may read afterwards.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Requests kept; older ones are forgotten.
const LENGTH: usize = 100_000;

/// One answered request. A watch is listed when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`...
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The query, empty if there was none.
    pub query: String,
    /// Who asked; empty when the token was wrong.
    pub user: String,
    /// The status of the answer; 101 for an exec.
    pub status: u16,
}

#[derive(Debug, Default)]
pub(crate) struct Audit {
    requests: Mutex<VecDeque<Request>>,
}

impl Audit {
    pub(crate) fn record(&self, request: Request) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.len() == LENGTH {
            requests.pop_front();
        }
        requests.push_back(request);
    }

    pub(crate) fn all(&self) -> Vec<Request> {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }
}
