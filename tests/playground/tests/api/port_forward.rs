//! Port-forward over WebSocket through kube's own client, and Deployments whose pods it reaches.

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, ListParams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tunnel_playground::{Options, TCP_PORT};

use crate::support::{DEADLINE, Stage};

#[tokio::test]
async fn bytes_go_to_the_pods_port_and_back() {
    let stage = Stage::start_with(Options::default()).await;
    let mut forwarder = stage.pods().portforward("echo", &[TCP_PORT]).await.unwrap();
    let mut stream = forwarder.take_stream(TCP_PORT).unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    timeout(DEADLINE, stream.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"hello");
    stage.playground.stop().await;
}

#[tokio::test]
async fn the_raw_messages_are_those_of_an_api_server() {
    let stage = Stage::start_with(Options::default()).await;
    let uri = "/api/v1/namespaces/dev/pods/echo/portforward?ports=81";
    let request = http::Request::get(uri).body(Vec::new()).unwrap();
    let connection = stage.client.connect(request).await.unwrap();
    assert!(!connection.supports_stream_close(), "v4 of the two on offer");
    let mut socket = connection.into_stream();
    let mut next = async || timeout(DEADLINE, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(next().await.into_data().as_ref(), b"\0\x51\0");
    assert_eq!(next().await.into_data().as_ref(), b"\x01\x51\0");
    let complaint = next().await.into_data();
    assert_eq!(complaint[0], 1);
    let text = String::from_utf8_lossy(&complaint).into_owned();
    assert!(text.contains("connection refused"), "{text}");
    assert!(next().await.is_close());
}

#[tokio::test]
async fn what_can_be_refused_at_once_is() {
    let stage = Stage::start_with(Options::default()).await;
    let absent = stage.pods().portforward("nope", &[80]).await.err().unwrap();
    assert!(format!("{absent:?}").contains("404"), "{absent:?}");
    let nobody = crate::support::client(&stage.playground, "nobody").await;
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(nobody, "dev");
    let refused = pods.portforward("echo", &[TCP_PORT]).await.err().unwrap();
    assert!(format!("{refused:?}").contains("403"), "{refused:?}");
}

#[tokio::test]
async fn each_sample_has_a_deployment_that_selects_its_pod() {
    let stage = Stage::start_with(Options::default()).await;
    let deployments: Api<Deployment> = Api::namespaced(stage.client.clone(), "dev");
    let all = deployments.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(all.len(), 7);
    let web = deployments.get("web").await.unwrap();
    let labels = web.spec.unwrap().selector.match_labels.unwrap();
    let selector: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let pods = stage
        .pods()
        .list(&ListParams::default().labels(&selector.join(",")))
        .await
        .unwrap();
    assert_eq!(pods.items[0].metadata.name.as_deref(), Some("web"));
}
