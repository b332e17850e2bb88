//! The agent's pod dies: old connections are reset on both sides, and a new agent serves the next ones at once.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunnel_test_target as ports;

use crate::harness::admission::Rule;
use crate::harness::namespace::Who;
use crate::harness::plugin::{Plugin, Ready};
use crate::harness::traffic::{RATE, SERVICE, Stage, Traffic};
use crate::harness::{notice, process, run};

/// From the pod's end to a connection that works.
const NEXT: Duration = Duration::from_secs(3);
/// The same where the cluster has to find out first that the process is gone, and for what a pod then calls.
const LATER: Duration = Duration::from_secs(20);
/// For a machine that is also the cluster's node and runs other tests.
const MARGIN: Duration = Duration::from_secs(2);
/// A sender may have 64 KiB of each in the agent.
const UPLOADS: usize = 300;
/// Until its memory is full.
const FULL: Duration = Duration::from_secs(60);
const RESET: Duration = Duration::from_secs(20);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_deleted_pod_is_replaced_and_nothing_ends_silently() {
    run(async {
        let stage = Stage::set().await;
        let (plugin, ready) = stage.expose(&[]).ready().await;
        let traffic = stage.traffic(&ready, RATE).await;
        let arguments = ["delete", "pod", &ready.pod, "--wait=false"];
        let deleted = stage.namespace.kubectl(Who::Developer, &arguments).await;
        assert!(deleted.status.success(), "{deleted:?}");
        expect_successor(&stage, plugin, &ready, traffic, NEXT).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_killed_agent_is_replaced() {
    run(async {
        let stage = Stage::set().await;
        let (plugin, ready) = stage.expose(&[]).ready().await;
        let pods = stage.namespace.admin().objects(stage.namespace.name(), "pods");
        let pod = pods.get(&ready.pod).await.expect("the agent's pod");
        let Some(agent) = process::agent_of(&pod) else {
            notice("the node is another machine: the agent is not killed");
            return plugin.stop().await;
        };
        let traffic = stage.traffic(&ready, RATE).await;
        let agent = i32::try_from(agent).ok().and_then(Pid::from_raw);
        kill_process(agent.expect("a process id"), Signal::KILL).expect("kill the agent");
        expect_successor(&stage, plugin, &ready, traffic, LATER).await;
    });
}

/// The limit is above what an idle agent takes, and far below what these uploads put into its memory.
#[test]
#[ignore = "needs a cluster: make e2e"]
fn an_agent_beyond_its_memory_limit_is_replaced() {
    run(async {
        let stage = Stage::set().await;
        let limit = ["--requests", "memory=8Mi", "--limits", "memory=12Mi"];
        let (mut plugin, ready) = stage.expose(&limit).ready().await;
        let traffic = stage.traffic(&ready, RATE).await;
        let _uploads = fill(&stage, &ready);
        // Filling takes its time on a busy machine; what counts begins with the loss.
        plugin.state("reconnecting", FULL).await;
        let reason = expect_successor(&stage, plugin, &ready, traffic, LATER).await;
        assert!(reason.contains("OOMKilled"), "{reason}");
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn without_a_successor_in_time_the_session_is_lost() {
    run(async {
        let stage = Stage::set().await;
        let launch = stage.expose(&["--pod-running-timeout", "15s"]);
        let (plugin, ready) = launch.ready().await;
        let traffic = stage.traffic(&ready, RATE).await;
        let _policy = Rule::no_job_pods(&stage.namespace).await;
        let arguments = ["delete", "pod", &ready.pod, "--wait=false"];
        let deleted = stage.namespace.kubectl(Who::Developer, &arguments).await;
        assert!(deleted.status.success(), "{deleted:?}");
        let exchanges = traffic.expect_resets(RESET).await;
        let ended = plugin.end(Duration::from_secs(15) + LATER).await;
        ended
            .expect_code(6)
            .expect_error_events(6)
            .expect_said(&[Rule::MESSAGE]);
        stage.namespace.wait_empty(LATER).await;
        stage.expect_far_resets(&exchanges, LATER).await;
    });
}

/// Uploads that nobody reads, each pushed until the agent has to hold what it took; dropping them ends them.
fn fill(stage: &Stage, ready: &Ready) -> JoinSet<()> {
    let mut uploads = JoinSet::new();
    for _ in 0..UPLOADS {
        let (proxy, name) = (ready.proxy(), stage.target.name.clone());
        uploads.spawn(async move {
            // Their end is the point, however it comes.
            drop(push(proxy, &name).await);
        });
    }
    uploads
}

async fn push(proxy: SocketAddr, host: &str) -> io::Result<()> {
    let mut connection = TcpStream::connect(proxy).await?;
    let port = ports::STALL;
    let head = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
    connection.write_all(head.as_bytes()).await?;
    let block = vec![7; 64 << 10];
    loop {
        connection.write_all(&block).await?;
    }
}

/// Both ends of every connection see a reset; then the next ones work, through the same port and the same Service.
/// Returns why the agent is said to be gone.
async fn expect_successor(
    stage: &Stage,
    mut plugin: Plugin,
    ready: &Ready,
    traffic: Traffic,
    limit: Duration,
) -> String {
    let ended = Instant::now();
    let exchanges = traffic.expect_resets(RESET).await;
    notice(&format!("all reset after {:?}", ended.elapsed()));
    stage.expect_new_connection(ready.proxy(), limit + MARGIN).await;
    notice(&format!("a new connection after {:?}", ended.elapsed()));
    assert!(ended.elapsed() < limit + MARGIN, "{:?}", ended.elapsed());

    let replaced = plugin.event("agent-replaced", LATER).await;
    notice(&replaced.to_string());
    assert_ne!(replaced["pod"], ready.pod.as_str());
    let reason = replaced["reason"].as_str().expect("a reason").to_owned();
    let [service] = replaced["services"].as_array().map_or(&[][..], Vec::as_slice) else {
        panic!("one Service is exposed: {replaced}");
    };
    assert_eq!(
        (&service["name"], &service["changed"]),
        (&Value::from(SERVICE), &Value::from(false))
    );
    plugin.state("ready", LATER).await;
    let services = stage
        .namespace
        .admin()
        .objects(stage.namespace.name(), "services");
    let now = services.get(SERVICE).await.expect("the Service");
    assert_eq!(now.data["spec"]["clusterIP"], service["clusterIP"], "{replaced}");
    stage.expect_new_call(LATER).await;
    stage.expect_far_resets(&exchanges, LATER).await;
    plugin.stop().await;
    stage.namespace.wait_empty(Duration::from_secs(10)).await;
    reason
}
