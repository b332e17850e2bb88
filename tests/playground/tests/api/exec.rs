//! Exec over WebSocket through kube's own client.

use futures::{SinkExt, StreamExt};
use kube::api::AttachParams;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use tunnel_playground::Options;

use crate::support::Stage;

fn params() -> AttachParams {
    AttachParams::default()
        .stdin(true)
        .stdout(true)
        .stderr(true)
        .container("agent")
}

async fn running(options: Options) -> (Stage, String) {
    let stage = Stage::start_with(options).await;
    stage.create_job("j", &["/bin/sleep", "60"], &Value::Null).await;
    let pod = stage.pod_in("j", "Running").await;
    (stage, pod)
}

fn quiet() -> Options {
    Options {
        samples: false,
        ..Options::default()
    }
}

#[tokio::test]
async fn bytes_go_through_cat_unaltered_and_the_status_follows() {
    let (stage, pod) = running(quiet()).await;
    let mut exec = stage.pods().exec(&pod, ["/bin/cat"], &params()).await.unwrap();
    let (mut stdin, mut stdout) = (exec.stdin().unwrap(), exec.stdout().unwrap());
    let status = exec.take_status().unwrap();
    let sent: Vec<u8> = (0..1_000_000_u32)
        .map(|index| u8::try_from(index % 249).unwrap())
        .collect();
    let mut received = vec![0; sent.len()];
    let write = async {
        stdin.write_all(&sent).await.unwrap();
        stdin.flush().await.unwrap();
    };
    tokio::join!(write, async { stdout.read_exact(&mut received).await.unwrap() });
    assert_eq!(sent, received);
    // v5: the end of stdin alone.
    stdin.shutdown().await.unwrap();
    let status = status.await.unwrap();
    assert_eq!(status.status.as_deref(), Some("Success"));
    stage.playground.stop().await;
}

#[tokio::test]
async fn stderr_and_exit_code_arrive() {
    let (stage, pod) = running(quiet()).await;
    let mut exec = stage
        .pods()
        .exec(&pod, ["/bin/sh", "-c", "echo bad >&2; exit 3"], &params())
        .await
        .unwrap();
    let status = exec.take_status().unwrap();
    let mut text = String::new();
    exec.stderr().unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "bad\n");
    let status = status.await.unwrap();
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    assert_eq!(
        status.details.unwrap().causes.unwrap()[0].message.as_deref(),
        Some("3")
    );
}

#[tokio::test]
async fn a_command_in_a_volume_is_found_with_its_environment() {
    let stage = Stage::start().await;
    let script = "#!/bin/sh\necho \"$OWN $TUNNEL_BIND $TUNNEL_HOSTS\"\n";
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "files"}, "data": {"agent": script}});
    let map = serde_json::from_value(map).unwrap();
    stage
        .config_maps()
        .create(&kube::api::PostParams::default(), &map)
        .await
        .unwrap();
    let more = json!({"template": {"spec": {
        "volumes": [{"name": "v", "configMap": {"name": "files"}}],
        "containers": [{
            "name": "agent", "image": "local", "command": ["/bin/sleep", "60"],
            "env": [{"name": "OWN", "value": "mine"}],
            "volumeMounts": [{"name": "v", "mountPath": "/tunnel"}],
        }],
    }}});
    stage.create_job("j", &[], &more).await;
    let pod = stage.pod_in("j", "Running").await;
    let mut exec = stage
        .pods()
        .exec(&pod, ["/tunnel/agent"], &params())
        .await
        .unwrap();
    let mut text = String::new();
    exec.stdout().unwrap().read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("mine 127.8."), "{text}");
}

#[tokio::test]
async fn the_process_reads_the_end_when_the_client_goes() {
    let (stage, pod) = running(quiet()).await;
    let exec = stage.pods().exec(&pod, ["/bin/cat"], &params()).await.unwrap();
    assert_eq!(stage.playground.processes().len(), 2);
    exec.abort();
    let one = async {
        while stage.playground.processes().len() > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(crate::support::DEADLINE, one)
        .await
        .expect("cat did not read its end");
}

#[tokio::test]
async fn a_closed_output_ends_stdin() {
    let (stage, pod) = running(quiet()).await;
    let command = ["/bin/sh", "-c", "exec 2>&-; cat >/dev/null; echo over"];
    let mut exec = stage.pods().exec(&pod, command, &params()).await.unwrap();
    let _stdin = exec.stdin().unwrap();
    let mut text = String::new();
    exec.stdout().unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "over\n");
}

#[tokio::test]
async fn the_end_of_the_container_kills_the_exec() {
    let (stage, pod) = running(quiet()).await;
    let mut exec = stage
        .pods()
        .exec(&pod, ["/bin/sleep", "60"], &params())
        .await
        .unwrap();
    let status = exec.take_status().unwrap();
    stage
        .pods()
        .delete(&pod, &kube::api::DeleteParams::default())
        .await
        .unwrap();
    let status = tokio::time::timeout(crate::support::DEADLINE, status)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        status.details.unwrap().causes.unwrap()[0].message.as_deref(),
        Some("137")
    );
}

/// A stage with a pod that is scheduled and will not run for a minute, and the pod's name.
async fn starting(options: Options) -> (Stage, String) {
    let options = Options {
        start_delay: std::time::Duration::from_secs(60),
        ..options
    };
    let stage = Stage::start_with(options).await;
    stage.create_job("j", &["/bin/sleep", "60"], &Value::Null).await;
    let pod = stage.pod_in("j", "Pending").await;
    stage
        .until("scheduled", |all| {
            all.iter().any(|(_, o)| o["spec"]["nodeName"].is_string())
        })
        .await;
    (stage, pod)
}

#[tokio::test]
async fn an_exec_too_early_is_upgraded_and_then_refused_on_channel_3() {
    let (stage, pod) = starting(quiet()).await;
    let mut exec = stage.pods().exec(&pod, ["/bin/cat"], &params()).await.unwrap();
    let status = exec.take_status().unwrap().await.unwrap();
    assert_eq!(status.reason.as_deref(), Some("InternalError"));
    let expected = "unable to upgrade connection: container not found (\"agent\")";
    assert_eq!(status.message.as_deref(), Some(expected));
}

#[tokio::test]
async fn an_exec_too_early_is_refused_by_the_node_when_the_api_server_passes_it_on() {
    let options = Options {
        exec_v4_only: true,
        ..quiet()
    };
    let (stage, pod) = starting(options).await;
    let refused = stage.pods().exec(&pod, ["/bin/cat"], &params()).await;
    let error = refused.err().unwrap();
    assert!(error.to_string().contains("500"), "{error}");
}

#[tokio::test]
async fn the_raw_messages_are_those_of_an_api_server_and_v4_can_be_forced() {
    for (options, protocol) in [
        (quiet(), "v5"),
        (
            Options {
                exec_v4_only: true,
                ..quiet()
            },
            "v4",
        ),
    ] {
        let (stage, pod) = running(options).await;
        let connection = stage.raw_exec(&pod, "/bin/cat").await;
        assert_eq!(connection.supports_stream_close(), protocol == "v5");
        let mut socket = connection.into_stream();
        let first = socket.next().await.unwrap().unwrap();
        assert_eq!(first.into_data().as_ref(), [1], "{protocol}");
        let hello = Message::Binary(b"\0hello".as_slice().into());
        socket.send(hello).await.unwrap();
        assert_eq!(
            socket.next().await.unwrap().unwrap().into_data().as_ref(),
            b"\x01hello"
        );
        drop(socket);
    }
}

#[tokio::test]
async fn what_can_be_refused_at_once_is() {
    let (stage, pod) = running(quiet()).await;
    let code = |error: kube::Error| format!("{error:?}");
    let absent = stage
        .pods()
        .exec("nope", ["/bin/cat"], &params())
        .await
        .err()
        .map(code)
        .unwrap();
    assert!(absent.contains("404"), "{absent}");
    let wrong = stage
        .pods()
        .exec(&pod, ["/bin/cat"], &params().container("other"))
        .await;
    let wrong = wrong.err().map(code).unwrap();
    assert!(wrong.contains("400"), "{wrong}");
}
