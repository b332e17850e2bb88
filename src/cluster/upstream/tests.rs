//! Targets against the playground: what is found, what is refused, how many requests it takes, and how groups follow
//! their pods.

use std::time::Duration;

use http::StatusCode;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tunnel_playground::{HTTP_PORT, Options, Playground, Rights, TCP_PORT, User};

use super::*;
use crate::cli::target::ForwardPort;
use crate::cluster::client::Access;
use crate::cluster::env::Env;
use crate::cluster::kubeconfig::Overrides;
use crate::cluster::port_forward::{self, PortForwardError};

/// A test that hangs fails after this long.
const DEADLINE: Duration = Duration::from_secs(20);

struct Stage {
    playground: Playground,
    access: Access,
    server: ApiServer,
}

impl Stage {
    async fn start(samples: bool) -> Self {
        Self::start_as(samples, User::new("developer", Rights::edit(&["dev", "open"]))).await
    }

    async fn start_as(samples: bool, user: User) -> Self {
        let options = Options {
            samples,
            users: vec![user],
            ..Options::default()
        };
        let playground = Playground::start(options).await.unwrap();
        let path = playground.kubeconfig_path().to_str().unwrap().to_owned();
        let env = Env::from_vars(vec![("KUBECONFIG".to_owned(), path)]);
        let access = Access::new(Overrides::default(), env, "forward");
        let server = access.connect().await.unwrap();
        Self {
            playground,
            access,
            server,
        }
    }

    async fn create<K>(&self, object: Value)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + serde::Serialize
            + DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.server.client(), "dev");
        let object: K = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    /// A pod that only waits.
    async fn create_pod(&self, name: &str, app: &str) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": app}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "c", "image": "local", "ports": [{"name": "http", "containerPort": 80}]}],
            },
        });
        self.create::<Pod>(pod).await;
    }

    async fn one(&self, target: &str, port: &str) -> Result<Upstream, UpstreamError> {
        let resolved = resolve(&self.server, &[wanted(target, port, Via::Auto)]).await?;
        Ok(resolved.targets.into_iter().next().unwrap().upstream)
    }

    async fn dialled(&self, target: &str, port: &str) -> String {
        match self.one(target, port).await.expect(target) {
            Upstream::Name { host, port } => format!("{host} {port}"),
            Upstream::Pods { group, port } => format!("pods of {} {port}", group.target()),
        }
    }

    async fn refused(&self, target: &str, port: &str) -> String {
        self.one(target, port).await.expect_err(target).to_string()
    }

    /// Requests answered so far that begin like this, such as `GET /api/v1/...`.
    fn requests(&self, start: &str) -> usize {
        let requests = self.playground.requests();
        let lines = requests
            .iter()
            .map(|request| format!("{} {}", request.method, request.path));
        lines.filter(|line| line.starts_with(start)).count()
    }
}

fn wanted(target: &str, port: &str, via: Via) -> Wanted {
    let port: ForwardPort = port.parse().unwrap();
    Wanted {
        target: target.parse().unwrap(),
        port: port.remote,
        protocol: port.protocol,
        via,
    }
}

async fn choose(group: &PodGroup, port: &RemotePort) -> ChosenPod {
    let deadline = Instant::now() + DEADLINE;
    group.choose(port, Protocol::Tcp, &[], deadline).await.unwrap()
}

/// Waits until the group chooses this pod only.
async fn until_chosen(group: &PodGroup, name: &str) {
    let reached = async {
        while choose(group, &RemotePort::Number(80)).await.name != name {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, reached).await.expect(name);
}

#[tokio::test]
async fn what_is_dialled_for_each_kind() {
    let stage = Stage::start(true).await;
    for (target, port, expected) in [
        ("svc/web", "80", "web.dev.svc 80".to_owned()),
        ("svc/web", "http-alt", "web.dev.svc 8080".to_owned()),
        ("svc/web.open", "http", "web.open.svc 80".to_owned()),
        (
            "svc/web-headless",
            "http-own",
            format!("web-headless.dev.svc {HTTP_PORT}"),
        ),
        ("svc/web-alias", "99", "web-alias.dev.svc 99".to_owned()),
        ("host/rds.internal", "5432", "rds.internal 5432".to_owned()),
        ("ip/fd00::1", "53/udp", "fd00::1 53".to_owned()),
        ("deploy/web", "http", "pods of deploy/web http".to_owned()),
        ("pod/web", "9", "pods of pod/web 9".to_owned()),
    ] {
        assert_eq!(stage.dialled(target, port).await, expected);
    }
    for (target, port, expected) in [
        ("svc/nope", "80", "service \"nope\" not found in namespace dev"),
        (
            "deploy/nope",
            "80",
            "deployment \"nope\" not found in namespace dev",
        ),
        (
            "svc/web",
            "81",
            "svc/web has no tcp port 81: it has http (80/tcp), http-alt (8080/tcp), http-own (28080/tcp)",
        ),
        (
            "deploy/web",
            "grpc",
            "deploy/web has no tcp port grpc: it has http (28080/tcp)",
        ),
        (
            "pod/web",
            "http/udp",
            "pod/web has no udp port http: it has http (28080/tcp)",
        ),
        (
            "host/rds.internal",
            "sql",
            "host/rds.internal: a host or address has no port names; type a number",
        ),
    ] {
        assert_eq!(stage.refused(target, port).await, expected);
    }
}

#[tokio::test]
async fn a_named_target_port_of_a_headless_service_is_told_by_its_endpoints() {
    let stage = Stage::start(true).await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "named"},
        "spec": {"clusterIP": "None", "selector": {"app": "echo"},
            "ports": [{"name": "echo", "port": 7, "targetPort": "tcp"}]},
    });
    stage.create::<Service>(service).await;
    let told = stage.playground.until(|all| {
        let own = all.iter().filter(|(key, _)| key.name.starts_with("named-"));
        own.map(|(_, slice)| &slice["ports"][0]["port"])
            .any(|port| *port == TCP_PORT)
    });
    tokio::time::timeout(DEADLINE, told).await.unwrap();
    assert_eq!(
        stage.dialled("svc/named", "echo").await,
        format!("named.dev.svc {TCP_PORT}")
    );
}

#[tokio::test]
async fn port_forward_is_refused_where_it_cannot_work() {
    let stage = Stage::start(true).await;
    for (target, port, expected) in [
        ("ip/10.0.0.7", "80", "only the agent reaches"),
        ("svc/web", "53/udp", "carries TCP only"),
        ("svc/web-alias", "80", "ExternalName"),
    ] {
        let error = resolve(&stage.server, &[wanted(target, port, Via::Pod)])
            .await
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn hundreds_of_targets_take_a_request_a_kind() {
    let stage = Stage::start(true).await;
    for index in 0..100 {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{index}")},
            "spec": {"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80}]},
        });
        stage.create::<Service>(service).await;
    }
    let mut all = Vec::new();
    for index in 0..100 {
        all.push(wanted(&format!("svc/s{index}"), "80", Via::Auto));
        all.push(wanted("deploy/web", "80", Via::Auto));
        all.push(wanted("ip/10.0.0.1", "80", Via::Auto));
    }
    let before = stage.playground.requests().len();
    let resolved = resolve(&stage.server, &all).await.unwrap();
    assert_eq!(resolved.targets.len(), 300);
    assert_eq!(
        stage.playground.requests().len() - before,
        2,
        "{:?}",
        stage.playground.requests()
    );
    all.push(wanted("svc/gone", "80", Via::Auto));
    let error = resolve(&stage.server, &all).await.unwrap_err();
    assert_eq!(error.to_string(), "service \"gone\" not found in namespace dev");
}

#[tokio::test]
async fn a_service_that_may_not_be_read_is_taken_at_its_number() {
    let user = User::new("developer", Rights::edit(&["dev"]));
    let stage = Stage::start_as(true, user).await;
    let resolved = resolve(&stage.server, &[wanted("svc/web.open", "80", Via::Auto)])
        .await
        .unwrap();
    assert!(
        matches!(&resolved.targets[0].upstream, Upstream::Name { host, port: 80 } if host == "web.open.svc")
    );
    assert_eq!(
        resolved.warnings,
        ["services in namespace open may not be read; not checked: svc/web.open 80"]
    );
    for (target, port, via) in [
        ("svc/web.open", "http", Via::Auto),
        ("svc/web.open", "80", Via::Pod),
    ] {
        let error = resolve(&stage.server, &[wanted(target, port, via)])
            .await
            .unwrap_err();
        let error = crate::error::Error::from(error);
        assert_eq!(error.status(), crate::error::ExitStatus::Forbidden);
        let hint = error.report("dev").hint.unwrap();
        assert_eq!(hint, "check with `kubectl auth can-i get services -n open`");
    }
}

#[tokio::test]
async fn a_group_follows_its_pods() {
    let stage = Stage::start(true).await;
    let Upstream::Pods { group, port } = stage.one("deploy/web", "http").await.unwrap() else {
        panic!("a deployment is pods")
    };
    let watches = Watches::start(&stage.server, [&group]);
    let chosen = choose(&group, &port).await;
    assert_eq!((chosen.name.as_str(), chosen.port), ("web", HTTP_PORT));

    let pods: Api<Pod> = Api::namespaced(stage.server.client(), "dev");
    stage.create_pod("second", "web").await;
    pods.delete("web", &DeleteParams::default()).await.unwrap();
    until_chosen(&group, "second").await;

    // A renewed client goes on from where the old one was; a version that is too old is listed anew.
    let lists = || stage.requests("GET /api/v1/namespaces/dev/pods");
    let before = lists();
    stage.server.renew(&stage.access).await.unwrap();
    stage.create_pod("third", "web").await;
    pods.delete("second", &DeleteParams::default()).await.unwrap();
    until_chosen(&group, "third").await;
    assert_eq!(lists() - before, 1, "one watch, no list");

    stage.playground.faults().fail_next_where(
        1,
        StatusCode::GONE,
        Some(&http::Method::GET),
        "/namespaces/dev/pods",
    );
    stage.server.renew(&stage.access).await.unwrap();
    stage.create_pod("fourth", "web").await;
    pods.delete("third", &DeleteParams::default()).await.unwrap();
    until_chosen(&group, "fourth").await;

    // What is known stays when nobody watches any more.
    drop(watches);
    pods.delete("fourth", &DeleteParams::default()).await.unwrap();
    assert_eq!(choose(&group, &RemotePort::Number(80)).await.name, "fourth");
}

#[tokio::test]
async fn a_named_pod_is_followed_to_its_successor() {
    let stage = Stage::start(false).await;
    stage.create_pod("db-0", "db").await;
    let Upstream::Pods { group, port } = stage.one("db-0", "80").await.unwrap() else {
        panic!("a pod is pods")
    };
    let _watches = Watches::start(&stage.server, [&group]);
    let first = choose(&group, &port).await;
    let pods: Api<Pod> = Api::namespaced(stage.server.client(), "dev");
    pods.delete("db-0", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    let gone = stage
        .playground
        .until(|all| !all.iter().any(|(key, _)| key.name == "db-0"));
    tokio::time::timeout(DEADLINE, gone).await.unwrap();
    stage.create_pod("db-0", "db").await;
    let next = async {
        loop {
            let chosen = choose(&group, &port).await;
            if chosen.ip != first.ip {
                return chosen.name;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(tokio::time::timeout(DEADLINE, next).await.unwrap(), "db-0");
}

#[tokio::test]
async fn a_service_is_reached_through_its_pods() {
    let stage = Stage::start(true).await;
    let all = [wanted("svc/echo", "tcp", Via::Pod)];
    let resolved = resolve(&stage.server, &all).await.unwrap();
    let Upstream::Pods { group, port } = &resolved.targets[0].upstream else {
        panic!("via pod is pods")
    };
    let _watches = Watches::start(&stage.server, [group]);
    let pod = choose(group, port).await;
    let mut pipe = port_forward::connect(&stage.server, &pod.namespace, &pod.name, pod.port)
        .await
        .unwrap();
    pipe.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    tokio::time::timeout(DEADLINE, pipe.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"hello");

    let mut pipe = port_forward::connect(&stage.server, &pod.namespace, &pod.name, 81)
        .await
        .unwrap();
    let error = pipe.read_exact(&mut answer).await.unwrap_err();
    let error = PortForwardError::find(&error).expect("a complaint of the node");
    assert_eq!(error.to_string(), "port 81 of pod echo: connection refused");

    let error = port_forward::connect(&stage.server, "dev", "nope", 81)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(404));
}
