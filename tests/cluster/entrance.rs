//! What `expose` can be told about the way in: a unix socket behind it, a header before it, who may use it, what the
//! Service carries.
//!
//! The network of the usual test cluster enforces no NetworkPolicy, so these tests look at the object, not at who gets
//! through.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kube::api::DynamicObject;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use crate::harness::namespace::{Namespace, Who};
use crate::harness::{poll, run, within};

const EMPTY: Duration = Duration::from_secs(5);
/// After `kill -9`: the agent's grace period, the Job's TTL and the garbage collector.
const COLLECTED: Duration = Duration::from_secs(60);
/// From a pod's end to the next one's policy alone.
const SUCCESSOR: Duration = Duration::from_secs(20);
/// From a call in the cluster to what it says here.
const CALL: Duration = Duration::from_secs(15);

/// Reads until `end`, answers as HTTP, and returns what was read.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, end: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    let read = async {
        while !request.ends_with(end) {
            request.push(stream.read_u8().await.expect("the caller says more"));
        }
    };
    within(CALL, "the request", read).await;
    let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nhere";
    stream.write_all(reply).await.expect("the caller listens");
    stream.shutdown().await.expect("the caller listens");
    request
}

/// Caller, called and the port called, from a header of either version over IPv4 or IPv6.
fn addresses(request: &[u8]) -> (String, String, u16) {
    let Some(rest) = request.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n\x21") else {
        let line = request.split(|&byte| byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words.len(), 6, "{line}");
        let port = words[5].parse().expect("a port");
        return (words[2].to_owned(), words[3].to_owned(), port);
    };
    let size = match rest[0] {
        0x11 => 4,
        0x21 => 16,
        family => panic!("family {family:#x}"),
    };
    let ip = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(four) => std::net::Ipv4Addr::from(four).to_string(),
        Err(_) => std::net::Ipv6Addr::from(<[u8; 16]>::try_from(bytes).expect("16 bytes")).to_string(),
    };
    let body = &rest[3..];
    let port = &body[2 * size + 2..2 * size + 4];
    assert!(body[2 * size + 4..].starts_with(b"GET / "), "the header's length");
    (
        ip(&body[..size]),
        ip(&body[size..2 * size]),
        u16::from_be_bytes([port[0], port[1]]),
    )
}

async fn object(namespace: &Namespace, plural: &str, name: &str) -> DynamicObject {
    let objects = namespace.admin().objects(namespace.name(), plural);
    let found = objects.get(name).await;
    found.unwrap_or_else(|error| panic!("{plural}/{name}: {error}"))
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_program_behind_a_unix_socket_is_called_and_may_be_away() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("caller").await;
        let path: PathBuf = namespace.folder().join("app.sock");
        let spec = format!("80:unix:{}", path.display());
        let (plugin, ready) = namespace.expose(&["laptop", &spec, "-v", "2"]).ready().await;
        let local = &ready.event["services"][0]["ports"][0]["local"];
        assert_eq!(local, &format!("unix:{}", path.display()));
        let call = async || {
            namespace
                .call_http(&target, "GET", "laptop", 80, "/", 1)
                .await
                .remove(0)
        };

        let down = call().await;
        let error = down.result.clone().expect_err("there is no socket yet");
        assert!(error.starts_with("ConnectionReset"), "{error}");
        assert!(down.millis < 1000, "{down:?}");
        let said = plugin.said();
        assert!(
            said.contains(&format!("dial unix:{}", path.display())) && said.contains("No such file"),
            "{said}"
        );

        let listener = UnixListener::bind(&path).expect("a unix socket");
        let mut program = JoinSet::new();
        program.spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            answer(stream, b"close\r\n\r\n").await
        });
        assert_eq!(call().await.result, Ok("200 here".to_owned()));
        let head = program.join_all().await.remove(0);
        assert!(head.starts_with(b"GET / HTTP/1.1\r\n"));
        plugin.stop().await;
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_program_learns_the_address_of_the_pod_that_calls() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("caller").await;
        for (flag, name) in [("--proxy-protocol=v1", "one"), ("--proxy-protocol", "two")] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a local port");
            let port = listener.local_addr().expect("bound").port();
            let (plugin, ready) = namespace
                .expose(&[name, &format!("80:{port}"), flag])
                .ready()
                .await;
            let mut program = JoinSet::new();
            program.spawn(async move {
                let (stream, _) = listener.accept().await.expect("a connection");
                answer(stream, b"close\r\n\r\n").await
            });
            let calls = namespace.call_http(&target, "GET", name, 80, "/", 1).await;
            assert_eq!(calls[0].result, Ok("200 here".to_owned()));
            let request = program.join_all().await.remove(0);
            let caller = target.pod_ip.to_string();
            let called = ready.event["services"][0]["clusterIP"]
                .as_str()
                .expect("an address");
            assert_eq!(addresses(&request), (caller, called.to_owned(), 80));
            plugin.stop().await;
        }
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_guest_list_is_an_owned_policy_and_goes_with_the_session() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("caller").await;
        let arguments = [
            &["api", "80:1"][..],
            &["--allow-from", "app=caller,tier!=db"],
            &["--allow-from", "namespace/shop"],
            &["--allow-from", "10.0.0.0/8"],
        ]
        .concat();
        let (plugin, ready) = namespace.expose(&arguments).ready().await;
        let name = format!("tunnel-{}", ready.session);
        let policy = object(&namespace, "networkpolicies", &name).await;
        let job = object(&namespace, "jobs", &name).await;
        let service = object(&namespace, "services", "api").await;
        let owners = policy.metadata.owner_references.clone().unwrap_or_default();
        assert_eq!(owners.len(), 1);
        assert_eq!(Some(&owners[0].uid), job.metadata.uid.as_ref());
        assert_eq!(owners[0].block_owner_deletion, None);
        assert_eq!(policy.metadata.finalizers, None);
        assert_eq!(policy.metadata.labels, job.metadata.labels);
        let pod = json!({"matchLabels": service.data["spec"]["selector"]});
        assert_eq!(policy.data["spec"]["podSelector"], pod);
        assert_eq!(policy.data["spec"]["policyTypes"], json!(["Ingress"]));
        let rule = &policy.data["spec"]["ingress"][0];
        assert_eq!(rule["ports"], json!([{"port": 20000, "protocol": "TCP"}]));
        let from = rule["from"].as_array().expect("peers");
        assert_eq!(from.len(), 4);
        assert_eq!(from[3], json!({"podSelector": pod}));
        assert!(
            plugin.said().contains("enforces NetworkPolicy"),
            "{}",
            plugin.said()
        );

        // A pod that dies is followed by one with a policy of its own.
        let arguments = ["delete", "pod", &ready.pod, "--wait=false"];
        let deleted = namespace.kubectl(Who::Developer, &arguments).await;
        assert!(deleted.status.success(), "{deleted:?}");
        let next = format!("{name}-2");
        poll(SUCCESSOR, "the successor's policy alone", async || {
            let policies = policies(&namespace).await;
            (policies.keys().collect::<Vec<_>>() == [&next]).then_some(())
        })
        .await;
        let spec = &policies(&namespace).await[&next];
        let service = object(&namespace, "services", "api").await;
        assert_eq!(
            spec["podSelector"]["matchLabels"],
            service.data["spec"]["selector"]
        );
        drop(target);
        plugin.stop().await;
        namespace.wait_empty(EMPTY).await;
    });
}

async fn policies(namespace: &Namespace) -> BTreeMap<String, Value> {
    let policies = namespace.admin().objects(namespace.name(), "networkpolicies");
    let list = policies.list(&kube::api::ListParams::default()).await;
    list.expect("list policies")
        .items
        .into_iter()
        .map(|policy| {
            (
                policy.metadata.name.unwrap_or_default(),
                policy.data["spec"].clone(),
            )
        })
        .collect()
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_policy_is_collected_after_kill_9() {
    run(async {
        let namespace = Namespace::create().await;
        let arguments = ["api", "80:1", "--allow-from", "app=web", "--grace", "5s"];
        let (plugin, _) = namespace.expose(&arguments).ready().await;
        assert_eq!(policies(&namespace).await.len(), 1);
        plugin.kill().await;
        namespace.wait_empty(COLLECTED).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_service_carries_the_users_labels_and_keeps_them_with_the_next_pod() {
    run(async {
        let namespace = Namespace::create().await;
        let arguments = [
            &["api", "80:1"][..],
            &["--service-label", "team=shop"],
            &["--service-label", "example.com/empty="],
            &["--service-annotation", "example.com/note=any = text"],
        ]
        .concat();
        let (mut plugin, ready) = namespace.expose(&arguments).ready().await;
        let expect = async || {
            let service = object(&namespace, "services", "api").await;
            let labels = service.metadata.labels.unwrap_or_default();
            let annotations = service.metadata.annotations.unwrap_or_default();
            assert_eq!(labels["team"], "shop");
            assert_eq!(labels["example.com/empty"], "");
            assert_eq!(labels["app.kubernetes.io/instance"], ready.session);
            assert_eq!(annotations["example.com/note"], "any = text");
        };
        expect().await;
        let arguments = ["delete", "pod", &ready.pod, "--wait=false"];
        let deleted = namespace.kubectl(Who::Developer, &arguments).await;
        assert!(deleted.status.success(), "{deleted:?}");
        plugin.event("agent-replaced", SUCCESSOR).await;
        expect().await;
        plugin.stop().await;
        namespace.wait_empty(EMPTY).await;
    });
}
