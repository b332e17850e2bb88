//! What a test can break: requests, exec connections, pod creation, scheduling.
//!
//! Nothing here has an effect of its own: `http`, `exec`, `jobs` and `kubelet` ask.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::{Method, StatusCode};

use crate::line::{Lines, Upgrade};

/// The switches of one playground.
#[derive(Debug, Default)]
pub struct Faults {
    pub(crate) lines: Lines,
    failures: Mutex<VecDeque<Failure>>,
    forbidden_pods: Mutex<Option<String>>,
    unschedulable: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Failure {
    status: StatusCode,
    method: Option<Method>,
    path_part: String,
}

impl Faults {
    /// The next `count` requests fail with this status and a `Status` body.
    pub fn fail_next(&self, count: usize, status: StatusCode) {
        self.fail_next_where(count, status, None, "");
    }

    /// The next `count` requests with this method (any if `None`) whose path contains `path_part` fail.
    pub fn fail_next_where(
        &self,
        count: usize,
        status: StatusCode,
        method: Option<&Method>,
        path_part: &str,
    ) {
        let failure = || Failure {
            status,
            method: method.cloned(),
            path_part: path_part.to_owned(),
        };
        lock(&self.failures).extend((0..count).map(|_| failure()));
    }

    /// Resets every exec connection (the peer sees a TCP reset).
    pub fn reset_execs(&self) {
        self.lines.reset(Upgrade::Exec);
    }

    /// Closes every exec connection without a status or a WebSocket close frame, as a restarting API server does.
    pub fn close_execs(&self) {
        self.lines.close(Upgrade::Exec);
    }

    /// While on, no byte passes on any exec connection, present or new.
    pub fn black_hole_execs(&self, on: bool) {
        self.lines.silence(Upgrade::Exec, on);
    }

    /// Resets every port-forward connection.
    pub fn reset_port_forwards(&self) {
        self.lines.reset(Upgrade::PortForward);
    }

    /// While on, no byte passes on any port-forward connection, present or new.
    pub fn black_hole_port_forwards(&self, on: bool) {
        self.lines.silence(Upgrade::PortForward, on);
    }

    /// While on, no byte passes on any connection to the API server, present or new.
    pub fn black_hole_all(&self, on: bool) {
        self.lines.silence_all(on);
    }

    /// While set, no pod can be created: the text follows `pods "x" is forbidden: `. Direct and dry-run creations
    /// are answered 403 with it; a Job is accepted and gets `FailedCreate` events.
    pub fn forbid_pods(&self, text: Option<&str>) {
        *lock(&self.forbidden_pods) = text.map(str::to_owned);
    }

    /// While set, new pods stay `Unschedulable` with this text.
    pub fn unschedulable(&self, text: Option<&str>) {
        *lock(&self.unschedulable) = text.map(str::to_owned);
    }

    pub(crate) fn take_failure(&self, method: &Method, path: &str) -> Option<StatusCode> {
        let mut failures = lock(&self.failures);
        let fits = |f: &Failure| f.method.as_ref().is_none_or(|m| m == method) && path.contains(&f.path_part);
        let index = failures.iter().position(fits)?;
        failures.remove(index).map(|failure| failure.status)
    }

    pub(crate) fn forbidden_pods(&self) -> Option<String> {
        lock(&self.forbidden_pods).clone()
    }

    pub(crate) fn unschedulable_text(&self) -> Option<String> {
        lock(&self.unschedulable).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
