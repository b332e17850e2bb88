//! The head of a request or a response: the lines up to the empty one.
//!
//! A head is parsed to know where a message goes and where it ends, and is passed on line by line as it
//! came: names keep their case, duplicates stay, order stays. Requests are read strictly (a line that two
//! programs could read differently is refused, since that is how requests are smuggled), responses only as
//! strictly as needed to find their end. Where the body ends is decided here and followed by `body`.

use bytes::Bytes;

use super::body::Framing;
use super::fields::Fields;

/// Longest request head taken, in bytes. Common programs stop between 8 and 64 KiB.
pub(crate) const REQUEST_HEAD_LIMIT: usize = 64 * 1024;

/// Longest response head taken, in bytes: larger than what programs accept, so that they decide.
pub(crate) const RESPONSE_HEAD_LIMIT: usize = 256 * 1024;

/// A head that cannot be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    /// A line of a request that ends without a carriage return.
    #[error("a line of the head ends without a carriage return")]
    BareLineFeed,
    /// Not HTTP/1.
    #[error("only HTTP/1.0 and HTTP/1.1 are understood here")]
    Version,
    /// Not the syntax of a head.
    #[error("the head is not valid HTTP: {0}")]
    Syntax(httparse::Error),
    /// More or fewer header lines than the parser saw.
    #[error("the head is not valid HTTP: a header line is folded")]
    Folded,
}

impl HeadError {
    fn new(error: httparse::Error, raw: &[u8]) -> Self {
        let first_line = raw.split(|&b| b == b'\r').next().unwrap_or_default();
        // A target with a space in it looks like a wrong version, too.
        let other_version = error == httparse::Error::Version && !first_line.ends_with(b" HTTP/1.1");
        if other_version {
            Self::Version
        } else {
            Self::Syntax(error)
        }
    }
}

/// A message whose end cannot be told for sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramingError {
    /// Content-Length and Transfer-Encoding at once.
    #[error("both Content-Length and Transfer-Encoding are given")]
    BothLengths,
    /// Several lengths that differ.
    #[error("the Content-Length headers differ")]
    DifferingLengths,
    /// A Content-Length that is no number.
    #[error("the Content-Length is not a number")]
    BadLength,
    /// A transfer coding that does not end with one `chunked`.
    #[error("the Transfer-Encoding does not end with `chunked`, or names it twice")]
    BadCoding,
    /// Chunks in a protocol version that has none.
    #[error("HTTP/1.0 has no Transfer-Encoding")]
    CodingInHttp10,
}

/// The head of a request.
#[derive(Debug, Clone)]
pub(crate) struct RequestHead {
    pub(crate) method: String,
    /// The request target as it came: `/path`, `http://host/path`, `host:port` or `*`.
    pub(crate) target: String,
    /// 0 or 1.
    pub(crate) minor: u8,
    pub(crate) fields: Fields,
}

impl RequestHead {
    /// Parses a complete head, its empty line included.
    pub(crate) fn parse(raw: Bytes) -> Result<Self, HeadError> {
        let fields = Fields::new(raw, true)?;
        let raw = fields.raw().clone();
        let mut headers = vec![httparse::EMPTY_HEADER; fields.count()];
        let mut parsed = httparse::Request::new(&mut headers);
        let status = parsed.parse(&raw).map_err(|error| HeadError::new(error, &raw))?;
        if status != httparse::Status::Complete(raw.len()) || parsed.headers.len() != fields.count() {
            return Err(HeadError::Folded);
        }
        let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(HeadError::Syntax(httparse::Error::Token));
        };
        let (method, target) = (method.to_owned(), target.to_owned());
        Ok(Self {
            method,
            target,
            minor,
            fields,
        })
    }

    /// Where the body ends.
    pub(crate) fn framing(&self) -> Result<Framing, FramingError> {
        let length = self.fields.content_length()?;
        match self.fields.chunked() {
            Some(_) if length.is_some() => Err(FramingError::BothLengths),
            Some(_) if self.minor == 0 => Err(FramingError::CodingInHttp10),
            Some(true) => Ok(Framing::Chunked),
            Some(false) => Err(FramingError::BadCoding),
            None => Ok(length.map_or(Framing::Empty, Framing::length)),
        }
    }

    /// Whether the connection may carry another request after this one.
    pub(crate) fn persistent(&self) -> bool {
        persistent(&self.fields, self.minor) && !self.fields.has_token("proxy-connection", "close")
    }

    /// Whether a change of protocol is asked for.
    pub(crate) fn upgrade(&self) -> bool {
        self.minor == 1 && self.fields.has("upgrade") && self.fields.has_token("connection", "upgrade")
    }

    /// The head to send: `target` in the first line, the headers that are for this proxy left out, a Host
    /// header put first if `host` is given, all else byte for byte.
    pub(crate) fn rewritten(&self, target: &str, host: Option<&str>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.fields.raw().len() + 64);
        out.extend_from_slice(format!("{} {target} HTTP/1.{}\r\n", self.method, self.minor).as_bytes());
        if let Some(host) = host {
            out.extend_from_slice(format!("Host: {host}\r\n").as_bytes());
        }
        self.fields
            .without(&["proxy-connection", "proxy-authorization"], &mut out);
        out.extend_from_slice(b"\r\n");
        out
    }
}

/// The head of a response.
#[derive(Debug, Clone)]
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    /// 0 or 1.
    pub(crate) minor: u8,
    pub(crate) fields: Fields,
}

impl ResponseHead {
    /// Parses a complete head, its empty line included.
    pub(crate) fn parse(raw: Bytes) -> Result<Self, HeadError> {
        let fields = Fields::new(raw, false)?;
        let raw = fields.raw().clone();
        let mut headers = vec![httparse::EMPTY_HEADER; fields.count()];
        let mut parsed = httparse::Response::new(&mut headers);
        let status = parsed.parse(&raw).map_err(|error| HeadError::new(error, &raw))?;
        if status != httparse::Status::Complete(raw.len()) || parsed.headers.len() != fields.count() {
            return Err(HeadError::Folded);
        }
        let (Some(status), Some(minor)) = (parsed.code, parsed.version) else {
            return Err(HeadError::Syntax(httparse::Error::Status));
        };
        Ok(Self {
            status,
            minor,
            fields,
        })
    }

    /// Where the body ends; `head_request` when it answers a HEAD request.
    pub(crate) fn framing(&self, head_request: bool) -> Result<Framing, FramingError> {
        if head_request || matches!(self.status, 100..=199 | 204 | 304) {
            return Ok(Framing::Empty);
        }
        match self.fields.chunked() {
            Some(true) => Ok(Framing::Chunked),
            // A coding without chunks ends with the connection (RFC 9112, 6.3).
            Some(false) if self.fields.has_token("transfer-encoding", "chunked") => {
                Err(FramingError::BadCoding)
            }
            Some(false) => Ok(Framing::UntilEnd),
            None => Ok(self
                .fields
                .content_length()?
                .map_or(Framing::UntilEnd, Framing::length)),
        }
    }

    /// Whether the connection may carry another response after this one.
    pub(crate) fn persistent(&self) -> bool {
        persistent(&self.fields, self.minor) && !self.both_lengths()
    }

    /// The head to pass on: as it came, but for a Content-Length beside a Transfer-Encoding, which has no
    /// meaning and must not reach a program that would believe it (RFC 9112, 6.3).
    pub(crate) fn bytes(&self) -> Vec<u8> {
        if !self.both_lengths() {
            return self.fields.raw().to_vec();
        }
        let first = self
            .fields
            .raw()
            .iter()
            .position(|&b| b == b'\n')
            .map_or(0, |end| end + 1);
        let mut out = self.fields.raw()[..first].to_vec();
        self.fields.without(&["content-length"], &mut out);
        out.extend_from_slice(b"\r\n");
        out
    }

    fn both_lengths(&self) -> bool {
        self.fields.has("content-length") && self.fields.has("transfer-encoding")
    }
}

fn persistent(fields: &Fields, minor: u8) -> bool {
    if minor == 0 {
        fields.has_token("connection", "keep-alive") && !fields.has_token("connection", "close")
    } else {
        !fields.has_token("connection", "close")
    }
}

/// The length of the head at the start of `bytes`, its empty line included, if it is complete. The first
/// `seen` bytes are known to hold no end.
pub(crate) fn head_length(bytes: &[u8], seen: usize) -> Option<usize> {
    let mut from = seen.saturating_sub(3);
    while let Some(found) = bytes[from..].iter().position(|&b| b == b'\n') {
        let next = from + found + 1;
        match bytes[next..] {
            [b'\n', ..] => return Some(next + 1),
            [b'\r', b'\n', ..] => return Some(next + 2),
            _ => from = next,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(text: &str) -> Result<RequestHead, HeadError> {
        RequestHead::parse(Bytes::from(text.to_owned()))
    }

    #[expect(clippy::unwrap_in_result, reason = "the head itself is right in these tests")]
    fn framing(headers: &str) -> Result<Framing, FramingError> {
        request(&format!("POST / HTTP/1.1\r\n{headers}\r\n"))
            .unwrap()
            .framing()
    }

    #[test]
    fn passes_header_lines_on_as_they_came() {
        let head = request(
            "GET http://web/a?b HTTP/1.1\r\nhOsT: web\r\nX-A:1\r\nx-a:   2 \t\r\nProxy-Connection: keep-alive\r\n\
             Proxy-Authorization: Basic x\r\nEmpty:\r\nProxy-Id: stays\r\n\r\n",
        )
        .unwrap();
        assert_eq!(
            String::from_utf8(head.rewritten("/a?b", None)).unwrap(),
            "GET /a?b HTTP/1.1\r\nhOsT: web\r\nX-A:1\r\nx-a:   2 \t\r\nEmpty:\r\nProxy-Id: stays\r\n\r\n"
        );
        assert_eq!(head.fields.values("X-a").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(head.fields.values("empty").collect::<Vec<_>>(), [b""]);
    }

    #[test]
    fn refuses_what_could_be_read_in_two_ways() {
        for head in [
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\n: empty\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\0c\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET /\r\n\r\n",
            "\u{16}\u{3}\u{1}\r\n\r\n",
        ] {
            assert!(request(head).is_err(), "{head:?}");
        }
        assert_eq!(request("PRI * HTTP/2.0\r\n\r\n").unwrap_err(), HeadError::Version);
    }

    #[test]
    fn a_request_has_one_length_or_none() {
        assert_eq!(framing(""), Ok(Framing::Empty));
        assert_eq!(framing("Content-Length: 0\r\n"), Ok(Framing::Empty));
        assert_eq!(
            framing("Content-Length: 5\r\nContent-length: 5\r\n"),
            Ok(Framing::Length(5))
        );
        assert_eq!(framing("transfer-encoding: Chunked\r\n"), Ok(Framing::Chunked));
        assert_eq!(
            framing("Transfer-Encoding: gzip, chunked\r\n"),
            Ok(Framing::Chunked)
        );
        let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
        assert_eq!(framing(both), Err(FramingError::BothLengths));
        let differing = "Content-Length: 5\r\nContent-Length: 6\r\n";
        assert_eq!(framing(differing), Err(FramingError::DifferingLengths));
        assert_eq!(
            framing("Content-Length: 5, 6\r\n"),
            Err(FramingError::DifferingLengths)
        );
        for length in ["+5", "-1", "0x5", "5 5", "", "5,", "99999999999999999999"] {
            assert_eq!(
                framing(&format!("Content-Length: {length}\r\n")),
                Err(FramingError::BadLength),
                "{length}"
            );
        }
        for coding in [
            "identity",
            "chunked, gzip",
            "chunked, chunked",
            "xchunked",
            "chunked;q=1",
            "",
            "\u{b}chunked",
        ] {
            let head = request(&format!("POST / HTTP/1.1\r\nTransfer-Encoding: {coding}\r\n\r\n"));
            assert!(!head.is_ok_and(|head| head.framing().is_ok()), "{coding}");
        }
        let old = request("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        assert_eq!(old.framing(), Err(FramingError::CodingInHttp10));
    }

    #[test]
    fn a_response_ends_where_its_head_says() {
        let response = |text: &str| ResponseHead::parse(Bytes::from(text.to_owned())).unwrap();
        let with_length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(response(with_length).framing(false), Ok(Framing::Length(5)));
        assert_eq!(response(with_length).framing(true), Ok(Framing::Empty));
        assert_eq!(
            response("HTTP/1.1 204 \r\nContent-Length: 5\r\n\r\n").framing(false),
            Ok(Framing::Empty)
        );
        assert_eq!(
            response("HTTP/1.1 304\r\n\r\n").framing(false),
            Ok(Framing::Empty)
        );
        assert_eq!(
            response("HTTP/1.1 200\nServer: old\n\n").framing(false),
            Ok(Framing::UntilEnd)
        );
        let both =
            response("HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(both.framing(false), Ok(Framing::Chunked));
        assert!(!both.persistent());
        assert_eq!(
            both.bytes(),
            b"HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
    }

    #[test]
    fn knows_when_a_connection_is_kept() {
        for (head, kept) in [
            ("GET / HTTP/1.1\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nConnection: TE, Close\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nProxy-Connection: close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
        ] {
            assert_eq!(request(head).unwrap().persistent(), kept, "{head}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_passes_on_what_it_accepts(bytes in proptest::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), Just(b'a'), any::<u8>()], 0..80)) {
            let mut text = b"GET / HTTP/1.1\r\n".to_vec();
            text.extend_from_slice(&bytes);
            text.extend_from_slice(b"\r\n\r\n");
            let length = head_length(&text, 0).unwrap();
            let raw = Bytes::from(text).slice(..length);
            if let Ok(head) = RequestHead::parse(raw.clone()) {
                prop_assert_eq!(head.rewritten("/", None), raw.to_vec());
            }
            let response = [b"HTTP/1.1 200 OK\r\n", &raw[16..]].concat();
            if let Ok(head) = ResponseHead::parse(response.clone().into())
                && !head.both_lengths() {
                    prop_assert_eq!(head.bytes(), response);
                }
        }

        #[test]
        fn the_end_is_found_however_the_bytes_arrive(text in "[a\r\n]{0,40}") {
            let whole = head_length(text.as_bytes(), 0);
            let mut seen = 0;
            let mut found = None;
            for end in 1..=text.len() {
                found = head_length(&text.as_bytes()[..end], seen);
                if found.is_some() { break; }
                seen = end;
            }
            prop_assert_eq!(found, whole);
        }
    }
}
