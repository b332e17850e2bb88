//! Ctrl-C at any moment of the start: the namespace is empty within five seconds, and nobody calls it an error.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::sleep;

use crate::harness::namespace::Namespace;
use crate::harness::plugin::Launch;
use crate::harness::run;
use crate::harness::wan::Wan;

const EMPTY: Duration = Duration::from_secs(5);
/// Until then the process may not have got to handling signals; it has created nothing either.
const UNHANDLED: Duration = Duration::from_millis(100);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn proxy_interrupted_in_the_first_half_second_leaves_nothing() {
    run(interrupt_between(0, 500, |namespace| namespace.proxy(&[])));
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn proxy_interrupted_in_the_second_half_second_leaves_nothing() {
    run(interrupt_between(525, 1000, |namespace| namespace.proxy(&[])));
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn expose_interrupted_in_the_first_second_leaves_nothing() {
    run(interrupt_between(25, 975, |namespace| {
        namespace.expose(&["api", "80:1234"])
    }));
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn expose_interrupted_around_ready_leaves_nothing() {
    run(interrupt_between(1000, 1500, |namespace| {
        namespace.expose(&["api", "80:1234"])
    }));
}

/// One session after the other, each interrupted 50 ms later than the one before.
async fn interrupt_between(first: u64, last: u64, launch: impl Fn(&Namespace) -> Launch) {
    let namespace = Namespace::create().await;
    for millis in (first..=last).step_by(50) {
        interrupt_after(&namespace, launch(&namespace), Duration::from_millis(millis)).await;
    }
}

async fn interrupt_after(namespace: &Namespace, launch: Launch, delay: Duration) {
    let plugin = launch.start();
    sleep(delay).await;
    plugin.signal(Signal::INT);
    let ended = plugin.end(EMPTY).await;
    let killed = ended.status.signal() == Some(Signal::INT.as_raw());
    assert!(
        ended.status.code() == Some(0) || killed && delay < UNHANDLED,
        "after {delay:?}: {}, it said:\n{}",
        ended.status,
        ended.said
    );
    namespace.wait_empty(EMPTY).await;
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn interrupted_while_the_agent_is_on_its_way_leaves_nothing() {
    run(async {
        let namespace = Namespace::create().await;
        // Half a second passes each way: these moments lie around the upload and the Job's creation.
        let Some(wan) = Wan::start(&namespace, "500ms").await else {
            return;
        };
        for millis in (1_000..=7_000).step_by(750) {
            let plugin = namespace.proxy(&[]).with_kubeconfig(wan.kubeconfig()).start();
            sleep(Duration::from_millis(millis)).await;
            plugin.signal(Signal::INT);
            // A few round trips more than on a short line.
            plugin.end(Duration::from_secs(12)).await.expect_code(0);
            namespace.wait_empty(EMPTY).await;
        }
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn interrupted_while_the_pod_cannot_start_leaves_nothing() {
    run(async {
        let namespace = Namespace::create().await;
        let unschedulable = r#"{"spec":{"nodeSelector":{"tunnel-test/no-such-node":"true"}}}"#;
        let gated = r#"{"spec":{"schedulingGates":[{"name":"tunnel-test/gate"}]}}"#;
        for arguments in [
            ["--base-image", "cluster/no-such-image:1"],
            ["--patch", unschedulable],
            // Nothing is wrong with this pod: it just never starts.
            ["--patch", gated],
        ] {
            let plugin = namespace.proxy(&arguments).start();
            namespace.wait_stranger("pods", Duration::from_secs(20)).await;
            plugin.signal(Signal::INT);
            let ended = plugin.end(EMPTY).await;
            // The failure may have been told first.
            assert!(
                matches!(ended.status.code(), Some(0 | 5)),
                "{arguments:?}: {}",
                ended.said
            );
            namespace.wait_empty(EMPTY).await;
        }
    });
}
