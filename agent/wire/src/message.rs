//! What travels inside one stream: pure encoding and decoding.
//!
//! ```text
//!  0      1            4
//!  +------+------------+----------------------+
//!  | type | length u24 | payload, length bytes |
//!  +------+------------+----------------------+
//! ```
//!
//! | type | name | sent by | payload |
//! |---|---|---|---|
//! | 1 | open | opener, first | kind u8, then by kind (below) |
//! | 2 | seen | acceptor, at once | empty; the opener's mux may open further streams |
//! | 3 | opened | acceptor | empty, or the upstream's port u16 and address, 4 or 16 bytes |
//! | 4 | refused | acceptor, last | code u8, text |
//! | 5 | data | both | 1..=32,764 bytes, within what the receiver granted; of a UDP flow: [`crate::datagram`]s |
//! | 6 | grant | both | bytes u32 the other may send in addition |
//! | 7 | end | both | empty; no data follows in this direction |
//! | 8 | abort | both, last | text; both directions are void |
//!
//! | open kind | payload after the kind |
//! |---|---|
//! | 1 dial, 4 the same for UDP | port u16, patience in ms u16 (0: the agent's own), host as UTF-8, 1..=255 bytes |
//! | 2 listen, 5 the same for UDP | listener u16, port u16 |
//! | 3 accepted, 6 the same for UDP | listener u16, peer port u16, peer address, 4 or 16 bytes |
//!
//! A stream that ends without `end`, `refused` or `abort` was cut: yamux itself reports a reset and the
//! death of a connection as a clean end of file.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::{DecodeError, MAX_DETAIL, Refusal, RefusalCode, clip};

/// Bytes in front of each payload.
pub const HEADER: usize = 4;

/// Most bytes in one data message: with its header it fills one frame of yamux.
pub const MAX_DATA: usize = 32 * 1024 - HEADER;

/// Longest host name in an open, in bytes (RFC 1035 allows 253 characters).
pub const MAX_HOST: usize = 255;

/// What a stream's connection speaks at its edge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Bytes, in order.
    #[default]
    Tcp,
    /// Datagrams: the stream carries a flow of them, see [`crate::datagram`].
    Udp,
}

impl Protocol {
    /// Open kinds of UDP are those of TCP and so many.
    const UDP_KINDS: u8 = 3;

    /// The one that is called so, in lower case.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp]
            .into_iter()
            .find(|protocol| protocol.to_string() == word)
    }

    fn kind(self, tcp: u8) -> u8 {
        match self {
            Self::Tcp => tcp,
            Self::Udp => tcp + Self::UDP_KINDS,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port and an IPv4 or IPv6 address, in bytes.
const V4_ADDRESS: usize = 6;
const V6_ADDRESS: usize = 18;

/// What the opener wants from the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Open {
    /// Plugin to agent: dial this target and relay.
    Dial {
        /// What the target speaks.
        protocol: Protocol,
        /// A name or an IP address as the user gave it, without brackets; at most [`MAX_HOST`] bytes.
        host: String,
        /// The port.
        port: u16,
        /// How long resolving and dialling may take, in milliseconds; 0 leaves it to the agent, which never takes
        /// longer than its own limit.
        patience_ms: u16,
    },
    /// Plugin to agent: listen on this port of the pod until this stream ends.
    Listen {
        /// What callers speak.
        protocol: Protocol,
        /// The plugin's number for this listener.
        listener: u16,
        /// The port in the pod; 0 lets the system choose (for tests).
        port: u16,
    },
    /// Agent to plugin: a connection that a listener accepted, or a flow it saw the first datagram of.
    Accepted {
        /// What the caller speaks.
        protocol: Protocol,
        /// The listener's number.
        listener: u16,
        /// Who connected, as the pod saw it.
        peer: SocketAddr,
    },
}

/// One message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The first message.
    Open(Open),
    /// The open has arrived.
    Seen,
    /// The stream is connected to what was asked for; to which address, where one was chosen.
    Opened(Option<SocketAddr>),
    /// It is not, and why.
    Refused(Refusal),
    /// Bytes.
    Data(Bytes),
    /// The other end may send so many bytes more.
    Grant(u32),
    /// This direction has ended.
    End,
    /// Both directions are void, and why.
    Abort(String),
}

impl Message {
    /// Appends the encoded message.
    ///
    /// # Panics
    /// When data or host are longer than their limits: the caller cuts or refuses them.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Open(open) => encode_open(open, out),
            Self::Seen => put_header(2, 0, out),
            Self::Opened(None) => put_header(3, 0, out),
            Self::Opened(Some(upstream)) => {
                put_header(3, address_length(*upstream), out);
                put_address(*upstream, out);
            }
            Self::Refused(refusal) => {
                let detail = clip(&refusal.detail);
                put_header(4, 1 + detail.len(), out);
                out.put_u8(refusal.code as u8);
                out.put_slice(detail.as_bytes());
            }
            Self::Data(bytes) => encode_data(bytes, out),
            Self::Grant(bytes) => {
                put_header(6, 4, out);
                out.put_u32(*bytes);
            }
            Self::End => put_header(7, 0, out),
            Self::Abort(detail) => {
                let detail = clip(detail);
                put_header(8, detail.len(), out);
                out.put_slice(detail.as_bytes());
            }
        }
    }
}

/// Appends a data message without needing the payload as `Bytes`: the hot path of a stream.
///
/// # Panics
/// When `bytes` is empty or longer than [`MAX_DATA`].
pub fn encode_data(bytes: &[u8], out: &mut BytesMut) {
    assert!(
        (1..=MAX_DATA).contains(&bytes.len()),
        "a data message holds 1 to {MAX_DATA} bytes"
    );
    put_header(5, bytes.len(), out);
    out.put_slice(bytes);
}

fn encode_open(open: &Open, out: &mut BytesMut) {
    match open {
        Open::Dial {
            protocol,
            host,
            port,
            patience_ms,
        } => {
            assert!(
                (1..=MAX_HOST).contains(&host.len()),
                "a host has 1 to {MAX_HOST} bytes"
            );
            put_header(1, 5 + host.len(), out);
            out.put_u8(protocol.kind(1));
            out.put_u16(*port);
            out.put_u16(*patience_ms);
            out.put_slice(host.as_bytes());
        }
        Open::Listen {
            protocol,
            listener,
            port,
        } => {
            put_header(1, 5, out);
            out.put_u8(protocol.kind(2));
            out.put_u16(*listener);
            out.put_u16(*port);
        }
        Open::Accepted {
            protocol,
            listener,
            peer,
        } => {
            put_header(1, 3 + address_length(*peer), out);
            out.put_u8(protocol.kind(3));
            out.put_u16(*listener);
            put_address(*peer, out);
        }
    }
}

fn address_length(address: SocketAddr) -> usize {
    if address.is_ipv4() { V4_ADDRESS } else { V6_ADDRESS }
}

fn put_address(address: SocketAddr, out: &mut BytesMut) {
    out.put_u16(address.port());
    match address.ip() {
        IpAddr::V4(ip) => out.put_slice(&ip.octets()),
        IpAddr::V6(ip) => out.put_slice(&ip.octets()),
    }
}

fn get_address(payload: &mut Bytes) -> Result<SocketAddr, DecodeError> {
    let length = payload.len();
    if length != V4_ADDRESS && length != V6_ADDRESS {
        return Err(DecodeError::BadField("address"));
    }
    let port = payload.get_u16();
    let ip = if length == V4_ADDRESS {
        IpAddr::from(payload.get_u32().to_be_bytes())
    } else {
        IpAddr::from(payload.get_u128().to_be_bytes())
    };
    Ok(SocketAddr::new(ip, port))
}

fn put_header(kind: u8, length: usize, out: &mut BytesMut) {
    let mut header = u32::try_from(length).expect("messages are short").to_be_bytes();
    header[0] = kind;
    out.reserve(HEADER + length);
    out.put_slice(&header);
}

/// Cuts a stream's bytes, which arrive in any pieces, into messages. Data is not copied when a piece
/// holds a whole message.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The piece being read.
    piece: Bytes,
    /// The beginning of a message whose end has not arrived.
    partial: BytesMut,
}

impl Decoder {
    /// Gives the next piece. The one before must have been used up: [`Decoder::decode`] returned `None`.
    pub fn push(&mut self, piece: Bytes) {
        debug_assert!(self.piece.is_empty(), "the piece before is used up");
        self.piece = piece;
    }

    /// The next whole message, or `None` when another piece is needed.
    ///
    /// # Errors
    /// The bytes are no messages; nothing behind them can be trusted.
    pub fn decode(&mut self) -> Result<Option<Message>, DecodeError> {
        if self.partial.is_empty() {
            if let Some((kind, length)) = header(&self.piece)?
                && self.piece.len() >= HEADER + length
            {
                self.piece.advance(HEADER);
                return decode(kind, self.piece.split_to(length)).map(Some);
            }
            if self.piece.is_empty() {
                return Ok(None);
            }
        }
        self.fill(HEADER);
        let Some((kind, length)) = header(&self.partial)? else {
            return Ok(None);
        };
        self.fill(HEADER + length);
        if self.partial.len() < HEADER + length {
            return Ok(None);
        }
        let mut whole = std::mem::take(&mut self.partial).freeze();
        whole.advance(HEADER);
        decode(kind, whole).map(Some)
    }

    fn fill(&mut self, length: usize) {
        let missing = length.saturating_sub(self.partial.len()).min(self.piece.len());
        self.partial.extend_from_slice(&self.piece.split_to(missing));
    }
}

/// Type and length, once the header is whole; the length is checked before it is waited for.
fn header(bytes: &[u8]) -> Result<Option<(u8, usize)>, DecodeError> {
    let Some([kind, rest @ ..]) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes([0, rest[0], rest[1], rest[2]])).unwrap_or(usize::MAX);
    let fits = match *kind {
        1 => (5..=5 + MAX_HOST).contains(&length),
        2 | 7 => length == 0,
        3 => [0, V4_ADDRESS, V6_ADDRESS].contains(&length),
        4 => (1..=1 + MAX_DETAIL).contains(&length),
        5 => (1..=MAX_DATA).contains(&length),
        6 => length == 4,
        8 => length <= MAX_DETAIL,
        unknown => return Err(DecodeError::UnknownType(unknown)),
    };
    if fits {
        Ok(Some((*kind, length)))
    } else {
        Err(DecodeError::BadLength { kind: *kind, length })
    }
}

fn decode(kind: u8, mut payload: Bytes) -> Result<Message, DecodeError> {
    Ok(match kind {
        1 => Message::Open(decode_open(payload)?),
        2 => Message::Seen,
        3 if payload.is_empty() => Message::Opened(None),
        3 => Message::Opened(Some(get_address(&mut payload)?)),
        4 => {
            let code = RefusalCode::from_u8(payload.get_u8());
            Message::Refused(Refusal {
                code,
                detail: text(&payload)?,
            })
        }
        5 => Message::Data(payload),
        6 => Message::Grant(payload.get_u32()),
        7 => Message::End,
        _ => Message::Abort(text(&payload)?),
    })
}

fn decode_open(mut payload: Bytes) -> Result<Open, DecodeError> {
    let (kind, protocol) = match payload.get_u8() {
        kind @ ..=Protocol::UDP_KINDS => (kind, Protocol::Tcp),
        kind => (kind - Protocol::UDP_KINDS, Protocol::Udp),
    };
    match (kind, payload.len()) {
        (1, 5..) => {
            let port = payload.get_u16();
            let patience_ms = payload.get_u16();
            Ok(Open::Dial {
                protocol,
                host: text(&payload)?,
                port,
                patience_ms,
            })
        }
        (2, 4) => Ok(Open::Listen {
            protocol,
            listener: payload.get_u16(),
            port: payload.get_u16(),
        }),
        (3, 2..) => Ok(Open::Accepted {
            protocol,
            listener: payload.get_u16(),
            peer: get_address(&mut payload)?,
        }),
        _ => Err(DecodeError::BadField("open")),
    }
}

fn text(bytes: &[u8]) -> Result<String, DecodeError> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| DecodeError::BadField("text"))
}

#[cfg(test)]
mod tests;
