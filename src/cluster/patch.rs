//! `--patch` and `--patch-file`: the user's own fields, merged onto the pod template.
//!
//! Maps merge and `null` deletes a key. A list whose items all have a `name` (containers, env,
//! volumes) merges by that name, `$patch: delete` in an item removes it; any other list
//! (tolerations) replaces. Four things are ours and cannot be patched, since the session could
//! not be found or ended without them: our labels, the agent's command and environment,
//! `restartPolicy` and the owner. Pure; called by `manifest`.

use std::{fs, io, path::Path};

use serde_json::{Map, Value};

use super::names::{
    AGENT_CONTAINER, LABEL_COMPONENT, LABEL_GENERATION, LABEL_INSTANCE, LABEL_MANAGED_BY, LABEL_NAME,
    LABEL_USER, LABEL_VERSION,
};
use super::yaml::YamlError;

const OUR_LABELS: [&str; 7] = [
    LABEL_NAME,
    LABEL_INSTANCE,
    LABEL_VERSION,
    LABEL_COMPONENT,
    LABEL_MANAGED_BY,
    LABEL_USER,
    LABEL_GENERATION,
];

/// Names of the agent's environment start so; they carry the session's id and secret digest.
const OUR_ENV_PREFIX: &str = "TUNNEL_";

/// A patch that has been read: a map with `metadata` and `spec` of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct PodPatch(Map<String, Value>);

/// Why a patch cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    #[error("read {origin}")]
    Read { origin: String, source: io::Error },
    #[error("{origin} is neither JSON nor YAML")]
    Syntax { origin: String, source: YamlError },
    /// Not a map, or a key that a pod template has not.
    #[error("{origin}: expected a map with metadata and spec of a pod, found {found}")]
    Shape { origin: String, found: String },
    /// A field that the session depends on.
    #[error("a patch cannot change {field} of the agent's pod")]
    Protected { field: String },
}

impl PodPatch {
    /// `text` as JSON or YAML; `origin` is what messages call it (`--patch`, a path).
    pub fn parse(text: &str, origin: &str) -> Result<Self, PatchError> {
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(_) => {
                serde_saphyr::from_str_with_options(text, yaml()).map_err(|source| PatchError::Syntax {
                    origin: origin.to_owned(),
                    source: YamlError::from(source),
                })?
            }
        };
        let shape = |found: String| PatchError::Shape {
            origin: origin.to_owned(),
            found,
        };
        let Value::Object(mut map) = value else {
            return Err(shape(kind_of(&value).to_owned()));
        };
        // A whole Pod manifest is what people have at hand.
        if map.get("kind").is_some_and(|kind| kind == "Pod") {
            map.remove("kind");
            map.remove("apiVersion");
        }
        for (key, part) in &map {
            if key != "metadata" && key != "spec" {
                return Err(shape(format!("key `{key}`")));
            }
            if !part.is_object() {
                return Err(shape(format!("{} as {key}", kind_of(part))));
            }
        }
        Ok(Self(map))
    }

    pub fn from_file(path: &Path) -> Result<Self, PatchError> {
        let origin = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|source| PatchError::Read {
            origin: origin.clone(),
            source,
        })?;
        Self::parse(&text, &origin)
    }

    /// Whether it says on which nodes the pod may run.
    pub(super) fn chooses_node(&self) -> bool {
        let spec = self.0.get("spec");
        spec.is_some_and(|spec| spec.get("nodeSelector").is_some() || spec.get("affinity").is_some())
    }
}

/// Applies the patches in order to a pod template (a map with `metadata` and `spec`).
pub fn apply(template: &mut Value, patches: &[PodPatch]) -> Result<(), PatchError> {
    if patches.is_empty() {
        return Ok(());
    }
    let before = protected_fields(template);
    for PodPatch(patch) in patches {
        merge(template, &Value::Object(patch.clone()));
    }
    let after = protected_fields(template);
    for (index, (field, value)) in before.iter().enumerate() {
        if after[index].1 != *value {
            return Err(PatchError::Protected { field: field.clone() });
        }
    }
    Ok(())
}

fn merge(base: &mut Value, patch: &Value) {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    base.remove(key);
                } else {
                    merge(base.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (Value::Array(base), Value::Array(patch)) if is_named(base) && is_named(patch) => {
            merge_by_name(base, patch);
        }
        (base, patch) => *base = without_nulls(patch),
    }
}

fn merge_by_name(base: &mut Vec<Value>, patch: &[Value]) {
    for item in patch {
        let at = base.iter().position(|existing| existing["name"] == item["name"]);
        let delete = item.get("$patch").is_some_and(|directive| directive == "delete");
        match (at, delete) {
            (Some(at), true) => drop(base.remove(at)),
            (Some(at), false) => merge(&mut base[at], item),
            (None, true) => {}
            (None, false) => base.push(without_nulls(item)),
        }
    }
}

fn is_named(list: &[Value]) -> bool {
    list.iter()
        .all(|item| item.get("name").is_some_and(Value::is_string))
}

/// A `null` in a value that is new as a whole has nothing to delete.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), without_nulls(value)))
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.iter().map(without_nulls).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// The fields a patch must leave as they are, by the name an error gives them. Comparing them
/// before and after also catches what removes a whole parent.
fn protected_fields(template: &Value) -> Vec<(String, Value)> {
    let metadata = &template["metadata"];
    let spec = &template["spec"];
    let agent = spec["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|container| container["name"] == AGENT_CONTAINER)
        .unwrap_or(&Value::Null);
    let env: Vec<&Value> = agent["env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|entry| {
            entry["name"]
                .as_str()
                .is_some_and(|name| name.starts_with(OUR_ENV_PREFIX))
        })
        .collect();
    let mut fields: Vec<(String, Value)> = OUR_LABELS
        .iter()
        .map(|label| {
            (
                format!("metadata.labels[{label}]"),
                metadata["labels"][label].clone(),
            )
        })
        .collect();
    for key in [
        "name",
        "generateName",
        "namespace",
        "ownerReferences",
        "finalizers",
    ] {
        fields.push((format!("metadata.{key}"), metadata[key].clone()));
    }
    fields.push(("spec.restartPolicy".to_owned(), spec["restartPolicy"].clone()));
    for key in ["name", "command", "args"] {
        fields.push((format!("spec.containers[agent].{key}"), agent[key].clone()));
    }
    fields.push((
        format!("spec.containers[agent].env[{OUR_ENV_PREFIX}*]"),
        serde_json::json!(env),
    ));
    fields
}

/// `y` and `off` are texts, as in YAML 1.2 and in kubectl.
fn yaml() -> serde_saphyr::Options {
    serde_saphyr::options! { strict_booleans: true }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template() -> Value {
        json!({
            "metadata": {
                "labels": {LABEL_NAME: "kubectl-tunnel", LABEL_INSTANCE: "x7k2p9", "istio.io/dataplane-mode": "none"},
            },
            "spec": {
                "restartPolicy": "Never",
                "nodeSelector": {"kubernetes.io/os": "linux"},
                "containers": [{
                    "name": "agent", "image": "pause", "command": ["/tunnel/agent", "serve"],
                    "env": [{"name": "TUNNEL_SESSION", "value": "x7k2p9"}],
                    "resources": {"limits": {"memory": "256Mi"}},
                }],
                "volumes": [{"name": "agent", "configMap": {"name": "tunnel-x7k2p9"}}],
            },
        })
    }

    fn patched(patch: &str) -> Result<Value, PatchError> {
        let mut template = template();
        apply(&mut template, &[PodPatch::parse(patch, "--patch")?])?;
        Ok(template)
    }

    fn protected(patch: &str) -> String {
        match patched(patch) {
            Err(PatchError::Protected { field }) => field,
            other => panic!("expected a protected field, got {other:?}"),
        }
    }

    #[test]
    fn maps_merge_and_null_deletes() {
        let result = patched(
            r#"{"metadata":{"labels":{"team":"a","istio.io/dataplane-mode":null}},
                "spec":{"nodeSelector":{"pool":"spot"},"priorityClassName":"low"}}"#,
        )
        .unwrap();
        assert_eq!(
            result["metadata"]["labels"],
            json!({LABEL_NAME: "kubectl-tunnel", LABEL_INSTANCE: "x7k2p9", "team": "a"})
        );
        assert_eq!(
            result["spec"]["nodeSelector"],
            json!({"kubernetes.io/os": "linux", "pool": "spot"})
        );
        assert_eq!(result["spec"]["priorityClassName"], "low");
    }

    #[test]
    fn yaml_merges_named_lists_by_name_and_replaces_others() {
        let result = patched(
            "spec:\n  tolerations:\n  - {key: spot, operator: Exists}\n  containers:\n  - name: agent\n    \
             resources: {limits: {memory: null, cpu: '1'}}\n    env:\n    - {name: DEBUG, value: '1'}\n  \
             - name: side\n    image: busybox\n    tty: null\n  volumes:\n  - {name: agent, $patch: delete}\n",
        )
        .unwrap();
        let containers = &result["spec"]["containers"];
        assert_eq!(containers[0]["image"], "pause");
        assert_eq!(containers[0]["resources"], json!({"limits": {"cpu": "1"}}));
        assert_eq!(containers[0]["env"].as_array().map(Vec::len), Some(2));
        assert_eq!(containers[1], json!({"name": "side", "image": "busybox"}));
        assert_eq!(result["spec"]["volumes"], json!([]));
        assert_eq!(
            result["spec"]["tolerations"],
            json!([{"key": "spot", "operator": "Exists"}])
        );
        let again =
            patched("spec: {tolerations: [{key: a}]}").map(|value| value["spec"]["tolerations"].clone());
        assert_eq!(again.unwrap(), json!([{"key": "a"}]));
    }

    #[test]
    fn a_selector_may_say_y() {
        let result = patched("spec: {nodeSelector: {x: y, z: off}, hostNetwork: false}").unwrap();
        assert_eq!(
            result["spec"]["nodeSelector"],
            json!({"kubernetes.io/os": "linux", "x": "y", "z": "off"})
        );
        assert_eq!(result["spec"]["hostNetwork"], false);
    }

    #[test]
    fn patches_apply_in_order() {
        let mut template = template();
        let patches = ["spec: {hostname: a}", "spec: {hostname: b}"]
            .map(|text| PodPatch::parse(text, "--patch").unwrap());
        apply(&mut template, &patches).unwrap();
        assert_eq!(template["spec"]["hostname"], "b");
    }

    #[test]
    fn what_the_session_stands_on_is_protected() {
        assert_eq!(protected("spec: {restartPolicy: Always}"), "spec.restartPolicy");
        assert_eq!(
            protected("spec: {containers: [{name: agent, command: [sh]}]}"),
            "spec.containers[agent].command"
        );
        assert_eq!(
            protected("spec: {containers: [{name: agent, $patch: delete}]}"),
            "spec.containers[agent].name"
        );
        assert_eq!(
            protected("spec: {containers: [{image: x}]}"),
            "spec.containers[agent].name"
        );
        assert_eq!(
            protected("spec: {containers: [{name: agent, env: [{name: TUNNEL_SESSION, value: y}]}]}"),
            "spec.containers[agent].env[TUNNEL_*]"
        );
        assert_eq!(
            protected(&format!("metadata: {{labels: {{{LABEL_INSTANCE}: other}}}}")),
            format!("metadata.labels[{LABEL_INSTANCE}]")
        );
        assert_eq!(
            protected("metadata: {labels: null}"),
            format!("metadata.labels[{LABEL_NAME}]")
        );
        assert_eq!(
            protected("metadata: {ownerReferences: [{uid: x}]}"),
            "metadata.ownerReferences"
        );
        assert_eq!(protected("metadata: {finalizers: [a]}"), "metadata.finalizers");
    }

    #[test]
    fn equal_value_on_a_protected_field_is_no_change() {
        assert_eq!(patched("spec: {restartPolicy: Never}").unwrap(), template());
    }

    #[test]
    fn refuses_other_shapes() {
        for text in [
            "[]",
            "hello",
            "metadata: 3",
            "foo: {}",
            "apiVersion: v1\nkind: Job\nspec: {}",
            "",
        ] {
            assert!(
                matches!(
                    PodPatch::parse(text, "--patch"),
                    Err(PatchError::Shape { .. } | PatchError::Syntax { .. })
                ),
                "{text}"
            );
        }
        assert!(matches!(
            PodPatch::parse("{a: [", "--patch"),
            Err(PatchError::Syntax { .. })
        ));
        assert!(PodPatch::parse("{apiVersion: v1, kind: Pod, spec: {}}", "--patch").is_ok());
    }

    /// A merge with what is there already changes nothing, at any depth of random values.
    #[test]
    fn merging_a_value_into_itself_is_identity() {
        for _ in 0..500 {
            let value = random_value(4);
            let mut merged = value.clone();
            merge(&mut merged, &value);
            assert_eq!(merged, value);
        }
    }

    /// Merging twice is the same as merging once.
    #[test]
    fn merging_is_idempotent() {
        for _ in 0..500 {
            let (base, patch) = (random_value(4), random_value(4));
            let mut once = base.clone();
            merge(&mut once, &patch);
            let mut twice = once.clone();
            merge(&mut twice, &patch);
            assert_eq!(once, twice, "base {base} patch {patch}");
        }
    }

    /// Without nulls; names of list items are distinct, as Kubernetes demands.
    fn random_value(depth: u32) -> Value {
        match rand::random_range(0..if depth == 0 { 2 } else { 5 }) {
            0 => json!(rand::random_range(0..3)),
            1 => json!(["a", "b", "c"][rand::random_range(0..3)]),
            2 => (0..rand::random_range(0..3))
                .map(|_| random_value(depth - 1))
                .collect(),
            3 => (0..rand::random_range(0..4))
                .map(|index| json!({"name": index.to_string(), "v": random_value(depth - 1)}))
                .collect(),
            _ => Value::Object(
                (0..rand::random_range(0..4))
                    .map(|index| (format!("k{index}"), random_value(depth - 1)))
                    .collect(),
            ),
        }
    }
}
