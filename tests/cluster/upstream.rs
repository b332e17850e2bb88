//! Targets of `forward` in a real cluster: looked up, followed as their pods come and go, reached through the API.

use std::time::Duration;

use kubectl_tunnel::cli::target::{ForwardPort, Via};
use kubectl_tunnel::cluster::client::{Access, ApiServer};
use kubectl_tunnel::cluster::env::Env;
use kubectl_tunnel::cluster::kubeconfig::Overrides;
use kubectl_tunnel::cluster::port_forward::{self, PortForwardError};
use kubectl_tunnel::cluster::upstream::{self, PodGroup, Upstream, Wanted, Watches};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tunnel_test_target as ports;

use crate::harness::namespace::Namespace;
use crate::harness::{poll, run, target};

/// From a new pod to one that is ready, on a busy machine.
const READY: Duration = Duration::from_secs(30);

async fn connect(namespace: &Namespace) -> ApiServer {
    let kubeconfig = namespace.kubeconfig().display().to_string();
    let env = Env::from_vars(vec![("KUBECONFIG".to_owned(), kubeconfig)]);
    let access = Access::new(Overrides::default(), env, "forward");
    access.connect().await.expect("the developer's client")
}

async fn pods_of(server: &ApiServer, target: &str, port: &str, via: Via) -> (PodGroup, ForwardPort) {
    let mut port: ForwardPort = port.parse().expect("a port");
    let wanted = Wanted {
        target: target.parse().expect("a target"),
        port: port.remote.clone(),
        protocol: port.protocol,
        via,
    };
    let resolved = upstream::resolve(server, &[wanted]).await.expect("resolved");
    let Some(Upstream::Pods { group, port: remote }) =
        resolved.targets.into_iter().next().map(|target| target.upstream)
    else {
        panic!("{target} is no pods");
    };
    port.remote = remote;
    (group, port)
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_deployment_is_followed_from_nothing_to_its_next_pod() {
    run(async {
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "api"},
            "spec": {
                "replicas": 0,
                "selector": {"matchExpressions": [{"key": "tier", "operator": "In", "values": ["front", "back"]}]},
                "template": {"metadata": {"labels": {"tier": "back"}}, "spec": target::pod("web")["spec"]},
            },
        });
        let file = namespace.folder().join("deployment.json");
        std::fs::write(&file, deployment.to_string()).expect("write the deployment");
        namespace
            .kubectl_ok(&["create", "-f", &file.display().to_string()])
            .await;

        let server = connect(&namespace).await;
        let (group, port) = pods_of(&server, "deploy/api", "80", Via::Auto).await;
        let _watches = Watches::start(&server, [&group]);
        let choose = async |wait| {
            let deadline = Instant::now() + wait;
            group.choose(&port.remote, port.protocol, &[], deadline).await
        };
        let none = choose(Duration::from_secs(2))
            .await
            .expect_err("scaled to nothing");
        assert_eq!(none.to_string(), "no ready pod behind deploy/api: 0 of 0");

        namespace
            .kubectl_ok(&["scale", "deploy/api", "--replicas=1"])
            .await;
        let first = choose(READY).await.expect("a ready pod");
        namespace
            .kubectl_ok(&["delete", "pod", &first.name, "--wait=false"])
            .await;
        let next = poll(READY, "the next pod", async || {
            let chosen = choose(READY).await.expect("a ready pod");
            (chosen.name != first.name).then_some(chosen)
        })
        .await;
        assert_ne!(next.ip, "");
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_service_is_reached_through_the_apis_port_forward() {
    run(async {
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        let server = connect(&namespace).await;
        let name = format!("p{}", ports::ECHO);
        let (group, port) = pods_of(&server, "svc/web", &name, Via::Pod).await;
        let _watches = Watches::start(&server, [&group]);
        let deadline = Instant::now() + READY;
        let pod = group
            .choose(&port.remote, port.protocol, &[], deadline)
            .await
            .expect("a ready pod");
        assert_eq!(pod.port, ports::ECHO);

        let connect = async |port| port_forward::connect(&server, &pod.namespace, &pod.name, port).await;
        let mut pipe = connect(pod.port).await.expect("connected");
        let sent: Vec<u8> = (0..300_000_u32)
            .map(|index| u8::try_from(index % 251).expect("a byte"))
            .collect();
        let (mut reader, mut writer) = tokio::io::split(&mut pipe);
        let mut received = vec![0; sent.len()];
        let (wrote, read) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut received));
        wrote.expect("written");
        read.expect("read");
        assert!(sent == received, "bytes were altered");

        let mut pipe = connect(ports::CLOSED)
            .await
            .expect("the handshake says nothing of the port");
        let error = pipe.read_u8().await.expect_err("nobody listens");
        let complaint = PortForwardError::find(&error).expect("a complaint of the node");
        assert_eq!(complaint.message, "connection refused");
    });
}
