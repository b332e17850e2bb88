//! The header lines of a head: looked up by name, passed on byte for byte.
//!
//! Which headers matter is `head`'s business; here is only how their values are read.

use std::ops::Range;

use bytes::Bytes;

use super::head::{FramingError, HeadError};

/// The header lines of a head, as they came.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    raw: Bytes,
    lines: Vec<Line>,
}

/// Ranges into the head.
#[derive(Debug, Clone)]
struct Line {
    /// With its line end.
    whole: Range<usize>,
    name: Range<usize>,
    value: Range<usize>,
}

impl Fields {
    /// The header lines of a complete head: all but the first line and the empty one. `strict`: each line must
    /// end with CR LF.
    pub(crate) fn new(raw: Bytes, strict: bool) -> Result<Self, HeadError> {
        let lines = split(&raw, strict)?;
        Ok(Self { raw, lines })
    }

    /// The whole head, as it came.
    pub(crate) fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// How many header lines there are.
    pub(crate) fn count(&self) -> usize {
        self.lines.len()
    }

    /// The values of all headers of that name, in order.
    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.lines
            .iter()
            .filter(move |line| self.raw[line.name.clone()].eq_ignore_ascii_case(name.as_bytes()))
            .map(|line| &self.raw[line.value.clone()])
    }

    /// Whether there is a header of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// Whether a comma separated header of that name has this member.
    pub(crate) fn has_token(&self, name: &str, token: &str) -> bool {
        self.values(name)
            .flat_map(members)
            .any(|member| member.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// The header lines without those of the given names, byte for byte.
    pub(crate) fn without(&self, names: &[&str], out: &mut Vec<u8>) {
        for line in &self.lines {
            let name = &self.raw[line.name.clone()];
            if !names
                .iter()
                .any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
            {
                out.extend_from_slice(&self.raw[line.whole.clone()]);
            }
        }
    }

    /// The one length all Content-Length headers agree on.
    pub(crate) fn content_length(&self) -> Result<Option<u64>, FramingError> {
        let mut length = None;
        for member in self.values("content-length").flat_map(members) {
            if member.is_empty() || member.len() > 18 || !member.iter().all(u8::is_ascii_digit) {
                return Err(FramingError::BadLength);
            }
            let value = member
                .iter()
                .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
            if length.is_some_and(|other| other != value) {
                return Err(FramingError::DifferingLengths);
            }
            length = Some(value);
        }
        Ok(length)
    }

    /// Whether the transfer coding ends with `chunked`; `None` when there is no coding.
    pub(crate) fn chunked(&self) -> Option<bool> {
        if !self.has("transfer-encoding") {
            return None;
        }
        let codings: Vec<&[u8]> = self.values("transfer-encoding").flat_map(members).collect();
        let chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
        let once = codings.iter().filter(|coding| chunked(coding)).count() == 1;
        Some(once && codings.last().is_some_and(chunked))
    }
}

/// The members of a comma separated list, without the space around them.
fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim)
}

fn trim(bytes: &[u8]) -> &[u8] {
    let blank = |b: &u8| *b == b' ' || *b == b'\t';
    let start = bytes.iter().position(|b| !blank(b)).unwrap_or(bytes.len());
    let end = bytes
        .iter()
        .rposition(|b| !blank(b))
        .map_or(start, |last| last + 1);
    &bytes[start..end]
}

/// The header lines of a complete head: all but the first line and the empty one.
fn split(raw: &[u8], strict: bool) -> Result<Vec<Line>, HeadError> {
    let mut lines = Vec::new();
    let mut start = 0;
    for (index, whole) in raw.split_inclusive(|&b| b == b'\n').enumerate() {
        if strict && !whole.ends_with(b"\r\n") {
            return Err(HeadError::BareLineFeed);
        }
        let range = start..start + whole.len();
        start = range.end;
        if index == 0 || range.end == raw.len() {
            continue;
        }
        let Some(colon) = whole.iter().position(|&b| b == b':') else {
            return Err(HeadError::Syntax(httparse::Error::HeaderName));
        };
        let text = whole
            .strip_suffix(b"\r\n")
            .or(whole.strip_suffix(b"\n"))
            .unwrap_or(whole);
        let value = trim(text.get(colon + 1..).unwrap_or_default());
        // The value's place in the line: behind the colon and the blanks.
        let blanks = text[colon + 1..]
            .iter()
            .take_while(|&&b| b == b' ' || b == b'\t')
            .count();
        let value_start = range.start + colon + 1 + blanks;
        lines.push(Line {
            name: range.start..range.start + colon,
            value: value_start..value_start + value.len(),
            whole: range,
        });
    }
    Ok(lines)
}
