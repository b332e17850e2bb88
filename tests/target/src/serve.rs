//! Everything that listens. One thread a connection; a thread ends with its connection.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use tunnel_test_target::pattern::{Mismatch, Pattern};
use tunnel_test_target::{
    BLOCKS, COUNT, ECHO, END_FIRST, EXCHANGE, HALF_CLOSE, HALF_CLOSE_REPLY, HTTP, HTTP_SECOND, LOOPBACK,
    REPLY_ONCE, SINK, SOURCE, STALL, udp,
};

use crate::{follow, http, load};

/// Bytes read or written at once.
pub(crate) const BLOCK: usize = 1 << 16;

/// What one port does with a connection.
type Serve = fn(&TcpStream) -> io::Result<()>;

/// Listens until the process is killed.
pub(crate) fn run() -> io::Result<()> {
    let ports: [(u16, Serve); 13] = [
        (HTTP, http::serve),
        (HTTP_SECOND, http::serve),
        (ECHO, echo),
        (HALF_CLOSE, half_close),
        (STALL, stall),
        (SOURCE, source),
        (SINK, sink),
        (END_FIRST, end_first),
        (EXCHANGE, follow::follow),
        (LOOPBACK, http::serve),
        (BLOCKS, load::blocks),
        (COUNT, load::count),
        (REPLY_ONCE, load::reply_once),
    ];
    let mut listeners = Vec::new();
    for (port, serve) in ports {
        let address = match port {
            LOOPBACK => Ipv4Addr::LOCALHOST,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        let listener = TcpListener::bind((address, port))?;
        listeners.push(thread::spawn(move || accept(&listener, serve)));
    }
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, ECHO))?;
    listeners.push(thread::spawn(move || udp::echo(&socket)));
    writeln!(io::stdout(), "listening")?;
    for listener in listeners {
        match listener.join() {
            Ok(ended) => ended?,
            Err(_) => return Err(io::Error::other("a listener panicked")),
        }
    }
    Ok(())
}

/// Only echoes datagrams, at `address`; tells which port that is.
pub(crate) fn udp(address: &str) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    writeln!(io::stdout(), "listening {}", socket.local_addr()?)?;
    udp::echo(&socket)
}

fn accept(listener: &TcpListener, serve: Serve) -> io::Result<()> {
    loop {
        let (connection, _) = listener.accept()?;
        connection.set_nodelay(true)?;
        // A connection that fails is its caller's finding, not ours.
        thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(move || drop(serve(&connection)))?;
    }
}

fn echo(mut connection: &TcpStream) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    loop {
        match connection.read(&mut block)? {
            0 => return connection.shutdown(Shutdown::Write),
            count => connection.write_all(&block[..count])?,
        }
    }
}

fn half_close(mut connection: &TcpStream) -> io::Result<()> {
    io::copy(&mut connection, &mut io::sink())?;
    write_pattern(connection, HALF_CLOSE_REPLY)?;
    connection.shutdown(Shutdown::Write)
}

/// Holds the connection, unread, until it is reset.
fn stall(connection: &TcpStream) -> io::Result<()> {
    let mut unread = [0];
    // A reset hides behind unread bytes, so it is asked for by itself.
    while connection.take_error()?.is_none() && connection.peek(&mut unread)? > 0 {
        thread::park_timeout(Duration::from_millis(500));
    }
    Ok(())
}

fn source(connection: &TcpStream) -> io::Result<()> {
    write_pattern(connection, u64::MAX)
}

fn sink(mut connection: &TcpStream) -> io::Result<()> {
    let verdict = read_pattern(connection)?;
    connection.write_all(format!("{verdict}\n").as_bytes())?;
    connection.shutdown(Shutdown::Write)
}

/// How the last connection of [`END_FIRST`] went.
static END_FIRST_VERDICT: Mutex<String> = Mutex::new(String::new());

fn end_first(mut connection: &TcpStream) -> io::Result<()> {
    connection.write_all(b"over\n")?;
    connection.shutdown(Shutdown::Write)?;
    let verdict = read_pattern(connection)?;
    *END_FIRST_VERDICT
        .lock()
        .map_err(|_| io::Error::other("poisoned"))? = verdict;
    Ok(())
}

/// The verdict of [`END_FIRST`], empty before.
pub(crate) fn end_first_verdict() -> String {
    END_FIRST_VERDICT
        .lock()
        .map(|verdict| verdict.clone())
        .unwrap_or_default()
}

/// Reads to the end, or to the first wrong byte, and says how that went.
fn read_pattern(mut connection: &TcpStream) -> io::Result<String> {
    let mut pattern = Pattern::default();
    let mut block = vec![0; BLOCK];
    loop {
        let count = connection.read(&mut block)?;
        if count == 0 {
            return Ok(format!("{} ok", pattern.position()));
        }
        if let Err(Mismatch { position }) = pattern.check(&block[..count]) {
            return Ok(format!("{} wrong at {position}", pattern.position()));
        }
    }
}

/// Writes the first `length` bytes of the pattern.
pub(crate) fn write_pattern(mut connection: &TcpStream, length: u64) -> io::Result<()> {
    let mut pattern = Pattern::default();
    let mut block = vec![0; BLOCK];
    while pattern.position() < length {
        let left = usize::try_from(length - pattern.position()).unwrap_or(usize::MAX);
        let part = BLOCK.min(left);
        pattern.fill(&mut block[..part]);
        connection.write_all(&block[..part])?;
    }
    Ok(())
}
