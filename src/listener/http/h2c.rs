//! HTTP/2 without TLS (h2c with prior knowledge), routed by the `:authority` of its first request.
//!
//! The first frames are read and kept; then all bytes go to the target unchanged. So all requests of the
//! connection go where the first one goes, as with a server that is connected to directly. The rules for names
//! and for what a browser says are those of Host routing; with `--auth-file` it is off, as that is.
//!
//! Some programs (grpc-go) send no request before they have the server's SETTINGS, and the server is known
//! only by a request. A program that stays silent is sent empty SETTINGS of ours, which change nothing, and
//! its acknowledgement is not passed on. The bytes are read in `h2c/`, bounded.

mod hpack;
mod huffman;
mod opening;

use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, timeout_at};

use self::hpack::{Decoder, Field};
use self::opening::{Code, GOAWAY, Opening, SETTINGS};
use super::reply::Reply;
use super::route::RouteError;
use crate::listener::Connect;
use crate::listener::access::Report;
use crate::listener::browser::other_site;
use crate::listener::connection::{Ended, Shared, answer, dial, splice};
use crate::listener::local::Local;
use crate::listener::names::{Place, target_of_name};
use crate::listener::target::Target;
use crate::program;

/// The first lines of the preface, which HTTP/1 reads as a head.
pub(super) const START: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// How long a request may take after the program's SETTINGS before ours are sent. Programs that do not wait
/// send both at once.
const PATIENCE: Duration = Duration::from_millis(100);

/// Longest text put into a GOAWAY, in bytes.
const MAX_DEBUG: usize = 1024;

/// Why a connection goes no further: what the program and the log are told.
struct Stop {
    code: Code,
    text: String,
    ended: Ended,
}

impl Stop {
    fn new(code: Code, reason: &str) -> Self {
        Self {
            code,
            text: format!("{}: {reason}", program::name()),
            ended: Ended::Rejected(reason.to_owned()),
        }
    }

    /// With the words that HTTP/1 is answered with.
    fn replied(code: Code, reply: &Reply) -> Self {
        Self {
            code,
            text: reply.text().to_owned(),
            ended: reply.ended(),
        }
    }
}

/// Serves a connection that starts with [`START`].
pub(super) async fn serve<C: Connect>(mut local: Local, shared: &Shared<C>, report: &mut Report) -> Ended {
    report.begin("h2c");
    let mut opening = Opening::default();
    let target = if shared.options.credentials.is_some() {
        Err(Stop::replied(Code::Refused, &Reply::host_routing_off()))
    } else {
        let target = first_request(&mut local, &mut opening, shared, report).await;
        report.count(&local);
        match target {
            Ok(target) => target,
            Err(error) => return Ended::Local(error),
        }
    };
    let stop = match target {
        Ok(target) => match dial(shared, &target, report).await {
            Ok(stream) => return splice(local, stream, BytesMut::new(), report).await,
            Err(error) => {
                let mut stop = Stop::replied(
                    Code::Connect,
                    &Reply::dial(&target, &error, &shared.options.namespace),
                );
                stop.ended = Ended::NotReached(error);
                stop
            }
        },
        Err(stop) => stop,
    };
    let mut bytes = Vec::new();
    if !opening.sent_settings() {
        bytes.extend_from_slice(&frame(SETTINGS, &[]));
    }
    bytes.extend_from_slice(&goaway(opening.stream, stop.code, &stop.text));
    answer(local, &bytes, report, shared, stop.ended).await
}

/// Waits for the first request and decides where it goes.
async fn first_request<C: Connect>(
    local: &mut Local,
    opening: &mut Opening,
    shared: &Shared<C>,
    report: &mut Report,
) -> std::io::Result<Result<Target, Stop>> {
    let options = &shared.options;
    let deadline = Instant::now() + options.limits.head;
    let mut patience = None;
    loop {
        match opening.find(&mut local.buf) {
            Ok(None) => {}
            Ok(Some(block)) => {
                let place = Place {
                    own: local.own,
                    cluster_domain: &options.cluster_domain,
                };
                return Ok(match Decoder::default().decode(block) {
                    Ok(fields) => {
                        report.path(&String::from_utf8_lossy(
                            value(&fields, ":path").unwrap_or_default(),
                        ));
                        route(&fields, place)
                    }
                    Err(error) => Err(Stop::new(Code::Compression, &error.to_string())),
                });
            }
            Err(broken) => return Ok(Err(Stop::new(broken.code, &broken.to_string()))),
        }
        let until = if opening.may_wait() {
            *patience.get_or_insert_with(|| Instant::now() + PATIENCE)
        } else {
            deadline
        };
        let read = tokio::select! {
            read = timeout_at(until.min(deadline), local.fill()) => read,
            () = shared.drain.cancelled(), if opening.stream == 0 => {
                let mut stop = Stop::new(Code::NoError, "the session ended");
                stop.ended = Ended::Drained;
                return Ok(Err(stop));
            }
        };
        match read {
            Ok(Ok(0)) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => drop(read?),
            Err(_) if opening.may_wait() && Instant::now() < deadline => {
                local.write_all(&frame(SETTINGS, &[])).await?;
                opening.set_sent();
            }
            Err(_) if opening.stream == 0 => {
                return Ok(Err(Stop::new(Code::NoError, "no request came in time")));
            }
            Err(_) => {
                return Ok(Err(Stop::new(
                    Code::SettingsTimeout,
                    "the first request did not come whole in time, or our SETTINGS were not acknowledged",
                )));
            }
        }
    }
}

/// Where the first request goes, by the rules of Host routing.
fn route(fields: &[Field], place: Place<'_>) -> Result<Target, Stop> {
    if value(fields, ":method") == Some(b"CONNECT") && value(fields, ":protocol").is_none() {
        return Err(Stop::new(
            Code::Refused,
            "CONNECT is not served over HTTP/2; use CONNECT of HTTP/1.1, or SOCKS5",
        ));
    }
    // RFC 9113, 8.3.1: a request that was HTTP/1 may have a Host header instead.
    let mut authorities = values(fields, ":authority");
    let authority = match (authorities.next(), authorities.next()) {
        (Some(authority), None) => Some(authority),
        (None, _) => value(fields, "host"),
        (Some(_), Some(_)) => None,
    };
    let Some(authority) = authority else {
        return Err(Stop::new(
            Code::Protocol,
            "a request needs exactly one :authority",
        ));
    };
    let authority = String::from_utf8_lossy(authority);
    let unrouted =
        |error: &RouteError| Stop::replied(Code::Refused, &Reply::unrouted(error, place.cluster_domain));
    let misdirected = || unrouted(&RouteError::Misdirected(authority.clone().into_owned()));
    let asked = Target::parse(&authority, Some(80)).map_err(|_| misdirected())?;
    let said = other_site(
        values(fields, "sec-fetch-site"),
        values(fields, "origin"),
        &authority,
    );
    if let Some(said) = said {
        return Err(unrouted(&RouteError::CrossSite(said)));
    }
    target_of_name(&asked, place).ok_or_else(misdirected)
}

fn values<'a>(fields: &'a [Field], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let named = fields.iter().filter(move |field| field.0 == name.as_bytes());
    named.map(|field| field.1.as_slice())
}

fn value<'a>(fields: &'a [Field], name: &'a str) -> Option<&'a [u8]> {
    values(fields, name).next()
}

/// A frame of the connection as a whole; short.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut frame = vec![0, length[0], length[1], kind, 0, 0, 0, 0, 0];
    frame.extend_from_slice(&payload[..payload.len().min(usize::from(u16::MAX))]);
    frame
}

/// The request that was seen counts as processed: a program that sends it again would hear the same.
fn goaway(last: u32, code: Code, text: &str) -> Vec<u8> {
    let mut payload = last.to_be_bytes().to_vec();
    payload.extend_from_slice(&[0, 0, 0, code as u8]);
    payload.extend_from_slice(&text.as_bytes()[..text.len().min(MAX_DEBUG)]);
    frame(GOAWAY, &payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(fields: &[(&str, &str)]) -> Result<String, String> {
        let fields: Vec<Field> = fields
            .iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect();
        let place = Place {
            own: "127.0.0.1:6080".parse().ok(),
            cluster_domain: "cluster.local",
        };
        route(&fields, place)
            .map(|target| target.to_string())
            .map_err(|stop| stop.ended.to_string())
    }

    #[test]
    fn the_first_authority_decides() {
        for (authority, target) in [
            ("web", "web:80"),
            ("api.dev.svc:8080", "api.dev.svc:8080"),
            ("web.localhost:6080", "web:80"),
            ("api.dev.svc.cluster.local", "api.dev.svc.cluster.local:80"),
        ] {
            assert_eq!(routed(&[(":authority", authority)]).as_deref(), Ok(target));
            assert_eq!(routed(&[("host", authority)]).as_deref(), Ok(target));
        }
        let own = [
            (":authority", "web"),
            ("origin", "http://web"),
            ("sec-fetch-site", "same-origin"),
        ];
        assert_eq!(routed(&own).as_deref(), Ok("web:80"));
        let extended = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":authority", "web"),
        ];
        assert_eq!(routed(&extended).as_deref(), Ok("web:80"));
    }

    #[test]
    fn the_defences_are_those_of_host_routing() {
        for fields in [
            &[(":authority", "evil.example")][..],
            &[(":authority", "10.0.0.7:80")],
            &[(":authority", "127.0.0.1:6080")],
            &[(":authority", "localhost:6080")],
            &[(":authority", "user@web")],
            &[(":authority", "")],
            &[],
            &[(":authority", "web"), (":authority", "web")],
            &[(":authority", "web"), ("origin", "http://evil.example")],
            &[(":authority", "web"), ("sec-fetch-site", "cross-site")],
            &[(":method", "CONNECT"), (":authority", "web:80")],
        ] {
            assert!(routed(fields).is_err(), "{fields:?}");
        }
    }

    #[test]
    fn a_goaway_names_stream_code_and_reason() {
        assert_eq!(
            goaway(1, Code::Connect, "no"),
            b"\0\0\x0a\x07\0\0\0\0\0\0\0\0\x01\0\0\0\x0ano"
        );
        assert_eq!(
            goaway(0, Code::NoError, &"x".repeat(5000)).len(),
            9 + 8 + MAX_DEBUG
        );
    }
}
