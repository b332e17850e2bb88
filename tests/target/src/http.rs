//! Just enough HTTP/1.1: kept-alive connections, bodies with a length, answers that tell what arrived.

use std::fmt::Write as _;
use std::io::{self, BufReader, Write as _};
use std::net::TcpStream;

use sha2::{Digest as _, Sha256};
use tunnel_test_target::pattern;

use crate::follow;
use crate::serve::{BLOCK, end_first_verdict, write_pattern};

/// A request head, as it came.
struct Head {
    text: String,
}

impl Head {
    /// Reads to the empty line; `None` at the end of the connection.
    fn read(reader: &mut impl io::BufRead) -> io::Result<Option<Self>> {
        let mut text = String::new();
        loop {
            let before = text.len();
            if reader.read_line(&mut text)? == 0 {
                return Ok(None);
            }
            if text[before..].trim_end().is_empty() {
                return Ok(Some(Self { text }));
            }
        }
    }

    fn method(&self) -> &str {
        self.text.split(' ').next().unwrap_or_default()
    }

    fn path(&self) -> &str {
        self.text.split(' ').nth(1).unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| value.trim()))
    }

    fn length(&self) -> u64 {
        self.header("content-length")
            .and_then(|value| value.parse().ok())
            .unwrap_or(0)
    }
}

/// Answers requests until the connection or the caller ends it.
pub(crate) fn serve(connection: &TcpStream) -> io::Result<()> {
    let mut writer = connection;
    let mut reader = BufReader::with_capacity(BLOCK, connection);
    while let Some(head) = Head::read(&mut reader)? {
        if head.header("expect").is_some() {
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let hash = read_body(&mut reader, head.length())?;
        let number = |prefix: &str| head.path().strip_prefix(prefix)?.parse::<u64>().ok();
        if let Some(length) = number("/bytes/") {
            write_head(writer, length)?;
            write_pattern(writer, length)?;
        } else if let Some(length) = number("/sha256/") {
            write_text(writer, &pattern::sha256(length))?;
        } else if head.path() == "/end-first" {
            write_text(writer, &end_first_verdict())?;
        } else if let Some(exchange) = number("/exchange/") {
            write_text(writer, &follow::verdict(exchange))?;
        } else if let Some(call) = head.path().strip_prefix("/call/") {
            call_exchange(call)?;
            write_text(writer, "calling")?;
        } else if head.path() == "/sha256" {
            write_text(writer, &hash)?;
        } else {
            let mut text = String::new();
            let (peer, local) = (writer.peer_addr()?, writer.local_addr()?);
            writeln!(text, "peer={peer} port={} method={}", local.port(), head.method())
                .map_err(io::Error::other)?;
            text.push_str(&head.text);
            write_text(writer, &text)?;
        }
        if head
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
        {
            break;
        }
    }
    Ok(())
}

/// Begins the exchange `NUMBER/HOST/PORT`.
fn call_exchange(words: &str) -> io::Result<()> {
    let mut words = words.splitn(3, '/');
    let (Some(Ok(number)), Some(host), Some(port)) =
        (words.next().map(str::parse), words.next(), words.next())
    else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    follow::call(number, format!("{host}:{port}"))
}

/// Reads a body to its length and returns its SHA-256.
fn read_body(reader: &mut impl io::BufRead, length: u64) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut left = length;
    while left > 0 {
        let block = reader.fill_buf()?;
        let count = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hash.update(&block[..count]);
        reader.consume(count);
        left -= count as u64;
    }
    Ok(pattern::hex(&hash.finalize()))
}

fn write_head(mut writer: &TcpStream, length: u64) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nContent-Type: text/plain\r\n\r\n");
    writer.write_all(head.as_bytes())
}

fn write_text(mut writer: &TcpStream, text: &str) -> io::Result<()> {
    write_head(writer, text.len() as u64)?;
    writer.write_all(text.as_bytes())
}
