//! What `expose` can be told: programs behind unix sockets, headers, who may call, labels; and what it refuses.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::{Method, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use kubectl_tunnel::cluster::client::Access;
use kubectl_tunnel::cluster::env::Env;
use kubectl_tunnel::cluster::kubeconfig::Overrides;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::timeout;
use tunnel_playground::{Key, Options, Resource, Rights, Rule, User};

use crate::support::{DEADLINE, Stage};

/// Sends `request` to the Service `api`, ends that direction, and reads the answer. Returns it with the address of
/// this end and the address called.
async fn call(stage: &Stage, port: u16, request: &str) -> (String, Ipv4Addr, Ipv4Addr) {
    let address = stage.playground.service_address("dev", "api").unwrap();
    let exchange = async {
        let mut stream = TcpStream::connect((address, port)).await.unwrap();
        let IpAddr::V4(own) = stream.local_addr().unwrap().ip() else {
            panic!("dialled IPv4");
        };
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer, own, address)
    };
    timeout(DEADLINE, exchange).await.expect("no answer")
}

/// Takes one connection, reads it to its end, answers, and returns what was read.
async fn answer_once<S>(mut stream: S) -> Vec<u8>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut request = Vec::new();
    stream.read_to_end(&mut request).await.unwrap();
    stream.write_all(b"answer").await.unwrap();
    stream.shutdown().await.unwrap();
    request
}

fn object(stage: &Stage, resource: Resource, name: &str) -> Arc<Value> {
    let key = Key::new(resource, "dev", name);
    let objects = stage.playground.objects();
    let found = objects.into_iter().find(|(other, _)| *other == key);
    found.unwrap_or_else(|| panic!("no {key:?}")).1
}

fn policies(stage: &Stage) -> Vec<Arc<Value>> {
    let objects = stage.playground.objects().into_iter();
    let policies = objects.filter(|(key, _)| key.resource == Resource::NetworkPolicy);
    policies.map(|(_, policy)| policy).collect()
}

/// Which of the requests that made something came first.
fn position(stage: &Stage, path: &str) -> usize {
    let requests = stage.playground.requests();
    let found = requests
        .iter()
        .position(|request| request.method == "POST" && request.path.ends_with(path));
    found.unwrap_or_else(|| panic!("nothing was posted to {path}"))
}

async fn delete_pod(stage: &Stage, name: &str) {
    let overrides = Overrides {
        kubeconfig: Some(stage.playground.kubeconfig_path().to_owned()),
        ..Overrides::default()
    };
    let access = Access::new(overrides, Env::from_vars([] as [(&str, &str); 0]), "expose");
    let server = access.connect().await.unwrap();
    let pods: Api<Pod> = Api::namespaced(server.client(), "dev");
    pods.delete(name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn a_program_behind_a_unix_socket_is_reached() {
    let stage = Stage::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let port = stage.web_port();
    let spec = format!("{port}:unix:{}", path.display());
    let mut plugin = stage.plugin("expose", &["expose", "api", &spec]);
    let ready = plugin.ready().await;
    assert_eq!(
        ready["services"][0]["ports"][0]["local"],
        format!("unix:{}", path.display())
    );
    let (answer, request) = tokio::join!(call(&stage, port, "request"), async {
        let (stream, _) = timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
        answer_once(stream).await
    });
    assert_eq!(
        (answer.0.as_str(), request.as_slice()),
        ("answer", &b"request"[..])
    );
    // Nobody listens any more: the caller is reset, and the log says why.
    drop(listener);
    let address = stage.playground.service_address("dev", "api").unwrap();
    let mut stream = TcpStream::connect((address, port)).await.unwrap();
    let error = timeout(DEADLINE, stream.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    plugin.stop().await;
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_program_learns_its_callers_by_either_version_of_the_header() {
    let stage = Stage::start().await;
    for (flag, version) in [("--proxy-protocol", 2), ("--proxy-protocol=v1", 1)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = stage.web_port();
        let spec = format!("{port}:{}", listener.local_addr().unwrap().port());
        let mut plugin = stage.plugin(flag, &["expose", "api", &spec, flag]);
        plugin.ready().await;
        let (answer, request) = tokio::join!(call(&stage, port, "request"), async {
            let (stream, _) = timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
            answer_once(stream).await
        });
        let (answer, own, called) = answer;
        assert_eq!(answer, "answer");
        // The playground's relay keeps the caller's address, but not its port.
        let header = request.strip_suffix(b"request").unwrap();
        if version == 1 {
            let line = std::str::from_utf8(header).unwrap();
            let words: Vec<&str> = line.strip_suffix("\r\n").unwrap().split(' ').collect();
            let (caller, called, port) = (own.to_string(), called.to_string(), port.to_string());
            assert!(words[4].parse::<u16>().is_ok(), "{line}");
            assert_eq!(words, ["PROXY", "TCP4", &caller, &called, words[4], &port]);
        } else {
            let start = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
            let caller = own.octets();
            assert_eq!(header[..24], [&start[..], &caller, &called.octets()].concat());
            assert_eq!(header[26..], port.to_be_bytes());
        }
        plugin.stop().await;
    }
    stage.until_nothing_is_left().await;
}

/// It may wait for the program to speak first, and the program for the header.
#[tokio::test]
async fn the_header_does_not_wait_for_the_callers_first_byte() {
    let stage = Stage::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = stage.web_port();
    let spec = format!("{port}:{}", listener.local_addr().unwrap().port());
    let mut plugin = stage.plugin("expose", &["expose", "api", &spec, "--proxy-protocol=v1"]);
    plugin.ready().await;
    let address = stage.playground.service_address("dev", "api").unwrap();
    let mut caller = TcpStream::connect((address, port)).await.unwrap();
    let greet = async {
        let (mut program, _) = listener.accept().await.unwrap();
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(program.read_u8().await.unwrap());
        }
        program.write_all(b"hello").await.unwrap();
        let mut greeting = [0; 5];
        caller.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"hello");
    };
    timeout(DEADLINE, greet).await.expect("somebody waits");
    drop(caller);
    plugin.stop().await;
}

#[tokio::test]
async fn a_guest_list_is_a_policy_that_is_there_before_the_service_and_goes_with_the_session() {
    let stage = Stage::start().await;
    let spec = format!("{}:1", stage.web_port());
    let mut arguments = vec!["expose", "api", &spec];
    for peer in ["app=web,tier!=db", "namespace/shop:app=web", "10.1.0.0/16"] {
        arguments.extend(["--allow-from", peer]);
    }
    let mut plugin = stage.plugin("expose", &arguments);
    let ready = plugin.ready().await;
    let name = format!("tunnel-{}", ready["session"].as_str().unwrap());
    let job = object(&stage, Resource::Job, &name);
    let policy = object(&stage, Resource::NetworkPolicy, &name);
    let service = object(&stage, Resource::Service, "api");
    let owner = json!({
        "apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"],
        "controller": false,
    });
    assert_eq!(policy["metadata"]["ownerReferences"], json!([owner]));
    assert_eq!(policy["metadata"]["labels"], job["metadata"]["labels"]);
    assert_eq!(policy["metadata"]["annotations"], job["metadata"]["annotations"]);
    let pod = json!({"matchLabels": service["spec"]["selector"]});
    let rule = json!({
        "from": [
            {"podSelector": {
                "matchLabels": {"app": "web"},
                "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["db"]}],
            }},
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}},
                "podSelector": {"matchLabels": {"app": "web"}},
            },
            {"ipBlock": {"cidr": "10.1.0.0/16"}},
            {"podSelector": pod},
        ],
        "ports": [{"protocol": "TCP", "port": service["spec"]["ports"][0]["targetPort"]}],
    });
    let expected = json!({"podSelector": pod, "policyTypes": ["Ingress"], "ingress": [rule]});
    assert_eq!(policy["spec"], expected);
    assert!(position(&stage, "/networkpolicies") < position(&stage, "/services"));

    plugin.signal(Signal::INT);
    let (status, _, log) = plugin.ended().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("enforces NetworkPolicy"), "{log}");
    assert!(!log.contains("every pod"), "{log}");
    assert_eq!(stage.playground.tunnel_objects(), []);
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_policy_is_collected_after_kill_9() {
    let stage = Stage::start().await;
    let spec = format!("{}:1", stage.web_port());
    let arguments = ["expose", "api", &spec, "--allow-from", "app=web", "--grace", "1s"];
    let mut plugin = stage.plugin("expose", &arguments);
    plugin.ready().await;
    assert_eq!(policies(&stage).len(), 1);
    plugin.signal(Signal::KILL);
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_successor_has_its_own_policy_before_the_service_moves_and_the_service_keeps_its_labels() {
    let stage = Stage::start().await;
    let spec = format!("{}:1", stage.web_port());
    let mut arguments = vec!["expose", "api", &spec, "--allow-from", "app=web"];
    arguments.extend(["--service-label", "team=shop", "--service-label", "empty="]);
    arguments.extend(["--service-annotation", "example.com/note=any = text"]);
    let mut plugin = stage.plugin("expose", &arguments);
    let ready = plugin.ready().await;
    let generation = |object: &Value| {
        object["metadata"]["labels"]["kubectl-tunnel.dev/generation"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let expect_labels = |generation_wanted: &str| {
        let service = object(&stage, Resource::Service, "api");
        let metadata = &service["metadata"];
        assert_eq!(generation(&service), generation_wanted);
        assert_eq!(metadata["labels"]["team"], "shop");
        assert_eq!(metadata["labels"]["empty"], "");
        assert_eq!(metadata["labels"]["app.kubernetes.io/name"], "kubectl-tunnel");
        assert_eq!(metadata["annotations"]["example.com/note"], "any = text");
        assert!(metadata["annotations"]["kubectl-tunnel.dev/user"].is_string());
    };
    expect_labels("1");

    delete_pod(&stage, ready["pod"].as_str().unwrap()).await;
    let alone = |all: &[(Key, Arc<Value>)]| {
        let policies: Vec<_> = all
            .iter()
            .filter(|(key, _)| key.resource == Resource::NetworkPolicy)
            .collect();
        policies.len() == 1 && generation(&policies[0].1) == "2"
    };
    stage.until("the successor's policy alone", alone).await;
    expect_labels("2");
    let policy = &policies(&stage)[0];
    let service = object(&stage, Resource::Service, "api");
    assert_eq!(
        policy["spec"]["podSelector"]["matchLabels"],
        service["spec"]["selector"]
    );
    let requests = stage.playground.requests();
    let posted = requests
        .iter()
        .rposition(|request| request.method == "POST" && request.path.ends_with("/networkpolicies"));
    let moved = requests
        .iter()
        .position(|request| request.method == "PATCH" && request.path.ends_with("/services/api"));
    assert!(posted < moved, "{requests:#?}");
    plugin.stop().await;
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_policy_that_cannot_be_made_leaves_no_service() {
    let stage = Stage::start().await;
    stage.playground.faults().fail_next_where(
        1,
        StatusCode::INTERNAL_SERVER_ERROR,
        Some(&Method::POST),
        "/networkpolicies",
    );
    let spec = format!("{}:1", stage.web_port());
    let plugin = stage.plugin("expose", &["expose", "api", &spec, "--allow-from", "app=web"]);
    let (status, _, log) = plugin.ended().await;
    assert_eq!(status.code(), Some(5), "{log}");
    assert!(log.contains("told to fail this request"), "{log}");
    let posts = stage.playground.requests();
    let services = |path: &str| path.ends_with("/namespaces/dev/services");
    assert!(
        !posts
            .iter()
            .any(|request| request.method == "POST" && services(&request.path)),
        "{posts:#?}"
    );
    stage.until_nothing_is_left().await;
}

/// `edit` in full but for policies.
fn without_policies() -> Rights {
    let Rights::In {
        namespaces,
        mut rules,
    } = Rights::edit(&["dev"])
    else {
        panic!("edit has rules");
    };
    rules.retain(|rule: &Rule| rule.groups != ["networking.k8s.io"]);
    Rights::In { namespaces, rules }
}

#[tokio::test]
async fn the_right_to_make_a_policy_is_needed_only_for_one() {
    let stage = Stage::start_with(Options {
        users: vec![User::new("limited", without_policies())],
        ..Options::default()
    })
    .await;
    let spec = format!("{}:1", stage.web_port());
    let plugin = stage.plugin("guarded", &["expose", "api", &spec, "--allow-from", "app=web"]);
    let (status, _, log) = plugin.ended().await;
    assert_eq!(status.code(), Some(4), "{log}");
    assert!(log.contains("create networkpolicies.networking.k8s.io"), "{log}");
    assert_eq!(stage.playground.tunnel_objects(), []);
    let mut plugin = stage.plugin("open", &["expose", "api", &spec]);
    plugin.ready().await;
    assert_eq!(policies(&stage).len(), 0);
    plugin.stop().await;
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_before_anything_is_asked() {
    let stage = Stage::start().await;
    for (index, (arguments, part)) in [
        (&["unix:/run/app.sock"][..], "80:unix:/run/app.sock"),
        (&["80:unix:/run/app.sock/udp"], "takes no UDP"),
        (
            &["53:5353/udp", "--udp-idle", "10ms"],
            "--udp-idle must be at least",
        ),
        (&["53/udp:5353"], "stands at the end"),
        (&["53/udp", "53:1/udp"], "53/udp is named twice"),
        (&["80", "--allow-from", "web"], "namespace/NAME:app=web"),
        (&["80", "--allow-from", "app=web,tier"], "neither KEY=VALUE"),
        (&["80", "--service-label", "a=b c"], "is no label value"),
        (
            &["80", "--service-label", "app.kubernetes.io/managed-by=me"],
            "choose another key",
        ),
        (
            &["80", "--service-annotation", "kubectl-tunnel.dev/user=me"],
            "choose another key",
        ),
        (&["80", "--proxy-protocol=v3"], "v3"),
    ]
    .into_iter()
    .enumerate()
    {
        let arguments = [&["expose"], arguments].concat();
        let plugin = stage.plugin(&format!("refused-{index}"), &arguments);
        let (status, _, log) = plugin.ended().await;
        assert_eq!(status.code(), Some(2), "{arguments:?}: {log}");
        assert!(log.contains(part), "{arguments:?}: {log}");
    }
    let requests = stage.playground.requests();
    assert!(
        requests
            .iter()
            .all(|request| !request.path.contains("selfsubject")),
        "{requests:#?}"
    );
}
