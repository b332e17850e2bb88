//! Exec over WebSocket: checks the request, upgrades the connection, and runs a session on it.
//!
//! What can be refused before the upgrade is (no such pod, not scheduled, wrong container). What only the node finds out
//! is its own plain refusal by v4, which is passed on to it, and by v5 a status on channel 3 after the upgrade.

mod session;

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::http::status::Refusal;
use crate::http::{Answer, Body, Call, text_response};
use crate::kubelet::Sandbox;
use crate::line::Upgrade;
use crate::object;
use crate::resource::Resource;
use crate::store::Key;
use crate::websocket::{V4, V5, negotiate, switching_protocols};
use crate::world::World;
use session::{Session, Streams};

/// Answers an exec request; the session runs as a task of its own.
pub(crate) fn upgrade(world: &Arc<World>, call: Call) -> Answer {
    let route = &call.route;
    let key = Key::new(Resource::Pod, &route.namespace, &route.name);
    let pod = world
        .store
        .get(&key)
        .ok_or_else(|| Refusal::not_found(Resource::Pod, &key.name))?;
    let container = check_container(&pod, route.param("container"))?;
    if !pod["spec"]["nodeName"].is_string() {
        return Err(Refusal::bad_request(format!(
            "pod {} does not have a host assigned",
            key.name
        )));
    }
    let command: Vec<String> = route.params("command").map(str::to_owned).collect();
    if command.is_empty() {
        return Err(Refusal::bad_request(
            "you must specify at least 1 command for the container",
        ));
    }
    let streams = Streams {
        stdin: route.is_set("stdin"),
        stdout: route.is_set("stdout"),
        stderr: route.is_set("stderr"),
    };
    if !(streams.stdin || streams.stdout || streams.stderr) {
        return Err(Refusal::bad_request(
            "you must specify at least 1 of stdin, stdout, stderr",
        ));
    }
    let known: &[&'static str] = if world.options.exec_v4_only {
        &[V4]
    } else {
        &[V5, V4]
    };
    let (protocol, accept) = negotiate(&call, known)?;
    let sandbox = world.sandboxes.get(object::uid(&pod));
    if protocol == V4 && running(sandbox.as_ref(), &container).is_none() {
        return Ok(refused_by_the_node(&container));
    }
    let session = Session {
        world: Arc::clone(world),
        sandbox,
        container,
        command,
        streams,
        half_close: protocol == V5,
    };
    // From the answer on, so that no moment is left in which a fault would miss this connection.
    world.faults.lines.becomes(Upgrade::Exec, &call.switch);
    let upgrade = hyper::upgrade::on(call.request);
    world.spawn(async move {
        match upgrade.await {
            Ok(connection) => session.run(connection).await,
            Err(error) => tracing::debug!(%error, "exec connection was not upgraded"),
        }
    });
    Ok(switching_protocols(protocol, &accept))
}

/// The name of the container that is meant.
fn check_container(pod: &Value, asked: Option<&str>) -> Result<String, Refusal> {
    let only = object::field(&pod["spec"]["containers"][0], "name");
    match asked {
        Some(other) if other != only && !other.is_empty() => {
            let text = format!("container {other} is not valid for pod {}", object::name(pod));
            Err(Refusal::bad_request(text))
        }
        Some(_) | None => Ok(only.to_owned()),
    }
}

/// The sandbox, if the container runs in it.
fn running<'a>(sandbox: Option<&'a Arc<Sandbox>>, container: &str) -> Option<&'a Arc<Sandbox>> {
    sandbox.filter(|sandbox| sandbox.is_running() && sandbox.container() == container)
}

/// A handshake by v4 is the node's, and so is the refusal.
fn refused_by_the_node(container: &str) -> Response<Body> {
    let mut response = text_response(format!("container not found ({container:?})\n"));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

/// The `Status` of channel 3 for an exec that could not start.
fn internal_error(message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": "InternalError", "code": 500,
        "details": {"causes": [{"message": message}]},
    })
}

/// The `Status` of channel 3 for a process that ended.
fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}
