//! `doctor`: each cause that keeps sessions from starting is named with its cure, and nothing is created; with `--deep`
//! one session, of which nothing is left.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::harness::admission::Rule;
use crate::harness::audit::AuditLog;
use crate::harness::namespace::{Namespace, kubectl_config};
use crate::harness::plugin::Launch;
use crate::harness::relay::Relay;
use crate::harness::settings::Settings;
use crate::harness::tls_relay::{Harm, TlsRelay};
use crate::harness::{notice, poll, run};
use crate::policy::quota;
use crate::refuse::user_with_token;

/// Two deadlines of a request and a lot of air.
const TOLD: Duration = Duration::from_secs(15);

/// A session as well: its start, its measurements, its removal.
const DEEPLY: Duration = Duration::from_secs(90);

/// The lines of `--deep`.
const DEEP: [&str; 6] = ["start", "probe", "round-trip", "dns", "throughput", "removal"];

/// What `doctor` found, and its exit code.
struct Found {
    code: i32,
    report: Value,
}

impl Found {
    async fn by(launch: Launch) -> Self {
        Self::within(TOLD, launch).await
    }

    async fn within(limit: Duration, launch: Launch) -> Self {
        let ended = launch.finish(limit).await;
        let report = ended.events.first().expect("one object").clone();
        assert_eq!(ended.events.len(), 1, "{}", ended.said);
        let code = ended.status.code().expect("an exit code");
        assert_eq!(report["ok"], code == 0, "{report}");
        Self { code, report }
    }

    fn check(&self, name: &str) -> &Value {
        let checks = self.report["checks"].as_array().expect("checks");
        let found = checks.iter().find(|check| check["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {}", self.report))
    }

    /// The check has this state, and says these words or has them in its hint.
    fn expect(&self, name: &str, state: &str, words: &[&str]) -> &Self {
        let check = self.check(name);
        assert_eq!(check["state"], state, "{check}");
        let text = check.to_string();
        for word in words {
            assert!(text.contains(word), "{word} in {check}");
        }
        self
    }
}

fn doctor(namespace: &Namespace, arguments: &[&str]) -> Launch {
    namespace.launch(&[&["doctor", "-o", "json"], arguments].concat())
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn all_is_well_for_the_developer_and_the_administrator() {
    run(async {
        let namespace = Namespace::create().await;
        let admin = namespace.kubeconfig_of(&Settings::get().admin, "admin");
        for kubeconfig in [namespace.kubeconfig(), admin] {
            let found = Found::by(doctor(&namespace, &[]).with_kubeconfig(&kubeconfig)).await;
            assert_eq!(found.code, 0, "{}", found.report);
            for name in [
                "server",
                "version",
                "credentials",
                "rights",
                "features",
                "job",
                "pod",
                "leftovers",
            ] {
                found.expect(name, "ok", &[]);
            }
            found.expect("websocket", "ok", &["v4.channel.k8s.io"]).expect(
                "namespace",
                "ok",
                &["restricted"],
            );
        }
        assert_eq!(namespace.strangers().await.len(), 0);
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn nobody_gets_the_role_to_paste_and_then_all_is_well() {
    run(async {
        let Some(nobody) = &Settings::get().nobody else {
            return notice("TUNNEL_TEST_NOBODY_KUBECONFIG is not set");
        };
        let namespace = Namespace::create().await;
        let nobody = namespace.kubeconfig_of(nobody, "nobody");
        let found = Found::by(doctor(&namespace, &[]).with_kubeconfig(&nobody)).await;
        assert_eq!(found.code, 1);
        found
            .expect("rights", "failure", &["create jobs.batch", "create pods/exec"])
            .expect("namespace", "unknown", &["not allowed to see"])
            .expect("leftovers", "unknown", &["not allowed to see"])
            .expect("job", "unknown", &["not checked"]);

        let role = found.check("rights")["manifest"].as_str().expect("a Role");
        apply(&namespace, role).await;
        let cured = Found::by(doctor(&namespace, &[]).with_kubeconfig(&nobody)).await;
        assert_eq!(cured.code, 0, "{}", cured.report);
        cured
            .expect("rights", "ok", &[])
            .expect("features", "ok", &[])
            .expect("job", "ok", &[])
            .expect("pod", "unknown", &["create pods"])
            .expect("websocket", "ok", &[]);
    });
}

async fn apply(namespace: &Namespace, manifest: &str) {
    let file = namespace.folder().join("role.yaml");
    std::fs::write(&file, manifest).expect("write the Role");
    let file = file.to_str().expect("a path");
    namespace.kubectl_ok(&["apply", "-f", file]).await;
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn an_admission_policy_is_named_and_a_start_says_the_same() {
    run(async {
        let namespace = Namespace::create().await;
        let _rule = Rule::no_jobs(&namespace).await;
        let found = Found::by(doctor(&namespace, &[])).await;
        found
            .expect(
                "job",
                "failure",
                &["refused by an admission policy", Rule::MESSAGE, "--patch"],
            )
            .expect("pod", "ok", &[]);
        let ended = namespace.proxy(&[]).finish(TOLD).await;
        ended
            .expect_code(5)
            .expect_said(&["refused by an admission policy", Rule::MESSAGE, "--patch"]);
        assert_eq!(namespace.strangers().await.len(), 0);
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_webhook_that_does_not_answer_is_named_and_a_start_says_the_same() {
    run(async {
        let namespace = Namespace::create().await;
        let webhook = "deaf.example.com";
        let _rule = Rule::deaf_webhook(&namespace, webhook).await;
        let cure = format!("mend the webhook {webhook}");
        let found = Found::by(doctor(&namespace, &[])).await;
        found
            .expect("job", "failure", &["failed calling webhook", &cure])
            .expect("pod", "ok", &[]);
        let ended = namespace.proxy(&[]).finish(TOLD).await;
        ended.expect_code(5).expect_said(&[webhook, &cure]);
        namespace.wait_empty(TOLD).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_full_quota_is_told_with_its_name() {
    run(async {
        let namespace = Namespace::create().await;
        quota(&namespace, json!({"pods": "0"})).await;
        let found = Found::by(doctor(&namespace, &[])).await;
        assert_eq!(found.code, 1);
        found.expect("job", "ok", &[]).expect(
            "pod",
            "failure",
            &[
                "resource quota",
                "exceeded quota: quota",
                "kubectl describe quota",
            ],
        );
        assert_eq!(namespace.strangers().await.len(), 0);
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn what_a_quota_demands_is_followed_as_a_start_would() {
    run(async {
        let namespace = Namespace::create().await;
        quota(&namespace, json!({"limits.cpu": "2", "pods": "5"})).await;
        let found = Found::by(doctor(&namespace, &[])).await;
        found.expect("pod", "ok", &["limits", "cpu"]);
        assert_eq!(found.code, 0, "{}", found.report);
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn pod_security_in_the_way_is_told_with_the_field() {
    run(async {
        let namespace = Namespace::create().await;
        let patch = r#"{"spec":{"hostNetwork":true}}"#;
        let found = Found::by(doctor(&namespace, &["--patch", patch])).await;
        assert_eq!(found.code, 1);
        found.expect("pod", "failure", &["pod security", "hostNetwork", "--patch"]);
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_server_that_is_down_or_silent_is_told_in_time() {
    run(async {
        let namespace = Namespace::create().await;
        let port = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = port.local_addr().expect("an address");
        drop(port);
        let refused = doctor(&namespace, &["--server", &format!("https://{address}")]);
        Found::by(refused)
            .await
            .expect("kubeconfig", "ok", &[])
            .expect(
                "server",
                "failure",
                &[&address.to_string(), "refused", "kubectl version"],
            )
            .expect("rights", "unknown", &["the server does not answer"]);

        let relay = Relay::start(&namespace).await;
        relay.black_hole();
        let silent = doctor(&namespace, &[]).with_kubeconfig(relay.kubeconfig());
        Found::by(silent)
            .await
            .expect("server", "failure", &["5s"])
            .expect("pod", "unknown", &["the server does not answer"]);
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_token_that_is_not_taken_is_a_failure_of_credentials() {
    run(async {
        let namespace = Namespace::create().await;
        let stranger = user_with_token(&namespace, "stranger", "not-a-token");
        let found = Found::by(doctor(&namespace, &[]).with_kubeconfig(&stranger)).await;
        assert_eq!(found.code, 1);
        found
            .expect("server", "ok", &[])
            .expect("credentials", "failure", &["logged in", "kubectl auth whoami"])
            .expect("rights", "unknown", &["does not know who you are"]);
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn the_proxy_on_the_way_is_named_whether_it_works_or_not() {
    run(async {
        let namespace = Namespace::create().await;
        let mut tasks = JoinSet::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy = format!("http://{}", listener.local_addr().expect("an address"));
        tasks.spawn(connect_proxy(listener));
        let kubeconfig = namespace.kubeconfig();
        set_proxy(&kubeconfig, &proxy);
        Found::by(doctor(&namespace, &[]))
            .await
            .expect("server", "ok", &[&format!("through {proxy}")])
            .expect("websocket", "ok", &[]);

        tasks.shutdown().await;
        Found::by(doctor(&namespace, &[])).await.expect(
            "server",
            "failure",
            &[&proxy, "connection refused", "HTTPS_PROXY", "proxy-url"],
        );
    });
}

fn set_proxy(kubeconfig: &Path, proxy: &str) {
    let config = std::fs::read_to_string(kubeconfig).expect("the kubeconfig");
    let cluster = config
        .lines()
        .skip_while(|line| !line.starts_with("clusters:"))
        .find_map(|line| line.trim_start_matches(['-', ' ']).strip_prefix("name: "))
        .expect("a cluster");
    kubectl_config(
        kubeconfig,
        &["set-cluster", cluster, &format!("--proxy-url={proxy}")],
    );
}

/// Leads wherever CONNECT says.
async fn connect_proxy(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        connections.spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(near.read_u8().await?);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let target = head.split(' ').nth(1).unwrap_or_default();
            let mut far = TcpStream::connect(target).await?;
            near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            copy_bidirectional(&mut near, &mut far).await
        });
    }
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn what_a_killed_plugin_left_is_told_with_the_command_that_removes_it() {
    run(async {
        let namespace = Namespace::create().await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        Found::by(doctor(&namespace, &[]))
            .await
            .expect("leftovers", "ok", &[]);
        plugin.kill().await;
        let cleanup = format!("kubectl tunnel cleanup -n {}", namespace.name());
        poll(Duration::from_secs(20), "the leftover", async || {
            let found = Found::by(doctor(&namespace, &[])).await;
            (found.check("leftovers")["state"] == "warning").then(|| {
                found.expect("leftovers", "warning", &[&ready.session, &cleanup]);
                assert_eq!(found.code, 0);
            })
        })
        .await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn deep_measures_a_session_and_nothing_of_it_is_left() {
    run(async {
        let namespace = Namespace::create().await;
        let mut audit = AuditLog::open();
        let found = Found::within(DEEPLY, doctor(&namespace, &["--deep"])).await;
        // What is left now was left when it said that nothing is.
        assert_eq!(namespace.strangers().await.len(), 0);
        notice(&found.report["checks"].to_string());
        assert_eq!(found.code, 0, "{}", found.report);
        for name in DEEP.into_iter().filter(|name| *name != "start") {
            found.expect(name, "ok", &[]);
        }
        // A busy machine may take long for a start, and then it says so.
        let start = found.check("start");
        assert!(start["measured"]["seconds"].as_f64().is_some(), "{start}");
        let volume = &found.check("throughput")["measured"];
        let verified = volume["verifiedBytes"].as_u64().expect("bytes");
        assert!((1 << 20..=8 << 20).contains(&verified), "{volume}");
        if let Some(audit) = &mut audit {
            let requests = audit.requests(namespace.name());
            let jobs = requests.iter().filter(|entry| {
                entry["verb"] == "create"
                    && entry["objectRef"]["resource"] == "jobs"
                    && !entry["requestURI"]
                        .as_str()
                        .is_some_and(|uri| uri.contains("dryRun"))
            });
            assert_eq!(jobs.count(), 1);
        }
    });
}

/// Sessions need no right to list `ConfigMaps`: that they may not be seen is said, and is no failure.
#[test]
#[ignore = "needs a cluster: make e2e"]
fn deep_with_the_least_rights_says_what_it_may_not_see() {
    run(async {
        let Some(nobody) = &Settings::get().nobody else {
            return notice("TUNNEL_TEST_NOBODY_KUBECONFIG is not set");
        };
        let namespace = Namespace::create().await;
        let nobody = namespace.kubeconfig_of(nobody, "nobody");
        let refused = Found::by(doctor(&namespace, &["--deep"]).with_kubeconfig(&nobody)).await;
        assert_eq!(refused.code, 1);
        for name in DEEP {
            refused.expect(
                name,
                "unknown",
                &["not checked: no session can start, see rights"],
            );
        }
        let role = refused.check("rights")["manifest"].as_str().expect("a Role");
        let least = role.replacen("verbs: [create, list]", "verbs: [create]", 1);
        assert_ne!(role, least);
        apply(&namespace, &least).await;
        let cured = doctor(&namespace, &["--deep"]).with_kubeconfig(&nobody);
        let cured = Found::within(DEEPLY, cured).await;
        assert_eq!(cured.code, 0, "{}", cured.report);
        cured.expect("throughput", "ok", &[]).expect(
            "removal",
            "unknown",
            &["not allowed to see the configmaps"],
        );
        // What it may not see goes as well; the Role and its binding stay.
        poll(TOLD, "the session's end", async || {
            let left = namespace.strangers().await;
            left.iter().all(|name| name.starts_with("role")).then_some(())
        })
        .await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn deep_tells_a_name_service_that_does_not_answer() {
    run(async {
        let namespace = Namespace::create().await;
        // An address for documentation: nobody is there.
        let patch = r#"{"spec":{"dnsPolicy":"None","dnsConfig":{"nameservers":["192.0.2.1"]}}}"#;
        let launch = doctor(&namespace, &["--deep", "--patch", patch]);
        let found = Found::within(DEEPLY, launch).await;
        assert_eq!(found.code, 1);
        found
            .expect(
                "dns",
                "failure",
                &["kubernetes.default.svc", "kubectl get networkpolicies"],
            )
            .expect("throughput", "ok", &[])
            .expect("removal", "ok", &[]);
        assert_eq!(namespace.strangers().await.len(), 0);
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn deep_names_a_path_that_cuts_what_is_sent() {
    run(async {
        let namespace = Namespace::create().await;
        let relay = TlsRelay::start(&namespace, Harm::CutStdin(1 << 10)).await;
        let launch = doctor(&namespace, &["--deep"]).with_kubeconfig(relay.kubeconfig());
        let found = Found::within(DEEPLY, launch).await;
        assert_eq!(found.code, 1);
        found
            .expect(
                "probe",
                "failure",
                &["of the probe's 81920 bytes", "try without it"],
            )
            .expect("dns", "unknown", &["not checked"])
            .expect("removal", "ok", &[]);
        namespace.wait_empty(TOLD).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn ctrl_c_during_deep_leaves_nothing() {
    run(async {
        let namespace = Namespace::create().await;
        let plugin = doctor(&namespace, &["--deep"]).start();
        namespace.wait_stranger("pods", TOLD).await;
        plugin.signal(Signal::INT);
        let ended = plugin.end(TOLD).await;
        ended.expect_code(0);
        assert_eq!(namespace.strangers().await.len(), 0);
    });
}
