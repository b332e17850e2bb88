//! Fuzzes [`targets::datagram`]: `cargo +nightly fuzz run datagram` in `agent/wire`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/corpus/targets.rs"]
#[expect(dead_code, reason = "each binary runs one of them")]
mod targets;

fuzz_target!(|bytes: &[u8]| targets::datagram(bytes));
