//! `status`, `stop` and `--detach` on a real cluster: rows that tell the truth, in a script without a terminal.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::dial::{self, Way};
use crate::harness::namespace::Namespace;
use crate::harness::{poll, run};

const ANSWER: Duration = Duration::from_secs(30);

async fn states(namespace: &Namespace) -> Vec<(String, String)> {
    let ended = namespace.launch(&["status", "-o", "json"]).finish(ANSWER).await;
    ended.expect_code(0);
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let sessions = ended.events[0]["sessions"].as_array().expect("a list");
    sessions
        .iter()
        .map(|row| (text(&row["id"]), text(&row["state"])))
        .collect()
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn three_rows_tell_the_truth_and_cleanup_takes_the_dead_one() {
    run(async {
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        let (proxy, proxied) = namespace.proxy(&[]).ready().await;
        let (expose, exposed) = namespace.expose(&["8123"]).elsewhere().ready().await;
        let (killed, dead) = namespace.forward(&["svc/web", ":80"]).ready().await;
        killed.kill().await;
        let row = |id: &str, state: &str| (id.to_owned(), state.to_owned());
        assert_eq!(
            states(&namespace).await,
            [
                row(&proxied.session, "ready"),
                row(&exposed.session, "elsewhere"),
                row(&dead.session, "dead"),
            ]
        );
        let ended = namespace.launch(&["cleanup"]).finish(ANSWER).await;
        ended.expect_code(0).expect_said(&["removed", &dead.session]);
        assert_eq!(
            states(&namespace).await,
            [row(&proxied.session, "ready"), row(&exposed.session, "elsewhere"),]
        );
        proxy.stop().await;
        expose.stop().await;
        namespace.wait_empty(Duration::from_secs(5)).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_script_detaches_sees_and_stops_and_a_kill_shows() {
    run(async {
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        let detach = async |words: &[&str]| {
            let words = [words, &["--detach", "-o", "json"]].concat();
            let ended = namespace.launch(&words).finish(ANSWER).await;
            ended.expect_code(0);
            let ready = ended.events[0].clone();
            (
                ready["id"].as_str().expect("an id").to_owned(),
                ready["pid"].as_i64(),
            )
        };
        let (stopped, _) = detach(&["proxy", "--listen", "127.0.0.1:0"]).await;
        let (killed, pid) = detach(&["forward", "svc/web", ":80"]).await;
        let pid = pid
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        kill_process(pid.expect("a process"), Signal::KILL).expect("it runs");
        // A process that was killed holds its socket for a moment.
        let expected = [
            (stopped.clone(), "ready".to_owned()),
            (killed.clone(), "dead".to_owned()),
        ];
        poll(Duration::from_secs(5), "the dead one's row", async || {
            let states = states(&namespace).await;
            expected.iter().all(|row| states.contains(row)).then_some(())
        })
        .await;
        for id in [&stopped, &killed] {
            let ended = namespace.launch(&["stop", id]).finish(ANSWER).await;
            ended.expect_code(0).expect_said(&[id]);
        }
        namespace.wait_empty(Duration::from_secs(5)).await;
    });
}

/// The value of a metric, with its labels as they are written.
fn metric(text: &str, name: &str) -> f64 {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn metrics_tell_what_the_proxy_carried_and_are_not_the_services() {
    run(async {
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&["--metrics", "127.0.0.1:0"]).ready().await;
        let theirs = dial::get(Way::Absolute, ready.proxy(), "web", 80, "/metrics").await;
        let theirs = theirs.expect("the Service answers").body;
        let unknown = dial::get(Way::Absolute, ready.proxy(), "nowhere", 80, "/").await;
        assert!(unknown.is_err(), "{unknown:?}");

        let url = ready.event["metrics"].as_str().expect("a URL");
        let address = url.trim_start_matches("http://").trim_end_matches("/metrics");
        let mut connection = dial::local(address.parse().expect("an address")).await;
        let head = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n");
        let answer = dial::request(&mut connection, &head, b"")
            .await
            .expect("an answer");
        assert_eq!(answer.status, 200);
        let ours = answer.body;
        assert!(!theirs.contains("kubectl_tunnel"), "{theirs}");
        assert!(metric(&ours, "kubectl_tunnel_streams_total") >= 1.0, "{ours}");
        let received = metric(
            &ours,
            "kubectl_tunnel_traffic_bytes_total{direction=\"received\"}",
        );
        let body = f64::from(u32::try_from(theirs.len()).expect("a short page"));
        assert!(received >= body, "{ours}");
        assert!(
            metric(&ours, "kubectl_tunnel_errors_total{kind=\"no-such-host\"}") >= 1.0,
            "{ours}"
        );
        assert!(metric(&ours, "kubectl_tunnel_round_trip_seconds") > 0.0, "{ours}");
        plugin.stop().await;
        namespace.wait_empty(Duration::from_secs(5)).await;
    });
}
