//! `expose`: the cluster calls a program on the laptop by the name of a Service.

use std::time::Duration;

use serde_json::json;
use tunnel_test_target as ports;

use crate::harness::dial::{self, Way};
use crate::harness::local::Local;
use crate::harness::namespace::Namespace;
use crate::harness::target::Called;
use crate::harness::{poll, run};

const EMPTY: Duration = Duration::from_secs(5);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_hundred_connections_at_once_come_to_the_laptop_with_method_and_host() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("caller").await;
        let local = Local::http("from the laptop").await;
        let port = local.port();
        let (plugin, ready) = namespace.expose(&[&port.to_string(), "-v=4"]).ready().await;
        let service = format!("tunnel-{port}");
        let services = &ready.event["services"];
        assert_eq!(services[0]["name"], service);
        assert_eq!(
            services[0]["ports"][0]["url"],
            format!("{service}.{}.svc:{port}", namespace.name())
        );

        // Announced means reachable: the very first calls count.
        let calls = namespace
            .call_http(&target, "REPORT", &service, port, "/a%20b?c=d", 100)
            .await;
        for call in &calls {
            let expected = "200 from the laptop REPORT /a%20b?c=d HTTP/1.1".to_owned();
            assert_eq!(call.result, Ok(expected), "{calls:?}");
        }
        let heads = local.heads();
        assert_eq!(heads.len(), 100);
        for head in &heads {
            assert!(head.starts_with("REPORT /a%20b?c=d HTTP/1.1\r\n"), "{head}");
            assert!(
                head.contains(&format!("\r\nHost: {service}:{port}\r\n")),
                "{head}"
            );
        }
        let caller = target.pod_ip.to_string();
        assert!(
            plugin.said().contains(&caller),
            "the caller {caller} is not in the log"
        );

        plugin.stop().await;
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_local_program_may_stop_and_start() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("caller").await;
        let local = Local::http("first").await;
        let address = local.address;
        let port = local.port().to_string();
        let (plugin, _) = namespace
            .expose(&["laptop", &format!("80:127.0.0.1:{port}")])
            .ready()
            .await;
        let call = async || {
            namespace
                .call_http(&target, "GET", "laptop", 80, "/", 1)
                .await
                .remove(0)
        };
        assert_eq!(call().await.result, Ok("200 first GET / HTTP/1.1".to_owned()));

        local.stop().await;
        let down = call().await;
        let error = down.result.clone().expect_err("nobody listens");
        assert!(error.starts_with("ConnectionReset"), "{error}");
        assert!(down.millis < 1000, "{down:?}");

        let local = Local::http_at(address, "second").await;
        assert_eq!(call().await.result, Ok("200 second GET / HTTP/1.1".to_owned()));
        assert_eq!(local.heads().len(), 1);
        plugin.stop().await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn several_ports_and_the_proxy_share_one_session() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("caller").await;
        let (first, second) = (Local::http("first").await, Local::half_close().await);
        let ports = [format!("80:{}", first.port()), format!("443:{}", second.port())];
        let arguments = ["api", &ports[0], &ports[1], "--proxy", "--listen", "127.0.0.1:0"];
        let (plugin, ready) = namespace.expose(&arguments).ready().await;

        for host in [
            "api".to_owned(),
            format!("api.{}.svc.cluster.local", namespace.name()),
        ] {
            let calls = namespace.call_http(&target, "GET", &host, 80, "/x", 3).await;
            let expected = Ok("200 first GET /x HTTP/1.1".to_owned());
            assert!(
                calls.iter().all(|call| call.result == expected),
                "{host}: {calls:?}"
            );
        }
        let reply = namespace.call_half_close(&target, "api", 443).await;
        assert_eq!(reply.trim(), format!("{} ok", ports::HALF_CLOSE_REPLY));
        assert_eq!(second.heads(), ["100000 ok"]);
        // Forward in the same session, and once around: laptop, cluster, laptop.
        dial::get(Way::Connect, ready.proxy(), "caller", 80, "/")
            .await
            .expect("the target answers");
        let around = dial::get(Way::Socks5, ready.proxy(), "api", 80, "/around")
            .await
            .expect("our own program");
        assert_eq!(around.body, "first GET /around HTTP/1.1");

        assert_eq!(
            namespace
                .strangers()
                .await
                .iter()
                .filter(|name| name.starts_with("pods/"))
                .count(),
            1
        );
        plugin.stop().await;
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_service_of_somebody_else_is_never_touched() {
    run(async {
        let namespace = Namespace::create().await;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "api"},
            "spec": {"selector": {"app": "api"}, "ports": [{"port": 80}]},
        });
        namespace.create_object("services", service).await;
        let services = namespace.admin().objects(namespace.name(), "services");
        let before = services.get("api").await.expect("the Service");

        let ended = namespace
            .expose(&["api", "80:1234"])
            .finish(Duration::from_secs(10))
            .await;
        ended
            .expect_code(1)
            .expect_said(&["service/api exists", "hint:"])
            .expect_error_events(1);
        let after = services.get("api").await.expect("the Service");
        assert_eq!(before.metadata.resource_version, after.metadata.resource_version);
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_name_of_a_living_session_is_refused_with_another_one() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("caller").await;
        let local = Local::http("first").await;
        let port = local.port().to_string();
        let (plugin, _) = namespace.expose(&[&port]).ready().await;
        let ended = namespace.expose(&[&port]).finish(Duration::from_secs(15)).await;
        let offered = format!("tunnel-{port}-");
        ended
            .expect_code(1)
            .expect_said(&["hint:", &offered])
            .expect_error_events(1);
        // The first session has not noticed.
        let calls = namespace
            .call_http(&target, "GET", &format!("tunnel-{port}"), local.port(), "/", 1)
            .await;
        assert_eq!(calls[0].result, Ok("200 first GET / HTTP/1.1".to_owned()));
        plugin.stop().await;
        namespace.wait_empty(EMPTY).await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_service_that_a_dead_session_left_is_replaced() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("caller").await;
        let local = Local::http("alive").await;
        let port = local.port().to_string();
        // The dead one's agent would hold the Service for much longer than this test.
        let (dead, _) = namespace
            .expose(&["api", &format!("80:{port}"), "--grace", "5m"])
            .ready()
            .await;
        dead.kill().await;
        // Dead is who has not been attached for 20 s: a plugin may be on its way back until then.
        let (plugin, _) = poll(Duration::from_secs(60), "the name", async || {
            let mut plugin = namespace.expose(&["api", &format!("80:{port}")]).start();
            let ended = poll(Duration::from_secs(30), "ready or the end", async || {
                if !plugin.runs() {
                    return Some(true);
                }
                plugin.said().contains(r#""event":"ready""#).then_some(false)
            })
            .await;
            if ended {
                tokio::time::sleep(Duration::from_secs(3)).await;
                return None;
            }
            let ready = plugin.ready().await;
            Some((plugin, ready))
        })
        .await;
        let calls: Vec<Called> = namespace.call_http(&target, "GET", "api", 80, "/", 1).await;
        assert_eq!(calls[0].result, Ok("200 alive GET / HTTP/1.1".to_owned()));
        plugin.stop().await;
        namespace.wait_empty(Duration::from_secs(10)).await;
    });
}
