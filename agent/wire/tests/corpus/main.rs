//! Replays the committed corpus of the fuzz targets, whole, cut and mutated, without libFuzzer.
//!
//! The corpus lies in `fuzz/corpus/<target>/`; what a fuzzer finds is added there.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

mod targets;

use std::path::Path;

/// Mutations of each file.
const MUTATIONS: u64 = 150;

fn replay(target: &str, run: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no corpus for {target}");
    run(&[]);
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        run(&bytes);
        for cut in 0..bytes.len().min(200) {
            run(&bytes[..cut]);
        }
        for seed in 0..MUTATIONS {
            run(&mutated(&bytes, seed));
        }
    }
}

/// A few bytes changed, inserted or removed, the same ones for the same seed.
fn mutated(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = |limit: usize| {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        usize::try_from(state >> 33).unwrap() % limit.max(1)
    };
    let mut out = bytes.to_vec();
    for _ in 0..=next(4) {
        let at = next(out.len());
        let value = [0, 1, 0x7f, 0xff, next(256).to_be_bytes()[7]][next(5)];
        match next(4) {
            0 => out.insert(at, value),
            1 if !out.is_empty() => drop(out.remove(at)),
            2 => out.extend_from_slice(bytes),
            _ if !out.is_empty() => out[at] = value,
            _ => {}
        }
    }
    out
}

#[test]
fn datagrams() {
    replay("datagram", targets::datagram);
}

#[test]
fn frames() {
    replay("frame", targets::frame);
}

#[test]
fn hellos() {
    replay("hello", targets::hello);
}

#[test]
fn messages() {
    replay("message", targets::message);
}

#[test]
fn links() {
    replay("link", targets::link);
}
