//! One accepted connection: which protocol it speaks, what became of it, and the raw relay that CONNECT,
//! SOCKS and upgraded HTTP connections end in.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use tunnel_wire::RefusalCode;
use tunnel_wire::datagram::Budget;
use tunnel_wire::relay::{RelayError, Side, relay};

use super::access::Report;
use super::local::Local;
use super::prefixed::Prefixed;
use super::socket::{Peer, Socket};
use super::target::Target;
use super::{Connect, DialError, Options, http, socks4, socks5, tls};

/// First byte of SOCKS5 (RFC 1928).
const SOCKS5: u8 = 5;

/// First byte of SOCKS4.
const SOCKS4: u8 = 4;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared<C> {
    pub(super) connector: C,
    pub(super) options: Arc<Options>,
    /// Idle connections end when it is cancelled.
    pub(super) drain: CancellationToken,
    /// Streams that are ending on their own, each within the linger limit.
    pub(super) ending: TaskTracker,
    /// Room for flows of datagrams, all connections together.
    pub(super) flows: Arc<Semaphore>,
    /// Room for their waiting datagrams.
    pub(super) datagrams: Budget,
}

/// How a connection ended; for the log.
#[derive(Debug)]
pub(super) enum Ended {
    /// Both directions were ended properly.
    Eof,
    /// An HTTP request and its response are complete.
    Complete,
    /// It was dropped at the end of the session.
    Cut,
    /// It was idle too long, or the first bytes did not come in time.
    Idle,
    /// It was idle when the listener drained.
    Drained,
    /// Another flow of its association needed the room.
    MadeRoom,
    /// Its association ended.
    Dissociated,
    /// The program broke the protocol, or was not allowed to go on.
    Rejected(String),
    /// The upstream was not reached.
    NotReached(DialError),
    /// The program's end failed.
    Local(io::Error),
    /// The upstream's end failed; the program's connection was reset.
    Upstream(io::Error),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eof => f.write_str("eof"),
            Self::Complete => f.write_str("complete"),
            Self::Cut => f.write_str("cut at the end of the session"),
            Self::Idle => f.write_str("idle"),
            Self::Drained => f.write_str("drained"),
            Self::MadeRoom => f.write_str("made room for another flow"),
            Self::Dissociated => f.write_str("its association ended"),
            Self::Rejected(reason) => write!(f, "rejected: {reason}"),
            Self::NotReached(error) => write!(f, "not reached: {error}"),
            Self::Local(error) => write!(f, "local end failed: {error}"),
            Self::Upstream(error) => write!(f, "upstream failed: {error}"),
        }
    }
}

impl From<io::Error> for Ended {
    /// The errors of the program's end; those of the upstream are named where they are met.
    fn from(error: io::Error) -> Self {
        Self::Local(error)
    }
}

/// Serves one connection to its end, and logs it.
pub(super) async fn serve<C: Connect>(stream: Socket, peer: Peer, shared: Arc<Shared<C>>) {
    // At the level of the lines that are written in it: they leave the peer to the span.
    let span = tracing::info_span!("conn", %peer);
    async {
        let mut report = Report::new();
        let ended = match Local::new(stream) {
            Ok(local) => detect(local, &shared, &mut report).await,
            Err(error) => Ended::Local(error),
        };
        report.close(&ended);
    }
    .instrument(span)
    .await;
}

/// Tells the protocol from the first byte: no HTTP method starts with a control character.
async fn detect<C: Connect>(mut local: Local, shared: &Shared<C>, report: &mut Report) -> Ended {
    let limits = &shared.options.limits;
    let first = tokio::select! {
        first = timeout(limits.first_byte, local.fill()) => first,
        () = shared.drain.cancelled() => {
            local.close();
            return Ended::Drained;
        }
    };
    match first {
        Err(_) => {
            local.close();
            return Ended::Idle;
        }
        Ok(Err(error)) => return Ended::Local(error),
        Ok(Ok(0)) => {
            local.close();
            return Ended::Eof;
        }
        Ok(Ok(_)) => {}
    }
    match local.buf[0] {
        SOCKS5 => socks5::serve(local, shared, report).await,
        tls::HANDSHAKE => tls::serve(local, shared, report).await,
        SOCKS4 => socks4::serve(local, shared, report).await,
        _ => http::serve(local, shared, report).await,
    }
}

/// Opens a stream and waits until its upstream is connected, which the log learns.
pub(super) async fn dial<C: Connect>(
    shared: &Shared<C>,
    target: &Target,
    report: &mut Report,
) -> Result<C::Stream, DialError> {
    report.target(target);
    let limit = shared.options.limits.dial;
    let dialled = timeout(limit, async {
        let mut stream = shared.connector.open(target).await?;
        shared.connector.opened(&mut stream).await?;
        report.upstream(shared.connector.upstream(&stream));
        Ok(stream)
    });
    dialled.await.unwrap_or_else(|_| Err(no_answer(limit)))
}

/// Sends the last bytes and ends the connection.
pub(super) async fn answer<C>(
    mut local: Local,
    bytes: &[u8],
    report: &mut Report,
    shared: &Shared<C>,
    ended: Ended,
) -> Ended {
    if let Err(error) = local.write_all(bytes).await {
        return Ended::Local(error);
    }
    report.count(&local);
    report.end(&ended);
    local.finish(shared.options.limits.linger).await;
    ended
}

/// The session did not answer an open at all.
pub(super) fn no_answer(limit: std::time::Duration) -> DialError {
    DialError {
        code: RefusalCode::TimedOut,
        detail: format!("the agent did not answer within {limit:?}"),
    }
}

/// Relays between the program and an upstream until both directions ended. `early` are the upstream's first
/// bytes, if some were read already. An upstream that breaks off resets the program's connection.
pub(super) async fn splice<S>(mut local: Local, upstream: S, early: BytesMut, report: &mut Report) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ahead = local.buf.len() as u64;
    report.connected();
    let mut upstream = Prefixed::new(early, upstream);
    let end = relay(&mut local.raw(), &mut upstream).await;
    // What was read ahead is counted already.
    local.received += end.a_to_b.saturating_sub(ahead);
    local.sent += end.b_to_a;
    report.count(&local);
    match end.result {
        Ok(()) => {
            local.close();
            Ended::Eof
        }
        Err(RelayError {
            side: Side::A,
            source,
        }) => Ended::Local(source),
        Err(RelayError {
            side: Side::B,
            source,
        }) => Ended::Upstream(source),
    }
}
