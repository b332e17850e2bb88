//! What a pod does that uses an exposed Service: connections at once, one line of result each.
//!
//! `MILLISECONDS ok STATUS BODY` or `MILLISECONDS error KIND TEXT`; the body's first line only. Calls by UDP are one
//! line of JSON together.

use std::fmt::Display;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::SystemTime;

use tunnel_test_target::pattern::Pattern;
use tunnel_test_target::{CALL_TIMEOUT, HALF_CLOSE_REPLY, udp};

/// `count` requests, all connected before the first one is sent.
pub(crate) fn http(method: &str, host: &str, port: &str, path: &str, count: &str) -> io::Result<()> {
    let count: usize = count.parse().map_err(io::Error::other)?;
    let authority = format!("{host}:{port}");
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    let all_connected = Arc::new(Barrier::new(count));
    let mut calls = Vec::new();
    for _ in 0..count {
        let (authority, head, all_connected) = (authority.clone(), head.clone(), Arc::clone(&all_connected));
        calls.push(thread::Builder::new().stack_size(128 << 10).spawn(move || {
            let started = SystemTime::now();
            let connection = connect(&authority);
            all_connected.wait();
            let answer = connection.and_then(|connection| request(connection, &head));
            let taken = started.elapsed().unwrap_or_default().as_millis();
            match answer {
                Ok(answer) => format!("{taken} ok {answer}"),
                Err(error) => format!("{taken} error {:?} {error}", error.kind()),
            }
        })?);
    }
    for call in calls {
        let line = call.join().map_err(|_| io::Error::other("a call panicked"))?;
        writeln!(io::stdout(), "{line}")?;
    }
    Ok(())
}

/// Sends 100,000 bytes of the pattern, ends its direction, and expects the reply of a half-close target.
pub(crate) fn half_close(host: &str, port: &str) -> io::Result<()> {
    let mut connection = connect(&format!("{host}:{port}"))?;
    let mut request = vec![0; 100_000];
    Pattern::default().fill(&mut request);
    connection.write_all(&request)?;
    connection.shutdown(Shutdown::Write)?;
    let mut reply = Vec::new();
    connection.read_to_end(&mut reply)?;
    Pattern::default().check(&reply).map_err(io::Error::other)?;
    if reply.len() as u64 != HALF_CLOSE_REPLY {
        return Err(io::Error::other(format!("{} bytes of reply", reply.len())));
    }
    writeln!(io::stdout(), "{} ok", reply.len())
}

/// Sends datagrams by UDP and says what came back.
pub(crate) fn by_udp(words: &[&str], host: &str, port: &str) -> io::Result<()> {
    let target = resolve(&format!("{host}:{port}"))?;
    match words {
        ["sizes", sizes] => {
            let sizes = sizes.split(',').map(number).collect::<io::Result<Vec<_>>>()?;
            say(&udp::sizes(target, &sizes)?)
        }
        ["rate", count, rate, size] => say(&udp::rate(target, number(count)?, number(rate)?, number(size)?)?),
        ["peers", peers, count, size] => say(&udp::peers(
            target,
            number(peers)?,
            number(count)?,
            number(size)?,
        )?),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn number(word: &str) -> io::Result<usize> {
    word.parse().map_err(io::Error::other)
}

fn say(result: &impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{result}")
}

fn resolve(authority: &str) -> io::Result<SocketAddr> {
    authority
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::other("no address"))
}

pub(crate) fn connect(authority: &str) -> io::Result<TcpStream> {
    let address = resolve(authority)?;
    let connection = TcpStream::connect_timeout(&address, CALL_TIMEOUT)?;
    connection.set_read_timeout(Some(CALL_TIMEOUT))?;
    connection.set_nodelay(true)?;
    Ok(connection)
}

/// Status and the body's first line.
fn request(mut connection: TcpStream, head: &str) -> io::Result<String> {
    connection.write_all(head.as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).ok_or(io::ErrorKind::UnexpectedEof)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok(format!("{status} {}", body.lines().next().unwrap_or_default()))
}
