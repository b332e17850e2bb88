//! `forward`: every kind of target, files of targets, and what is refused before anything is made. The other way into a
//! pod is in `into_the_pod`, agents that come and go are in `on_demand`.

use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use kubectl_tunnel::cluster::client::Access;
use kubectl_tunnel::cluster::env::Env;
use kubectl_tunnel::cluster::kubeconfig::Overrides;
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};
use tunnel_playground::{HTTP_PORT, Options, Rights, TCP_PORT, User};

use crate::support::{DEADLINE, Plugin, Stage, exchange};

pub(crate) const GET: &str = "GET /a?b HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";

/// Starts `forward` on free ports of one address and waits for it; returns it with its listeners.
pub(crate) async fn forward(stage: &Stage, arguments: &[&str]) -> (Plugin, Vec<Listener>) {
    let mut plugin = stage.plugin(
        "forward",
        &[&["forward", "--address", "127.0.0.1"], arguments].concat(),
    );
    let ready = plugin.ready().await;
    let listeners = listeners(&ready);
    (plugin, listeners)
}

/// One local port, as the ready file tells it.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) address: String,
    pub(crate) target: String,
}

pub(crate) fn listeners(ready: &Value) -> Vec<Listener> {
    let all = ready["listeners"].as_array().unwrap().iter();
    all.map(|listener| {
        assert_eq!(listener["kind"], "forward", "{listener}");
        let text = |name: &str| listener[name].as_str().unwrap().to_owned();
        Listener {
            address: text("address"),
            target: format!("{}:{}/{}", text("target"), text("port"), text("protocol")),
        }
    })
    .collect()
}

/// Expects that a connection is reset before anything comes.
pub(crate) async fn expect_reset(address: &str) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(GET.as_bytes()).await.unwrap();
    let end = timeout(DEADLINE, stream.read(&mut [0])).await.expect("no end");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn every_kind_of_target_is_reached() {
    let stage = Stage::start().await;
    let address = stage.playground.service_address("dev", "web").unwrap();
    let address = format!("ip/{address}");
    let number = format!(":{HTTP_PORT}");
    let arguments = [
        ["web", ":http"],
        ["svc/web.open", ":http-own"],
        ["svc/web-headless", ":http-own"],
        ["svc/web-alias", &number],
        ["deploy/web", ":http"],
        ["pod/web", &number],
        ["svc/web", &number],
        ["host/web.dev.svc", &number],
        [&address, &number],
    ];
    let (plugin, listeners) = forward(&stage, &[arguments.as_flattened(), &["-v=1"]].concat()).await;
    assert_eq!(listeners.len(), arguments.len());
    for listener in &listeners {
        let answer = exchange(&listener.address, GET).await;
        assert!(
            answer.contains("hello from web\nGET /a?b HTTP/1.1\n"),
            "{}: {answer}",
            listener.target
        );
        plugin
            .until_said(&format!("target=\"{}\"", listener.target))
            .await;
    }
    let said = plugin.said();
    let closed = said.lines().filter(|line| line.contains("connection closed"));
    let sizes = format!("received={}", GET.len());
    let all = closed.map(|line| {
        for part in ["upstream=\"127.8.", &sizes, "sent=", "elapsed=", "reason=\"eof\""] {
            assert!(line.contains(part), "{part}: {line}");
        }
    });
    assert_eq!(all.count(), listeners.len(), "one line each: {said}");
    plugin.signal(Signal::INT);
    let (status, stdout, log) = plugin.ended().await;
    assert_eq!(status.code(), Some(0), "{log}");
    let first = format!("Forwarding from {} -> http (pod/web)", listeners[0].address);
    assert_eq!(stdout.lines().next(), Some(first.as_str()));
    assert_eq!(stdout.lines().count(), listeners.len(), "{stdout}");
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn the_ready_line_is_that_of_kubectl_for_one_target() {
    let stage = Stage::start().await;
    let arguments = ["forward", "svc/web", ":28080", "--address", "127.0.0.1"];
    let mut plugin = stage.plugin("forward", &arguments);
    let ready = plugin.ready().await;
    let address = listeners(&ready).remove(0).address;
    plugin.signal(Signal::INT);
    let (_, stdout, _) = plugin.ended().await;
    assert_eq!(stdout, format!("Forwarding from {address} -> 28080\n"));
}

#[tokio::test]
async fn half_close_delivers_the_reply() {
    let stage = Stage::start().await;
    let (plugin, listeners) = forward(&stage, &["svc/late", ":tcp", "deploy/late", ":tcp"]).await;
    for listener in listeners {
        let mut stream = TcpStream::connect(&listener.address).await.unwrap();
        stream.write_all(b"request").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut reply = Vec::new();
        let read = timeout(DEADLINE, stream.read_to_end(&mut reply)).await;
        read.expect("no end").unwrap();
        assert_eq!(reply.len(), tunnel_playground::LATE_REPLY, "{}", listener.target);
    }
    plugin.stop().await;
}

#[tokio::test]
async fn datagrams_go_to_a_pod_and_back() {
    let stage = Stage::start().await;
    let port = format!(":{TCP_PORT}/udp");
    let (plugin, listeners) = forward(&stage, &["pod/echo", &port, "-v=1", "--udp-idle", "1s"]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(&listeners[0].address).await.unwrap();
    for length in [0, 1, 1400, 8000] {
        let sent = vec![7; length];
        socket.send(&sent).await.unwrap();
        let mut received = vec![0; 65_535];
        let count = timeout(DEADLINE, socket.recv(&mut received)).await;
        let count = count.expect("no datagram comes back").unwrap();
        assert!(sent == received[..count], "{length} bytes");
    }
    plugin.until_said("flow closed").await;
    plugin.stop().await;
}

/// The log of a flow whose pod went said that nothing had been moved.
#[tokio::test]
async fn a_flow_ends_with_its_pod_and_its_bytes_are_counted() {
    let stage = Stage::start().await;
    let (plugin, listeners) = forward(&stage, &["pod/echo", &format!(":{TCP_PORT}/udp"), "-v=1"]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(&listeners[0].address).await.unwrap();
    socket.send(b"hello").await.unwrap();
    let received = timeout(DEADLINE, socket.recv(&mut [0; 16])).await;
    assert_eq!(received.expect("no datagram comes back").unwrap(), 5);
    let pods: Api<Pod> = Api::namespaced(client(&stage).await, "dev");
    pods.delete("echo", &DeleteParams::default()).await.unwrap();
    plugin.until_said("the pod is gone").await;
    let said = plugin.said();
    let line = said
        .lines()
        .find(|line| line.contains("the pod is gone"))
        .unwrap();
    assert!(line.contains("received=5 sent=5"), "{line}");
    plugin.stop().await;
}

pub(crate) async fn client(stage: &Stage) -> kube::Client {
    let overrides = Overrides {
        kubeconfig: Some(stage.playground.kubeconfig_path().to_owned()),
        ..Overrides::default()
    };
    let access = Access::new(overrides, Env::from_vars([] as [(&str, &str); 0]), "forward");
    access.connect().await.unwrap().client()
}

#[tokio::test]
async fn the_first_of_several_connections_that_reach_nobody_is_told() {
    let stage = Stage::start().await;
    let (plugin, listeners) = forward(&stage, &["svc/refusing", ":http", "deploy/web", ":81"]).await;
    for listener in &listeners {
        for _ in 0..3 {
            expect_reset(&listener.address).await;
        }
        plugin
            .until_said(&format!("warning: {}: ", listener.target))
            .await;
    }
    let said = plugin.said();
    assert_eq!(said.matches("warning: ").count(), listeners.len(), "{said}");
    assert!(said.contains(":81: connection refused"), "{said}");
    assert!(
        !said.contains("port-forward into"),
        "it does not get there either: {said}"
    );
    plugin.stop().await;
}

/// The developer without the rights to these resources.
pub(crate) fn without(resources: &[&str]) -> Options {
    let mut rights = Rights::edit(&["dev"]);
    if let Rights::In { rules, .. } = &mut rights {
        for rule in rules {
            rule.resources
                .retain(|resource| !resources.contains(&resource.as_str()));
        }
    }
    Options {
        users: vec![User::new("developer", rights)],
        ..Options::default()
    }
}

#[tokio::test]
async fn rights_that_are_needed_later_are_missed_at_once() {
    for (resource, target, flag) in [
        ("jobs", "ip/127.0.0.1", "--on-demand"),
        ("pods/portforward", "deploy/web", "--via=pod"),
    ] {
        let stage = Stage::start_with(without(&[resource])).await;
        let plugin = stage.plugin("forward", &["forward", target, ":28080", flag]);
        let (status, stdout, said) = plugin.ended().await;
        assert_eq!((status.code(), stdout.as_str()), (Some(4), ""), "{said}");
        for words in ["missing rights in namespace dev", resource, "kubectl auth can-i"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert_eq!(stage.jobs_created(), 0);
    }
}

#[tokio::test]
async fn a_target_that_refuses_is_a_reset_with_a_reason_in_the_log() {
    let stage = Stage::start().await;
    let targets = ["svc/refusing", ":http", "host/no-such-name", ":80"];
    let (plugin, listeners) = forward(&stage, &[&targets[..], &["-v=1"]].concat()).await;
    for (listener, reason) in listeners.iter().zip(["connection refused", "no-such-name"]) {
        expect_reset(&listener.address).await;
        plugin.until_said(reason).await;
    }
    // A port that nobody answers at is nobody's end.
    assert_eq!(stage.jobs_created(), 1);
    plugin.stop().await;
}

#[tokio::test]
async fn targets_come_from_files_and_stdin() {
    let stage = Stage::start().await;
    let text = "targets:\n- svc/web :28080\n- target: svc/web\n  namespace: open\n  ports: [':http-own']\n  address: 127.0.0.2\n";
    let file = stage.file("targets.yaml", text);
    let (plugin, from_file) = forward(&stage, &["pod/web", ":http", "-f", &file]).await;
    let targets: Vec<&str> = from_file
        .iter()
        .map(|listener| listener.target.as_str())
        .collect();
    assert_eq!(
        targets,
        [
            "pod/web:http/tcp",
            "svc/web:28080/tcp",
            "svc/web.open:http-own/tcp"
        ]
    );
    assert!(from_file[2].address.starts_with("127.0.0.2:"), "{from_file:?}");
    for listener in &from_file {
        let answer = exchange(&listener.address, GET).await;
        assert!(
            answer.contains("hello from web\n"),
            "{}: {answer}",
            listener.target
        );
    }
    plugin.stop().await;

    let stdin = std::fs::File::open(&file).unwrap().into();
    let mut plugin = stage.plugin_reading("stdin", &["forward", "-f", "-"], stdin);
    let ready = plugin.ready().await;
    let answer = exchange(&listeners(&ready)[0].address, GET).await;
    assert!(answer.contains("hello from web\n"), "{answer}");
    plugin.stop().await;
}

/// Somebody types `-f -` at a terminal and thinks better of it.
#[tokio::test]
async fn reading_stdin_can_be_interrupted() {
    let stage = Stage::start().await;
    let mut plugin = stage.plugin_reading("stdin", &["forward", "-f", "-"], Stdio::piped());
    let _stdin = plugin.stdin();
    // Nothing shows that it reads.
    sleep(Duration::from_millis(300)).await;
    plugin.stop().await;
}

#[tokio::test]
async fn localhost_is_both_families_and_a_taken_port_may_give_way() {
    let stage = Stage::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let number = taken.local_addr().unwrap().port();
    let arguments = [
        "forward",
        "ip/127.0.0.1",
        &number.to_string(),
        "--same-port=try",
        "--address",
        "localhost",
    ];
    let mut plugin = stage.plugin("forward", &arguments);
    let ready = plugin.ready().await;
    let addresses: Vec<String> = listeners(&ready)
        .into_iter()
        .map(|listener| listener.address)
        .collect();
    assert!(addresses[0].starts_with("127.0.0.1:"), "{addresses:?}");
    assert!(!addresses[0].ends_with(&format!(":{number}")), "{addresses:?}");
    plugin.until_said("another one is used").await;
    plugin.stop().await;
}

#[tokio::test]
async fn what_cannot_be_forwarded_is_told_before_anything_is_made() {
    let stage = Stage::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = format!("{}:80", taken.local_addr().unwrap().port());
    let yaml = stage.file("no-yaml", "targets: [svc/web 80\n");
    let key = stage.file("key", "targets:\n- target: svc/web\n  prots: [80]\n");
    let kubeconfig = stage.playground.kubeconfig_path().to_str().unwrap().to_owned();
    let nobody = [
        "svc/web",
        "80",
        "--context",
        "nobody",
        "--kubeconfig",
        &kubeconfig,
    ];
    let cases: [(&[&str], i32, &[&str]); 18] = [
        (
            &["svc/nope", "80"],
            1,
            &["service \"nope\" not found in namespace dev"],
        ),
        (&["deploy/nope", "80"], 1, &["deployment \"nope\" not found"]),
        (
            &["svc/web", "81"],
            1,
            &["svc/web has no tcp port 81: it has http (80/tcp), http-alt (8080/tcp), http-own (28080/tcp)"],
        ),
        (
            &["svc/web", "80/udp"],
            1,
            &["svc/web has no udp port 80", "http (80/tcp)"],
        ),
        (
            &["deploy/web", "grpc"],
            1,
            &["deploy/web has no tcp port grpc: it has http (28080/tcp)"],
        ),
        (&["svc/web", &taken], 1, &["in use"]),
        (&["svc/web-alias", "80", "--via=pod"], 1, &["ExternalName"]),
        (&["ip/127.0.0.1", "80", "--via=pod"], 1, &["only the agent"]),
        (
            &["svc/web", "80", "--address", "203.0.113.1"],
            1,
            &["203.0.113.1"],
        ),
        (&nobody[..4], 4, &["get", "services", "kubectl auth can-i"]),
        (&["-f", &yaml], 2, &["no-yaml", "line"]),
        (&["-f", &key], 2, &["key:3:3: unknown key `prots`"]),
        (&["-f", "/no/such/file"], 1, &["/no/such/file"]),
        (&["web", "80", "sv/web", "80"], 2, &["`sv`", "did you mean"]),
        (
            &["svc/web", "80", "db", "81"],
            2,
            &["`db` could be a pod or the name of a port", "`pod/db`", "`:db`"],
        ),
        (&["svc/web"], 2, &["svc/web"]),
        (&["80"], 2, &["80"]),
        (&[], 2, &["which target?"]),
    ];
    for (arguments, code, words) in cases {
        let plugin = stage.plugin("bad", &[&["forward"], arguments].concat());
        let (status, stdout, said) = plugin.ended().await;
        assert_eq!(status.code(), Some(code), "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: `{word}` is missing: {said}");
        }
        assert_eq!(stdout, "", "{arguments:?}");
    }
    let made: Vec<_> = stage
        .playground
        .requests()
        .into_iter()
        .filter(|request| request.method != "GET" && !request.path.contains("authorization.k8s.io"))
        .collect();
    assert!(made.is_empty(), "{made:?}");
}
