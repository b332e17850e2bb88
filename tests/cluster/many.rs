//! Many sessions of two users in one namespace: none sees another's, and cleaning up keeps to one's own.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::harness::dial::{self, Way};
use crate::harness::local::Local;
use crate::harness::namespace::Namespace;
use crate::harness::plugin::{Plugin, Ready};
use crate::harness::run;

#[test]
#[ignore = "needs a cluster: make e2e"]
fn ten_sessions_of_two_users_do_not_meet() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        let second = namespace.second_user().await;
        let users = [namespace.kubeconfig(), second];
        let local = Local::http("here").await;
        let sessions = futures::future::join_all((0..10).map(|index| {
            let user = &users[index % 2];
            start(&namespace, user, format!("svc-{index}"), local.port())
        }))
        .await;

        let ids: BTreeSet<_> = sessions.iter().map(|(_, ready)| ready.session.clone()).collect();
        assert_eq!(ids.len(), 10, "session ids");
        for (index, (_, ready)) in sessions.iter().enumerate() {
            dial::get(Way::Connect, ready.proxy(), "web", 80, "/")
                .await
                .expect("the target answers");
            let calls = namespace
                .call_http(
                    &target,
                    "GET",
                    &format!("svc-{index}"),
                    80,
                    &format!("/{index}"),
                    2,
                )
                .await;
            let expected = Ok(format!("200 here GET /{index} HTTP/1.1"));
            assert!(
                calls.iter().all(|call| call.result == expected),
                "{index}: {calls:?}"
            );
        }

        // Half of them end; the other half must not notice.
        let mut living = Vec::new();
        let mut ending = Vec::new();
        for (index, session) in sessions.into_iter().enumerate() {
            if index % 4 < 2 {
                ending.push(session);
            } else {
                living.push((index, session));
            }
        }
        futures::future::join_all(ending.into_iter().map(|(plugin, _)| plugin.stop())).await;
        for (index, (_, ready)) in &living {
            dial::get(Way::Socks5, ready.proxy(), "web", 80, "/")
                .await
                .expect("the target answers");
            let calls = namespace
                .call_http(&target, "GET", &format!("svc-{index}"), 80, "/still", 1)
                .await;
            assert_eq!(
                calls[0].result,
                Ok("200 here GET /still HTTP/1.1".to_owned()),
                "{index}"
            );
        }
        futures::future::join_all(living.into_iter().map(|(_, (plugin, _))| plugin.stop())).await;
        namespace.wait_empty(Duration::from_secs(5)).await;
    });
}

async fn start(namespace: &Namespace, user: &Path, name: String, port: u16) -> (Plugin, Ready) {
    let ports = format!("80:127.0.0.1:{port}");
    let arguments = [name.as_str(), &ports, "--proxy", "--listen", "127.0.0.1:0"];
    namespace.expose(&arguments).with_kubeconfig(user).ready().await
}
