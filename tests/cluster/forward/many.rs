//! Hundreds of targets in one command: a file of them starts about as fast as one, and costs little.

use std::time::Duration;

use super::expect_http;
use crate::harness::namespace::Namespace;
use crate::harness::{notice, process, run};

const TARGETS: usize = 300;
const SAMPLE: usize = 20;
const RESIDENT_KIB: u64 = 60 << 10;
/// More than a plain start takes; a busy machine needs its share.
const LATER: Duration = Duration::from_secs(3);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn hundreds_of_targets_start_about_as_fast_as_one() {
    run(async {
        let namespace = Namespace::create().await;
        let target = namespace.target("web").await;
        namespace.workload("deploy", "api", 1).await;
        namespace.wait_pods_ready("api").await;
        let (plugin, plain) = namespace.forward(&["svc/web", ":80"]).ready().await;
        plugin.stop().await;

        let kinds = [
            "svc/web :80".to_owned(),
            "svc/web-headless :8080".to_owned(),
            "deploy/api :http".to_owned(),
            "pod/web-pod :8080".to_owned(),
            format!("ip/{} :8080", target.pod_ip),
        ];
        let lines = (0..TARGETS).map(|index| format!("- {}\n", kinds[index % kinds.len()]));
        let file = namespace.folder().join("targets.yaml");
        std::fs::write(&file, lines.collect::<String>()).expect("write the targets");
        let file = file.display().to_string();
        let (plugin, ready) = namespace.forward(&["-f", &file]).ready().await;
        let at_rest = process::resident_kib(plugin.pid());
        let addresses = ready.forwarded();
        assert_eq!(addresses.len(), TARGETS);
        // A step that is no multiple of the kinds meets all of them.
        for address in addresses.iter().step_by(TARGETS / SAMPLE - 1).take(SAMPLE) {
            expect_http(*address, "one of many").await;
        }
        let in_use = process::resident_kib(plugin.pid());
        notice(&format!(
            "ready after {:?}, with one target after {:?}; {at_rest} KiB resident, {in_use} KiB after {SAMPLE} connections",
            ready.after, plain.after
        ));
        assert!(in_use < RESIDENT_KIB, "the plugin takes {in_use} KiB");
        assert!(ready.after < plain.after + LATER, "ready after {:?}", ready.after);
        plugin.stop().await;
    });
}
