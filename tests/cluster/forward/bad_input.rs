//! What cannot be forwarded: the exit code, the reason, nothing created.

use std::time::Duration;

use crate::harness::namespace::Namespace;
use crate::harness::settings::Settings;
use crate::harness::{notice, run};

const TOLD: Duration = Duration::from_secs(5);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn what_cannot_be_forwarded_is_told_before_anything_is_made() {
    run(async {
        let namespace = Namespace::create().await;
        namespace.target("web").await;
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a local port");
        let in_use = format!("{}:80", taken.local_addr().expect("bound").port());
        let cases: [(&[&str], i32, &[&str]); 6] = [
            (
                &["svc/nope", "80"],
                1,
                &["service \"nope\" not found", namespace.name()],
            ),
            (&["deploy/nope", "80"], 1, &["deployment \"nope\" not found"]),
            (
                &["svc/web", "81"],
                1,
                &["svc/web has no tcp port 81", "p80 (80/tcp)"],
            ),
            (
                &["pod/web-pod", ":http"],
                1,
                &["pod/web-pod has no tcp port http"],
            ),
            (&["svc/web", &in_use], 1, &["in use"]),
            (
                &["svc/web", "80", "db", "81"],
                2,
                &["could be a pod or the name of a port"],
            ),
        ];
        for (arguments, code, words) in cases {
            let ended = namespace.forward(arguments).finish(TOLD).await;
            ended
                .expect_code(code)
                .expect_said(words)
                .expect_error_events(code);
        }
        if let Some(nobody) = &Settings::get().nobody {
            let nobody = namespace.kubeconfig_of(nobody, "nobody");
            for extra in [&[][..], &["--on-demand"][..]] {
                let launch = namespace.forward(&[&["svc/web", ":80"], extra].concat());
                let ended = launch.with_kubeconfig(&nobody).finish(TOLD).await;
                ended.expect_code(4).expect_error_events(4);
                ended.expect_said(&["get", "services", "kubectl auth can-i"]);
            }
        } else {
            notice("TUNNEL_TEST_NOBODY_KUBECONFIG is not set: a user without rights is not tried");
        }
        assert_eq!(namespace.strangers().await.len(), 0);
        let events = namespace.events().await;
        assert!(
            !events.iter().any(|event| event.starts_with("SuccessfulCreate")),
            "{events:?}"
        );
    });
}
