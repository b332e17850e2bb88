//! The far ends of the benchmark: as fast as the machine moves bytes, so that what is measured is the way there.
//!
//! Nothing here makes or checks a pattern; `serve.rs` has the ports that do. The same streams are had three ways:
//! accepted on a port, called from a pod, and through the pipes of an exec.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::thread;
use std::time::SystemTime;

use tunnel_test_target::{COUNT_EVERY, REPLY_ONCE_LENGTH};

use crate::call::connect;

/// Bytes of one write to a pipe: what a pipe holds.
const PIPE_BLOCK: usize = 64 << 10;
/// Bytes of one write to, or read from, a socket.
const SOCKET_BLOCK: usize = 256 << 10;

/// Sends one block again and again until the connection ends.
pub(crate) fn blocks(connection: &TcpStream) -> io::Result<()> {
    write_blocks(connection, SOCKET_BLOCK)
}

/// Reads anything, and tells how much of it came: the total, 8 bytes big-endian, after each [`COUNT_EVERY`].
pub(crate) fn count(connection: &TcpStream) -> io::Result<()> {
    read_and_count(connection, connection, SOCKET_BLOCK)
}

/// Sends the first [`REPLY_ONCE_LENGTH`] bytes back and is the first to close.
pub(crate) fn reply_once(mut connection: &TcpStream) -> io::Result<()> {
    let mut request = [0; REPLY_ONCE_LENGTH];
    connection.read_exact(&mut request)?;
    connection.write_all(&request)?;
    connection.shutdown(Shutdown::Both)
}

/// [`blocks`] or [`count`] on a connection of our own.
pub(crate) fn call(what: &str, host: &str, port: &str) -> io::Result<()> {
    let connection = connect(&format!("{host}:{port}"))?;
    connection.set_read_timeout(None)?;
    match what {
        "blocks" => blocks(&connection),
        _ => count(&connection),
    }
}

/// New connections one after the other, each with one small request to an echo: microseconds, one line each.
pub(crate) fn first_replies(host: &str, port: &str, count: &str) -> io::Result<()> {
    let count: usize = count.parse().map_err(io::Error::other)?;
    let authority = format!("{host}:{port}");
    for _ in 0..count {
        let started = SystemTime::now();
        let mut connection = connect(&authority)?;
        connection.write_all(&[b'?'; REPLY_ONCE_LENGTH])?;
        connection.read_exact(&mut [0; REPLY_ONCE_LENGTH])?;
        let taken = started.elapsed().unwrap_or_default().as_micros();
        writeln!(io::stdout(), "{taken}")?;
    }
    Ok(())
}

/// The same through the pipes of an exec: `blocks` to stdout, `count` from stdin to stderr, or `both` at once. Ends
/// with its stdin, since a blocked write to stdout is never told that nobody reads any more.
pub(crate) fn pipe(what: &str) -> io::Result<()> {
    // Not through the standard library's buffers, which cut blocks at line feeds.
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    if what != "count" {
        thread::spawn(move || drop(write_blocks(stdout, PIPE_BLOCK)));
    }
    read_and_count(stdin, io::stderr(), PIPE_BLOCK)
}

fn write_blocks(mut writer: impl Write, length: usize) -> io::Result<()> {
    let block = vec![b'.'; length];
    loop {
        writer.write_all(&block)?;
    }
}

fn read_and_count(mut reader: impl Read, mut told: impl Write, length: usize) -> io::Result<()> {
    let mut block = vec![0; length];
    let (mut total, mut next) = (0, COUNT_EVERY);
    loop {
        let count = reader.read(&mut block)?;
        if count == 0 {
            return Ok(());
        }
        total += count as u64;
        if total >= next {
            told.write_all(&total.to_be_bytes())?;
            next = total + COUNT_EVERY;
        }
    }
}
