//! Reading the common fields of an untyped object.
//!
//! The store keeps what was sent, field by field, as a real API server does for fields it does
//! not interpret; these functions are the few places that look inside.

use serde_json::{Map, Value, json};

use crate::resource::Resource;

pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

pub(crate) fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

pub(crate) fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

pub(crate) fn is_terminating(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

pub(crate) fn owners(object: &Value) -> &[Value] {
    object["metadata"]["ownerReferences"]
        .as_array()
        .map_or(&[], Vec::as_slice)
}

pub(crate) fn is_owned_by(object: &Value, owner_uid: &str) -> bool {
    owners(object).iter().any(|owner| owner["uid"] == owner_uid)
}

pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    let list = object["metadata"]["finalizers"].as_array();
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

pub(crate) fn add_finalizer(object: &mut Value, finalizer: &str) {
    if finalizers(object).contains(&finalizer) {
        return;
    }
    let list = &mut object["metadata"]["finalizers"];
    match list.as_array_mut() {
        Some(list) => list.push(json!(finalizer)),
        None => *list = json!([finalizer]),
    }
}

pub(crate) fn remove_finalizer(object: &mut Value, finalizer: &str) {
    let Some(list) = object["metadata"]["finalizers"].as_array_mut() else {
        return;
    };
    list.retain(|entry| entry != finalizer);
    if list.is_empty()
        && let Some(metadata) = object["metadata"].as_object_mut()
    {
        metadata.remove("finalizers");
    }
}

/// Whether the labels of `object` carry every pair of `selector`. An empty selector matches nothing.
pub(crate) fn matches_selector(object: &Value, selector: &Value) -> bool {
    let Some(selector) = selector.as_object() else {
        return false;
    };
    let labels = &object["metadata"]["labels"];
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The entry of `status.conditions` with this type.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == kind)
}

pub(crate) fn has_condition(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition["status"] == "True")
}

/// Adds or replaces the entry of `status.conditions` that has the new one's type.
pub(crate) fn set_condition(object: &mut Value, condition: Value) {
    let list = &mut object["status"]["conditions"];
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    list.retain(|entry| entry["type"] != condition["type"]);
    list.push(condition);
}

/// A pod that ran to its end.
pub(crate) fn is_finished_pod(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// An owner reference to `object`, as a controller writes it.
pub(crate) fn controller_reference(resource: Resource, object: &Value) -> Value {
    json!({
        "apiVersion": resource.api_version(),
        "kind": resource.kind(),
        "name": name(object),
        "uid": uid(object),
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// `object` at a dotted path, such as `involvedObject.name`; absent strings read as empty.
pub(crate) fn field<'a>(object: &'a Value, path: &str) -> &'a str {
    path.split('.')
        .fold(object, |value, key| &value[key])
        .as_str()
        .unwrap_or_default()
}

/// The map at `value[key]`, made when it is absent or null.
pub(crate) fn map_at<'a>(value: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    let entry = &mut value[key];
    if !entry.is_object() {
        *entry = json!({});
    }
    entry.as_object_mut().expect("made an object the line before")
}
