//! The agent as the plugin sees it: in this process over an in-memory pipe, and the real binary over real pipes.

#![expect(clippy::unwrap_used, reason = "support of tests: a failure is the test's")]

mod binary;
mod entrance;
mod forward;
mod grace;
mod lifecycle;
mod resume;
mod reverse;
mod support;
mod takeover;
mod udp;
