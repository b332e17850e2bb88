//! The real plugin and the real agent against the playground: hermetic, on this machine alone.
//!
//! It proves that the parts are wired together, from the command line to the objects that are gone in the end.
//! How Kubernetes behaves is for the cluster tests.
#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod datagrams;
mod doctor;
mod expose;
mod forward;
mod into_the_pod;
mod life;
mod on_demand;
mod seen;
mod succession;
mod support;
mod survive;
mod traffic;
mod transport;
mod version;
mod words;
