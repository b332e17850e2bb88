//! The life of a session seen from the cluster: what is asked for, what fails how, what is left.

use http::StatusCode;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tunnel_playground::{Options, Resource};

use crate::support::{DEADLINE, Stage};

#[tokio::test]
async fn a_session_starts_one_pod_by_one_exec_and_removes_all() {
    let stage = Stage::start().await;
    let (plugin, _) = stage.proxy().await;
    let requests = stage.playground.requests();
    let count = |part: &str, method: &str| {
        requests
            .iter()
            .filter(|r| r.path.ends_with(part) && r.method == method)
            .count()
    };
    assert_eq!(
        (
            count("/exec", "GET"),
            count("/jobs", "POST"),
            count("/configmaps", "POST")
        ),
        (1, 1, 1),
        "{requests:#?}"
    );
    assert!(
        requests.iter().all(|request| request.status != 403),
        "{requests:#?}"
    );
    plugin.stop().await;
    assert_eq!(stage.playground.tunnel_objects(), []);
    stage.until_nothing_is_left().await;
}

/// `eval "$(kubectl tunnel proxy --print-env &)"` waits for the end of stdout, not of the session.
#[tokio::test]
async fn print_env_sets_the_variables_and_lets_go_of_stdout() {
    let stage = Stage::start().await;
    let mut plugin = stage.plugin("proxy", &["proxy", "--listen", "127.0.0.1:0", "--print-env=bash"]);
    let ready = plugin.ready().await;
    let lines = plugin.stdout_to_its_end().await;
    let address = ready["listeners"][0]["address"].as_str().unwrap();
    assert!(
        lines.contains(&format!("export http_proxy='http://{address}'")),
        "{lines}"
    );
    assert!(
        lines.contains(&format!("export KUBECTL_TUNNEL_PID='{}'", ready["pid"])),
        "{lines}"
    );
    assert!(lines.contains("export NO_PROXY='localhost,"), "{lines}");
    plugin.stop().await;
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn kill_9_leaves_nothing_once_the_agent_has_waited() {
    let stage = Stage::start().await;
    let mut plugin = stage.plugin("proxy", &["proxy", "--listen", "127.0.0.1:0", "--grace", "1s"]);
    plugin.ready().await;
    plugin.signal(Signal::KILL);
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_user_without_rights_is_told_and_creates_nothing() {
    let stage = Stage::start().await;
    let plugin = stage.plugin(
        "proxy",
        &["proxy", "--listen", "127.0.0.1:0", "--context", "nobody"],
    );
    let (status, _, log) = plugin.ended().await;
    assert_eq!(status.code(), Some(4), "{log}");
    assert!(log.contains("kubectl auth can-i"), "{log}");
    assert!(
        !stage
            .playground
            .requests()
            .iter()
            .any(|r| r.method == "POST" && r.path.ends_with("/jobs"))
    );
}

#[tokio::test]
async fn a_wrong_token_is_exit_code_3() {
    let stage = Stage::start().await;
    let plugin = stage.plugin(
        "proxy",
        &["proxy", "--listen", "127.0.0.1:0", "--token", "expired"],
    );
    let (status, _, log) = plugin.ended().await;
    assert_eq!(status.code(), Some(3), "{log}");
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_exit_code_5_with_its_reason() {
    let stage = Stage::start().await;
    let image = "missing/pause:1";
    let plugin = stage.plugin(
        "proxy",
        &["proxy", "--listen", "127.0.0.1:0", "--base-image", image],
    );
    let (status, _, log) = plugin.ended().await;
    assert_eq!(status.code(), Some(5), "{log}");
    assert!(log.contains(image), "{log}");
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn the_api_servers_clock_decides_about_the_lease() {
    let clock_offset = jiff::SignedDuration::from_hours(5);
    let stage = Stage::start_with(Options {
        clock_offset,
        ..Options::default()
    })
    .await;
    let (plugin, _) = stage.proxy().await;
    // A lease by the laptop's clock would be over at once, or never.
    let deadline = |all: &[(tunnel_playground::Key, std::sync::Arc<serde_json::Value>)]| {
        let mut jobs = all.iter().filter(|(key, _)| key.resource == Resource::Job);
        jobs.next()
            .and_then(|(_, job)| job["spec"]["activeDeadlineSeconds"].as_u64())
    };
    stage
        .until("a renewed lease", |all| {
            deadline(all).is_some_and(|seconds| seconds > 40)
        })
        .await;
    let seconds = deadline(&stage.playground.objects()).unwrap();
    assert!(seconds < 3600, "{seconds}");
    plugin.stop().await;
}

#[tokio::test]
async fn without_reconnecting_a_lost_exec_is_told_before_the_clean_up_and_exit_code_6() {
    let stage = Stage::start().await;
    let mut plugin = stage.plugin(
        "proxy",
        &["proxy", "--listen", "127.0.0.1:0", "--reconnect-max", "0"],
    );
    plugin.ready().await;
    stage.playground.faults().reset_execs();
    let (status, _, log) = plugin.ended().await;
    assert_eq!(status.code(), Some(6), "{log}");
    let (told, removing) = (log.find("the session is lost"), log.find("removing session"));
    assert!(told.is_some() && told < removing, "{log}");
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn an_expose_without_connections_waits_for_none() {
    let stage = Stage::start().await;
    let mut plugin = stage.plugin("expose", &["expose", "api", &format!("{}:1", stage.web_port())]);
    plugin.ready().await;
    plugin.signal(Signal::INT);
    let (status, _, log) = plugin.ended().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("open connections"), "{log}");
}

#[tokio::test]
async fn the_ready_file_of_a_killed_session_is_not_believed() {
    let stage = Stage::start().await;
    let mut killed = stage.plugin("proxy", &["proxy", "--listen", "127.0.0.1:0", "--grace", "1s"]);
    killed.ready().await;
    killed.signal(Signal::KILL);
    killed.ended().await;
    let next = stage.plugin(
        "proxy",
        &["proxy", "--listen", "127.0.0.1:0", "--token", "expired"],
    );
    let file = next.ready_file().to_owned();
    assert!(file.exists());
    let (status, _, log) = next.ended().await;
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(!file.exists());
}

#[tokio::test]
async fn the_printed_environment_names_the_process_to_end() {
    let stage = Stage::start().await;
    let mut plugin = stage.plugin("proxy", &["proxy", "--listen", "127.0.0.1:0", "--print-env=bash"]);
    let ready = plugin.ready().await;
    plugin.signal(Signal::TERM);
    let (_, lines, log) = plugin.ended().await;
    let last = format!("export KUBECTL_TUNNEL_PID='{}'\n", ready["pid"]);
    assert!(lines.ends_with(&last), "{lines}{log}");
}

#[tokio::test]
async fn flags_of_a_proxy_that_is_not_there_are_refused() {
    let stage = Stage::start().await;
    let plugin = stage.plugin("expose", &["expose", "1234", "--listen", "127.0.0.1:0"]);
    let (status, _, log) = plugin.ended().await;
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("--proxy"), "{log}");
}

#[tokio::test]
async fn one_failed_request_at_the_start_is_no_failure_of_the_session() {
    let stage = Stage::start().await;
    let faults = stage.playground.faults();
    faults.fail_next_where(
        1,
        StatusCode::SERVICE_UNAVAILABLE,
        Some(&http::Method::GET),
        "/pods",
    );
    let (plugin, _) = stage.proxy().await;
    plugin.stop().await;
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_unix_socket_is_found_replaced_and_removed() {
    let stage = Stage::start().await;
    let socket = stage.playground.kubeconfig_path().with_file_name("tunnel.sock");
    let listen = format!("unix:{}", socket.display());
    let proxy = ["proxy", "--listen", &listen];
    let mut plugin = stage.plugin("first", &proxy);
    assert_eq!(plugin.ready().await["listeners"][0]["address"], listen);
    let (status, _, log) = stage.plugin("second", &proxy).ended().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("another program listens there"), "{log}");
    plugin.signal(Signal::KILL);
    plugin.ended().await;
    assert!(socket.exists(), "a killed process removes nothing");

    let mut plugin = stage.plugin("third", &proxy);
    plugin.ready().await;
    let mut program = tokio::net::UnixStream::connect(&socket).await.unwrap();
    let request = format!("GET / HTTP/1.0\r\nHost: web:{}\r\n\r\n", stage.web_port());
    program.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(DEADLINE, program.read_to_string(&mut answer)).await;
    read.expect("no end of the answer").unwrap();
    assert!(answer.contains("hello from web"), "{answer}");
    plugin.stop().await;
    assert!(!socket.exists());

    let arguments = ["proxy", "--listen", &listen, "--print-env"];
    let (status, _, log) = stage.plugin("fourth", &arguments).ended().await;
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("add --listen 127.0.0.1:0"), "{log}");
}

/// The terminal's end must not end what was started with nohup.
#[tokio::test]
async fn under_nohup_a_hangup_ends_nothing() {
    let stage = Stage::start().await;
    let mut plugin = stage.plugin_under_nohup(
        "nohup",
        &["forward", "svc/web", ":http", "--address", "127.0.0.1"],
    );
    let ready = plugin.ready().await;
    plugin.signal(Signal::HUP);
    let status = std::fs::read_to_string(format!("/proc/{}/status", ready["pid"])).unwrap();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    assert_eq!(ignored & 1, 1, "{status}");
    assert!(ready["state"] == "ready" && !plugin.said().contains("removing"));
    plugin.stop().await;
    stage.until_nothing_is_left().await;
}
