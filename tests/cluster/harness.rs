//! What every cluster test stands on: a namespace of its own, the real plugin, a target to reach.
//!
//! It owns making and removing these, and every deadline; it asserts nothing about the product except that what
//! a test waits for happens in time. Both test binaries (`main.rs`, `serial.rs`) use it.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

pub(crate) mod admission;
pub(crate) mod audit;
pub(crate) mod detour;
pub(crate) mod dial;
pub(crate) mod fault;
pub(crate) mod frames;
pub(crate) mod kinds;
pub(crate) mod local;
pub(crate) mod namespace;
pub(crate) mod near;
pub(crate) mod plugin;
pub(crate) mod process;
pub(crate) mod relay;
pub(crate) mod settings;
pub(crate) mod target;
pub(crate) mod tls_relay;
pub(crate) mod traffic;
pub(crate) mod wan;
pub(crate) mod workload;

/// A test takes no longer unless it asks for more; a hang becomes a failure that shows what the programs said.
const TEST_DEADLINE: Duration = Duration::from_secs(180);

/// Runs one test on a runtime of its own, bounded.
pub(crate) fn run(test: impl Future<Output = ()>) {
    run_for(TEST_DEADLINE, test);
}

/// The same for a test whose faults alone take longer than the usual deadline.
pub(crate) fn run_for(limit: Duration, test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime needs only threads");
    let ended = runtime.block_on(async { timeout(limit, test).await });
    runtime.shutdown_background();
    ended.expect("the test hung");
}

/// What `future` gives, or a failure that names what was waited for.
pub(crate) async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    timeout(limit, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

/// Asks every 20 ms until there is an answer; fails after `limit`.
pub(crate) async fn poll<T>(limit: Duration, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Says why part of a test does not run here.
pub(crate) fn notice(text: &str) {
    say(&format!("notice: {text}"));
}

/// A line for whoever reads why a test failed; shown only then, or with `--nocapture`.
#[expect(clippy::print_stderr, reason = "the output of a test is on stderr")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}
