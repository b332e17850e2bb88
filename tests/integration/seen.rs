//! What is seen and done from another terminal: `status`, `stop`, `--detach`, and the metrics.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Plugin, Stage, exchange};

/// stdout of a command that succeeds.
async fn stdout_of(plugin: Plugin) -> String {
    let (status, stdout, said) = plugin.ended().await;
    assert!(status.success(), "{said}");
    stdout
}

async fn sessions(stage: &Stage, name: &str) -> Vec<Value> {
    let stdout = stdout_of(stage.plugin(name, &["status", "-o", "json"])).await;
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    answer["sessions"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_session_is_seen_measured_and_stopped() {
    let stage = Stage::start().await;
    let (plugin, _) = stage.proxy_with(&["--metrics", "127.0.0.1:0"]).await;
    let rows = sessions(&stage, "status").await;
    let [row] = rows.as_slice() else {
        panic!("{rows:#?}")
    };
    assert_eq!(row["state"], "ready", "{row:#}");
    assert_eq!(row["running"]["streams"], 0, "{row:#}");

    let metrics = row["running"]["metrics"].as_str().unwrap();
    let address = metrics
        .strip_prefix("http://")
        .unwrap()
        .strip_suffix("/metrics")
        .unwrap();
    let ask = |host: &str| format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let answer = exchange(address, &ask(address)).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("application/openmetrics-text"), "{answer}");
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    // A web page whose name was pointed here gets nothing.
    let answer = exchange(address, &ask("evil.example")).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");

    let id = row["id"].as_str().unwrap();
    let stdout = stdout_of(stage.plugin("stop", &["stop", id])).await;
    assert_eq!(stdout, format!("session {id} stopped\n"));
    let (status, _, said) = plugin.ended().await;
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(sessions(&stage, "after").await.is_empty());
    let (status, _, said) = stage.plugin("again", &["stop", id]).ended().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(id), "{said}");
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn cleanup_takes_a_killed_session_at_once_and_leaves_the_living_one() {
    let stage = Stage::start().await;
    let (living, _) = stage.proxy().await;
    let mut killed = stage.plugin("killed", &["forward", "svc/web", ":80"]);
    let killed_id = killed.ready().await["session"].as_str().unwrap().to_owned();
    killed.signal(Signal::KILL);
    drop(killed.ended().await);
    let state = |rows: &[Value], id: &str| {
        let row = rows.iter().find(|row| row["id"] == id);
        row.map(|row| row["state"].as_str().unwrap().to_owned())
    };
    let rows = sessions(&stage, "status").await;
    assert_eq!(rows.len(), 2, "{rows:#?}");
    assert_eq!(state(&rows, &killed_id).as_deref(), Some("dead"), "{rows:#?}");
    stdout_of(stage.plugin("cleanup", &["cleanup"])).await;
    let rows = sessions(&stage, "after").await;
    let [row] = rows.as_slice() else {
        panic!("{rows:#?}")
    };
    assert_eq!(row["state"], "ready", "{row:#}");
    living.stop().await;
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_detached_command_returns_when_ready_and_is_stopped_by_its_id() {
    let stage = Stage::start().await;
    let words = ["forward", "svc/web", ":80", "--detach", "-o", "json"];
    let stdout = stdout_of(stage.plugin("detached", &words)).await;
    let [line] = stdout.lines().collect::<Vec<_>>()[..] else {
        panic!("{stdout}")
    };
    let ready: Value = serde_json::from_str(line).unwrap();
    assert_eq!(ready["event"], "ready", "{ready:#}");
    let id = ready["id"].as_str().unwrap();
    let log = std::fs::read_to_string(ready["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("attaching"), "{log}");
    let wait = ["status", id, "--wait-for=ready", "-o", "name"];
    assert_eq!(stdout_of(stage.plugin("wait", &wait)).await.trim(), id);
    stdout_of(stage.plugin("stop", &["stop", "--all"])).await;
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_detached_command_that_fails_says_why_and_with_its_own_code() {
    let stage = Stage::start().await;
    let words = ["forward", "svc/none", ":80", "--detach"];
    let (status, _, said) = stage.plugin("detached", &words).ended().await;
    let (expected, _, foreground) = stage
        .plugin("foreground", &["forward", "svc/none", ":80"])
        .ended()
        .await;
    assert_eq!(status.code(), expected.code(), "{said}\n{foreground}");
    assert!(said.contains("\"none\" not found"), "{said}\n{foreground}");
}
