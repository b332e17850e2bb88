//! The plugin against a real cluster, as a user with `ClusterRole` `edit` in a fresh namespace.
//!
//! One module for each idea of what a session promises; `make e2e` sets the environment (`harness/settings.rs`).
//! What must not share the machine or breaks the cluster on purpose is in `serial.rs`.

mod cleanup;
mod completion;
mod datagrams;
mod doctor;
mod end;
mod entrance;
mod expose;
mod expose_udp;
mod forward;
#[allow(dead_code, reason = "the other test binary uses the rest")]
mod harness;
mod interrupt;
mod kill;
mod many;
mod policy;
mod reach;
mod refuse;
mod seen;
mod start;
mod stream;
mod survive;
mod transport;
mod upstream;
