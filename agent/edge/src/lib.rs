//! Sockets as both programs of `kubectl tunnel` use them at their edges.
//!
//! Owns UDP sockets as ends of flows ([`udp`]) and what a failed socket call means ([`socket_error`]). The streams in
//! between are `tunnel-wire`'s, which knows no sockets; which sockets there are is each program's business. It is
//! part of the agent, so what it depends on is weighed in KB.

#![deny(missing_docs)]

pub mod socket_error;
pub mod udp;
