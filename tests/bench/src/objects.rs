//! The objects of the run's namespace, as JSON. Pod Security `restricted` allows them all.

use serde_json::{Value, json};
use tunnel_test_target as ports;

/// The Service, and the `ConfigMap` with the program.
pub(crate) const NAME: &str = "target";
/// The pod; not called like the Service, because its own name means the pod itself in there.
pub(crate) const POD: &str = "target-pod";
pub(crate) const CONTAINER: &str = "target";
/// Where the program lies in the pod.
pub(crate) const PROGRAM: &str = "/target/target";

/// What is reached in the target, by its port numbers.
pub(crate) const PORTS: [u16; 6] = [
    ports::HTTP,
    ports::ECHO,
    ports::HALF_CLOSE,
    ports::BLOCKS,
    ports::COUNT,
    ports::REPLY_ONCE,
];

pub(crate) fn namespace(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {
            "tunnel-bench": "true", "pod-security.kubernetes.io/enforce": "restricted"}},
    })
}

pub(crate) fn lets_edit(user: &str) -> Value {
    let group = "rbac.authorization.k8s.io";
    json!({
        "metadata": {"name": "developer-edits"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    })
}

/// The `ConfigMap` with the program, which is given in base64.
pub(crate) fn program(program: &str) -> Value {
    json!({"metadata": {"name": NAME}, "binaryData": {"target": program}})
}

pub(crate) fn pod(image: &str) -> Value {
    json!({
        "metadata": {"name": POD, "labels": {"app": NAME}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": CONTAINER,
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": [PROGRAM, "serve"],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "readinessProbe": {"tcpSocket": {"port": ports::HTTP}, "periodSeconds": 1},
                // No limit of processor time: what is measured is the way, not the target.
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                "volumeMounts": [{"name": NAME, "mountPath": "/target", "readOnly": true}],
            }],
            "volumes": [{"name": NAME, "configMap": {"name": NAME, "defaultMode": 0o555}}],
        },
    })
}

pub(crate) fn service() -> Value {
    let ports: Vec<Value> = PORTS
        .into_iter()
        .map(|port| json!({"name": format!("p{port}"), "port": port, "targetPort": port}))
        .collect();
    json!({"metadata": {"name": NAME}, "spec": {"selector": {"app": NAME}, "ports": ports}})
}
