//! New connections to the target's ports by each way into it, and small requests on them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tunnel_test_target::{self as ports, REPLY_ONCE_LENGTH};

use crate::failure::{Doing, Failure, failure};
use crate::objects::NAME;

/// A small request, which an echo answers with the same bytes.
const REQUEST: [u8; REPLY_ONCE_LENGTH] = [b'?'; REPLY_ONCE_LENGTH];

/// How a proxy is asked for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    Connect,
    Socks5,
}

/// A connection to a port of the target through a proxy.
pub(crate) async fn through(proxy: SocketAddr, ask: Ask, port: u16) -> Result<TcpStream, Failure> {
    let mut connection = TcpStream::connect(proxy).await?;
    connection.set_nodelay(true)?;
    match ask {
        Ask::Connect => {
            let head = format!("CONNECT {NAME}:{port} HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n");
            connection.write_all(head.as_bytes()).await?;
            let head = read_head(&mut connection).await?;
            if !head.starts_with("HTTP/1.1 200") {
                return failure(format!("CONNECT: {head}"));
            }
        }
        Ask::Socks5 => {
            connection.write_all(&[5, 1, 0]).await?;
            connection.read_exact(&mut [0; 2]).await?;
            let mut request = vec![5, 1, 0, 3, u8::try_from(NAME.len())?];
            request.extend(NAME.as_bytes());
            request.extend(port.to_be_bytes());
            connection.write_all(&request).await?;
            // An IPv4 address is bound.
            let mut reply = [0; 10];
            connection.read_exact(&mut reply).await?;
            if reply[..2] != [5, 0] {
                return failure(format!("SOCKS5: {}", reply[1]));
            }
        }
    }
    Ok(connection)
}

/// A request to the target by its Host header alone, on a new connection: until the answer's head has come.
pub(crate) async fn by_host(proxy: SocketAddr) -> Result<(), Failure> {
    let mut connection = TcpStream::connect(proxy).await?;
    connection.set_nodelay(true)?;
    let head = format!("GET / HTTP/1.1\r\nHost: {NAME}:{}\r\n\r\n", ports::HTTP);
    connection.write_all(head.as_bytes()).await?;
    let head = read_head(&mut connection).await?;
    if head.starts_with("HTTP/1.1 200") {
        Ok(())
    } else {
        failure(format!("by Host: {head}"))
    }
}

async fn read_head(connection: &mut TcpStream) -> Result<String, Failure> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.doing("a head")?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// One small request to an echo, until the whole reply is there.
pub(crate) async fn request(connection: &mut TcpStream) -> Result<(), Failure> {
    connection.write_all(&REQUEST).await?;
    connection
        .read_exact(&mut [0; REPLY_ONCE_LENGTH])
        .await
        .doing("a reply")?;
    Ok(())
}

/// Small requests one after the other with a pause between them, in milliseconds each.
pub(crate) async fn requests(
    connection: &mut TcpStream,
    length: Duration,
    pause: Duration,
) -> Result<Vec<f64>, Failure> {
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed() < length || times.len() < 10 {
        let asked = Instant::now();
        request(connection).await?;
        times.push(millis(asked));
        sleep(pause).await;
    }
    Ok(times)
}

/// Reads to the end: how much there was, in KiB, and the milliseconds from the last byte to the end.
pub(crate) async fn to_end(connection: &mut TcpStream) -> Result<(f64, f64), Failure> {
    let mut block = vec![0; 64 << 10];
    let (mut bytes, mut last) = (0_u32, Instant::now());
    loop {
        match connection.read(&mut block).await? {
            0 => return Ok((f64::from(bytes) / 1024.0, millis(last))),
            count => {
                bytes += u32::try_from(count)?;
                last = Instant::now();
            }
        }
    }
}

/// Milliseconds since then.
pub(crate) fn millis(then: Instant) -> f64 {
    then.elapsed().as_secs_f64() * 1000.0
}
