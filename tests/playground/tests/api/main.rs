//! The playground against a plain kube client: what the plugin relies on, played as measured.
//!
//! One program for all, so that it links once. Each test has a playground of its own.
#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod exec;
mod faults;
mod jobs;
mod port_forward;
mod requests;
mod services;
mod support;
