//! What a session survives, in wiring: lost execs, a frozen line, an agent that is gone. Kubernetes' own part is
//! the cluster tests' to prove.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use kubectl_tunnel::cluster::client::Access;
use kubectl_tunnel::cluster::env::Env;
use kubectl_tunnel::cluster::kubeconfig::Overrides;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::{DEADLINE, POLL, Plugin, Stage, get_through};

/// One connection through the proxy, used again and again.
pub(crate) struct Kept {
    stream: TcpStream,
    host: String,
}

impl Kept {
    pub(crate) async fn connect(proxy: &str, host: &str) -> Self {
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        let connect = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        stream.write_all(connect.as_bytes()).await.unwrap();
        let mut kept = Self {
            stream,
            host: host.to_owned(),
        };
        assert!(kept.head().await.starts_with("HTTP/1.1 200"));
        kept
    }

    async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(DEADLINE, self.stream.read_u8()).await.unwrap().unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    pub(crate) async fn get(&mut self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.stream.write_all(request.as_bytes()).await.unwrap();
        let head = self.head().await;
        let length = head.lines().find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        });
        let mut body = vec![0; length.unwrap_or_else(|| panic!("{head}"))];
        timeout(DEADLINE, self.stream.read_exact(&mut body))
            .await
            .unwrap()
            .unwrap();
        String::from_utf8(body).unwrap()
    }
}

/// Waits until the ready file fulfils `reached`.
pub(crate) async fn until_file(plugin: &Plugin, reached: impl Fn(&Value) -> bool) -> Value {
    let waiting = async {
        loop {
            let text = std::fs::read(plugin.ready_file()).unwrap_or_default();
            match serde_json::from_slice(&text) {
                Ok(value) if reached(&value) => return value,
                Ok(_) | Err(_) => sleep(POLL).await,
            }
        }
    };
    timeout(DEADLINE, waiting)
        .await
        .expect("the ready file never said so")
}

#[tokio::test]
async fn a_connection_goes_on_over_ten_lost_execs() {
    let stage = Stage::start().await;
    let (plugin, proxy) = stage.proxy_with(&["--transport=exec"]).await;
    let mut kept = Kept::connect(&proxy, &format!("web:{}", stage.web_port())).await;
    for round in 0..10 {
        if round % 2 == 0 {
            stage.playground.faults().reset_execs();
        } else {
            stage.playground.faults().close_execs();
        }
        let answer = kept.get(&format!("/round/{round}")).await;
        assert!(answer.contains(&format!("/round/{round}")), "{answer}");
    }
    plugin.stop().await;
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_frozen_line_is_told_in_the_ready_file_and_thaws() {
    let stage = Stage::start().await;
    let (plugin, proxy) = stage.proxy().await;
    let mut kept = Kept::connect(&proxy, &format!("web:{}", stage.web_port())).await;
    stage.playground.faults().black_hole_all(true);
    let told = until_file(&plugin, |ready| ready["state"] == "reconnecting").await;
    assert!(
        told["reason"].is_string() && told["attempt"].is_number(),
        "{told}"
    );
    stage.playground.faults().black_hole_all(false);
    kept.get("/").await;
    let ready = until_file(&plugin, |ready| ready["state"] == "ready").await;
    assert!(ready["reason"].is_null(), "{ready}");
    plugin.stop().await;
}

#[tokio::test]
async fn an_agent_whose_pod_is_deleted_is_replaced_and_the_service_moves() {
    let stage = Stage::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = listener.local_addr().unwrap().port();
    let mut programs = JoinSet::new();
    programs.spawn(tunnel_playground::serve_web(listener, "the laptop".to_owned()));
    let port = stage.web_port();
    let mut expose = stage.plugin("expose", &["expose", "api", &format!("{port}:{local}")]);
    let before = expose.ready().await;
    let pod = before["pod"].as_str().unwrap().to_owned();

    let overrides = Overrides {
        kubeconfig: Some(stage.playground.kubeconfig_path().to_owned()),
        ..Overrides::default()
    };
    let server = Access::new(overrides, Env::from_vars([] as [(&str, &str); 0]), "test")
        .connect()
        .await
        .unwrap();
    let pods: Api<Pod> = Api::namespaced(server.client(), "dev");
    pods.delete(&pod, &DeleteParams::default()).await.unwrap();

    let after = until_file(&expose, |ready| {
        ready["pod"] != pod.as_str() && ready["state"] == "ready"
    })
    .await;
    assert_eq!(after["services"], before["services"]);
    assert_eq!(after["session"], before["session"]);
    let (proxy, address) = stage.proxy().await;
    let answer = get_through(&address, &format!("http://api.dev:{port}/after")).await;
    assert!(answer.contains("hello from the laptop"), "{answer}");
    proxy.stop().await;
    expose.stop().await;
    stage.until_nothing_is_left().await;
}
