//! JSON merge patch (RFC 7386) and JSON patch (RFC 6902) on untyped objects.
//!
//! Pure. Strategic merge and apply patches are not played; the caller answers them with 415.

use serde_json::Value;

/// Why a patch could not be applied. `test` failing and a missing path are told apart by people only:
/// the API server answers 422 for both.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatchError {
    #[error("the patch is not a list of operations")]
    NotAList,
    #[error("operation {op:?} is not one of add, remove, replace, move, copy, test")]
    UnknownOperation { op: String },
    #[error("{op} at {path:?}: there is no such place")]
    NoSuchPlace { op: &'static str, path: String },
    #[error("test at {path:?}: the value differs")]
    TestFailed { path: String },
}

/// Merges `patch` into `target`: maps merge, null removes, all else replaces.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Applies the operations in order. The caller discards the object when one fails.
pub(crate) fn json(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let operations = patch.as_array().ok_or(PatchError::NotAList)?;
    operations
        .iter()
        .try_for_each(|operation| apply(target, operation))
}

fn apply(target: &mut Value, operation: &Value) -> Result<(), PatchError> {
    let path = operation["path"].as_str().unwrap_or_default();
    let from = operation["from"].as_str().unwrap_or_default();
    let value = || operation["value"].clone();
    match operation["op"].as_str().unwrap_or_default() {
        "add" => add(target, path, value()),
        "remove" => remove(target, path).map(drop),
        "replace" => {
            *lookup(target, "replace", path)? = value();
            Ok(())
        }
        "move" => {
            let moved = remove(target, from)?;
            add(target, path, moved)
        }
        "copy" => {
            let copied = lookup(target, "copy", from)?.clone();
            add(target, path, copied)
        }
        "test" => {
            let same = *lookup(target, "test", path)? == operation["value"];
            same.then_some(()).ok_or_else(|| PatchError::TestFailed {
                path: path.to_owned(),
            })
        }
        other => Err(PatchError::UnknownOperation { op: other.to_owned() }),
    }
}

fn lookup<'a>(target: &'a mut Value, op: &'static str, path: &str) -> Result<&'a mut Value, PatchError> {
    target.pointer_mut(path).ok_or_else(|| PatchError::NoSuchPlace {
        op,
        path: path.to_owned(),
    })
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    let missing = || PatchError::NoSuchPlace {
        op: "add",
        path: path.to_owned(),
    };
    let Some((parent, key)) = split(path) else {
        *target = value;
        return Ok(());
    };
    match lookup(target, "add", parent)? {
        Value::Object(map) => {
            map.insert(key, value);
            Ok(())
        }
        Value::Array(list) if key == "-" => {
            list.push(value);
            Ok(())
        }
        Value::Array(list) => {
            let index: usize = key.parse().map_err(|_| missing())?;
            if index > list.len() {
                return Err(missing());
            }
            list.insert(index, value);
            Ok(())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Err(missing()),
    }
}

fn remove(target: &mut Value, path: &str) -> Result<Value, PatchError> {
    let missing = || PatchError::NoSuchPlace {
        op: "remove",
        path: path.to_owned(),
    };
    let (parent, key) = split(path).ok_or_else(missing)?;
    match lookup(target, "remove", parent)? {
        Value::Object(map) => map.remove(&key).ok_or_else(missing),
        Value::Array(list) => {
            let index: usize = key.parse().map_err(|_| missing())?;
            if index >= list.len() {
                return Err(missing());
            }
            Ok(list.remove(index))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Err(missing()),
    }
}

/// Parent pointer and unescaped last key; `None` for the whole document.
fn split(path: &str) -> Option<(&str, String)> {
    let (parent, key) = path.rsplit_once('/')?;
    Some((parent, key.replace("~1", "/").replace("~0", "~")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merge_merges_maps_replaces_lists_and_removes_by_null() {
        let mut value = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        merge(
            &mut value,
            &json!({"a": {"b": null, "d": {"e": null, "f": 1}}, "l": [3]}),
        );
        assert_eq!(value, json!({"a": {"c": 2, "d": {"f": 1}}, "l": [3]}));
    }

    #[test]
    fn json_patch_tests_replaces_and_unescapes() {
        let mut value = json!({"spec": {"selector": {"a": "1"}}, "labels": {"x/y": "1"}, "l": [1]});
        let patch = json!([
            {"op": "test", "path": "/spec/selector", "value": {"a": "1"}},
            {"op": "replace", "path": "/spec/selector", "value": {"a": "2"}},
            {"op": "remove", "path": "/labels/x~1y"},
            {"op": "add", "path": "/l/-", "value": 2},
            {"op": "add", "path": "/l/0", "value": 0},
        ]);
        json(&mut value, &patch).unwrap();
        assert_eq!(
            value,
            json!({"spec": {"selector": {"a": "2"}}, "labels": {}, "l": [0, 1, 2]})
        );
    }

    #[test]
    fn json_patch_fails_on_a_differing_test_and_on_an_absent_place() {
        let mut value = json!({"a": 1});
        let differs = json(&mut value, &json!([{"op": "test", "path": "/a", "value": 2}]));
        assert_eq!(
            differs,
            Err(PatchError::TestFailed {
                path: "/a".to_owned()
            })
        );
        let absent = json(&mut value, &json!([{"op": "replace", "path": "/b", "value": 2}]));
        assert_eq!(
            absent,
            Err(PatchError::NoSuchPlace {
                op: "replace",
                path: "/b".to_owned()
            })
        );
    }
}
