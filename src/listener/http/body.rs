//! Where a message body ends: how many of the bytes at hand belong to it.
//!
//! Nothing is decoded or changed; chunk sizes, extensions and trailers are only followed. Bytes in, a count
//! out, no I/O: the result does not depend on how the bytes were split. Used for requests and responses.
//!
//! ```text
//! Size -> Blank -> Extension -> SizeEnd -> Data -> DataReturn -> DataEnd -> Size
//!                                   \ (size 0)
//!                                    -> TrailerStart -> Trailer -> TrailerEnd -> TrailerStart
//!                                           \-> LastEnd -> Done
//! ```

/// Longest chunk-size line, in bytes: extensions are rare and short; without a bound they are a way to
/// occupy us without ever sending data.
const MAX_SIZE_LINE: usize = 4096;

/// Longest trailer section, in bytes.
const MAX_TRAILERS: usize = 64 * 1024;

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body.
    Empty,
    /// That many bytes, at least one.
    Length(u64),
    /// Chunks, the last of size 0, then trailers.
    Chunked,
    /// All until the end of the connection.
    UntilEnd,
}

impl Framing {
    /// A body of a known length.
    pub(crate) fn length(length: u64) -> Self {
        if length == 0 {
            Self::Empty
        } else {
            Self::Length(length)
        }
    }
}

/// A chunked body that breaks the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// A chunk size that is no hexadecimal number, or too large.
    #[error("a chunk size is not a number")]
    Size,
    /// Something else where a line must end with CR LF.
    #[error("a line of the chunked body does not end with CR LF")]
    LineEnd,
    /// A control character in an extension or a trailer.
    #[error("a line of the chunked body holds a control character")]
    Control,
    /// A line or the trailers are longer than anybody needs.
    #[error("a chunk extension or the trailers are too long")]
    TooLong,
}

/// Follows one body to its end.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// That many bytes are to come.
    Length(u64),
    /// All bytes belong to the body.
    UntilEnd,
    /// In the digits of a chunk size; `digits` were read.
    Size { size: u64, digits: usize },
    /// In the blanks behind a size.
    Blank { size: u64, line: usize },
    /// Behind the semicolon of a size.
    Extension { size: u64, line: usize },
    /// The carriage return of a size line was read.
    SizeEnd { size: u64 },
    /// That many bytes of the chunk are to come.
    Data(u64),
    /// The chunk's data is complete.
    DataReturn,
    /// The carriage return behind the data was read.
    DataEnd,
    /// At the start of a trailer line; `total` bytes of trailers were read.
    TrailerStart { total: usize },
    /// In a trailer line.
    Trailer { total: usize },
    /// The carriage return of a trailer line was read.
    TrailerEnd { total: usize },
    /// The carriage return of the last, empty line was read.
    LastEnd,
    /// The body is complete.
    Done,
}

impl Body {
    /// A body none of whose bytes was seen.
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { size: 0, digits: 0 },
            Framing::UntilEnd => State::UntilEnd,
        };
        Self { state }
    }

    /// Whether the whole body was seen.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the end of the connection is a proper end of the body here.
    pub(crate) fn may_end(&self) -> bool {
        matches!(self.state, State::Done | State::UntilEnd)
    }

    /// How many bytes at the start of `input` belong to the body: all of them while it goes on.
    pub(crate) fn take(&mut self, input: &[u8]) -> Result<usize, BodyError> {
        let mut at = 0;
        while at < input.len() {
            at += match &mut self.state {
                State::Done => break,
                State::UntilEnd => return Ok(input.len()),
                State::Length(left) | State::Data(left) => {
                    let taken = input.len() - at;
                    let taken = usize::try_from(*left).map_or(taken, |left| left.min(taken));
                    *left -= taken as u64;
                    taken
                }
                State::Size { .. }
                | State::Blank { .. }
                | State::Extension { .. }
                | State::SizeEnd { .. }
                | State::DataReturn
                | State::DataEnd
                | State::TrailerStart { .. }
                | State::Trailer { .. }
                | State::TrailerEnd { .. }
                | State::LastEnd => {
                    self.state = self.state.after(input[at])?;
                    1
                }
            };
            if self.state == State::Length(0) {
                self.state = State::Done;
            } else if self.state == State::Data(0) {
                self.state = State::DataReturn;
            }
        }
        Ok(at)
    }
}

impl State {
    /// The state behind one byte of a size line, a line end or a trailer.
    fn after(self, byte: u8) -> Result<Self, BodyError> {
        match self {
            Self::Size { size, digits } => match (byte, char::from(byte).to_digit(16)) {
                // 15 digits stay below 2^60.
                (_, Some(digit)) if digits < 15 => Ok(Self::Size {
                    size: size * 16 + u64::from(digit),
                    digits: digits + 1,
                }),
                _ if digits == 0 => Err(BodyError::Size),
                (b' ' | b'\t', _) => Ok(Self::Blank { size, line: 0 }),
                (b';', _) => Ok(Self::Extension { size, line: 0 }),
                (b'\r', _) => Ok(Self::SizeEnd { size }),
                (b'\n', _) => Err(BodyError::LineEnd),
                _ => Err(BodyError::Size),
            },
            Self::Blank {
                line: MAX_SIZE_LINE, ..
            }
            | Self::Extension {
                line: MAX_SIZE_LINE, ..
            } => Err(BodyError::TooLong),
            Self::Blank { size, line } => match byte {
                b' ' | b'\t' => Ok(Self::Blank { size, line: line + 1 }),
                b';' => Ok(Self::Extension { size, line }),
                b'\r' => Ok(Self::SizeEnd { size }),
                b'\n' => Err(BodyError::LineEnd),
                _ => Err(BodyError::Size),
            },
            Self::Extension { size, line } => match byte {
                b'\r' => Ok(Self::SizeEnd { size }),
                byte => text(byte).map(|()| Self::Extension { size, line: line + 1 }),
            },
            Self::SizeEnd { size: 0 } => line_feed(byte, Self::TrailerStart { total: 0 }),
            Self::SizeEnd { size } => line_feed(byte, Self::Data(size)),
            Self::DataReturn if byte == b'\r' => Ok(Self::DataEnd),
            Self::DataReturn => Err(BodyError::LineEnd),
            Self::DataEnd => line_feed(byte, Self::Size { size: 0, digits: 0 }),
            Self::TrailerStart { total } | Self::Trailer { total } if total >= MAX_TRAILERS => {
                Err(BodyError::TooLong)
            }
            Self::TrailerStart { total } => match byte {
                b'\r' => Ok(Self::LastEnd),
                // A folded line could hide the end from one of two programs.
                b' ' | b'\t' => Err(BodyError::LineEnd),
                byte => text(byte).map(|()| Self::Trailer { total: total + 1 }),
            },
            Self::Trailer { total } => match byte {
                b'\r' => Ok(Self::TrailerEnd { total: total + 1 }),
                byte => text(byte).map(|()| Self::Trailer { total: total + 1 }),
            },
            Self::TrailerEnd { total } => line_feed(byte, Self::TrailerStart { total }),
            Self::LastEnd => line_feed(byte, Self::Done),
            Self::Length(_) | Self::UntilEnd | Self::Data(_) | Self::Done => Ok(self),
        }
    }
}

fn line_feed(byte: u8, next: State) -> Result<State, BodyError> {
    if byte == b'\n' {
        Ok(next)
    } else {
        Err(BodyError::LineEnd)
    }
}

fn text(byte: u8) -> Result<(), BodyError> {
    match byte {
        b'\n' => Err(BodyError::LineEnd),
        b'\t' => Ok(()),
        0..=0x1f | 0x7f => Err(BodyError::Control),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHUNKS: &str = "5;ext=\"a b\";x\r\nhello\r\n00a \t\r\n0123456789\r\n0;last\r\nA: b\r\nC:\r\n\r\n";

    fn take(framing: Framing, input: &[u8]) -> Result<(usize, bool), BodyError> {
        let mut body = Body::new(framing);
        let taken = body.take(input)?;
        Ok((taken, body.is_done()))
    }

    #[test]
    fn ends_where_the_framing_says() {
        assert_eq!(take(Framing::Empty, b"GET"), Ok((0, true)));
        assert_eq!(take(Framing::length(0), b"GET"), Ok((0, true)));
        assert_eq!(take(Framing::Length(3), b"abcGET"), Ok((3, true)));
        assert_eq!(take(Framing::Length(9), b"abc"), Ok((3, false)));
        assert_eq!(take(Framing::UntilEnd, b"abc"), Ok((3, false)));
        let next = format!("{CHUNKS}GET");
        assert_eq!(take(Framing::Chunked, next.as_bytes()), Ok((CHUNKS.len(), true)));
        assert_eq!(take(Framing::Chunked, b"0\r\n\r\nGET"), Ok((5, true)));
    }

    #[test]
    fn refuses_what_could_be_read_in_two_ways() {
        for (input, error) in [
            ("\r\n", BodyError::Size),
            ("-1\r\n", BodyError::Size),
            ("0x5\r\n", BodyError::Size),
            (" 5\r\n", BodyError::Size),
            ("5 5\r\n", BodyError::Size),
            ("1000000000000000\r\n", BodyError::Size),
            ("5\nhello", BodyError::LineEnd),
            ("5\rhello", BodyError::LineEnd),
            ("5;a\nhello", BodyError::LineEnd),
            ("5;a\0\r\n", BodyError::Control),
            ("5\r\nhelloX", BodyError::LineEnd),
            ("5\r\nhello\n", BodyError::LineEnd),
            ("0\r\nA: b\n\r\n", BodyError::LineEnd),
            ("0\r\nA: b\r\n c\r\n", BodyError::LineEnd),
            ("0\r\n\rX", BodyError::LineEnd),
        ] {
            assert_eq!(take(Framing::Chunked, input.as_bytes()), Err(error), "{input:?}");
        }
        let long = format!("5;{}", "x".repeat(MAX_SIZE_LINE + 1));
        assert_eq!(take(Framing::Chunked, long.as_bytes()), Err(BodyError::TooLong));
        let blanks = format!("5{}", " ".repeat(MAX_SIZE_LINE + 2));
        assert_eq!(take(Framing::Chunked, blanks.as_bytes()), Err(BodyError::TooLong));
        let trailers = format!("0\r\n{}", "A: b\r\n".repeat(MAX_TRAILERS / 4));
        assert_eq!(
            take(Framing::Chunked, trailers.as_bytes()),
            Err(BodyError::TooLong)
        );
    }

    /// What a body takes when the input arrives in pieces of the given lengths.
    fn in_pieces(framing: Framing, input: &[u8], cuts: &[usize]) -> Result<(usize, bool), BodyError> {
        let mut body = Body::new(framing);
        let mut total = 0;
        let mut rest = input;
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() && !body.is_done() {
            let length = cuts.next().map_or(1, |&cut| cut.clamp(1, rest.len()));
            let taken = body.take(&rest[..length])?;
            assert!(taken == length || body.is_done());
            total += taken;
            rest = &rest[taken..];
        }
        Ok((total, body.is_done()))
    }

    proptest! {
        #[test]
        fn does_not_depend_on_how_bytes_are_split(
            chunks in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 1..40), "(;[a-z=\"]{0,9})?"), 0..6),
            trailers in "([A-Z]{1,5}: [a-z]{0,5}\r\n){0,3}",
            behind in proptest::collection::vec(any::<u8>(), 0..20),
            cuts in proptest::collection::vec(1usize..9, 1..8),
        ) {
            let mut message = Vec::new();
            for (data, extension) in &chunks {
                message.extend_from_slice(format!("{:x}{extension}\r\n", data.len()).as_bytes());
                message.extend_from_slice(data);
                message.extend_from_slice(b"\r\n");
            }
            message.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
            let length = message.len();
            message.extend_from_slice(&behind);
            prop_assert_eq!(in_pieces(Framing::Chunked, &message, &[message.len()]), Ok((length, true)));
            prop_assert_eq!(in_pieces(Framing::Chunked, &message, &cuts), Ok((length, true)));
        }

        #[test]
        fn never_panics_and_splits_agree_on_nonsense(
            input in proptest::collection::vec(prop_oneof![
                Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'2'), Just(b';'), Just(b' '), any::<u8>()], 0..60),
            cuts in proptest::collection::vec(1usize..9, 1..8),
        ) {
            let whole = in_pieces(Framing::Chunked, &input, &[input.len().max(1)]);
            prop_assert_eq!(in_pieces(Framing::Chunked, &input, &cuts), whole);
        }
    }
}
