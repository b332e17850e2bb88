//! Everything the plugin and the agent of `kubectl tunnel` must agree on.
//!
//! This crate owns the bytes between the two programs and nothing else: it knows no Kubernetes, no
//! command line, no sockets and no files, only `AsyncRead + AsyncWrite` and time as an argument.
//!
//! # Layers
//!
//! ```text
//!   relay      copies both ways, half-closes each side on its own             relay.rs
//!   flow       datagrams both ways, bounded queue, idle end                  flow.rs, datagram.rs
//!   stream     open header, reply, data under credit, explicit end            stream.rs, message.rs, window.rs
//!   session    one yamux connection: opens, accepts, permits                  session.rs
//!   link       keeps, acknowledges, repeats; heartbeat; outlives transports  link.rs, link/*.rs, frame.rs
//!   hello      magic, version, session, secret, link, position: first bytes   hello.rs, identity.rs
//!   entrance   proofs before the hello, where no exec leads                   entrance.rs
//!   transport  any AsyncRead + AsyncWrite (in life: a WebSocket, by exec or port-forward)   -
//! ```
//!
//! # Words
//!
//! | word | is |
//! |---|---|
//! | plugin, agent | the two programs |
//! | transport | one connected byte pipe between them |
//! | link | a reliable byte stream that outlives transports: positions, acknowledgements, replay, heartbeat |
//! | position | bytes of one direction of the link before this one, counted from the start of the session |
//! | attach, resume | a link gets another transport, and repeats on it what the other end lacks |
//! | take over, evict | another plugin proves the secret with a link of its own; the one before is told so |
//! | session | one agent, one link, one yamux connection |
//! | stream | one multiplexed two-way flow in a session |
//! | connection | one TCP connection at either edge |
//! | flow | the UDP datagrams between one peer and one target, carried by one stream |
//! | target / upstream | what the user named / what is dialled |
//!
//! # Bytes on a transport
//!
//! First a [`hello`] in each direction, then [`frame`]s until the transport ends. All integers are
//! big-endian. The payloads of the data frames, put together, are a yamux connection (the plugin is
//! its client side); each yamux stream carries [`message`]s.
//!
//! ```text
//!   plugin                                               agent
//!     | hello 1 (secret, link, received 0)    ------------->  |  proves the secret
//!     |  <-------------     hello (accepted, received 0)      |
//!     | probe, ping, data 0..900              ------------->  |
//!     |  <-------------     probe echo, pong, ack 900, data   |
//!     | data 900..2000                        ------> x       |  the transport is lost; streams stay
//!     |                                                       |
//!     | hello 2 (same link, received 70)      ------------->  |  gives up transport 1, if it still had it
//!     |  <-------------     hello (accepted, received 900)    |
//!     | ack 70, data 900..2000                ------------->  |
//!     |  <-------------     ack 2000, data 70..               |
//!     |                                                       |
//!     | (a flipped bit)                       ------------->  |  bad checksum: nothing of the frame is taken
//!     |  <-------------     fault (altered, 2000)             |  gives the transport up; hello 3 resumes
//!     |                                                       |
//!     | goodbye 5000                          ------------->  |  has every byte of the plugin's
//!     |  <-------------     data, goodbye 8000                |  ends
//!
//!   another plugin                                       agent
//!     | hello 1 (secret, another link)        ------------->  |  to the plugin before: evicted
//!     |  <-------------     hello (accepted, received 0)      |  a new session, its streams are new
//! ```
//!
//! # Limits
//!
//! | what | number |
//! |---|---|
//! | a frame, header included | 32 KiB ([`frame::MAX_FRAME`]) |
//! | a stream's data message | 32,764 bytes ([`message::MAX_DATA`]) |
//! | kept for another transport, each direction | 16 MiB ([`link::REPLAY_LIMIT`]), then the link takes no more |
//! | in flight, each direction | rate x (least round trip + 3 ms or an eighth; 15 ms beside bulk alone), 64 KiB at least (`link/flight.rs`) |
//! | writes to a transport in a crowd (8 streams begin within 20 ms beside 4 others) | one a millisecond (`link/crowd.rs`) |
//! | acknowledged at once, at the latest | every 128 KiB ([`link::ACK_EVERY`]), after 40 ms ([`link::ACK_DELAY`]) |
//! | streams of a session, both directions together | 1,024 ([`session::MAX_STREAMS`]) |
//! | what a stream may send before the receiver grants more | 64 KiB ([`window::INITIAL_WINDOW`]) |
//! | received but not consumed, all streams | 96 MiB (1,024 x 64 KiB + [`window::GROWTH_POOL`]) |
//! | a datagram | 65,507 bytes ([`datagram::MAX_DATAGRAM`]) |
//! | datagrams that wait for their stream, one flow, all flows of one owner | 1 MiB, 32 MiB ([`datagram::QUEUE_LIMIT`], [`datagram::BUDGET`]) |
//! | heartbeat, silence that ends a transport | 5 s, 15 s ([`link::HEARTBEAT`], [`link::DEAD_AFTER`]) |
//! | silence that makes one suspect | 2 s, or four round trips ([`link::SUSPECT_AFTER`]) |
//! | the hello of either end | 5 s ([`hello::HELLO_TIMEOUT`]), at most 117 bytes |
//! | the proofs before it at the entrance, the echoes between | 5 s, 8 of 80 KiB ([`entrance::MAX_ECHOES`]) |
//!
//! # Invariants
//!
//! - A byte is delivered once, in order, unaltered, or the stream fails. `Ok(0)` from a
//!   [`stream::Stream`] means that the peer finished; everything else is an error.
//! - Streams and sessions survive transports: between a transport's end and the next one nothing fails and
//!   nothing is lost, writers wait. Only [`link::LinkHandle::close`] ends a session, and the programs decide when.
//! - What is lost without a trace at the end of a transport's bytes is noticed within a heartbeat.
//! - A link takes bytes of one transport at a time; what is behind a fault is never taken.
//! - A stream that is not read stops its own sender only.
//! - A datagram is delivered whole and unaltered, or not at all; what is dropped is counted.
//! - The link reads its transport whatever its own sending does, so that two ends which saturate both
//!   directions cannot wait for each other (a trap of yamux, see [`session`]).

#![deny(missing_docs)]

pub mod budget;
pub mod datagram;
pub mod entrance;
pub mod error;
pub mod flow;
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
pub use message::{Open, Protocol};
pub use relay::relay;
pub use session::{Incoming, Session};
pub use stream::{Answer, Stream};

/// Bytes as the fixed vectors of the tests spell them.
#[cfg(test)]
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
