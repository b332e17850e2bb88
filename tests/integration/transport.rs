//! `--transport`: the session moves to port-forward where that can be had, and does without where it cannot.

use http::{Method, StatusCode};
use serde_json::Value;
use tunnel_playground::Resource;

use crate::forward::without;
use crate::support::{Plugin, Stage};
use crate::survive::{Kept, until_file};

/// What carries the session, as the ready file says.
async fn until_on(plugin: &Plugin, kind: &str) -> Value {
    until_file(plugin, |ready| {
        ready["state"] == "ready" && ready["transportKind"] == kind
    })
    .await
}

async fn connection(stage: &Stage, proxy: &str) -> Kept {
    Kept::connect(proxy, &format!("web:{}", stage.web_port())).await
}

/// How often a port-forward was asked for, and whether the agent has an entrance.
fn seen(stage: &Stage) -> (usize, bool) {
    let requests = stage.playground.requests();
    let asked = requests
        .iter()
        .filter(|request| request.path.ends_with("/portforward"))
        .count();
    let pods = stage.playground.objects();
    let entrance = pods
        .iter()
        .filter(|(key, _)| key.resource == Resource::Pod)
        .any(|(_, pod)| pod.to_string().contains("TUNNEL_ENTRANCE"));
    (asked, entrance)
}

#[tokio::test]
async fn a_session_moves_to_port_forward_and_comes_back_when_that_is_cut() {
    let stage = Stage::start().await;
    // Insisting: a busy machine may well find exec quicker.
    let (plugin, proxy) = stage.proxy_with(&["-v", "--transport=port-forward"]).await;
    let mut kept = connection(&stage, &proxy).await;
    until_on(&plugin, "port-forward").await;
    plugin.until_said("the session moved to port-forward").await;
    assert!(kept.get("/moved").await.contains("/moved"));
    // Exec is not needed any more, and nobody misses it.
    stage.playground.faults().reset_execs();
    assert!(kept.get("/without-exec").await.contains("/without-exec"));
    assert!(!plugin.said().contains("is lost"), "{}", plugin.said());

    stage.playground.faults().reset_port_forwards();
    assert!(kept.get("/cut").await.contains("/cut"));
    until_on(&plugin, "exec").await;
    plugin.until_said("by exec; port-forward is tried again").await;
    let warnings = plugin.said().matches("warning:").count();
    assert_eq!(warnings, 1, "{}", plugin.said());
    assert!(kept.get("/back").await.contains("/back"));
    plugin.stop().await;
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_port_forward_that_goes_silent_is_left() {
    let stage = Stage::start().await;
    let (plugin, proxy) = stage.proxy_with(&["--transport=port-forward"]).await;
    let mut kept = connection(&stage, &proxy).await;
    until_on(&plugin, "port-forward").await;
    stage.playground.faults().black_hole_port_forwards(true);
    assert!(kept.get("/silent").await.contains("/silent"));
    until_on(&plugin, "exec").await;
    plugin.stop().await;
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn without_the_right_nobody_asks_and_it_is_said_to_those_who_want_to_know() {
    let stage = Stage::start_with(without(&["pods/portforward"])).await;
    let (plugin, proxy) = stage.proxy_with(&["-v"]).await;
    plugin
        .until_said("the session stays on exec, port-forward is not allowed here")
        .await;
    assert!(connection(&stage, &proxy).await.get("/").await.contains("web"));
    assert_eq!(seen(&stage).0, 0);
    assert!(!plugin.said().contains("warning:"), "{}", plugin.said());
    plugin.stop().await;
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_refusal_is_final_and_no_warning() {
    let stage = Stage::start().await;
    stage
        .playground
        .faults()
        .fail_next_where(1, StatusCode::FORBIDDEN, None, "/portforward");
    let (plugin, proxy) = stage.proxy_with(&["-v"]).await;
    plugin
        .until_said("the session stays on exec, port-forward cannot be had: ")
        .await;
    assert!(connection(&stage, &proxy).await.get("/").await.contains("web"));
    assert_eq!(seen(&stage), (1, true));
    assert!(!plugin.said().contains("warning:"), "{}", plugin.said());
    plugin.stop().await;
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn exec_alone_opens_no_entrance() {
    let host_network = r#"--patch={"spec":{"hostNetwork":true}}"#;
    for arguments in [&["--transport=exec"], &[host_network]] {
        let stage = Stage::start().await;
        let (plugin, proxy) = stage.proxy_with(arguments).await;
        assert!(connection(&stage, &proxy).await.get("/").await.contains("web"));
        assert_eq!(seen(&stage), (0, false), "{arguments:?}");
        plugin.stop().await;
        stage.until_nothing_is_left().await;
    }
}

#[tokio::test]
async fn port_forward_is_there_from_the_start_when_it_is_wanted() {
    let stage = Stage::start().await;
    let (plugin, proxy) = stage.proxy_with(&["--transport=port-forward"]).await;
    let ready = until_on(&plugin, "port-forward").await;
    assert_eq!(ready["event"], "ready");
    let mut kept = connection(&stage, &proxy).await;
    stage.playground.faults().reset_port_forwards();
    assert!(kept.get("/cut").await.contains("/cut"));
    until_on(&plugin, "exec").await;
    plugin.stop().await;
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn port_forward_that_is_wanted_and_not_allowed_is_exit_4_and_creates_nothing() {
    let stage = Stage::start_with(without(&["pods/portforward"])).await;
    for more in [&[][..], &["--on-demand"]] {
        let arguments = [&["forward", "svc/web", ":80", "--transport=port-forward"], more].concat();
        let (status, _, log) = stage.plugin("forward", &arguments).ended().await;
        assert_eq!(status.code(), Some(4), "{log}");
        assert!(log.contains("create pods/portforward"), "{log}");
        assert!(log.contains("kubectl auth can-i"), "{log}");
    }
    assert_eq!(stage.jobs_created(), 0);
}

#[tokio::test]
async fn port_forward_that_is_wanted_and_cannot_be_had_leaves_nothing() {
    let proxy = ["proxy", "--listen", "127.0.0.1:0", "--transport=port-forward"];
    for (status, code) in [(StatusCode::FORBIDDEN, 4), (StatusCode::INTERNAL_SERVER_ERROR, 5)] {
        let stage = Stage::start().await;
        let faults = stage.playground.faults();
        faults.fail_next_where(1, status, Some(&Method::GET), "/portforward");
        let (ended, _, log) = stage.plugin("proxy", &proxy).ended().await;
        assert_eq!(ended.code(), Some(code), "{log}");
        stage.until_nothing_is_left().await;
    }
    let stage = Stage::start().await;
    let patched = [&proxy[..], &["--patch", r#"{"spec":{"hostNetwork":true}}"#]].concat();
    let (ended, _, log) = stage.plugin("proxy", &patched).ended().await;
    assert_eq!(ended.code(), Some(5), "{log}");
    assert!(log.contains("no entrance"), "{log}");
    assert!(log.contains("leave `--transport=port-forward` out"), "{log}");
    stage.until_nothing_is_left().await;
}
