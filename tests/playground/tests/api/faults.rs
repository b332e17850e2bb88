//! Faults: what a test breaks is broken, and only that.

use std::io::ErrorKind;
use std::time::Duration;

use futures::StreamExt;
use http::StatusCode;
use kube::api::{AttachParams, ListParams};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error;

use crate::support::{DEADLINE, Stage};

async fn cat(stage: &Stage) -> kube::api::AttachedProcess {
    stage.create_job("j", &["/bin/sleep", "60"], &Value::Null).await;
    let pod = stage.pod_in("j", "Running").await;
    let params = AttachParams::default().stdin(true).stdout(true).stderr(true);
    stage.pods().exec(&pod, ["/bin/cat"], &params).await.unwrap()
}

#[tokio::test]
async fn the_next_requests_fail_and_the_one_after_does_not() {
    let stage = Stage::start().await;
    stage
        .playground
        .faults()
        .fail_next_where(1, StatusCode::FORBIDDEN, Some(&http::Method::GET), "/pods");
    assert!(stage.jobs().list(&ListParams::default()).await.is_ok());
    let error = stage.pods().list(&ListParams::default()).await.unwrap_err();
    assert!(
        matches!(&error, kube::Error::Api(status) if status.code == 403),
        "{error:?}"
    );
    assert!(stage.pods().list(&ListParams::default()).await.is_ok());
}

#[tokio::test]
async fn closed_and_reset_execs_end_without_a_status_and_their_process_reads_the_end() {
    for reset in [true, false] {
        let stage = Stage::start().await;
        stage.create_job("j", &["/bin/sleep", "60"], &Value::Null).await;
        let pod = stage.pod_in("j", "Running").await;
        let mut socket = stage.raw_exec(&pod, "/bin/cat").await.into_stream();
        let first = socket.next().await.unwrap().unwrap();
        assert_eq!(first.into_data().as_ref(), [1]);
        if reset {
            stage.playground.faults().reset_execs();
        } else {
            stage.playground.faults().close_execs();
        }
        let end = timeout(DEADLINE, socket.next()).await.expect("the exec goes on");
        let error = end.expect("a regular close").expect_err("a message");
        let by_reset = matches!(&error, Error::Io(error) if error.kind() == ErrorKind::ConnectionReset);
        assert_eq!(by_reset, reset, "{error:?}");
        let one = async {
            while stage.playground.processes().len() > 1 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(DEADLINE, one).await.expect("cat did not read its end");
        assert!(
            stage.pods().list(&ListParams::default()).await.is_ok(),
            "other connections live"
        );
    }
}

#[tokio::test]
async fn a_black_hole_holds_bytes_back_until_it_is_mended() {
    let stage = Stage::start().await;
    let mut exec = cat(&stage).await;
    let (mut stdin, mut stdout) = (exec.stdin().unwrap(), exec.stdout().unwrap());
    stage.playground.faults().black_hole_execs(true);
    stdin.write_all(b"hello").await.unwrap();
    stdin.flush().await.unwrap();
    let mut received = [0; 5];
    let early = timeout(Duration::from_millis(300), stdout.read_exact(&mut received)).await;
    assert!(early.is_err(), "a byte passed the black hole");
    assert!(
        stage.pods().list(&ListParams::default()).await.is_ok(),
        "other connections live"
    );
    stage.playground.faults().black_hole_execs(false);
    timeout(DEADLINE, stdout.read_exact(&mut received))
        .await
        .expect("not mended")
        .unwrap();
    assert_eq!(&received, b"hello");
}
