//! `doctor`: what it finds without a real cluster, and that it creates nothing; with `--deep` one session, which goes.

use rustix::process::Signal;
use serde_json::Value;
use tunnel_playground::Resource;

use crate::support::{Stage, agent_binary};

/// The lines of `--deep`, in their order.
const DEEP: [&str; 6] = ["start", "probe", "round-trip", "dns", "throughput", "removal"];

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

/// Runs `doctor --deep -o json` with these flags to its end; exit code, report, and what was said.
async fn deep(stage: &Stage, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let agent = agent_binary().to_str().unwrap();
    let words = ["doctor", "--deep", "-o", "json", "--agent-binary", agent];
    let plugin = stage.plugin("deep", &[&words, arguments].concat());
    let (status, stdout, said) = plugin.ended().await;
    let report = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{said}"));
    (status.code(), report, said)
}

fn number(report: &Value, name: &str, figure: &str) -> f64 {
    let check = check(report, name);
    let number = check["measured"][figure].as_f64();
    number.unwrap_or_else(|| panic!("no {figure} in {check}"))
}

#[tokio::test]
async fn deep_measures_one_session_and_leaves_nothing() {
    let stage = Stage::start().await;
    let (code, report, said) = deep(&stage, &[]).await;
    assert_eq!(
        (code, &report["ok"]),
        (Some(0), &Value::from(true)),
        "{report}{said}"
    );
    let checks = report["checks"].as_array().unwrap();
    let names: Vec<&str> = checks
        .iter()
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    assert_eq!(names[names.len() - DEEP.len()..], DEEP);
    for name in DEEP {
        assert_eq!(check(&report, name)["state"], "ok", "{report}");
    }
    let bytes = number(&report, "throughput", "verifiedBytes");
    assert!((1e6..=8.0 * 1024.0 * 1024.0).contains(&bytes), "{report}");
    assert!(number(&report, "throughput", "upMiBps") > 0.0, "{report}");
    assert!(number(&report, "round-trip", "medianMs") > 0.0, "{report}");
    let dns = check(&report, "dns")["message"].as_str().unwrap();
    assert!(dns.contains("kubernetes.default.svc to 127.0.0.1 "), "{dns}");
    assert_eq!(stage.jobs_created(), 2, "one dry run, one session");
    assert_eq!(stage.playground.tunnel_objects(), []);
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn deep_prints_a_line_each() {
    let stage = Stage::start().await;
    let agent = agent_binary().to_str().unwrap();
    let words = ["doctor", "--deep", "--agent-binary", agent];
    let (status, stdout, said) = stage.plugin("text", &words).ended().await;
    assert_eq!(status.code(), Some(0), "{stdout}{said}");
    for name in DEEP {
        assert!(
            stdout.contains(&format!("\nok       {name} ")),
            "{name}: {stdout}{said}"
        );
    }
}

#[tokio::test]
async fn deep_starts_nothing_when_a_check_has_failed() {
    let stage = Stage::start().await;
    let (code, report, said) = deep(&stage, &["--context", "nobody"]).await;
    assert_eq!(code, Some(1), "{said}");
    for name in DEEP {
        let check = check(&report, name);
        assert_eq!(check["state"], "unknown", "{check}");
        let reason = "not checked: no session can start, see rights";
        assert!(check["message"].as_str().unwrap().starts_with(reason), "{check}");
    }
    assert_eq!(stage.jobs_created(), 0);
}

#[tokio::test]
async fn deep_says_why_a_session_does_not_start_and_removes_it() {
    let stage = Stage::start().await;
    let text = "0/1 nodes are available: 1 Insufficient cpu.";
    stage.playground.faults().unschedulable(Some(text));
    let (code, report, said) = deep(&stage, &[]).await;
    assert_eq!(code, Some(1), "{said}");
    let start = check(&report, "start");
    assert_eq!(start["state"], "failure", "{start}");
    assert!(
        start["message"].as_str().unwrap().contains("Insufficient cpu"),
        "{start}"
    );
    assert!(
        start["hint"].as_str().unwrap().contains("kubectl get events"),
        "{start}"
    );
    assert_eq!(
        check(&report, "throughput")["message"],
        "not checked: no session started"
    );
    assert_eq!(check(&report, "removal")["state"], "ok", "{report}");
    assert_eq!(stage.playground.tunnel_objects(), []);
}

#[tokio::test]
async fn ctrl_c_in_the_middle_removes_the_session() {
    let stage = Stage::start().await;
    let agent = agent_binary().to_str().unwrap();
    let words = ["doctor", "--deep", "--agent-binary", agent];
    let plugin = stage.plugin("interrupted", &words);
    stage
        .until("the session's pod", |objects| {
            let is_ours = |key: &tunnel_playground::Key| key.name.starts_with("tunnel-");
            objects
                .iter()
                .any(|(key, _)| key.resource == Resource::Pod && is_ours(key))
        })
        .await;
    plugin.signal(Signal::INT);
    let (status, stdout, said) = plugin.ended().await;
    assert_eq!((status.code(), stdout.as_str()), (Some(0), ""), "{said}");
    assert_eq!(stage.playground.tunnel_objects(), []);
    stage.until_nothing_is_left().await;
}
