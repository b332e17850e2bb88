//! TLS that came without being asked for a proxy: routed by the server name of its first message, port 443.
//!
//! The first message (`ClientHello`) is read and kept; then all bytes go to the target unchanged, and the
//! handshake is between the program and the upstream. Nothing is decrypted here and no certificate is ours. A
//! server name has no port, so the port is always 443; for another one there are CONNECT and SOCKS.
//!
//! Who sends TLS here may be a web page in the user's browser, as with Host routing, so the rules for names
//! are the same (`names`): a page that rebinds its name to 127.0.0.1 sends its own name and gets an alert, and
//! a page that asks for `https://127.0.0.1` sends none. What Host routing reads of headers is encrypted here.
//! In its place stands the certificate: for a name that we take, the browser sends a page's request only once
//! the upstream has proven that name to it. Before that the page learns no more than whether the name
//! answers. With `--auth-file` all of it is off, since TLS brings no password for us.

use bytes::BytesMut;
use rustls::server::Acceptor;
use tokio::time::timeout;
use tunnel_wire::RefusalCode;

use super::Connect;
use super::access::Report;
use super::connection::{Ended, Shared, answer, dial, splice};
use super::local::Local;
use super::names::{Place, target_of_name};
use super::target::Target;

/// First byte of a TLS handshake record.
pub(super) const HANDSHAKE: u8 = 0x16;

/// Longest `ClientHello` taken, with its record headers, in bytes. Those of browsers have 2 KiB.
const MAX_HELLO: usize = 64 * 1024;

/// The port of every server name.
const PORT: u16 = 443;

/// Fatal alerts of RFC 8446, section 6.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Alert {
    DecodeError = 50,
    AccessDenied = 49,
    InternalError = 80,
    UnrecognizedName = 112,
}

impl Alert {
    /// The alert as an unencrypted record, as every version reads it.
    fn bytes(self) -> Vec<u8> {
        vec![0x15, 3, 3, 0, 2, 2, self as u8]
    }
}

/// Why a connection goes nowhere.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    /// For the program.
    alert: Vec<u8>,
    /// For the log.
    reason: String,
}

impl Refused {
    fn new(alert: Alert, reason: impl Into<String>) -> Self {
        Self {
            alert: alert.bytes(),
            reason: reason.into(),
        }
    }
}

/// Reads a `ClientHello` piece by piece.
#[derive(Default)]
struct Hello {
    acceptor: Acceptor,
    /// Bytes it was given.
    seen: usize,
}

impl Hello {
    /// The server name, once the message at the start of `bytes` is whole; `bytes` grow from call to call.
    fn server_name(&mut self, bytes: &[u8]) -> Result<Option<String>, Refused> {
        let mut rest = &bytes[self.seen..];
        while !rest.is_empty() {
            self.seen += self
                .acceptor
                .read_tls(&mut rest)
                .map_err(|error| Refused::new(Alert::DecodeError, error.to_string()))?;
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(ToOwned::to_owned);
                    return name.map(Some).ok_or_else(|| {
                        let reason = "no server name, or an address as one";
                        Refused::new(Alert::UnrecognizedName, reason)
                    });
                }
                Err((error, mut alert)) => {
                    let mut refused = Refused::new(Alert::DecodeError, error.to_string());
                    let mut bytes = Vec::new();
                    if alert.write_all(&mut bytes).is_ok() && !bytes.is_empty() {
                        refused.alert = bytes;
                    }
                    return Err(refused);
                }
            }
        }
        if self.seen > MAX_HELLO {
            return Err(Refused::new(
                Alert::DecodeError,
                format!("the client hello is longer than {MAX_HELLO} bytes"),
            ));
        }
        Ok(None)
    }
}

/// Where a server name leads.
fn route(name: &str, cluster_domain: &str) -> Result<Target, Refused> {
    // The listener's own port cannot stand in a server name.
    let place = Place {
        own: None,
        cluster_domain,
    };
    Target::new(name, PORT)
        .ok()
        .and_then(|asked| target_of_name(&asked, place))
        .ok_or_else(|| {
            let reason = format!("the server name {name} names nothing in the cluster");
            Refused::new(Alert::UnrecognizedName, reason)
        })
}

/// Serves a connection whose first byte starts a TLS handshake.
pub(super) async fn serve<C: Connect>(mut local: Local, shared: &Shared<C>, report: &mut Report) -> Ended {
    report.begin("TLS");
    let options = &shared.options;
    let target = if options.credentials.is_some() {
        let reason = "TLS carries no password for --auth-file; use CONNECT or SOCKS5";
        Err(Refused::new(Alert::AccessDenied, reason))
    } else {
        let read = timeout(options.limits.head, hello(&mut local)).await;
        report.count(&local);
        match read {
            Err(_) => return Ended::Idle,
            Ok(Err(error)) => return Ended::Local(error),
            Ok(Ok(read)) => read.and_then(|name| route(&name, &options.cluster_domain)),
        }
    };
    let target = match target {
        Ok(target) => target,
        Err(Refused { alert, reason }) => {
            return answer(local, &alert, report, shared, Ended::Rejected(reason)).await;
        }
    };
    match dial(shared, &target, report).await {
        Ok(stream) => splice(local, stream, BytesMut::new(), report).await,
        Err(error) => {
            let alert = if error.code == RefusalCode::NoSuchHost {
                Alert::UnrecognizedName
            } else {
                Alert::InternalError
            };
            answer(local, &alert.bytes(), report, shared, Ended::NotReached(error)).await
        }
    }
}

/// Waits for the whole `ClientHello`; it stays in the buffer.
async fn hello(local: &mut Local) -> std::io::Result<Result<String, Refused>> {
    let mut hello = Hello::default();
    loop {
        match hello.server_name(&local.buf) {
            Ok(Some(name)) => return Ok(Ok(name)),
            Ok(None) => local.fill_to(local.buf.len() + 1).await?,
            Err(refused) => return Ok(Err(refused)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What rustls itself sends to that name.
    fn client_hello(name: &str) -> Vec<u8> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let config = rustls::ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn finds_the_name_at_any_split() {
        for name in ["web.dev.svc", "web"] {
            let bytes = client_hello(name);
            let mut hello = Hello::default();
            for length in 0..bytes.len() {
                assert_eq!(hello.server_name(&bytes[..length]), Ok(None), "{length}");
            }
            assert_eq!(hello.server_name(&bytes), Ok(Some(name.to_owned())));
            let more = [&bytes[..], b"early data"].concat();
            assert_eq!(Hello::default().server_name(&more), Ok(Some(name.to_owned())));
        }
    }

    #[test]
    fn without_a_name_it_goes_nowhere() {
        let refused = Hello::default()
            .server_name(&client_hello("10.0.0.7"))
            .unwrap_err();
        assert_eq!(refused.alert, [0x15, 3, 3, 0, 2, 2, 0x70]);
        let nonsense = Hello::default()
            .server_name(&[HANDSHAKE, 9, 9, 0, 1, 0])
            .unwrap_err();
        assert_eq!(nonsense.alert[0], 0x15, "{nonsense:?}");
    }

    #[test]
    fn a_hello_in_several_records_is_one() {
        let whole = client_hello("web");
        let body = &whole[5..];
        let record = |part: &[u8]| {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&whole[..3], &length, part].concat()
        };
        let split = [record(&body[..50]), record(&body[50..])].concat();
        assert_eq!(Hello::default().server_name(&split), Ok(Some("web".to_owned())));
    }

    #[test]
    fn the_names_are_those_of_host_routing_and_the_port_is_443() {
        for (name, target) in [
            ("web", "web:443"),
            ("web.localhost", "web:443"),
            ("api.dev.svc", "api.dev.svc:443"),
            ("api.dev.svc.cluster.local", "api.dev.svc.cluster.local:443"),
        ] {
            assert_eq!(route(name, "cluster.local").unwrap().to_string(), target);
        }
        for name in [
            "evil.example",
            "localhost",
            "127.0.0.1",
            "2130706433",
            "127.0.0.1.localhost",
            "cluster.local",
            "",
        ] {
            let refused = route(name, "cluster.local").unwrap_err();
            assert_eq!(refused.alert, [0x15, 3, 3, 0, 2, 2, 0x70], "{name:?}");
        }
    }

    #[test]
    fn what_never_becomes_a_hello_is_bounded() {
        // A handshake message that says it has 16 MiB, in records.
        let mut bytes = Vec::new();
        let mut hello = Hello::default();
        let mut refused = None;
        for index in 0..20 {
            bytes.extend_from_slice(&[0x16, 3, 1, 0x40, 0]);
            let start: &[u8] = if index == 0 { &[1, 0xff, 0xff, 0xff] } else { &[] };
            bytes.extend_from_slice(start);
            bytes.resize(bytes.len() + 0x4000 - start.len(), 0);
            if let Err(error) = hello.server_name(&bytes) {
                refused = Some(error);
                break;
            }
        }
        assert!(refused.is_some() && bytes.len() <= 2 * MAX_HELLO);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), name in 0usize..3) {
            let mut mixed = client_hello(["web", "web.dev.svc", "10.0.0.7"][name]);
            for (index, byte) in bytes.iter().enumerate() {
                let length = mixed.len();
                mixed[(index * 31 + usize::from(*byte)) % length] ^= byte & 3;
            }
            drop(Hello::default().server_name(&mixed));
            drop(Hello::default().server_name(&[&[HANDSHAKE], &bytes[..]].concat()));
        }
    }
}
