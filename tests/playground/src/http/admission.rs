//! What an API server checks and fills in before it stores: names, sizes, immutable fields, defaults.
//!
//! Only what the plugin can run into is checked; a field nobody here interprets is stored as sent.

use serde_json::{Value, json};

use super::status::Refusal;
use crate::object;
use crate::resource::Resource;
use crate::world::World;

/// Largest sum of a `ConfigMap`'s values in bytes.
const CONFIG_MAP_LIMIT: usize = 1_048_576;

/// Refuses a body that is not of the kind of its path.
pub(crate) fn check_kind(resource: Resource, object: &Value) -> Result<(), Refusal> {
    let kind = object::field(object, "kind");
    let version = object::field(object, "apiVersion");
    if kind.is_empty() {
        return Err(Refusal::bad_request(format!(
            "Object 'Kind' is missing in '{}'",
            shorten(object)
        )));
    }
    if (version, kind) != (resource.api_version().as_str(), resource.kind()) {
        return Err(Refusal::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}",
            kind,
            version,
            resource.kind()
        )));
    }
    Ok(())
}

/// Removes what only the API server sets.
pub(crate) fn strip(object: &mut Value) {
    let metadata = object::map_at(object, "metadata");
    for field in [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        metadata.remove(field);
    }
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
}

/// Checks a new object and completes it. The only effect outside the object is the address of a Service.
pub(crate) fn prepare(
    world: &World,
    resource: Resource,
    object: &mut Value,
    dry_run: bool,
) -> Result<(), Refusal> {
    check_name(resource, object)?;
    match resource {
        Resource::ConfigMap => check_config_map(object),
        Resource::Pod => prepare_pod(world, object),
        Resource::Job => {
            prepare_job(object);
            Ok(())
        }
        Resource::Service => prepare_service(world, object, dry_run),
        Resource::Namespace => {
            object["spec"]["finalizers"] = json!(["kubernetes"]);
            object["status"] = json!({"phase": "Active"});
            Ok(())
        }
        Resource::Event
        | Resource::Secret
        | Resource::LimitRange
        | Resource::ResourceQuota
        | Resource::ServiceAccount
        | Resource::Deployment
        | Resource::StatefulSet
        | Resource::EndpointSlice => Ok(()),
        Resource::NetworkPolicy => check_network_policy(object),
    }
}

/// Checks a patched object against its former self.
pub(crate) fn check_change(resource: Resource, before: &Value, after: &mut Value) -> Result<(), Refusal> {
    let name = object::name(before);
    for field in ["resourceVersion", "uid"] {
        if before["metadata"][field] != after["metadata"][field] {
            let why =
                "the object has been modified; please apply your changes to the latest version and try again";
            return Err(Refusal::conflict(resource, name, &why));
        }
    }
    let unchangeable = |field: &str| {
        Refusal::invalid(
            resource,
            name,
            field,
            "FieldValueInvalid",
            "Invalid value: field is immutable",
        )
    };
    if before["metadata"]["name"] != after["metadata"]["name"] {
        return Err(unchangeable("metadata.name"));
    }
    match resource {
        Resource::Job if before["spec"]["template"] != after["spec"]["template"] => {
            Err(unchangeable("spec.template"))
        }
        Resource::ConfigMap => {
            let same = before["data"] == after["data"] && before["binaryData"] == after["binaryData"];
            if before["immutable"] == true && !(same && after["immutable"] == true) {
                let text = "Forbidden: field is immutable when `immutable` is set";
                return Err(Refusal::invalid(
                    resource,
                    name,
                    "data",
                    "FieldValueForbidden",
                    text,
                ));
            }
            check_config_map(after)
        }
        Resource::Service if before["spec"]["clusterIP"] != after["spec"]["clusterIP"] => {
            Err(unchangeable("spec.clusterIP"))
        }
        Resource::Namespace
        | Resource::Pod
        | Resource::Service
        | Resource::Event
        | Resource::Secret
        | Resource::LimitRange
        | Resource::ResourceQuota
        | Resource::ServiceAccount
        | Resource::Job
        | Resource::Deployment
        | Resource::StatefulSet
        | Resource::EndpointSlice => Ok(()),
        Resource::NetworkPolicy => check_network_policy(after),
    }
}

/// Lower-case letters, digits and hyphens, at most 63; a Service's name begins with a letter, most other
/// names may also have dots and up to 253 characters.
fn check_name(resource: Resource, object: &Value) -> Result<(), Refusal> {
    let name = object::name(object);
    if name.is_empty() {
        let text = "Required value: name or generateName is required";
        return Err(Refusal::invalid(
            resource,
            name,
            "metadata.name",
            "FieldValueRequired",
            text,
        ));
    }
    let strict = resource == Resource::Service;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inner = |c: char| plain(c) || c == '-' || (c == '.' && !strict);
    let start = |c: char| if strict { c.is_ascii_lowercase() } else { plain(c) };
    let longest = if strict { 63 } else { 253 };
    let good =
        name.len() <= longest && name.starts_with(start) && name.ends_with(plain) && name.chars().all(inner);
    if good {
        return Ok(());
    }
    let rule = if strict {
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
    } else {
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    };
    let text = format!("Invalid value: {name:?}: {rule}");
    Err(Refusal::invalid(
        resource,
        name,
        "metadata.name",
        "FieldValueInvalid",
        &text,
    ))
}

fn check_config_map(object: &Value) -> Result<(), Refusal> {
    let values = |field: &str| object[field].as_object().into_iter().flat_map(|map| map.values());
    let length = |value: &Value| value.as_str().unwrap_or_default().len();
    let plain: usize = values("data").map(length).sum();
    // Base64 is counted decoded.
    let padding = |value: &Value| {
        value
            .as_str()
            .unwrap_or_default()
            .bytes()
            .rev()
            .take_while(|&b| b == b'=')
            .count()
    };
    let binary: usize = values("binaryData")
        .map(|value| length(value) / 4 * 3 - padding(value).min(2))
        .sum();
    if plain + binary <= CONFIG_MAP_LIMIT {
        return Ok(());
    }
    let text = format!("Too long: may not be more than {CONFIG_MAP_LIMIT} bytes");
    Err(Refusal::invalid(
        Resource::ConfigMap,
        object::name(object),
        "[]",
        "FieldValueTooLong",
        &text,
    ))
}

/// Without a selector for pods it is no policy; an empty one would be, for all of them.
fn check_network_policy(policy: &Value) -> Result<(), Refusal> {
    if policy["spec"]["podSelector"].is_object() {
        return Ok(());
    }
    Err(Refusal::invalid(
        Resource::NetworkPolicy,
        object::name(policy),
        "spec.podSelector",
        "FieldValueRequired",
        "Required value",
    ))
}

/// Also used by the Job controller for the pods it makes.
pub(crate) fn prepare_pod(world: &World, pod: &mut Value) -> Result<(), Refusal> {
    let name = object::name(pod).to_owned();
    if let Some(text) = world.faults.forbidden_pods() {
        return Err(Refusal::forbidden(Resource::Pod, &name, &text));
    }
    let containers = pod["spec"]["containers"].as_array().map_or(0, Vec::len);
    if containers != 1 {
        let text = format!("Unsupported value: {containers}: the playground runs pods with one container");
        return Err(Refusal::invalid(
            Resource::Pod,
            &name,
            "spec.containers",
            "FieldValueNotSupported",
            &text,
        ));
    }
    let spec = object::map_at(pod, "spec");
    spec.entry("restartPolicy").or_insert_with(|| json!("Always"));
    spec.entry("terminationGracePeriodSeconds")
        .or_insert_with(|| json!(30));
    pod["status"] = json!({"phase": "Pending", "qosClass": "Burstable"});
    Ok(())
}

fn prepare_job(job: &mut Value) {
    let uid = object::uid(job).to_owned();
    let name = object::name(job).to_owned();
    let spec = object::map_at(job, "spec");
    for (field, value) in [("backoffLimit", 6), ("completions", 1), ("parallelism", 1)] {
        spec.entry(field).or_insert_with(|| json!(value));
    }
    spec.insert(
        "selector".to_owned(),
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}),
    );
    let template = object::map_at(&mut job["spec"], "template");
    let metadata = template.entry("metadata").or_insert_with(|| json!({}));
    let labels = object::map_at(metadata, "labels");
    for prefix in ["batch.kubernetes.io/", ""] {
        labels.insert(format!("{prefix}controller-uid"), json!(uid));
        labels.insert(format!("{prefix}job-name"), json!(name));
    }
    job["status"] = json!({});
}

fn prepare_service(world: &World, service: &mut Value, dry_run: bool) -> Result<(), Refusal> {
    let name = object::name(service).to_owned();
    let external = service["spec"]["type"] == "ExternalName";
    let ports = service["spec"]["ports"].as_array().map_or(0, Vec::len);
    if ports == 0 && !external && service["spec"]["clusterIP"] != "None" {
        return Err(Refusal::invalid(
            Resource::Service,
            &name,
            "spec.ports",
            "FieldValueRequired",
            "Required value",
        ));
    }
    for index in 0..ports {
        let port = &mut service["spec"]["ports"][index];
        if !(1..=65535).contains(&port["port"].as_u64().unwrap_or(0)) {
            let field = format!("spec.ports[{index}].port");
            let text = format!(
                "Invalid value: {}: must be between 1 and 65535, inclusive",
                port["port"]
            );
            return Err(Refusal::invalid(
                Resource::Service,
                &name,
                &field,
                "FieldValueInvalid",
                &text,
            ));
        }
        if ports > 1 && !port["name"].is_string() {
            let field = format!("spec.ports[{index}].name");
            return Err(Refusal::invalid(
                Resource::Service,
                &name,
                &field,
                "FieldValueRequired",
                "Required value",
            ));
        }
        let number = port["port"].clone();
        let Some(port) = port.as_object_mut() else {
            continue;
        };
        port.entry("protocol").or_insert_with(|| json!("TCP"));
        port.entry("targetPort").or_insert(number);
    }
    check_ports_differ(service)?;
    let spec = object::map_at(service, "spec");
    spec.entry("type").or_insert_with(|| json!("ClusterIP"));
    spec.entry("sessionAffinity").or_insert_with(|| json!("None"));
    service["status"] = json!({"loadBalancer": {}});
    if external || dry_run || service["spec"]["clusterIP"] == "None" {
        return Ok(());
    }
    // Addresses are the playground's to give: one that was asked for could be another playground's.
    let address = world.addresses.take().ok_or_else(|| {
        Refusal::invalid(
            Resource::Service,
            &name,
            "spec.clusterIP",
            "FieldValueInvalid",
            "no address is free",
        )
    })?;
    service["spec"]["clusterIP"] = json!(address);
    service["spec"]["clusterIPs"] = json!([address]);
    Ok(())
}

/// A name may be used once, and a number once a protocol.
fn check_ports_differ(service: &Value) -> Result<(), Refusal> {
    let ports = service["spec"]["ports"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        let number = |port: &Value| (port["port"].clone(), port["protocol"].clone());
        let field = if !matches!(port["protocol"].as_str(), Some("TCP" | "UDP" | "SCTP")) {
            ("protocol", "FieldValueNotSupported", "Unsupported value")
        } else if ports[..index].iter().any(|other| number(other) == number(port)) {
            ("port", "FieldValueDuplicate", "Duplicate value")
        } else if port["name"].is_string() && ports[..index].iter().any(|other| other["name"] == port["name"])
        {
            ("name", "FieldValueDuplicate", "Duplicate value")
        } else {
            continue;
        };
        let (field, reason, text) = field;
        let field = format!("spec.ports[{index}].{field}");
        return Err(Refusal::invalid(
            Resource::Service,
            object::name(service),
            &field,
            reason,
            text,
        ));
    }
    Ok(())
}

fn shorten(object: &Value) -> String {
    object.to_string().chars().take(200).collect()
}
