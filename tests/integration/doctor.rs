//! `doctor`: what it finds without a real cluster, and that it creates nothing.

use serde_json::Value;

use crate::support::{Stage, agent_binary};

/// The state of each check, by name.
fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report}"))
}

#[tokio::test]
async fn a_server_that_refuses_fails_one_check_and_the_rest_says_so() {
    let stage = Stage::start().await;
    let agent = agent_binary().to_str().unwrap();
    let arguments = [
        "doctor",
        "-o",
        "json",
        "--agent-binary",
        agent,
        "--server",
        "https://127.0.0.1:1",
    ];
    let (status, stdout, said) = stage.plugin("down", &arguments).ended().await;
    assert_eq!(status.code(), Some(1), "{said}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["ok"], false);
    let server = check(&report, "server");
    assert_eq!(server["state"], "failure");
    assert!(
        server["message"]
            .as_str()
            .unwrap()
            .contains("127.0.0.1:1 was refused"),
        "{server}"
    );
    assert_eq!(
        server["hint"],
        "see whether kubectl reaches it: `kubectl version`"
    );
    for name in [
        "version",
        "credentials",
        "rights",
        "websocket",
        "job",
        "pod",
        "leftovers",
    ] {
        let unknown = check(&report, name);
        assert_eq!(unknown["state"], "unknown");
        assert_eq!(unknown["message"], "not checked: the server does not answer");
    }
    assert!(said.contains("1 check failed"), "{said}");
}

#[tokio::test]
async fn it_only_asks() {
    let stage = Stage::start().await;
    let agent = agent_binary().to_str().unwrap();
    let (_, stdout, said) = stage
        .plugin("asks", &["doctor", "--agent-binary", agent])
        .ended()
        .await;
    assert!(stdout.contains("ok       server "), "{stdout}{said}");
    assert!(stdout.contains("ok       credentials "), "{stdout}{said}");
    assert!(stdout.contains("leftovers"), "{stdout}{said}");
    for request in stage.playground.requests() {
        let request = format!("{request:?}");
        let review = request.contains("selfsubject");
        assert!(
            review || request.contains("dryRun") || !request.contains("POST"),
            "{request}"
        );
    }
}

#[tokio::test]
async fn a_flag_that_cannot_be_used_is_a_usage_error() {
    let stage = Stage::start().await;
    let (status, stdout, said) = stage
        .plugin("usage", &["doctor", "--requests", "memory"])
        .ended()
        .await;
    assert_eq!((status.code(), stdout.as_str()), (Some(2), ""), "{said}");
}
