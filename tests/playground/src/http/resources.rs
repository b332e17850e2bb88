//! Create, get, list, patch and delete, the same for every kind; and a pod's log.

use http::{Response, StatusCode, header};
use serde_json::{Value, json};

use super::route::Route;
use super::selector::Selector;
use super::status::Refusal;
use super::{Answer, Body, Call, admission, json_response, patch, read_json, text_response};
use crate::object;
use crate::resource::Resource;
use crate::store::{self, DeleteError, DeleteOptions, Deleted, Key, Propagation};
use crate::world::World;

pub(crate) async fn answer(world: &World, call: Call, resource: Resource) -> Answer {
    match call.route.verb {
        "create" => create(world, call, resource).await,
        "get" => get(world, &call.route, resource),
        "list" => list(world, &call.route, resource),
        "patch" => modify(world, call, resource).await,
        "delete" => delete(world, call, resource).await,
        _ => Err(Refusal::method_not_allowed()),
    }
}

pub(crate) fn selector_of(route: &Route) -> Result<Selector, Refusal> {
    let labels = route.param("labelSelector").unwrap_or_default();
    let fields = route.param("fieldSelector").unwrap_or_default();
    Selector::parse(labels, fields).map_err(|error| Refusal::bad_request(error.to_string()))
}

/// The last part of a container's output.
pub(crate) fn log(world: &World, call: &Call) -> Answer {
    let key = key_of(&call.route, Resource::Pod);
    let pod = world
        .store
        .get(&key)
        .ok_or_else(|| Refusal::not_found(Resource::Pod, &key.name))?;
    let container = object::field(&pod["spec"]["containers"][0], "name");
    if let Some(other) = call.route.param("container").filter(|&asked| asked != container) {
        let text = format!("container {other} is not valid for pod {}", key.name);
        return Err(Refusal::bad_request(text));
    }
    let Some(sandbox) = world.sandboxes.get(object::uid(&pod)) else {
        let text = format!(
            "container {container:?} in pod {:?} is waiting to start: ContainerCreating",
            key.name
        );
        return Err(Refusal::bad_request(text));
    };
    let text = sandbox.log();
    let lines: Vec<&str> = text.lines().collect();
    let wanted = call
        .route
        .param("tailLines")
        .and_then(|text| text.parse().ok())
        .unwrap_or(lines.len());
    let tail = &lines[lines.len().saturating_sub(wanted)..];
    let end = if tail.is_empty() { "" } else { "\n" };
    Ok(text_response(tail.join("\n") + end))
}

async fn create(world: &World, call: Call, resource: Resource) -> Answer {
    let route = call.route;
    if !route.name.is_empty() && resource != Resource::Namespace {
        return Err(Refusal::method_not_allowed());
    }
    let mut object = read_json(call.request).await?;
    admission::check_kind(resource, &object)?;
    admission::strip(&mut object);
    if resource.is_namespaced() {
        place(world, &mut object, &route.namespace, resource)?;
    }
    store::identify(&mut object, world.clock);
    admission::prepare(world, resource, &mut object, route.is_dry_run())?;
    let name = object::name(&object).to_owned();
    let exists = || Refusal::already_exists(resource, &name);
    if route.is_dry_run() {
        let taken = world.store.get(&Key::of(resource, &object)).is_some();
        return if taken {
            Err(exists())
        } else {
            Ok(json_response(StatusCode::CREATED, &object))
        };
    }
    let address = object["spec"]["clusterIP"]
        .as_str()
        .and_then(|ip| ip.parse().ok());
    let Some(stored) = world.store.create(resource, object) else {
        if let (Resource::Service, Some(address)) = (resource, address) {
            world.addresses.give_back(address);
        }
        return Err(exists());
    };
    Ok(json_response(StatusCode::CREATED, &stored))
}

/// Puts the object into the namespace of the path, which must exist and stay.
fn place(world: &World, object: &mut Value, namespace: &str, resource: Resource) -> Result<(), Refusal> {
    let said = object::namespace(object);
    if !said.is_empty() && said != namespace {
        return Err(Refusal::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request: {said} != {namespace}"
        )));
    }
    let key = Key::new(Resource::Namespace, "", namespace);
    let Some(owner) = world.store.get(&key) else {
        return Err(Refusal::not_found(Resource::Namespace, namespace));
    };
    if object::is_terminating(&owner) {
        let text =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        return Err(Refusal::forbidden(resource, object::name(object), &text));
    }
    object::map_at(object, "metadata").insert("namespace".to_owned(), json!(namespace));
    Ok(())
}

fn get(world: &World, route: &Route, resource: Resource) -> Answer {
    let key = key_of(route, resource);
    let found = world
        .store
        .get(&key)
        .ok_or_else(|| Refusal::not_found(resource, &key.name))?;
    Ok(json_response(StatusCode::OK, &found))
}

fn list(world: &World, route: &Route, resource: Resource) -> Answer {
    let selector = selector_of(route)?;
    let namespace = (!route.namespace.is_empty()).then_some(route.namespace.as_str());
    let (revision, objects) = world.store.list(resource, namespace);
    let items: Vec<&Value> = objects
        .iter()
        .map(AsRef::as_ref)
        .filter(|object| selector.matches(object))
        .collect();
    let body = json!({
        "kind": format!("{}List", resource.kind()), "apiVersion": resource.api_version(),
        "metadata": {"resourceVersion": revision.to_string()}, "items": items,
    });
    Ok(json_response(StatusCode::OK, &body))
}

async fn modify(world: &World, call: Call, resource: Resource) -> Answer {
    let key = key_of(&call.route, resource);
    let kind = call
        .request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let kind = kind
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned();
    let dry_run = call.route.is_dry_run();
    let change = read_json(call.request).await?;
    let apply = |object: &mut Value| -> Result<(), Refusal> {
        let before = object.clone();
        match kind.as_str() {
            "application/merge-patch+json" => patch::merge(object, &change),
            "application/json-patch+json" => patch::json(object, &change).map_err(|error| {
                let text = format!("the server rejected our request due to an error in our request: {error}");
                Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", text)
            })?,
            other => {
                let text = format!(
                    "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json (not {other:?})"
                );
                return Err(Refusal::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "UnsupportedMediaType",
                    text,
                ));
            }
        }
        admission::check_change(resource, &before, object)
    };
    let missing = || Refusal::not_found(resource, &key.name);
    if dry_run {
        let mut object = Value::clone(&*world.store.get(&key).ok_or_else(missing)?);
        apply(&mut object)?;
        return Ok(json_response(StatusCode::OK, &object));
    }
    let changed = world.store.try_update(&key, apply)?.ok_or_else(missing)?;
    Ok(json_response(StatusCode::OK, &changed))
}

async fn delete(world: &World, call: Call, resource: Resource) -> Answer {
    let route = call.route;
    let body = read_json(call.request).await?;
    let options = delete_options(&route, &body, resource)?;
    let key = key_of(&route, resource);
    let missing = || Refusal::not_found(resource, &key.name);
    if route.is_dry_run() || body["dryRun"][0] == "All" {
        let object = world.store.get(&key).ok_or_else(missing)?;
        return Ok(json_response(StatusCode::OK, &object));
    }
    let deleted = world.store.delete(&key, &options).map_err(|error| match error {
        DeleteError::NotFound => missing(),
        DeleteError::Precondition { .. } => Refusal::conflict(resource, &key.name, &error),
    })?;
    Ok(deletion_response(resource, &deleted))
}

fn deletion_response(resource: Resource, deleted: &Deleted) -> Response<Body> {
    match deleted {
        // Pods and Services come back as themselves even when they are gone, as from a real server.
        Deleted::Gone(object) if matches!(resource, Resource::Pod | Resource::Service) => {
            json_response(StatusCode::OK, object)
        }
        Deleted::Gone(object) => {
            let details = json!({
                "name": object::name(object), "group": resource.group(),
                "kind": resource.plural(), "uid": object::uid(object),
            });
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
            });
            json_response(StatusCode::OK, &status)
        }
        Deleted::Terminating(object) => json_response(StatusCode::OK, object),
    }
}

/// The options of the body; those of the query fill in what it leaves out.
fn delete_options(route: &Route, body: &Value, resource: Resource) -> Result<DeleteOptions, Refusal> {
    let query = route.query();
    let text = |field: &str| body[field].as_str().or_else(|| query.get(field).copied());
    let propagation = match text("propagationPolicy") {
        Some("Foreground") => Propagation::Foreground,
        Some("Orphan") => Propagation::Orphan,
        // A real server keeps the pods of a Job that is deleted without saying how.
        None if resource == Resource::Job => Propagation::Orphan,
        Some("Background") | None => Propagation::Background,
        Some(other) => {
            return Err(Refusal::bad_request(format!(
                "unknown propagation policy {other:?}"
            )));
        }
    };
    let grace = body["gracePeriodSeconds"]
        .as_u64()
        .or_else(|| query.get("gracePeriodSeconds").and_then(|text| text.parse().ok()));
    let precondition = |field: &str| body["preconditions"][field].as_str().map(str::to_owned);
    Ok(DeleteOptions {
        grace,
        propagation,
        uid: precondition("uid"),
        resource_version: precondition("resourceVersion"),
    })
}

/// The key of the path. A Namespace is asked for "in itself" but stored cluster-wide.
fn key_of(route: &Route, resource: Resource) -> Key {
    let namespace = if resource.is_namespaced() {
        route.namespace.as_str()
    } else {
        ""
    };
    Key::new(resource, namespace, &route.name)
}
