//! A laptop that sleeps: two clocks, of which one stands still.

use std::time::SystemTime;

use super::*;

/// A clock that the test sets.
#[derive(Clone)]
struct Bedside(Arc<Mutex<Duration>>);

impl Bedside {
    fn clock(&self) -> WallClock {
        let (slept, start) = (Arc::clone(&self.0), Instant::now());
        WallClock::new(move || SystemTime::UNIX_EPOCH + start.elapsed() + *slept.lock().unwrap())
    }

    fn sleep(&self, time: Duration) {
        *self.0.lock().unwrap() += time;
    }
}

const NIGHT: Duration = Duration::from_secs(8 * 3600);

#[tokio::test(start_paused = true)]
async fn a_laptop_that_wakes_up_connects_at_once() {
    let bedside = Bedside(Arc::default());
    let stage = Stage::start(Settings {
        clock: bedside.clock(),
        ..settings()
    })
    .await;
    let mut stream = stage.open().await;
    stage.line.freeze();
    let asleep = Instant::now();
    bedside.sleep(NIGHT);
    exchange(&mut stream, b"good morning").await;
    assert!(asleep.elapsed() <= Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_did_not_outlive_the_night_is_known_to_be_long_unheard() {
    let bedside = Bedside(Arc::default());
    let mut stage = Stage::start(Settings {
        clock: bedside.clock(),
        reconnect_max: Duration::from_secs(10),
        ..settings()
    })
    .await;
    stage.line.freeze();
    bedside.sleep(NIGHT);
    // Without a network for a while, and then without an agent; neither is the end of the patience.
    stage.line.next_ones(&[Fate::Refused, Fate::Refused]);
    stage.line.later_ones(Fate::Gone);
    assert!(matches!(stage.running.over().await, Over::Transport(_)));
    assert!(stage.running.unheard() >= NIGHT);
}
