//! Random schedules of faults over links and sessions: every byte once and in order, no hang, memory bounded.
//!
//! Each schedule is made of its seed alone. A failure names it: `FAULT_SEED=17 cargo test ...` plays that one
//! again, `FAULT_SEED=20000..30000` plays others than the usual ones.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

mod io;
mod link;
mod seed;
mod session;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Plays `seeds`, or what `FAULT_SEED` says, on two threads.
fn play(seeds: Range<u64>, schedule: fn(u64)) {
    let seeds = match std::env::var("FAULT_SEED") {
        Ok(text) => chosen(&text),
        Err(_) => seeds,
    };
    std::thread::scope(|scope| {
        for parity in 0..2 {
            let seeds = seeds.clone();
            scope.spawn(move || {
                for seed in seeds.filter(|seed| seed % 2 == parity) {
                    let played = catch_unwind(AssertUnwindSafe(|| schedule(seed)));
                    assert!(played.is_ok(), "play this schedule again with FAULT_SEED={seed}");
                }
            });
        }
    });
}

fn chosen(text: &str) -> Range<u64> {
    let (from, to) = text.split_once("..").unwrap_or((text, ""));
    let from = from.parse().unwrap();
    from..to.parse().unwrap_or(from + 1)
}

#[test]
fn ten_thousand_schedules_on_the_link() {
    play(0..10_000, link::schedule);
}

#[test]
fn five_hundred_schedules_through_yamux() {
    play(0..500, session::schedule);
}
