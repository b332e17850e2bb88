//! Reaching: every form of a name, every way into the proxy's port, and every way to fail.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;
use tunnel_test_target as ports;

use crate::harness::dial::{self, Refused, WAYS, Way};
use crate::harness::namespace::Namespace;
use crate::harness::settings::on_path;
use crate::harness::{notice, run, within};

/// An address of the documentation block: no route leads there, and nobody says so.
const BLACK_HOLE: &str = "192.0.2.1";

#[test]
#[ignore = "needs a cluster: make e2e"]
fn every_form_of_a_name_is_reached_every_way() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        let space = namespace.name();
        let dashed = target.pod_ip.to_string().replace('.', "-");
        let hosts = [
            "web".to_owned(),
            format!("web.{space}"),
            format!("web.{space}.svc"),
            format!("web.{space}.svc.cluster.local"),
            format!("web.{space}.svc.cluster.local."),
            target.cluster_ip.to_string(),
        ];
        let direct = [
            "web-headless".to_owned(),
            format!("{dashed}.web-headless"),
            target.pod_ip.to_string(),
        ];
        for way in WAYS {
            for host in &hosts {
                expect_answer(way, ready.proxy(), host, 80, ports::HTTP).await;
            }
            // These lead to the pod itself, so there is no Service to change the port.
            for host in &direct {
                expect_answer(way, ready.proxy(), host, ports::HTTP, ports::HTTP).await;
            }
        }
        plugin.stop().await;
    });
}

/// The target answers with the request's head, and says on which of its ports it came.
async fn expect_answer(way: Way, proxy: SocketAddr, host: &str, port: u16, target_port: u16) {
    let answer = dial::get(way, proxy, host, port, "/some/path?q=1").await;
    let answer = answer.unwrap_or_else(|refused| panic!("{way:?} {host}:{port}: {refused:?}"));
    let lines: Vec<&str> = answer.body.lines().collect();
    assert!(
        lines[0].ends_with(&format!("port={target_port} method=GET")),
        "{way:?} {host}: {answer:?}"
    );
    assert_eq!(lines[1], "GET /some/path?q=1 HTTP/1.1", "{way:?} {host}");
    let authority = if port == 80 {
        host.to_owned()
    } else {
        format!("{host}:{port}")
    };
    assert!(
        lines.contains(&format!("Host: {authority}").as_str()),
        "{way:?} {host}: {answer:?}"
    );
    assert!(lines.contains(&"X-Case: kept"), "{way:?} {host}: {answer:?}");
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn two_ports_and_two_names_follow_each_other_on_one_connection() {
    run(async {
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        let mut connection = dial::local(ready.proxy()).await;
        let space = namespace.name();
        let hosts = [
            (format!("web:{}", ports::HTTP), ports::HTTP),
            (format!("web:{}", ports::HTTP_SECOND), ports::HTTP_SECOND),
            (format!("web.{space}.svc"), ports::HTTP),
            (format!("web:{}", ports::HTTP_SECOND), ports::HTTP_SECOND),
        ];
        for (authority, port) in hosts {
            let head = format!(
                "POST http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 3\r\n\r\n"
            );
            let answer = dial::request(&mut connection, &head, b"abc")
                .await
                .expect("an answer");
            assert_eq!(answer.status, 200, "{answer:?}");
            let first = answer.body.lines().next().unwrap_or_default();
            assert!(
                first.ends_with(&format!("port={port} method=POST")),
                "{authority}: {first}"
            );
        }
        plugin.stop().await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn the_host_header_alone_leads_to_a_service() {
    run(async {
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        let space = namespace.name();
        for (host, port) in [
            ("web.localhost".to_owned(), ports::HTTP),
            ("web".to_owned(), ports::HTTP),
            (
                format!("web.{space}.svc:{}", ports::HTTP_SECOND),
                ports::HTTP_SECOND,
            ),
        ] {
            let mut connection = dial::local(ready.proxy()).await;
            let head = format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let answer = dial::request(&mut connection, &head, b"")
                .await
                .expect("an answer");
            assert_eq!(answer.status, 200, "{host}: {answer:?}");
            assert!(
                answer.body.contains(&format!("port={port} method=GET")),
                "{host}: {answer:?}"
            );
        }
        // A web page that had its own name rebound to this port gets nothing.
        let mut connection = dial::local(ready.proxy()).await;
        let answer = dial::request(
            &mut connection,
            "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"",
        )
        .await;
        assert_eq!(answer.expect("an answer").status, 421);
        plugin.stop().await;
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_failed_dial_says_why_in_time() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        let pod = target.pod_ip.to_string();
        let second = Duration::from_secs(2);
        let dial_deadline = Duration::from_secs(12);
        for way in WAYS {
            expect_refusal(way, ready.proxy(), "no-such-name", 80, 502, 4, second).await;
            expect_refusal(way, ready.proxy(), &pod, ports::CLOSED, 502, 5, second).await;
            expect_refusal(way, ready.proxy(), "127.0.0.1", 80, 403, 2, second).await;
            expect_refusal(way, ready.proxy(), "localhost", 80, 403, 2, second).await;
            expect_refusal(way, ready.proxy(), "169.254.169.254", 80, 403, 2, second).await;
        }
        // These only wait, so they wait together.
        futures::future::join_all(
            WAYS.map(|way| expect_refusal(way, ready.proxy(), BLACK_HOLE, 80, 504, 6, dial_deadline)),
        )
        .await;
        // None of this was the session's end.
        dial::get(Way::Absolute, ready.proxy(), "web", 80, "/")
            .await
            .expect("the target answers");
        plugin.stop().await;
    });
}

/// Fails unless the proxy says no in the protocol's own way, with a reason, and in time.
async fn expect_refusal(
    way: Way,
    proxy: SocketAddr,
    host: &str,
    port: u16,
    http: u16,
    socks5: u8,
    limit: Duration,
) {
    let started = Instant::now();
    let answer = dial::get(way, proxy, host, port, "/").await;
    let taken = started.elapsed();
    match answer {
        Err(Refused::Http(answer)) if way != Way::Socks5 => {
            assert_eq!(answer.status, http, "{way:?} {host}:{port}: {answer:?}");
            assert!(
                answer.body.contains(host),
                "{way:?} {host}:{port} is not named: {answer:?}"
            );
        }
        Err(Refused::Socks5(code)) if way == Way::Socks5 => assert_eq!(code, socks5, "{way:?} {host}:{port}"),
        other => panic!("{way:?} {host}:{port}: {other:?}"),
    }
    assert!(taken < limit, "{way:?} {host}:{port} took {taken:?}");
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn the_lines_of_the_readme_work() {
    run(async {
        let Some(curl) = on_path("curl") else {
            return notice("no curl: the README's lines are not tried");
        };
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        let (plugin, ready) = namespace.proxy(&[]).ready().await;
        let proxy = ready.proxy();
        let full = format!("http://web.{}.svc.cluster.local/", namespace.name());
        let own_port = format!("http://web.localhost:{}/", proxy.port());
        let (http, socks) = (format!("http://{proxy}"), proxy.to_string());
        let lines: [&[&str]; 4] = [
            &["-x", &http, "http://web/"],
            &["-p", "-x", &http, "http://web/"],
            &["--socks5-hostname", &socks, &full],
            &[&own_port],
        ];
        for line in lines {
            let mut command = tokio::process::Command::new(&curl);
            command
                .args(["-sS", "--fail", "--max-time", "10", "--noproxy", ""])
                .args(line)
                .kill_on_drop(true);
            let output = within(Duration::from_secs(15), "curl", command.output())
                .await
                .expect("curl runs");
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success(),
                "curl {line:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(said.contains("method=GET"), "curl {line:?}: {said}");
        }
        plugin.stop().await;
    });
}
