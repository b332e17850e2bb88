//! `forward` by the API's port-forward, into a pod whose port the agent cannot reach.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tunnel_playground::HTTP_PORT;

use crate::forward::{GET, client, expect_reset, forward, without};
use crate::support::{DEADLINE, POLL, Stage, exchange};

#[tokio::test]
async fn a_program_on_the_pods_loopback_is_reached_by_port_forward_and_that_is_said_once() {
    let stage = Stage::start().await;
    let targets = ["deploy/inner", ":http", "pod/inner", ":http"];
    let (plugin, listeners) = forward(&stage, &[&targets[..], &["-v=1"]].concat()).await;
    for listener in &listeners {
        for _ in 0..3 {
            let answer = exchange(&listener.address, GET).await;
            assert!(
                answer.contains("hello from inner\n"),
                "{}: {answer}",
                listener.target
            );
        }
    }
    plugin.until_said("upstream=\"pod/inner by port-forward\"").await;
    let said = plugin.said();
    let warnings: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("warning: "))
        .collect();
    assert_eq!(warnings.len(), listeners.len(), "once for each port: {said}");
    for (warning, listener) in warnings.iter().zip(&listeners) {
        for part in [
            &listener.target,
            "pod inner",
            "connection refused",
            "port-forward",
        ] {
            assert!(warning.contains(part), "{part}: {warning}");
        }
    }
    plugin.stop().await;
}

/// Makes a pod like the sample's and waits until it is ready; returns its address.
async fn create_pod(stage: &Stage, name: &str, app: &str, image: &str) -> Ipv4Addr {
    let pods: Api<Pod> = Api::namespaced(client(stage).await, "dev");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": HTTP_PORT}]}],
        },
    });
    let pod = serde_json::from_value(pod).unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let ready = async {
        loop {
            let status = pods.get(name).await.unwrap().status.unwrap_or_default();
            let mut conditions = status.conditions.iter().flatten();
            if conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True") {
                return status.pod_ip.unwrap().parse().unwrap();
            }
            sleep(POLL).await;
        }
    };
    timeout(DEADLINE, ready).await.expect("the pod is not ready")
}

#[tokio::test]
async fn however_many_pods_refuse_the_port_forward_is_tried() {
    let stage = Stage::start().await;
    for index in 0..5 {
        create_pod(&stage, &format!("inner-{index}"), "inner", "playground/inner").await;
    }
    let (plugin, listeners) = forward(&stage, &["deploy/inner", ":http"]).await;
    let answer = exchange(&listeners[0].address, GET).await;
    assert!(answer.contains("hello from inner\n"), "{answer}");
    plugin.until_said("port-forward").await;
    plugin.stop().await;
}

/// As behind a policy or a mesh that keeps others out.
#[tokio::test]
async fn a_pod_that_does_not_answer_the_agent_is_reached_by_port_forward() {
    let stage = Stage::start().await;
    let address = create_pod(&stage, "shut", "shut", "local").await;
    // A port whose queue of callers is full: nothing answers, nothing refuses.
    let shut = TcpSocket::new_v4().unwrap();
    shut.bind((address, HTTP_PORT).into()).unwrap();
    let _shut = shut.listen(1).unwrap();
    let mut callers = Vec::new();
    let soon = Duration::from_millis(100);
    while let Ok(connected) = timeout(soon, TcpStream::connect((address, HTTP_PORT))).await {
        callers.push(connected.unwrap());
    }
    let [net, _, block, host] = address.octets();
    let inside = TcpListener::bind((Ipv4Addr::new(net, 9, block, host), HTTP_PORT)).await;
    let mut programs = JoinSet::new();
    programs.spawn(tunnel_playground::serve_web(inside.unwrap(), "inside".to_owned()));
    let (plugin, listeners) = forward(&stage, &["pod/shut", ":http"]).await;
    for _ in 0..2 {
        let answer = exchange(&listeners[0].address, GET).await;
        assert!(answer.contains("hello from inside\n"), "{answer}");
    }
    plugin.until_said("no answer within").await;
    assert_eq!(plugin.said().matches("warning: ").count(), 1, "{}", plugin.said());
    plugin.stop().await;
}

/// Between the choice of a pod and the connection to it the pod may have gone.
#[tokio::test]
async fn a_pod_that_has_just_gone_is_not_the_end_of_a_port_forward() {
    let stage = Stage::start().await;
    let (plugin, listeners) = forward(&stage, &["svc/web", ":http-own", "--via=pod"]).await;
    let get = http::Method::GET;
    for status in [
        http::StatusCode::NOT_FOUND,
        http::StatusCode::INTERNAL_SERVER_ERROR,
    ] {
        let faults = stage.playground.faults();
        faults.fail_next_where(1, status, Some(&get), "/portforward");
        let answer = exchange(&listeners[0].address, GET).await;
        assert!(answer.contains("hello from web\n"), "{status}: {answer}");
    }
    plugin.stop().await;
}

#[tokio::test]
async fn without_the_right_to_the_other_way_both_reasons_are_told() {
    let stage = Stage::start_with(without(&["pods/portforward"])).await;
    let (plugin, listeners) = forward(&stage, &["deploy/inner", ":http"]).await;
    expect_reset(&listeners[0].address).await;
    plugin.until_said("warning: deploy/inner:http/tcp: ").await;
    let said = plugin.said();
    for words in ["connection refused", "pods/portforward"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    plugin.stop().await;
}

#[tokio::test]
async fn the_way_can_be_chosen() {
    let stage = Stage::start().await;
    let targets = ["deploy/inner", ":http", "svc/inner", ":http-own"];
    let (plugin, listeners) = forward(&stage, &[&targets[..], &["--via=pod"]].concat()).await;
    for listener in &listeners {
        let answer = exchange(&listener.address, GET).await;
        assert!(
            answer.contains("hello from inner\n"),
            "{}: {answer}",
            listener.target
        );
    }
    assert!(!plugin.said().contains("warning"), "{}", plugin.said());
    plugin.stop().await;

    let (plugin, listeners) = forward(&stage, &["deploy/inner", ":http", "--via=agent", "-v=1"]).await;
    expect_reset(&listeners[0].address).await;
    plugin.until_said("connection refused").await;
    plugin.stop().await;
}
