//! SOCKS5 (RFC 1928) with CONNECT and UDP ASSOCIATE by name, IPv4 and IPv6, and user and password (RFC 1929).
//!
//! The reply comes after the dial, so that a program learns why it failed. BIND is refused. How an address is written
//! is in `socks5/address.rs`; what follows a UDP ASSOCIATE is `socks5/associate.rs`.

mod address;
mod associate;
mod flow;
mod header;

use std::net::SocketAddr;

use bytes::{Buf as _, BytesMut};
use tokio::time::timeout;
use tunnel_wire::RefusalCode;

use self::address::{Address, AddressError};
use super::access::Report;
use super::connection::{Ended, Shared, answer, dial, splice};
use super::credentials::Credentials;
use super::local::Local;
use super::target::Target;
use super::{Connect, DialError};

const VERSION: u8 = 5;
const AUTH_VERSION: u8 = 1;
const METHOD_NONE: u8 = 0;
const METHOD_PASSWORD: u8 = 2;
const METHOD_UNACCEPTABLE: u8 = 0xff;
const COMMAND_CONNECT: u8 = 1;
const COMMAND_UDP_ASSOCIATE: u8 = 3;

/// The reply field of RFC 1928, section 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Reply {
    Succeeded = 0,
    GeneralFailure = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    ConnectionRefused = 5,
    TtlExpired = 6,
    CommandNotSupported = 7,
    AddressTypeNotSupported = 8,
}

impl Reply {
    fn of(error: &DialError) -> Self {
        match error.code {
            RefusalCode::NoSuchHost | RefusalCode::ResolveFailed => Self::HostUnreachable,
            RefusalCode::ConnectionRefused => Self::ConnectionRefused,
            RefusalCode::TimedOut => Self::TtlExpired,
            RefusalCode::Unreachable => Self::NetworkUnreachable,
            RefusalCode::NotAllowed => Self::NotAllowed,
            RefusalCode::TooManyStreams
            | RefusalCode::ResourceExhausted
            | RefusalCode::AddressInUse
            | RefusalCode::ShuttingDown
            | RefusalCode::Unsupported
            | RefusalCode::Other => Self::GeneralFailure,
        }
    }

    /// The whole reply. The bound address is left zero: of a connection it is the agent's and means nothing here.
    fn bytes(self) -> [u8; 10] {
        [VERSION, self as u8, 0, 1, 0, 0, 0, 0, 0, 0]
    }

    /// The whole reply, with the address where datagrams are taken.
    fn bound_to(self, address: SocketAddr) -> Vec<u8> {
        [&[VERSION, self as u8, 0], &Address::bytes(address)[..]].concat()
    }
}

/// What a program asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    /// A connection to the address.
    Connect,
    /// Datagrams; the address is where they will come from, and often all zero.
    UdpAssociate,
    /// BIND, or a number nobody gave a meaning.
    Other(u8),
}

impl Command {
    fn of(byte: u8) -> Self {
        match byte {
            COMMAND_CONNECT => Self::Connect,
            COMMAND_UDP_ASSOCIATE => Self::UdpAssociate,
            other => Self::Other(other),
        }
    }
}

/// What is done for it.
#[derive(Debug)]
enum Request {
    Connect(Target),
    /// Datagrams from that port of the program, from any if it is 0.
    Associate(u16),
}

/// Why a handshake goes no further, with the last bytes to send.
#[derive(Debug)]
enum Stop {
    /// The program's end failed, or it left.
    Local(std::io::Error),
    /// Tell the program and end the connection.
    Reject(Vec<u8>, String),
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Local(error)
    }
}

/// Serves a connection whose first byte was 5.
pub(super) async fn serve<C: Connect>(mut local: Local, shared: &Shared<C>, report: &mut Report) -> Ended {
    report.begin("SOCKS5");
    let handshake = timeout(
        shared.options.limits.head,
        handshake(&mut local, shared.options.credentials.as_ref()),
    )
    .await;
    report.count(&local);
    let requested = match handshake {
        Err(_) => return Ended::Idle,
        Ok(requested) => requested.and_then(|(command, address)| understand(command, &address)),
    };
    let target = match requested {
        Err(Stop::Local(error)) => return Ended::Local(error),
        Err(Stop::Reject(bytes, reason)) => {
            return answer(local, &bytes, report, shared, Ended::Rejected(reason)).await;
        }
        Ok(Request::Associate(port)) => return associate::serve(local, port, shared, report).await,
        Ok(Request::Connect(target)) => target,
    };
    match dial(shared, &target, report).await {
        Ok(stream) => {
            if let Err(error) = local.write_all(&Reply::Succeeded.bytes()).await {
                return Ended::Local(error);
            }
            splice(local, stream, BytesMut::new(), report).await
        }
        Err(error) => {
            let reply = Reply::of(&error).bytes();
            answer(local, &reply, report, shared, Ended::NotReached(error)).await
        }
    }
}

async fn handshake(local: &mut Local, credentials: Option<&Credentials>) -> Result<(Command, Address), Stop> {
    greet(local, credentials.is_some()).await?;
    if let Some(credentials) = credentials {
        authenticate(local, credentials).await?;
    }
    request(local).await
}

/// `05 count methods...` is answered by `05 method`.
async fn greet(local: &mut Local, guarded: bool) -> Result<(), Stop> {
    local.fill_to(2).await?;
    let count = usize::from(local.buf[1]);
    local.fill_to(2 + count).await?;
    let wanted = if guarded { METHOD_PASSWORD } else { METHOD_NONE };
    let offered = local.buf[2..2 + count].contains(&wanted);
    local.buf.advance(2 + count);
    if !offered {
        let reason = if guarded {
            "no user and password offered"
        } else {
            "only authentication offered"
        };
        return Err(Stop::Reject(
            vec![VERSION, METHOD_UNACCEPTABLE],
            reason.to_owned(),
        ));
    }
    Ok(local.write_all(&[VERSION, wanted]).await?)
}

/// `01 length user length password` is answered by `01 00`, or by another status and the end.
async fn authenticate(local: &mut Local, credentials: &Credentials) -> Result<(), Stop> {
    local.fill_to(2).await?;
    let user = 2..2 + usize::from(local.buf[1]);
    local.fill_to(user.end + 1).await?;
    let password = user.end + 1..user.end + 1 + usize::from(local.buf[user.end]);
    local.fill_to(password.end).await?;
    let version = local.buf[0];
    let allowed = credentials.allow(&local.buf[user], &local.buf[password.clone()]);
    local.buf.advance(password.end);
    if version != AUTH_VERSION || !allowed {
        return Err(Stop::Reject(
            vec![AUTH_VERSION, 1],
            "wrong user or password".to_owned(),
        ));
    }
    Ok(local.write_all(&[AUTH_VERSION, 0]).await?)
}

/// `05 command 00 type address port`.
async fn request(local: &mut Local) -> Result<(Command, Address), Stop> {
    local.fill_to(4).await?;
    if local.buf[0] != VERSION {
        return Err(reject(Reply::GeneralFailure, "not a SOCKS5 request"));
    }
    let command = Command::of(local.buf[1]);
    loop {
        // A name has at most 255 bytes, so this ends.
        match Address::parse(&local.buf[3..]) {
            Ok(Some((address, length))) => {
                local.buf.advance(3 + length);
                return Ok((command, address));
            }
            Ok(None) => local.fill_to(local.buf.len() + 1).await?,
            Err(AddressError::Type) => {
                return Err(reject(
                    Reply::AddressTypeNotSupported,
                    &AddressError::Type.to_string(),
                ));
            }
            Err(error @ AddressError::Text) => {
                return Err(reject(Reply::HostUnreachable, &error.to_string()));
            }
        }
    }
}

/// What to do for a request.
fn understand(command: Command, address: &Address) -> Result<Request, Stop> {
    match command {
        Command::Connect => address
            .target()
            .map(Request::Connect)
            .map_err(|error| reject(Reply::HostUnreachable, &error.to_string())),
        // Its address is often zero or one behind a NAT; the one of the connection is used.
        Command::UdpAssociate => Ok(Request::Associate(address.port)),
        Command::Other(number) => Err(reject(
            Reply::CommandNotSupported,
            &format!("command {number} is not served; use CONNECT or UDP ASSOCIATE"),
        )),
    }
}

fn reject(reply: Reply, reason: &str) -> Stop {
    Stop::Reject(reply.bytes().to_vec(), reason.to_owned())
}
