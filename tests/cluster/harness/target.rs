//! The target program in a pod, with Services in front of it; also the place from which the cluster calls back.
//!
//! The pod is not named like its Service: in a pod its own name means itself, before any DNS.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};
use tunnel_test_target as ports;

use super::namespace::{Namespace, Who};
use super::poll;
use super::settings::Settings;

/// Where the program lies in the pod.
const PROGRAM: &str = "/target/target";

/// How long a node may take to start a pod and to lead a Service to it. After its API server was restarted some times
/// in a row, a small one was seen to take most of a minute.
const STARTED: Duration = Duration::from_secs(90);

/// A running target: the pod `NAME-pod`, the Service `NAME` and the headless Service `NAME-headless`.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) pod: String,
    /// Address of the Service, which has all ports of the program (`echo-udp` by UDP), and port 80 for its first HTTP
    /// port.
    pub(crate) cluster_ip: IpAddr,
    pub(crate) pod_ip: IpAddr,
}

/// One line of `call`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Called {
    pub(crate) millis: u64,
    /// Status and the body's first line, or the error.
    pub(crate) result: Result<String, String>,
}

impl Namespace {
    /// Starts the program behind the Service `name`.
    pub(crate) async fn target(&self, name: &str) -> Target {
        let program = std::fs::read(&Settings::get().target).unwrap_or_else(|error| {
            panic!(
                "{}: {error}; `make e2e` builds it",
                Settings::get().target.display()
            )
        });
        let program = base64::engine::general_purpose::STANDARD.encode(program);
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name}, "binaryData": {"target": program},
        });
        self.create_object("configmaps", map).await;
        self.create_object("pods", pod(name)).await;
        self.create_object("services", service(name, name, None)).await;
        self.create_object(
            "services",
            service(&format!("{name}-headless"), name, Some("None")),
        )
        .await;
        let pod = format!("{name}-pod");
        let pod_ip = poll(STARTED, "the target pod", async || {
            let pod = self
                .admin()
                .objects(self.name(), "pods")
                .get(&pod)
                .await
                .expect("the pod exists");
            let ready = pod.data["status"]["conditions"].as_array().is_some_and(|all| {
                all.iter()
                    .any(|one| one["type"] == "Ready" && one["status"] == "True")
            });
            ready.then(|| address(&pod.data["status"]["podIP"]))
        })
        .await;
        let service = self
            .admin()
            .objects(self.name(), "services")
            .get(name)
            .await
            .expect("the Service exists");
        let target = Target {
            name: name.to_owned(),
            pod,
            cluster_ip: address(&service.data["spec"]["clusterIP"]),
            pod_ip,
        };
        // The node's rules for the Service follow the pod's readiness.
        poll(STARTED, "the target by its name", async || {
            let calls = self.call_http(&target, "GET", &target.name, 80, "/", 1).await;
            calls.iter().all(|call| call.result.is_ok()).then_some(())
        })
        .await;
        target
    }

    /// The target opens `count` connections at once to `host:port` and sends one request on each.
    pub(crate) async fn call_http(
        &self,
        target: &Target,
        method: &str,
        host: &str,
        port: u16,
        path: &str,
        count: usize,
    ) -> Vec<Called> {
        let words = [
            "call",
            "http",
            method,
            host,
            &port.to_string(),
            path,
            &count.to_string(),
        ];
        let output = self.exec(target, &words).await;
        let calls: Vec<Called> = output.lines().map(Called::parse).collect();
        assert_eq!(calls.len(), count, "one line a call: {output}");
        calls
    }

    /// The target sends, ends its direction, and expects the reply of the half-close port.
    pub(crate) async fn call_half_close(&self, target: &Target, host: &str, port: u16) -> String {
        self.exec(target, &["call", "half-close", host, &port.to_string()])
            .await
    }

    /// The target sends datagrams to `host:port` and tells what came back; `words` as `call udp` takes them.
    pub(crate) async fn call_udp(&self, target: &Target, host: &str, port: u16, words: &[&str]) -> Value {
        let port = port.to_string();
        let command = [&["call", "udp", host, &port], words].concat();
        let output = self.exec(target, &command).await;
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    async fn exec(&self, target: &Target, words: &[&str]) -> String {
        let command = ["exec", &target.pod, "--", PROGRAM];
        let output = self.kubectl(Who::Admin, &[&command[..], words].concat()).await;
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }
}

impl Called {
    fn parse(line: &str) -> Self {
        let parsed = line
            .split_once(' ')
            .and_then(|(millis, rest)| Some((millis.parse().ok()?, rest)));
        match parsed {
            Some((millis, rest)) => match rest.strip_prefix("ok ") {
                Some(answer) => Self {
                    millis,
                    result: Ok(answer.to_owned()),
                },
                None => Self {
                    millis,
                    result: Err(rest.trim_start_matches("error ").to_owned()),
                },
            },
            None => Self {
                millis: 0,
                result: Err(line.to_owned()),
            },
        }
    }
}

fn address(value: &Value) -> IpAddr {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("{value} is not an address"))
}

/// The pod, which Pod Security `restricted` allows.
pub(crate) fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("{name}-pod"), "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "target",
                "image": Settings::get().base_image,
                "imagePullPolicy": "IfNotPresent",
                "command": [PROGRAM, "serve"],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "readinessProbe": {"tcpSocket": {"port": ports::HTTP}, "periodSeconds": 1},
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "2", "memory": "512Mi"}},
                "volumeMounts": [{"name": "target", "mountPath": "/target", "readOnly": true}],
            }],
            "volumes": [{"name": "target", "configMap": {"name": name, "defaultMode": 0o555}}],
        },
    })
}

fn service(name: &str, app: &str, cluster_ip: Option<&str>) -> Value {
    let same = [
        ports::HTTP,
        ports::HTTP_SECOND,
        ports::ECHO,
        ports::HALF_CLOSE,
        ports::STALL,
        ports::SOURCE,
        ports::SINK,
        ports::END_FIRST,
        ports::EXCHANGE,
        ports::CLOSED,
    ];
    let ports: Vec<Value> = [(80, ports::HTTP)]
        .into_iter()
        .chain(same.map(|port| (port, port)))
        .map(|(port, target)| json!({"name": format!("p{port}"), "port": port, "targetPort": target}))
        .chain([json!({"name": "echo-udp", "port": ports::ECHO, "protocol": "UDP"})])
        .collect();
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": app}, "ports": ports},
    });
    if let Some(cluster_ip) = cluster_ip {
        service["spec"]["clusterIP"] = Value::from(cluster_ip);
    }
    service
}
