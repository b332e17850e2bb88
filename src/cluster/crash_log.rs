//! The last lines an agent wrote before it ended: what it said is the best error message there is.
//!
//! Read at once, since the finished Job's TTL removes the pod with its log. Called by `start` and
//! `watch`.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};

use super::{
    client::ApiServer,
    failure::{Failure, FailureKind},
    names::AGENT_CONTAINER,
};

/// How long the log is waited for; the failure is reported in any case.
const DEADLINE: Duration = Duration::from_secs(1);
/// How many of its last lines are shown.
const LINES: i64 = 10;
/// Longest part that is read, for an agent that wrote one endless line.
const BYTES: i64 = 16 * 1024;

/// Adds the agent's last lines to a failure that is its exit; leaves any other as it is.
pub(super) async fn add_to(failure: &mut Failure, server: &ApiServer, namespace: &str) {
    let FailureKind::Exited { last_log, .. } = &mut failure.kind else {
        return;
    };
    let pods: Api<Pod> = Api::namespaced(server.client(), namespace);
    let params = LogParams {
        container: Some(AGENT_CONTAINER.to_owned()),
        tail_lines: Some(LINES),
        limit_bytes: Some(BYTES),
        ..LogParams::default()
    };
    let request = pods.logs(&failure.object.name, &params);
    match server
        .request_within(DEADLINE, ("get", "pods/log"), request)
        .await
    {
        Ok(text) => *last_log = text.lines().map(str::to_owned).collect(),
        Err(error) => tracing::debug!(%error, "no log of the agent"),
    }
}
