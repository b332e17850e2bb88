//! The local port over real loopback connections: raw bytes in, raw bytes out, no cluster.

#![expect(clippy::unwrap_used, reason = "in a test a failed step is the finding")]

mod access;
mod associate;
mod auth;
mod browser;
mod cluster;
mod forward;
mod framing;
mod h2c;
mod life;
mod session;
mod socks4;
mod support;
mod tls;
mod tunnel;
#[cfg(unix)]
mod unix;
