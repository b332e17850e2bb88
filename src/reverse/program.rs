//! Dialling the local program.
//!
//! By TCP or to a unix socket; by UDP it only connects a socket, which says nothing of whether somebody listens. A
//! reset exists on TCP only: when a connection to a unix socket ends early, for whatever reason, it is just closed,
//! and the program sees an end of file. Likewise a program behind a unix socket that dies looks like one that has
//! finished, unless it left bytes unread.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tunnel_edge::socket_error;
use tunnel_edge::udp::Connected;
use tunnel_wire::error::{Refusal, RefusalCode};

use crate::cli::port::Program;
use crate::listener::Socket;

/// How long the local program's address may take to accept. A program that is down refuses at once; this
/// bounds a host that does not answer at all, so that the caller is reset within a second.
const DIAL_TIMEOUT: Duration = Duration::from_millis(900);

/// The host of a port that is typed without one.
const LOCALHOST: &str = "localhost";

/// Dials the program and sends it `header`, which may be empty. The connection is reset when dropped, also before this
/// returns: until both ends have said all, nothing that ends it may look like an end to the program.
pub(super) async fn dial(program: &Program, header: &[u8]) -> Result<Socket, Refusal> {
    let dialled = timeout(DIAL_TIMEOUT, async {
        let mut connection = connect(program).await?;
        connection.write_all(header).await?;
        Ok(connection)
    });
    dialled
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| refusal(program, &error))
}

/// A socket for the datagrams of one caller, connected to the program.
///
/// `localhost` is 127.0.0.1: which family the program listens on cannot be asked, since nothing answers before the
/// first datagram. A program on the other one is `[::1]`. A name is its first address.
pub(super) async fn connect_udp(program: &Program) -> Result<Connected, Refusal> {
    let connected = timeout(DIAL_TIMEOUT, async {
        let address = match program {
            Program::Port { host, port } if host == LOCALHOST => (Ipv4Addr::LOCALHOST, *port).into(),
            Program::Port { host, port } => tokio::net::lookup_host((host.as_str(), *port))
                .await?
                .next()
                .ok_or_else(no_address)?,
            // No command line has it.
            Program::Unix(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Connected::connect(None, address).await
    });
    connected
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| refusal(program, &error))
}

fn refusal(program: &Program, error: &io::Error) -> Refusal {
    let code = match program {
        // A socket that is not there is a port nobody listens on.
        Program::Unix(_) if error.kind() == io::ErrorKind::NotFound => RefusalCode::ConnectionRefused,
        Program::Unix(_) | Program::Port { .. } => socket_error::code(error),
    };
    let words = socket_error::words(error);
    Refusal::new(code, format!("dial {program} on the laptop: {words}"))
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the name has no address")
}

async fn connect(program: &Program) -> io::Result<Socket> {
    match program {
        Program::Port { host, port } => {
            let connection = dial_each(host, *port).await?;
            connection.set_nodelay(true)?;
            Ok(Socket::Tcp(connection))
        }
        Program::Unix(path) => connect_unix(path).await,
    }
}

#[cfg(unix)]
async fn connect_unix(path: &Path) -> io::Result<Socket> {
    UnixStream::connect(path).await.map(Socket::Unix)
}

#[cfg(not(unix))]
async fn connect_unix(_: &Path) -> io::Result<Socket> {
    std::future::ready(Err(io::ErrorKind::Unsupported.into())).await
}

async fn dial_each(host: &str, port: u16) -> io::Result<TcpStream> {
    // `localhost` is both families whatever the hosts file says: a program may listen on either.
    let addresses: Vec<SocketAddr> = if host == LOCALHOST {
        vec![
            (Ipv4Addr::LOCALHOST, port).into(),
            (Ipv6Addr::LOCALHOST, port).into(),
        ]
    } else {
        tokio::net::lookup_host((host, port)).await?.collect()
    };
    let mut last = no_address();
    for address in addresses {
        match dial_one(address).await {
            Ok(connection) => return Ok(connection),
            // A machine without IPv6 must not hide that nothing listens on IPv4.
            Err(error) if last.kind() == io::ErrorKind::ConnectionRefused => drop(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn dial_one(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_zero_linger()?;
    socket.connect(address).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    fn program(text: &str) -> Program {
        text.parse::<crate::cli::port::PortSpec>().unwrap().program
    }

    #[tokio::test]
    async fn localhost_is_both_families() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address).await else {
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            let program = program(&port.to_string());
            let (dialled, accepted) = tokio::join!(dial(&program, b""), listener.accept());
            dialled.unwrap();
            accepted.unwrap();
        }
    }

    #[tokio::test]
    async fn a_dial_that_is_given_up_as_it_gets_there_is_a_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut dial = Box::pin(dial_one(listener.local_addr().unwrap()));
        // On loopback the kernel is done with the first poll, and only the second would tell.
        assert!(dial.as_mut().now_or_never().is_none());
        drop(dial);
        let (mut accepted, _) = listener.accept().await.unwrap();
        let error = accepted.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_program_that_is_down_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let refusal = dial(&program(&port.to_string()), b"").await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::ConnectionRefused);
        assert!(refusal.detail.contains(&format!("localhost:{port}")), "{refusal}");
    }

    #[tokio::test]
    async fn datagrams_go_to_the_first_address_and_a_name_without_one_is_named() {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        for host in ["", "127.0.0.1:"] {
            let program = program(&format!("9:{host}{}/udp", address.port()));
            assert_eq!(connect_udp(&program).await.unwrap().peer(), address);
        }
        if let Ok(connected) = connect_udp(&program("9:[::1]:53/udp")).await {
            assert_eq!(connected.peer(), (Ipv6Addr::LOCALHOST, 53).into());
        }
        let refusal = connect_udp(&program("9:no.such.invalid:53/udp"))
            .await
            .unwrap_err();
        assert!(
            refusal
                .detail
                .starts_with("dial no.such.invalid:53 on the laptop: "),
            "{refusal}"
        );
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_unix_socket_gets_the_header_first_and_half_closes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let program = Program::Unix(path);
        let (dialled, accepted) = tokio::join!(dial(&program, b"header "), listener.accept());
        let (mut ours, (mut theirs, _)) = (dialled.unwrap(), accepted.unwrap());
        ours.reset_on_close(true).unwrap();
        ours.write_all(b"request").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut request = String::new();
        theirs.read_to_string(&mut request).await.unwrap();
        assert_eq!(request, "header request");
        theirs.write_all(b"reply").await.unwrap();
        drop(theirs);
        let mut reply = String::new();
        ours.read_to_string(&mut reply).await.unwrap();
        assert_eq!(reply, "reply");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_unix_socket_that_cannot_be_dialled_is_named_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let (absent, stale) = (folder.path().join("absent"), folder.path().join("stale"));
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        for (path, reason) in [(absent, "No such file"), (stale, "refused")] {
            let refusal = dial(&Program::Unix(path.clone()), b"").await.unwrap_err();
            assert_eq!(refusal.code, RefusalCode::ConnectionRefused);
            assert!(
                refusal.detail.contains(&format!("unix:{}", path.display())),
                "{refusal}"
            );
            assert!(refusal.detail.contains(reason), "{refusal}");
        }
        let denied = refusal(
            &Program::Unix("/run/x".into()),
            &io::ErrorKind::PermissionDenied.into(),
        );
        assert_eq!(denied.detail, "dial unix:/run/x on the laptop: permission denied");
    }
}
