//! The first frames of an HTTP/2 connection, up to the first request's headers.
//!
//! ```text
//! preface -> SETTINGS -> (other frames) -> HEADERS, CONTINUATION... -> found
//!                            ^ no HEADERS for a while: the shell sends a SETTINGS of ours;
//!                              then the one acknowledgement of it is taken out as well
//! ```
//!
//! The bytes stay in their buffer, to be passed on, all but that acknowledgement: the upstream never sent
//! what it acknowledges. Pure: the buffer grows from call to call, time and sockets are `h2c`'s.

use bytes::BytesMut;

/// What every connection starts with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length, type, flags and stream in front of each frame.
const FRAME_HEAD: usize = 9;

/// Largest frame anybody may send who was not told otherwise.
const MAX_FRAME: usize = 16 * 1024;

/// Largest header block taken, in bytes, coded; as the head of HTTP/1.
const MAX_BLOCK: usize = 64 * 1024;

/// Most bytes read before the connection goes on: a block, and the body that may follow it at once.
const MAX_OPENING: usize = 192 * 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
pub(super) const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Error codes of RFC 9113, section 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Code {
    NoError = 0,
    Protocol = 1,
    SettingsTimeout = 4,
    FrameSize = 6,
    Refused = 7,
    Compression = 9,
    Connect = 10,
    Calm = 11,
}

/// A connection that does not start as it must.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Broken {
    pub(super) code: Code,
    reason: &'static str,
}

fn broken(code: Code, reason: &'static str) -> Broken {
    Broken { code, reason }
}

/// How far the opening was read.
#[derive(Debug, Default)]
pub(super) struct Opening {
    /// What was looked at, in bytes from the start of the buffer.
    at: usize,
    /// The program's SETTINGS were seen.
    settings: bool,
    ours: Ours,
    /// The first header block, as far as it came.
    block: Vec<u8>,
    /// The stream it opens; 0 before it began.
    pub(super) stream: u32,
    whole: bool,
}

/// The SETTINGS that the shell may send.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Ours {
    #[default]
    NotSent,
    Sent,
    Acknowledged,
}

/// One frame without its head.
struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

impl Opening {
    /// The first request's header block, once all that must be seen was seen. `buffer` is what came so far,
    /// less what this took out of it.
    pub(super) fn find(&mut self, buffer: &mut BytesMut) -> Result<Option<&[u8]>, Broken> {
        if self.at == 0 {
            if !PREFACE.starts_with(&buffer[..buffer.len().min(PREFACE.len())]) {
                return Err(broken(Code::Protocol, "the preface of HTTP/2 is not whole"));
            }
            if buffer.len() < PREFACE.len() {
                return Ok(None);
            }
            self.at = PREFACE.len();
        }
        while !self.is_complete() {
            let Some(frame) = frame(&buffer[self.at..])? else {
                if buffer.len() > MAX_OPENING {
                    return Err(broken(
                        Code::Calm,
                        "too much came before the first request was whole",
                    ));
                }
                return Ok(None);
            };
            let length = FRAME_HEAD + frame.payload.len();
            if self.look(&frame)? {
                let rest = buffer.split_off(self.at + length);
                buffer.truncate(self.at);
                buffer.unsplit(rest);
            } else {
                self.at += length;
            }
        }
        Ok(Some(&self.block))
    }

    /// Whether the program may be waiting for our SETTINGS before it sends a request.
    pub(super) fn may_wait(&self) -> bool {
        self.settings && self.stream == 0 && self.ours == Ours::NotSent
    }

    /// Whether SETTINGS of ours went out.
    pub(super) fn sent_settings(&self) -> bool {
        self.ours != Ours::NotSent
    }

    /// The shell sent SETTINGS.
    pub(super) fn set_sent(&mut self) {
        self.ours = Ours::Sent;
    }

    fn is_complete(&self) -> bool {
        self.whole && self.ours != Ours::Sent
    }

    /// Takes in one frame; whether it is to be taken out.
    fn look(&mut self, frame: &Frame<'_>) -> Result<bool, Broken> {
        let in_block = self.stream != 0 && !self.whole;
        if in_block && (frame.kind != CONTINUATION || frame.stream != self.stream) {
            return Err(broken(Code::Protocol, "a header block is interrupted"));
        }
        if !self.settings {
            if frame.kind != SETTINGS || frame.flags & ACK != 0 {
                return Err(broken(Code::Protocol, "the first frame is not SETTINGS"));
            }
            self.settings = true;
            return Ok(false);
        }
        let acknowledges = frame.kind == SETTINGS && frame.flags & ACK != 0;
        if acknowledges && self.ours == Ours::Sent {
            self.ours = Ours::Acknowledged;
            return Ok(true);
        }
        // Behind the first block nothing but the acknowledgement is of interest.
        if self.whole {
            return Ok(false);
        }
        match frame.kind {
            HEADERS => {
                if frame.stream.is_multiple_of(2) {
                    return Err(broken(
                        Code::Protocol,
                        "a request on a stream that cannot carry one",
                    ));
                }
                self.stream = frame.stream;
                self.add(fragment(frame)?, frame.flags)?;
            }
            CONTINUATION if in_block => self.add(frame.payload, frame.flags)?,
            DATA | RST_STREAM | PUSH_PROMISE | CONTINUATION => {
                return Err(broken(Code::Protocol, "a frame of a stream that nothing opened"));
            }
            _ => {}
        }
        Ok(false)
    }

    fn add(&mut self, fragment: &[u8], flags: u8) -> Result<(), Broken> {
        if self.block.len() + fragment.len() > MAX_BLOCK {
            return Err(broken(
                Code::Calm,
                "the headers of the first request are too long",
            ));
        }
        self.block.extend_from_slice(fragment);
        self.whole = flags & END_HEADERS != 0;
        Ok(())
    }
}

/// The frame at the start of `bytes`, once it is whole.
fn frame(bytes: &[u8]) -> Result<Option<Frame<'_>>, Broken> {
    let Some((&[a, b, c, kind, flags, s0, s1, s2, s3], rest)) = bytes.split_first_chunk::<FRAME_HEAD>()
    else {
        return Ok(None);
    };
    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    if length > MAX_FRAME {
        return Err(broken(Code::FrameSize, "a frame is larger than allowed"));
    }
    Ok(rest.get(..length).map(|payload| Frame {
        kind,
        flags,
        // The first bit means nothing.
        stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
        payload,
    }))
}

/// The part of a HEADERS frame that belongs to the block.
fn fragment<'a>(frame: &Frame<'a>) -> Result<&'a [u8], Broken> {
    let wrong = || broken(Code::Protocol, "the padding of HEADERS is longer than the frame");
    let mut rest = frame.payload;
    let mut padding = 0;
    if frame.flags & PADDED != 0 {
        let (&length, behind) = rest.split_first().ok_or_else(wrong)?;
        (padding, rest) = (usize::from(length), behind);
    }
    if frame.flags & PRIORITY != 0 {
        rest = rest.get(5..).ok_or_else(wrong)?;
    }
    rest.len()
        .checked_sub(padding)
        .map(|length| &rest[..length])
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn start(frames: &[Vec<u8>]) -> Vec<u8> {
        [PREFACE, &framed(SETTINGS, 0, 0, &[]), &frames.concat()].concat()
    }

    fn find(bytes: &[u8]) -> Result<Option<Vec<u8>>, Code> {
        let mut buffer = BytesMut::from(bytes);
        let found = Opening::default()
            .find(&mut buffer)
            .map(|block| block.map(ToOwned::to_owned));
        assert_eq!(buffer, bytes);
        found.map_err(|broken| broken.code)
    }

    #[test]
    fn finds_the_block_in_every_form() {
        let window = framed(8, 0, 0, &[0, 0, 1, 0]);
        for frames in [
            vec![framed(HEADERS, END_HEADERS, 1, b"block")],
            vec![
                window.clone(),
                framed(0xfa, 7, 3, b"grease"),
                framed(HEADERS, END_HEADERS, 3, b"block"),
            ],
            vec![framed(HEADERS, END_HEADERS | PADDED, 1, b"\x02block..")],
            vec![framed(HEADERS, END_HEADERS | PRIORITY, 1, b".....block")],
            vec![framed(
                HEADERS,
                END_HEADERS | PRIORITY | PADDED,
                1,
                b"\x01.....block.",
            )],
            vec![
                framed(HEADERS, 1, 1, b"bl"),
                framed(CONTINUATION, 0, 1, b""),
                framed(CONTINUATION, END_HEADERS, 1, b"ock"),
                framed(DATA, 1, 1, b"body"),
            ],
        ] {
            assert_eq!(find(&start(&frames)), Ok(Some(b"block".to_vec())));
        }
    }

    #[test]
    fn refuses_other_openings() {
        let headers = framed(HEADERS, 0, 1, b"bl");
        let long = framed(CONTINUATION, 0, 1, &[0; MAX_FRAME]);
        for (bytes, code) in [
            (b"PRI * HTTP/2.0\r\n\r\nXX".to_vec(), Code::Protocol),
            (
                [PREFACE, &framed(HEADERS, END_HEADERS, 1, b"block")].concat(),
                Code::Protocol,
            ),
            ([PREFACE, &framed(SETTINGS, ACK, 0, b"")].concat(), Code::Protocol),
            (start(&[framed(DATA, 0, 1, b"x")]), Code::Protocol),
            (start(&[framed(CONTINUATION, 0, 1, b"x")]), Code::Protocol),
            (
                start(&[framed(HEADERS, END_HEADERS, 2, b"block")]),
                Code::Protocol,
            ),
            (
                start(&[framed(HEADERS, END_HEADERS, 0, b"block")]),
                Code::Protocol,
            ),
            (
                start(&[framed(HEADERS, END_HEADERS | PADDED, 1, b"\x09block")]),
                Code::Protocol,
            ),
            (
                start(&[framed(HEADERS, END_HEADERS | PRIORITY, 1, b"....")]),
                Code::Protocol,
            ),
            (
                start(&[headers.clone(), framed(DATA, 0, 1, b"x")]),
                Code::Protocol,
            ),
            (
                start(&[headers.clone(), framed(CONTINUATION, 0, 3, b"x")]),
                Code::Protocol,
            ),
            (start(&[vec![0, 0x40, 1, 0, 0, 0, 0, 0, 1]]), Code::FrameSize),
            (
                start(&[headers, long.clone(), long.clone(), long.clone(), long]),
                Code::Calm,
            ),
        ] {
            assert_eq!(find(&bytes), Err(code), "{:?}", &bytes[..bytes.len().min(60)]);
        }
        let noise = framed(0xfa, 0, 0, &[0; MAX_FRAME]);
        let endless = [start(&vec![noise; 13]), vec![0; 8]].concat();
        assert_eq!(find(&endless), Err(Code::Calm));
    }

    #[test]
    fn only_the_acknowledgement_of_ours_is_taken_out() {
        let acknowledgement = framed(SETTINGS, ACK, 0, &[]);
        let headers = framed(HEADERS, END_HEADERS, 1, b"block");
        let body = framed(DATA, 1, 1, b"body");
        for frames in [
            [&acknowledgement, &headers, &body],
            [&headers, &acknowledgement, &body],
            [&headers, &body, &acknowledgement],
        ] {
            let mut opening = Opening::default();
            let mut buffer = BytesMut::from(&start(&[])[..]);
            assert_eq!(opening.find(&mut buffer), Ok(None));
            assert!(opening.may_wait());
            opening.set_sent();
            assert!(!opening.may_wait() && opening.sent_settings());
            for frame in frames {
                buffer.extend_from_slice(frame);
            }
            buffer.extend_from_slice(&acknowledgement);
            assert_eq!(opening.find(&mut buffer), Ok(Some(&b"block"[..])));
            let rest: Vec<Vec<u8>> = frames
                .into_iter()
                .filter(|frame| **frame != acknowledgement)
                .chain([&acknowledgement])
                .cloned()
                .collect();
            assert_eq!(buffer, start(&rest), "the second one stays");
        }
        let mut opening = Opening::default();
        let mut buffer = BytesMut::from(&start(&[])[..]);
        opening.find(&mut buffer).unwrap();
        opening.set_sent();
        buffer.extend_from_slice(&headers);
        assert_eq!(
            opening.find(&mut buffer),
            Ok(None),
            "the acknowledgement is to come"
        );
    }

    proptest! {
        #[test]
        fn does_not_depend_on_how_bytes_are_split(
            frames in proptest::collection::vec(
                (prop_oneof![Just(HEADERS), Just(CONTINUATION), Just(SETTINGS), 0u8..12], any::<u8>(), 0u32..4,
                 proptest::collection::vec(any::<u8>(), 0..20)), 0..8),
            cuts in proptest::collection::vec(1usize..30, 1..8),
        ) {
            let frames: Vec<_> = frames.iter()
                .map(|(kind, flags, stream, payload)| framed(*kind, *flags, *stream, payload))
                .collect();
            let bytes = start(&frames);
            let whole = find(&bytes);
            let mut opening = Opening::default();
            let mut buffer = BytesMut::new();
            let mut rest = &bytes[..];
            let mut cuts = cuts.iter().cycle();
            let mut found = Ok(None);
            while !rest.is_empty() && found == Ok(None) {
                let length = cuts.next().map_or(1, |cut| (*cut).min(rest.len()));
                buffer.extend_from_slice(&rest[..length]);
                rest = &rest[length..];
                found = opening
                    .find(&mut buffer)
                    .map(|block| block.map(ToOwned::to_owned))
                    .map_err(|broken| broken.code);
            }
            prop_assert_eq!(found, whole);
        }
    }
}
