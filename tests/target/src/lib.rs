//! What the target program and the tests that reach it must agree on: its ports and its bytes.
//!
//! The program itself is `main.rs`; the tests run it in a pod of the cluster.

use std::time::Duration;

pub mod datagram;
pub mod exchange;
pub mod pattern;
pub mod udp;

/// HTTP/1.1: `GET /bytes/N`, `GET /sha256/N`, `PUT /sha256`, `GET /end-first`, `GET /exchange/NUMBER` (how it goes),
/// `GET /call/NUMBER/HOST/PORT` (begins an exchange with a near end there); everything else is answered by its own head.
pub const HTTP: u16 = 8080;
/// The same on a second port.
pub const HTTP_SECOND: u16 = 8081;
/// Sends back what it reads, and its end. By UDP as well: each datagram to its sender.
pub const ECHO: u16 = 7007;
/// Reads to the end, then sends [`HALF_CLOSE_REPLY`] bytes of the pattern.
pub const HALF_CLOSE: u16 = 7008;
/// Accepts and never reads.
pub const STALL: u16 = 7009;
/// Sends the pattern until the connection ends.
pub const SOURCE: u16 = 7010;
/// Reads the pattern to the end, then answers `COUNT ok` or `COUNT wrong at OFFSET`, and a line feed.
pub const SINK: u16 = 7011;
/// Says `over` and ends its direction, then reads the pattern to the end; `GET /end-first` tells how that went,
/// in the words of [`SINK`], or nothing before.
pub const END_FIRST: u16 = 7012;
/// The far end of an exchange, see [`exchange`].
pub const EXCHANGE: u16 = 7013;
/// As [`HTTP`], on the pod's loopback only.
pub const LOOPBACK: u16 = 7014;
/// Sends one block again and again until the connection ends: as fast as it can, unlike [`SOURCE`].
pub const BLOCKS: u16 = 7020;
/// Reads anything, and tells the total, 8 bytes big-endian, after each [`COUNT_EVERY`] bytes.
pub const COUNT: u16 = 7021;
/// Sends the first [`REPLY_ONCE_LENGTH`] bytes back and is the first to close.
pub const REPLY_ONCE: u16 = 7022;
/// Nobody listens here.
pub const CLOSED: u16 = 7999;

/// Bytes that [`HALF_CLOSE`] answers with.
pub const HALF_CLOSE_REPLY: u64 = 1 << 20;
/// Bytes between two totals of [`COUNT`].
pub const COUNT_EVERY: u64 = 256 << 10;
/// Bytes of a request to [`REPLY_ONCE`].
pub const REPLY_ONCE_LENGTH: usize = 64;
/// How long one connection of `call` may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);
