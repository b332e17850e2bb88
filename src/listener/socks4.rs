//! `SOCKS4`, and `SOCKS4a` with its names: CONNECT only.
//!
//! ```text
//! 04 command port(2) address(4) user-id 00                 SOCKS4
//! 04 command port(2) 00 00 00 x user-id 00 name 00         SOCKS4a, x not 0
//! 00 5a-or-5b 00 00 00 00 00 00                            the answer
//! ```
//!
//! The answer comes after the dial. The user id is a claim that nobody can check, not a password, so with
//! `--auth-file` every request is refused.

use std::net::Ipv4Addr;

use bytes::{Buf as _, BytesMut};
use tokio::time::timeout;

use super::Connect;
use super::access::Report;
use super::connection::{Ended, Shared, answer, dial, splice};
use super::local::Local;
use super::target::Target;

const COMMAND_CONNECT: u8 = 1;
const GRANTED: [u8; 8] = [0, 0x5a, 0, 0, 0, 0, 0, 0];
const REJECTED: [u8; 8] = [0, 0x5b, 0, 0, 0, 0, 0, 0];

/// Longest user id taken, in bytes, and longest name: as long as those of SOCKS5.
const MAX_TEXT: usize = 255;

/// Version, command, port and address.
const FIXED: usize = 8;

/// A request that is complete.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    command: u8,
    /// A name of any form, or an IP address.
    host: Vec<u8>,
    port: u16,
    /// Bytes it takes.
    length: usize,
}

/// A user id or a name without an end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the user id or the name is longer than {MAX_TEXT} bytes")]
struct TooLong;

impl Request {
    /// Reads the request at the start of `bytes`; `None` when more are needed.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, TooLong> {
        let Some((&[_, command, high, low, a, b, c, d], rest)) = bytes.split_first_chunk::<FIXED>() else {
            return Ok(None);
        };
        let Some(user) = text(rest)? else {
            return Ok(None);
        };
        let mut length = FIXED + user.len() + 1;
        let host = if [a, b, c] == [0; 3] && d != 0 {
            let Some(name) = text(&bytes[length..])? else {
                return Ok(None);
            };
            length += name.len() + 1;
            name.to_vec()
        } else {
            Ipv4Addr::new(a, b, c, d).to_string().into_bytes()
        };
        Ok(Some(Self {
            command,
            host,
            port: u16::from_be_bytes([high, low]),
            length,
        }))
    }

    /// The target, or why there is none.
    fn target(&self) -> Result<Target, String> {
        if self.command != COMMAND_CONNECT {
            return Err(format!("command {} is not served; use CONNECT", self.command));
        }
        let host = std::str::from_utf8(&self.host).map_err(|_| "the name is not text".to_owned())?;
        Target::new(host, self.port).map_err(|error| error.to_string())
    }
}

/// The text at the start of `bytes`, without the zero that ends it; `None` when that has not come.
fn text(bytes: &[u8]) -> Result<Option<&[u8]>, TooLong> {
    match bytes.iter().take(MAX_TEXT + 1).position(|&byte| byte == 0) {
        Some(length) => Ok(Some(&bytes[..length])),
        None if bytes.len() > MAX_TEXT => Err(TooLong),
        None => Ok(None),
    }
}

/// Serves a connection whose first byte was 4.
pub(super) async fn serve<C: Connect>(mut local: Local, shared: &Shared<C>, report: &mut Report) -> Ended {
    report.begin("SOCKS4");
    let read = timeout(shared.options.limits.head, request(&mut local)).await;
    report.count(&local);
    let read = match read {
        Err(_) => return Ended::Idle,
        Ok(Err(error)) => return Ended::Local(error),
        Ok(Ok(read)) => read,
    };
    let admitted = if shared.options.credentials.is_some() {
        Err("SOCKS4 carries no password for --auth-file; use SOCKS5 or HTTP".to_owned())
    } else {
        read.map_err(|error| error.to_string())
            .and_then(|request| request.target())
    };
    let target = match admitted {
        Ok(target) => target,
        Err(reason) => return answer(local, &REJECTED, report, shared, Ended::Rejected(reason)).await,
    };
    match dial(shared, &target, report).await {
        Ok(stream) => {
            if let Err(error) = local.write_all(&GRANTED).await {
                return Ended::Local(error);
            }
            splice(local, stream, BytesMut::new(), report).await
        }
        Err(error) => answer(local, &REJECTED, report, shared, Ended::NotReached(error)).await,
    }
}

/// Waits for the whole request.
async fn request(local: &mut Local) -> std::io::Result<Result<Request, TooLong>> {
    loop {
        match Request::parse(&local.buf) {
            Ok(Some(request)) => {
                local.buf.advance(request.length);
                return Ok(Ok(request));
            }
            Ok(None) => local.fill_to(local.buf.len() + 1).await?,
            Err(error) => return Ok(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_addresses_and_names_at_any_split() {
        for (bytes, host) in [
            (&b"\x04\x01\0\x50\x0a\0\0\x07\0"[..], "10.0.0.7"),
            (b"\x04\x01\0\x50\x0a\0\0\x07ann\0", "10.0.0.7"),
            (b"\x04\x01\0\x50\0\0\0\0\0", "0.0.0.0"),
            (b"\x04\x01\0\x50\0\0\0\x01ann\0web.dev\0", "web.dev"),
            (b"\x04\x01\0\x50\0\0\0\xff\0web\0", "web"),
        ] {
            for cut in 0..bytes.len() {
                assert_eq!(Request::parse(&bytes[..cut]), Ok(None), "{cut} of {bytes:?}");
            }
            let request = Request::parse(&[bytes, b"early"].concat()).unwrap().unwrap();
            assert_eq!(request.length, bytes.len());
            assert_eq!(request.target().unwrap().to_string(), format!("{host}:80"));
        }
    }

    #[test]
    fn refuses_bind_bad_names_and_texts_without_an_end() {
        for (bytes, reason) in [
            (
                &b"\x04\x02\0\x50\x0a\0\0\x07\0"[..],
                "command 2 is not served; use CONNECT",
            ),
            (
                b"\x04\x01\0\0\x0a\0\0\x07\0",
                "the port is not a number from 1 to 65535",
            ),
            (
                b"\x04\x01\0\x50\0\0\0\x01\0we b\0",
                "the host is neither a name nor an address",
            ),
            (
                b"\x04\x01\0\x50\0\0\0\x01\0\0",
                "the host is neither a name nor an address",
            ),
            (b"\x04\x01\0\x50\0\0\0\x01\0\xff\0", "the name is not text"),
        ] {
            let request = Request::parse(bytes).unwrap().unwrap();
            assert_eq!(request.target(), Err(reason.to_owned()));
        }
        let long = "x".repeat(MAX_TEXT + 1);
        for (text, error) in [(&long[..], true), (&long[1..], false)] {
            let user = [&b"\x04\x01\0\x50\0\0\0\x01"[..], text.as_bytes()].concat();
            assert_eq!(Request::parse(&user).is_err(), error);
            let name = [&b"\x04\x01\0\x50\0\0\0\x01\0"[..], text.as_bytes()].concat();
            assert_eq!(Request::parse(&name).is_err(), error);
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_always_decides(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let undecided = Request::parse(&bytes) == Ok(None);
            prop_assert!(!undecided || bytes.len() <= FIXED + 2 * (MAX_TEXT + 1));
        }
    }
}
