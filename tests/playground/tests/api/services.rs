//! Services: addresses, relays, endpoint slices, hosts files, and the samples behind them.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tunnel_playground::{HTTP_PORT, LATE_REPLY, Options, Playground, Resource, TCP_PORT};

use crate::support::{DEADLINE, Stage};

/// Sends `request`, half-closes, and reads to the end.
async fn exchange(address: Ipv4Addr, port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect((address, port)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    answer
}

#[tokio::test]
async fn the_samples_answer_at_their_services() {
    let playground = Playground::start(Options::default()).await.unwrap();
    let address = |name: &str| playground.service_address("dev", name).unwrap();
    let request = "GET /a?b HTTP/1.1\r\nHost: web\r\nX-Own: 1\r\nConnection: close\r\n\r\n";
    let answer = exchange(address("web"), HTTP_PORT, request).await;
    assert!(
        answer.contains("hello from web\nGET /a?b HTTP/1.1\nhost: web\nx-own: 1\n"),
        "{answer}"
    );
    let raw = exchange(address("raw"), HTTP_PORT, request).await;
    assert!(raw.ends_with(request), "{raw}");
    assert_eq!(exchange(address("echo"), TCP_PORT, "hello").await, "hello");
    assert_eq!(
        exchange(address("late"), TCP_PORT, "hello").await.len(),
        LATE_REPLY
    );
    let refused = TcpStream::connect((address("refusing"), HTTP_PORT))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let cookies = "GET /cookies HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    assert_eq!(
        exchange(address("web"), HTTP_PORT, cookies)
            .await
            .matches("set-cookie: ")
            .count(),
        2
    );
    let bytes = "GET /bytes/100000 HTTP/1.0\r\n\r\n";
    let mut stream = TcpStream::connect((address("web"), HTTP_PORT)).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(
        answer.len() > 100_000 && answer.len() < 100_300,
        "{}",
        answer.len()
    );
    playground.stop().await;
}

#[tokio::test]
async fn a_service_follows_its_pod_and_its_names_are_in_the_hosts_file() {
    let stage = Stage::start().await;
    let services: Api<Service> = Api::namespaced(stage.client.clone(), "dev");
    let slices: Api<EndpointSlice> = Api::namespaced(stage.client.clone(), "dev");
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "api"},
        "spec": {"selector": {"app": "api"}, "ports": [{"port": 9000, "targetPort": TCP_PORT}]},
    });
    let service: Service = serde_json::from_value(service).unwrap();
    services.create(&PostParams::default(), &service).await.unwrap();
    let address = stage.playground.service_address("dev", "api").unwrap();
    assert!(
        TcpStream::connect((address, 9000)).await.is_err(),
        "there is no endpoint yet"
    );
    let image =
        json!({"template": {"spec": {"containers": [{"name": "agent", "image": "playground/echo"}]}}});
    stage.create_job("api", &[], &image).await;
    stage
        .until("a ready endpoint", |all| {
            all.iter()
                .any(|(_, object)| object["endpoints"][0]["conditions"]["ready"] == true)
        })
        .await;
    assert_eq!(exchange(address, 9000, "hello").await, "hello");
    let labels = ListParams::default().labels("kubernetes.io/service-name=api");
    let slice = slices.list(&labels).await.unwrap().items.remove(0);
    assert_eq!(slice.ports.unwrap()[0].port, Some(i32::from(TCP_PORT)));
    let hosts = hosts(&stage, "dev").await;
    assert!(
        hosts.contains(&format!(
            "{address} api api.dev api.dev.svc api.dev.svc.cluster.local\n"
        )),
        "{hosts}"
    );
    assert!(
        !self::hosts(&stage, "open").await.contains(" api api.dev"),
        "a short name crossed namespaces"
    );
    services.delete("api", &DeleteParams::default()).await.unwrap();
    stage
        .until("no slice", |all| {
            !all.iter().any(|(_, object)| object["endpoints"].is_array())
        })
        .await;
    let closed = async {
        while TcpStream::connect((address, 9000)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, closed).await.expect("the port stays open");
}

#[tokio::test]
async fn a_number_is_one_port_a_protocol_and_both_are_relayed() {
    let stage = Stage::start().await;
    let services: Api<Service> = Api::namespaced(stage.client.clone(), "dev");
    let service = |second: Value| -> Service {
        let first = json!({"name": "a", "port": 9001, "targetPort": TCP_PORT});
        let object = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "both"},
            "spec": {"selector": {"app": "both"}, "ports": [first, second]},
        });
        serde_json::from_value(object).unwrap()
    };
    for (second, field) in [
        (json!({"name": "b", "port": 9001}), "spec.ports[1].port"),
        (json!({"name": "a", "port": 9002}), "spec.ports[1].name"),
        (
            json!({"name": "b", "port": 9002, "protocol": "QUIC"}),
            "spec.ports[1].protocol",
        ),
    ] {
        let error = services.create(&PostParams::default(), &service(second)).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
    let udp = json!({"name": "b", "port": 9001, "protocol": "UDP"});
    services
        .create(&PostParams::default(), &service(udp))
        .await
        .unwrap();
    let image =
        json!({"template": {"spec": {"containers": [{"name": "agent", "image": "playground/echo"}]}}});
    stage.create_job("both", &[], &image).await;
    stage
        .until("a ready endpoint", |all| {
            all.iter()
                .any(|(_, object)| object["endpoints"][0]["conditions"]["ready"] == true)
        })
        .await;
    let address = stage.playground.service_address("dev", "both").unwrap();
    assert_eq!(exchange(address, 9001, "hello").await, "hello");

    // By UDP: a socket of the test's own at the pod's address, and callers that keep apart.
    let objects = stage.playground.objects();
    let pod_ip = objects
        .iter()
        .filter(|(_, object)| object["metadata"]["labels"]["app"] == "both")
        .find_map(|(_, object)| object["status"]["podIP"].as_str())
        .unwrap();
    let pod = UdpSocket::bind((pod_ip, 9001)).await.unwrap();
    let mut callers = Vec::new();
    for number in 0..3u8 {
        let caller = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        caller.connect((address, 9001)).await.unwrap();
        caller.send(&[number]).await.unwrap();
        callers.push(caller);
    }
    let mut room = [0; 2];
    for _ in &callers {
        let (length, from) = timeout(DEADLINE, pod.recv_from(&mut room))
            .await
            .unwrap()
            .unwrap();
        pod.send_to(&room[..length], from).await.unwrap();
    }
    for (caller, number) in callers.iter().zip(0..) {
        let length = timeout(DEADLINE, caller.recv(&mut room)).await.unwrap().unwrap();
        assert_eq!(room[..length], [number]);
    }
}

#[tokio::test]
async fn a_network_policy_is_kept_and_goes_with_its_owner() {
    let stage = Stage::start().await;
    let policies: Api<NetworkPolicy> = Api::namespaced(stage.client.clone(), "dev");
    let policy = |owner: &str, spec: Value| -> NetworkPolicy {
        let owner = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "owner", "uid": owner});
        let metadata = json!({"name": "p", "ownerReferences": [owner]});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    };
    let refused = policies
        .create(&PostParams::default(), &policy("x", Value::Null))
        .await;
    assert!(refused.unwrap_err().to_string().contains("podSelector"));
    let image =
        json!({"template": {"spec": {"containers": [{"name": "agent", "image": "playground/echo"}]}}});
    let owner = stage.create_job("owner", &[], &image).await;
    let spec = json!({"podSelector": {"matchLabels": {"app": "owner"}}, "policyTypes": ["Ingress"]});
    let uid = owner.metadata.uid.unwrap();
    policies
        .create(&PostParams::default(), &policy(&uid, spec))
        .await
        .unwrap();
    assert_eq!(
        policies.list(&ListParams::default()).await.unwrap().items.len(),
        1
    );
    let jobs: Api<k8s_openapi::api::batch::v1::Job> = Api::namespaced(stage.client.clone(), "dev");
    jobs.delete("owner", &DeleteParams::background()).await.unwrap();
    stage
        .until("no policy", |all| {
            all.iter().all(|(key, _)| key.resource != Resource::NetworkPolicy)
        })
        .await;
}

#[tokio::test]
async fn two_playgrounds_live_side_by_side() {
    let (one, two) = tokio::join!(
        Playground::start(Options::default()),
        Playground::start(Options::default())
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    let web = |playground: &Playground| playground.service_address("dev", "web").unwrap();
    assert_ne!(web(&one).octets()[2], web(&two).octets()[2]);
    for playground in [&one, &two] {
        let answer = exchange(web(playground), HTTP_PORT, "GET / HTTP/1.0\r\n\r\n").await;
        assert!(answer.contains("hello from web"), "{answer}");
    }
}

/// The hosts file of a namespace, as a container of it reads it.
async fn hosts(stage: &Stage, namespace: &str) -> String {
    let more = json!({"template": {"spec": {"containers": [{
        "name": "agent", "image": "local", "command": ["/bin/sh", "-c", "cat $TUNNEL_HOSTS"],
    }]}}});
    let jobs: Api<k8s_openapi::api::batch::v1::Job> = Api::namespaced(stage.client.clone(), namespace);
    let mut spec = more;
    spec["backoffLimit"] = json!(0);
    spec["template"]["spec"]["restartPolicy"] = json!("Never");
    let job: Value = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "read"}, "spec": spec,
    });
    jobs.create(&PostParams::default(), &serde_json::from_value(job).unwrap())
        .await
        .unwrap();
    stage
        .until("read", |all| {
            all.iter().any(|(key, object)| {
                key.namespace == namespace
                    && key.name.starts_with("read-")
                    && object["status"]["phase"] == "Succeeded"
            })
        })
        .await;
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(stage.client.clone(), namespace);
    let pod = pods
        .list(&ListParams::default().labels("job-name=read"))
        .await
        .unwrap()
        .items
        .remove(0);
    pods.logs(&pod.metadata.name.unwrap(), &kube::api::LogParams::default())
        .await
        .unwrap()
}
