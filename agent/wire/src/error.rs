//! Why a stream could not be opened, in a form that travels: a code and a short text.
//!
//! Codes are for programs (status lines, SOCKS replies), texts for people. Failures of one layer live
//! beside that layer; this file holds only what crosses the wire.

use std::fmt;
use std::io;

/// Longest text a refusal or an abort carries, in bytes; longer ones are cut.
pub const MAX_DETAIL: usize = 512;

/// Who failed and how, as one byte on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RefusalCode {
    /// The name does not exist where it was looked up.
    NoSuchHost = 1,
    /// The name could not be looked up at this time (the name servers do not answer).
    ResolveFailed = 2,
    /// The upstream refused the connection.
    ConnectionRefused = 3,
    /// The upstream did not answer in time.
    TimedOut = 4,
    /// No route to the host or network.
    Unreachable = 5,
    /// The address may not be dialled (loopback, unspecified, link-local).
    NotAllowed = 6,
    /// The session carries as many streams as it may.
    TooManyStreams = 7,
    /// Out of file descriptors or memory.
    ResourceExhausted = 8,
    /// The port to listen on is taken.
    AddressInUse = 9,
    /// The other end is about to leave.
    ShuttingDown = 10,
    /// The other end does not know this kind of stream.
    Unsupported = 11,
    /// Anything else; the text says what.
    Other = 12,
}

impl RefusalCode {
    /// Decodes the byte of the wire; a code from a newer release reads as [`RefusalCode::Other`].
    #[must_use]
    pub fn from_u8(code: u8) -> Self {
        match code {
            1 => Self::NoSuchHost,
            2 => Self::ResolveFailed,
            3 => Self::ConnectionRefused,
            4 => Self::TimedOut,
            5 => Self::Unreachable,
            6 => Self::NotAllowed,
            7 => Self::TooManyStreams,
            8 => Self::ResourceExhausted,
            9 => Self::AddressInUse,
            10 => Self::ShuttingDown,
            11 => Self::Unsupported,
            _ => Self::Other,
        }
    }
}

/// The other end's answer that it will not open the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Who failed and how.
    pub code: RefusalCode,
    /// One lower-case fragment for people, such as `dial 10.0.0.7:80: connection refused`.
    pub detail: String,
}

impl Refusal {
    /// A refusal with that code and text.
    pub fn new(code: RefusalCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Refusal {}

/// Why a stream did not open, seen from the end that wanted it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// The other end said no.
    #[error("{0}")]
    Refused(Refusal),
    /// This end carries as many streams as it may; nothing was sent.
    #[error("the session already carries {limit} streams")]
    TooManyStreams {
        /// The limit that was reached.
        limit: usize,
    },
    /// The session ended before the other end answered.
    #[error("the session ended")]
    SessionClosed,
    /// The other end gave the stream up without an answer.
    #[error("the stream was given up: {detail}")]
    Aborted {
        /// The other end's words.
        detail: String,
    },
    /// The other end answered something that is no answer.
    #[error("the answer to an open was not understood: {0}")]
    Protocol(&'static str),
}

impl OpenError {
    /// The code to translate into a status line or a SOCKS reply.
    #[must_use]
    pub fn code(&self) -> RefusalCode {
        match self {
            Self::Refused(refusal) => refusal.code,
            Self::TooManyStreams { .. } => RefusalCode::TooManyStreams,
            Self::SessionClosed => RefusalCode::ShuttingDown,
            Self::Aborted { .. } | Self::Protocol(_) => RefusalCode::Other,
        }
    }

    /// The other end's refusal, when that is what happened.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::TooManyStreams { .. } | Self::SessionClosed | Self::Aborted { .. } | Self::Protocol(_) => {
                None
            }
        }
    }

    /// The `OpenError` inside an I/O error of a [`crate::Stream`], if that is what it carries.
    ///
    /// Data may be written and read before the other end answered; a refusal then shows as an I/O error.
    #[must_use]
    pub fn from_io(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref())
    }
}

/// Bytes that are not what this crate's encoders write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A type byte this version does not know.
    #[error("unknown type {0}")]
    UnknownType(u8),
    /// A length outside of what the type allows.
    #[error("length {length} is not valid for type {kind}")]
    BadLength {
        /// The type byte.
        kind: u8,
        /// The length field.
        length: usize,
    },
    /// The checksum does not fit the bytes.
    #[error("bad checksum")]
    BadChecksum,
    /// A field has a value that no encoder writes.
    #[error("bad {0}")]
    BadField(&'static str),
}

/// Cuts a text at [`MAX_DETAIL`] bytes, on a character boundary.
pub(crate) fn clip(text: &str) -> &str {
    let mut end = text.len().min(MAX_DETAIL);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        for byte in 1..=12 {
            assert_eq!(RefusalCode::from_u8(byte) as u8, byte);
        }
        assert_eq!(RefusalCode::from_u8(200), RefusalCode::Other);
    }

    #[test]
    fn long_texts_are_cut_on_a_character() {
        let text = "ä".repeat(400);
        assert_eq!(clip(&text).len(), 512);
        let odd = format!("x{text}");
        assert_eq!(clip(&odd).len(), 511);
    }
}
