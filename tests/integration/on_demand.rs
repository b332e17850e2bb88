//! `forward --on-demand`: agents that come with the first connection and go when nobody uses them.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tunnel_playground::Resource;

use crate::forward::{GET, client, expect_reset, forward};
use crate::support::{DEADLINE, Plugin, Stage, exchange};

#[tokio::test]
async fn an_agent_on_demand_comes_with_the_first_connection_and_goes_when_idle() {
    let stage = Stage::start().await;
    let arguments = [
        "svc/web",
        ":28080",
        "svc/echo",
        ":tcp",
        "--on-demand",
        "--idle-timeout=1s",
    ];
    let (plugin, listeners) = forward(&stage, &arguments).await;
    assert_eq!(stage.jobs_created(), 0);
    assert_eq!(plugin_state(&plugin), "idle");
    for round in 1..=2 {
        let answer = exchange(&listeners[0].address, GET).await;
        assert!(answer.contains("hello from web\n"), "{answer}");
        assert_eq!(stage.jobs_created(), round);

        // A silent connection is a use.
        let mut silent = TcpStream::connect(&listeners[1].address).await.unwrap();
        silent.write_all(b"a").await.unwrap();
        timeout(DEADLINE, silent.read_u8()).await.unwrap().unwrap();
        sleep(Duration::from_millis(2500)).await;
        silent.write_all(b"b").await.unwrap();
        let answer = timeout(DEADLINE, silent.read_u8()).await.unwrap();
        assert_eq!(answer.unwrap(), b'b');
        drop(silent);
        let dropped = Instant::now();
        stage.until_nothing_is_left().await;
        assert!(dropped.elapsed() > Duration::from_millis(900), "too early");
        plugin.until_said("the agent is removed").await;
    }
    plugin.stop().await;
    assert_eq!(stage.jobs_created(), 2);
}

fn plugin_state(plugin: &Plugin) -> String {
    let ready: Value = serde_json::from_slice(&std::fs::read(plugin.ready_file()).unwrap()).unwrap();
    ready["state"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn many_first_connections_share_one_agent() {
    let stage = Stage::start().await;
    let (plugin, listeners) = forward(&stage, &["svc/web", ":28080", "--on-demand"]).await;
    let all = (0..30).map(|_| exchange(&listeners[0].address, GET));
    for answer in futures::future::join_all(all).await {
        assert!(answer.contains("hello from web\n"), "{answer}");
    }
    assert_eq!(stage.jobs_created(), 1);
    plugin.stop().await;
    assert_eq!(stage.playground.tunnel_objects(), []);
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn an_agent_on_demand_goes_with_the_command_also_while_it_starts_and_is_in_use() {
    let stage = Stage::start().await;
    for in_use in [false, true] {
        let arguments = ["svc/echo", ":tcp", "--on-demand"];
        let (plugin, listeners) = forward(&stage, &arguments).await;
        let mut stream = TcpStream::connect(&listeners[0].address).await.unwrap();
        stream.write_all(b"a").await.unwrap();
        if in_use {
            timeout(DEADLINE, stream.read_u8()).await.unwrap().unwrap();
        } else {
            stage
                .until("a Job", |all| {
                    all.iter().any(|(key, _)| key.resource == Resource::Job)
                })
                .await;
        }
        plugin.stop().await;
        assert_eq!(stage.playground.tunnel_objects(), []);
        let end = timeout(DEADLINE, stream.read(&mut [0])).await.expect("no end");
        assert!(end.is_err(), "in use: {in_use}: {end:?}");
        stage.until_nothing_is_left().await;
    }
}

/// The agent is about to go, is being removed, has just gone: whoever comes then is served all the same.
#[tokio::test]
async fn a_connection_at_the_moment_of_the_removal_is_served() {
    let stage = Stage::start().await;
    let arguments = ["svc/web", ":28080", "--on-demand", "--idle-timeout=1s"];
    let (plugin, listeners) = forward(&stage, &arguments).await;
    for millis in [900, 980, 1020, 1060, 1100, 1150, 1250] {
        let answer = exchange(&listeners[0].address, GET).await;
        assert!(answer.contains("hello from web\n"), "{millis} ms: {answer}");
        sleep(Duration::from_millis(millis)).await;
    }
    let removed = plugin.said().matches("the agent is removed").count();
    assert!(
        removed > 0 && !plugin.said().contains("warning"),
        "{}",
        plugin.said()
    );
    plugin.stop().await;
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn the_loss_of_an_agent_on_demand_is_said_and_the_next_connection_starts_another() {
    let stage = Stage::start().await;
    let arguments = ["svc/web", ":28080", "svc/echo", ":tcp", "--on-demand"];
    let (plugin, listeners) = forward(&stage, &arguments).await;
    let mut open = TcpStream::connect(&listeners[1].address).await.unwrap();
    open.write_all(b"a").await.unwrap();
    timeout(DEADLINE, open.read_u8()).await.unwrap().unwrap();
    let objects = stage.playground.tunnel_objects().into_iter();
    let job = objects
        .into_iter()
        .find(|key| key.resource == Resource::Job)
        .unwrap();
    let jobs: Api<Job> = Api::namespaced(client(&stage).await, "dev");
    jobs.delete(&job.name, &DeleteParams::background()).await.unwrap();
    let end = timeout(DEADLINE, open.read_u8()).await.expect("no end");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    plugin.until_said("the next connection tries again").await;
    let answer = exchange(&listeners[0].address, GET).await;
    assert!(answer.contains("hello from web\n"), "{answer}");
    assert_eq!(stage.jobs_created(), 2);
    plugin.stop().await;
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_start_that_fails_is_said_and_resets_who_waits_for_it() {
    let stage = Stage::start().await;
    let (plugin, listeners) = forward(&stage, &["svc/web", ":28080", "--on-demand"]).await;
    stage.playground.faults().fail_next_where(
        1,
        http::StatusCode::FORBIDDEN,
        Some(&http::Method::POST),
        "/jobs",
    );
    expect_reset(&listeners[0].address).await;
    plugin.until_said("the next connection tries again").await;
    stage.until_nothing_is_left().await;
    let answer = exchange(&listeners[0].address, GET).await;
    assert!(answer.contains("hello from web\n"), "{answer}");
    plugin.stop().await;
}
