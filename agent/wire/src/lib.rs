//! Everything the plugin and the agent of `kubectl tunnel` must agree on.
//!
//! This crate owns the bytes between the two programs and nothing else: it knows no Kubernetes, no
//! command line, no sockets and no files, only `AsyncRead + AsyncWrite` and time as an argument.
//!
//! # Layers
//!
//! ```text
//!   relay      copies both ways, half-closes each side on its own             relay.rs
//!   stream     open header, reply, data under credit, explicit end            stream.rs, message.rs, window.rs
//!   session    one yamux connection: opens, accepts, permits                  session.rs
//!   link       frames with type, length, checksum and position; heartbeat     link.rs, frame.rs, link/io.rs
//!   hello      magic, version, session id, secret: first bytes both ways      hello.rs
//!   transport  any AsyncRead + AsyncWrite (in life: an exec WebSocket)        -
//! ```
//!
//! # Words
//!
//! | word | is |
//! |---|---|
//! | plugin, agent | the two programs |
//! | transport | one connected byte pipe between them |
//! | link | a reliable byte stream on top of transports: position, checksum, heartbeat |
//! | session | one agent, one link, one yamux connection |
//! | stream | one multiplexed two-way flow in a session |
//! | connection | one TCP connection at either edge |
//! | target / upstream | what the user named / what is dialled |
//!
//! # Bytes on a transport
//!
//! First a [`hello`] in each direction, then [`frame`]s until the transport ends. All integers are
//! big-endian. The payloads of the data frames, put together, are a yamux connection (the plugin is
//! its client side); each yamux stream carries [`message`]s.
//!
//! ```text
//!   plugin                                   agent
//!     | hello (session, secret)  ---------->  |  proves the secret
//!     | <----------  hello (verdict, position) |
//!     | probe, data, ping        ---------->  |
//!     | <----------  probe echo, data, pong    |
//!     | goodbye                  ---------->  |
//!     | <----------                   goodbye  |  the agent ends
//! ```
//!
//! # Limits
//!
//! | what | number |
//! |---|---|
//! | a frame, header included | 32 KiB ([`frame::MAX_FRAME`]) |
//! | a stream's data message | 16,380 bytes ([`message::MAX_DATA`]) |
//! | streams of a session, both directions together | 1,024 ([`session::MAX_STREAMS`]) |
//! | what a stream may send before the receiver grants more | 64 KiB ([`window::INITIAL_WINDOW`]) |
//! | received but not consumed, all streams | 96 MiB (1,024 x 64 KiB + [`window::GROWTH_POOL`]) |
//! | heartbeat, silence that ends a transport | 5 s, 15 s ([`link::HEARTBEAT`], [`link::DEAD_AFTER`]) |
//!
//! # Invariants
//!
//! - A byte is delivered once, in order, unaltered, or the stream fails. `Ok(0)` from a
//!   [`stream::Stream`] means that the peer finished; everything else is an error.
//! - A stream that is not read stops its own sender only.
//! - The link reads its transport whatever its own sending does, so that two ends which saturate both
//!   directions cannot wait for each other (a trap of yamux, see [`session`]).

#![deny(missing_docs)]

pub mod error;
pub mod frame;
pub mod hello;
pub mod identity;
pub mod link;
pub mod message;
pub mod probe;
pub mod relay;
pub mod session;
pub mod stream;
pub mod version;
pub mod window;

pub use error::{OpenError, Refusal, RefusalCode};
pub use message::Open;
pub use relay::relay;
pub use session::{Incoming, Session};
pub use stream::Stream;

/// Bytes as the fixed vectors of the tests spell them.
#[cfg(test)]
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
