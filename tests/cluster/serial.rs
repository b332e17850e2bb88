//! Cluster tests that need the machine to themselves or break the cluster on purpose: run with one test thread.

mod bulk;
mod crowd;
mod datagram_loss;
mod faults;
mod forward_resets;
#[allow(dead_code, reason = "the other test binary uses the rest")]
mod harness;
mod saturation;
mod speed;
