//! What a program on the laptop does with the proxy's port: absolute form, CONNECT, SOCKS5, Host routing.
//!
//! Written from the protocols' documents with plain reads and writes, so that the tests share no code with what
//! they test.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;

/// The longest a proxy may take to answer: its dial deadline is 10 s.
pub(crate) const ANSWER: Duration = Duration::from_secs(15);

/// How a program uses the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `GET http://host/ HTTP/1.1`.
    Absolute,
    /// `CONNECT host:port HTTP/1.1`, then as if direct.
    Connect,
    /// SOCKS5 with the name or the address, then as if direct.
    Socks5,
}

/// All of them.
pub(crate) const WAYS: [Way; 3] = [Way::Absolute, Way::Connect, Way::Socks5];

/// An HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and headers, as they came.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// How the proxy said no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// An HTTP status other than 200.
    Http(Answer),
    /// The reply field of SOCKS5.
    Socks5(u8),
}

/// Connects to the proxy's port itself.
pub(crate) async fn local(proxy: SocketAddr) -> TcpStream {
    let connection = within(
        Duration::from_secs(5),
        "connect to the proxy",
        TcpStream::connect(proxy),
    )
    .await;
    let connection = connection.expect("the proxy's port is open");
    connection.set_nodelay(true).expect("set TCP_NODELAY");
    connection
}

/// `CONNECT host:port`.
pub(crate) async fn connect(proxy: SocketAddr, host: &str, port: u16) -> Result<TcpStream, Refused> {
    let mut connection = local(proxy).await;
    let head = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
    connection.write_all(head.as_bytes()).await.expect("send CONNECT");
    let head = read_head(&mut connection).await.expect("CONNECT is answered");
    match status(&head) {
        200 => Ok(connection),
        status => {
            let body = read_body(&mut connection, &head)
                .await
                .expect("the refusal is whole");
            Err(Refused::Http(Answer { status, head, body }))
        }
    }
}

/// SOCKS5 CONNECT; an address is sent as one, anything else as a name.
pub(crate) async fn socks5(proxy: SocketAddr, host: &str, port: u16) -> Result<TcpStream, Refused> {
    let mut connection = local(proxy).await;
    connection.write_all(&[5, 1, 0]).await.expect("send the greeting");
    let mut method = [0; 2];
    answered(connection.read_exact(&mut method))
        .await
        .expect("the greeting is answered");
    assert_eq!(method, [5, 0], "no authentication is asked for");
    let mut request = vec![5, 1, 0];
    match host.parse() {
        Ok(IpAddr::V4(address)) => {
            request.push(1);
            request.extend(address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            request.push(4);
            request.extend(address.octets());
        }
        Err(_) => {
            request.push(3);
            request.push(u8::try_from(host.len()).expect("a name is short"));
            request.extend(host.as_bytes());
        }
    }
    request.extend(port.to_be_bytes());
    connection.write_all(&request).await.expect("send the request");
    let mut reply = [0; 4];
    answered(connection.read_exact(&mut reply))
        .await
        .expect("the request is answered");
    let rest = if reply[3] == 4 { 18 } else { 6 };
    connection
        .read_exact(&mut [0; 18][..rest])
        .await
        .expect("the reply is whole");
    if reply[1] == 0 {
        Ok(connection)
    } else {
        Err(Refused::Socks5(reply[1]))
    }
}

/// A connection to `host:port` by CONNECT or SOCKS5.
pub(crate) async fn open(way: Way, proxy: SocketAddr, host: &str, port: u16) -> Result<TcpStream, Refused> {
    match way {
        Way::Connect => connect(proxy, host, port).await,
        Way::Socks5 => socks5(proxy, host, port).await,
        Way::Absolute => panic!("absolute form has no connection of its own"),
    }
}

/// `GET http://host:port/path`, whichever way.
pub(crate) async fn get(
    way: Way,
    proxy: SocketAddr,
    host: &str,
    port: u16,
    path: &str,
) -> Result<Answer, Refused> {
    let authority = authority(host, port);
    let (mut connection, target) = match way {
        Way::Absolute => (local(proxy).await, format!("http://{authority}{path}")),
        Way::Connect | Way::Socks5 => (open(way, proxy, host, port).await?, path.to_owned()),
    };
    let head = format!("GET {target} HTTP/1.1\r\nHost: {authority}\r\nX-Case: kept\r\n\r\n");
    let answer = request(&mut connection, &head, b"").await.expect("an answer");
    if answer.status == 200 {
        Ok(answer)
    } else {
        Err(Refused::Http(answer))
    }
}

/// Sends a request and reads its answer; the connection can carry the next one.
pub(crate) async fn request(connection: &mut TcpStream, head: &str, body: &[u8]) -> io::Result<Answer> {
    connection.write_all(head.as_bytes()).await?;
    connection.write_all(body).await?;
    let head = read_head(connection).await?;
    let body = read_body(connection, &head).await?;
    Ok(Answer {
        status: status(&head),
        head,
        body,
    })
}

/// Reads to the empty line and not a byte further.
pub(crate) async fn read_head(connection: &mut TcpStream) -> io::Result<String> {
    answered(async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(connection.read_u8().await?);
        }
        Ok(String::from_utf8_lossy(&head).into_owned())
    })
    .await
}

async fn read_body(connection: &mut TcpStream, head: &str) -> io::Result<String> {
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    answered(connection.read_exact(&mut body)).await?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

fn status(head: &str) -> u16 {
    head.split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("not an answer: {head}"))
}

/// `host`, with the port unless it is 80.
fn authority(host: &str, port: u16) -> String {
    if port == 80 {
        host.to_owned()
    } else {
        format!("{host}:{port}")
    }
}

async fn answered<T>(answer: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    within(ANSWER, "an answer", answer).await
}
