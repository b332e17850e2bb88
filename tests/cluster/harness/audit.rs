//! The API server's audit log, where a test can read it: what the plugin asked for, and whether it was allowed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};

use serde_json::Value;

use super::notice;
use super::settings::Settings;

/// The log from the moment this was made.
pub(crate) struct AuditLog {
    file: File,
    start: u64,
}

impl AuditLog {
    /// The log, if the environment names one.
    pub(crate) fn open() -> Option<Self> {
        let Some(path) = &Settings::get().audit_log else {
            notice("TUNNEL_TEST_AUDIT_LOG is not set: requests are not checked");
            return None;
        };
        let file = File::open(path).expect("TUNNEL_TEST_AUDIT_LOG is readable");
        let start = file.metadata().expect("a file").len();
        Some(Self { file, start })
    }

    /// The requests of kubectl-tunnel that concern this namespace.
    pub(crate) fn requests(&mut self, namespace: &str) -> Vec<Value> {
        self.file.seek(SeekFrom::Start(self.start)).expect("seek");
        let mut text = String::new();
        self.file.read_to_string(&mut text).expect("the log is text");
        text.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|entry| {
                entry["userAgent"]
                    .as_str()
                    .is_some_and(|agent| agent.starts_with("kubectl-tunnel"))
                    && (entry["objectRef"]["namespace"] == namespace)
            })
            .collect()
    }
}

/// The audit ids of the execs among these requests.
pub(crate) fn execs(requests: &[Value]) -> BTreeSet<String> {
    requests
        .iter()
        .filter(|entry| entry["objectRef"]["subresource"] == "exec")
        .map(|entry| entry["auditID"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// Requests that were refused, as `VERB RESOURCE CODE`.
pub(crate) fn refused(requests: &[Value]) -> Vec<String> {
    requests
        .iter()
        .filter(|entry| {
            entry["annotations"]["authorization.k8s.io/decision"] != "allow"
                || matches!(entry["responseStatus"]["code"].as_u64(), Some(401 | 403))
        })
        .map(|entry| {
            format!(
                "{} {} {}",
                entry["verb"], entry["objectRef"]["resource"], entry["responseStatus"]["code"]
            )
        })
        .collect()
}
