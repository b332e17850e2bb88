//! A connector that goes through a proxy: HTTP CONNECT (over TCP or TLS) or SOCKS5 (RFC 1928, 1929).
//!
//! The proxy resolves the API server's name. The greetings are written over any byte stream and know no sockets;
//! hyper-util has both, but its errors do not tell what the proxy said.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tower::{BoxError, Service};

use crate::cluster::http_proxy::{Proxy, ProxyKind};

/// The longest answer head to CONNECT that is read, in bytes.
const MAX_HEAD: usize = 8 * 1024;

/// The proxy cannot be reached, or does not let us through.
#[derive(Debug, thiserror::Error)]
#[error("connect through the proxy {proxy}")]
pub(in crate::cluster) struct ProxyFailure {
    pub(in crate::cluster) proxy: Proxy,
    pub(in crate::cluster) source: BoxError,
}

/// What a proxy did instead of letting us through.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
enum Refused {
    #[error("it answered {code} {reason} to CONNECT {target}")]
    Status {
        code: u16,
        reason: String,
        target: String,
    },
    #[error("it demands authentication; put USER:PASSWORD@ into its URL")]
    NoCredentials,
    #[error("it does not accept the credentials of its URL")]
    WrongCredentials,
    #[error("{0}")]
    Socks(&'static str),
    #[error("it closed the connection")]
    Closed,
    #[error("its answer is not of its protocol")]
    Nonsense,
    #[error("name, user and password may have at most 255 bytes for SOCKS5")]
    TooLong,
}

/// Connects through `proxy`, which `inner` reaches.
#[derive(Clone)]
pub(super) struct Proxied<C> {
    proxy: Proxy,
    inner: C,
}

impl<C> Proxied<C> {
    pub(super) fn new(proxy: &Proxy, inner: C) -> Self {
        Self {
            proxy: proxy.clone(),
            inner,
        }
    }
}

impl<C> Service<Uri> for Proxied<C>
where
    C: Service<Uri>,
    C::Response: Read + Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    type Response = C::Response;
    type Error = ProxyFailure;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, ProxyFailure>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyFailure>> {
        self.inner.poll_ready(cx).map_err(|source| ProxyFailure {
            proxy: self.proxy.clone(),
            source: source.into(),
        })
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let proxy = self.proxy.clone();
        let connecting = self.inner.call(proxy.address().clone());
        Box::pin(async move {
            let through = async {
                let mut io = TokioIo::new(connecting.await.map_err(Into::into)?);
                greet(&mut io, &proxy, &target).await?;
                Ok(io.into_inner())
            };
            through.await.map_err(|source| ProxyFailure {
                proxy: proxy.clone(),
                source,
            })
        })
    }
}

async fn greet<S>(io: &mut S, proxy: &Proxy, target: &Uri) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let host = target.host().unwrap_or_default();
    let default_port = if target.scheme_str() == Some("http") {
        80
    } else {
        443
    };
    let port = target.port_u16().unwrap_or(default_port);
    match proxy.kind() {
        ProxyKind::Http | ProxyKind::Https => connect(io, host, port, proxy.credentials()).await,
        ProxyKind::Socks5 => socks5(io, host, port, proxy.credentials()).await,
    }
}

/// HTTP CONNECT.
async fn connect<S>(
    io: &mut S,
    host: &str,
    port: u16,
    credentials: Option<(&str, &str)>,
) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let target = format!("{host}:{port}");
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some((user, password)) = credentials {
        let basic = STANDARD.encode(format!("{user}:{password}"));
        request.extend(["Proxy-Authorization: Basic ", &basic, "\r\n"]);
    }
    request.push_str("\r\n");
    io.write_all(request.as_bytes()).await?;
    io.flush().await?;

    let mut head = Vec::with_capacity(512);
    loop {
        if head.len() >= MAX_HEAD {
            return Err(Refused::Nonsense.into());
        }
        if io.read_buf(&mut head).await? == 0 {
            return Err(Refused::Closed.into());
        }
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&head) {
            Ok(httparse::Status::Partial) => {}
            // After a success the other end waits for our TLS hello, so nothing can stand behind the head.
            Ok(httparse::Status::Complete(length)) => match response.code {
                Some(200..=299) if length == head.len() => return Ok(()),
                Some(407) if credentials.is_none() => return Err(Refused::NoCredentials.into()),
                Some(407) => return Err(Refused::WrongCredentials.into()),
                Some(code) if code >= 300 => {
                    let reason = response.reason.unwrap_or_default().to_owned();
                    return Err(Refused::Status { code, reason, target }.into());
                }
                Some(_) | None => return Err(Refused::Nonsense.into()),
            },
            Err(_) => return Err(Refused::Nonsense.into()),
        }
    }
}

/// SOCKS5 CONNECT, with or without a password.
async fn socks5<S>(
    io: &mut S,
    host: &str,
    port: u16,
    credentials: Option<(&str, &str)>,
) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    const NO_AUTH: u8 = 0;
    const PASSWORD: u8 = 2;
    let methods: &[u8] = if credentials.is_some() {
        &[5, 2, NO_AUTH, PASSWORD]
    } else {
        &[5, 1, NO_AUTH]
    };
    io.write_all(methods).await?;
    io.flush().await?;
    match (read::<2, S>(io).await?, credentials) {
        ([5, NO_AUTH], _) => {}
        ([5, PASSWORD], Some((user, password))) => {
            let mut request = vec![1];
            push_text(&mut request, user)?;
            push_text(&mut request, password)?;
            io.write_all(&request).await?;
            io.flush().await?;
            let [_version, status] = read::<2, S>(io).await?;
            if status != 0 {
                return Err(Refused::WrongCredentials.into());
            }
        }
        ([5, 0xff], None) => return Err(Refused::NoCredentials.into()),
        ([5, 0xff], Some(_)) => {
            return Err(Refused::Socks("it knows no way to authenticate that we know").into());
        }
        _ => return Err(Refused::Nonsense.into()),
    }

    let mut request = vec![5, 1, 0];
    match host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>()
    {
        Ok(IpAddr::V4(ip)) => {
            request.push(1);
            request.extend(ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            request.push(4);
            request.extend(ip.octets());
        }
        Err(_) => {
            request.push(3);
            push_text(&mut request, host)?;
        }
    }
    request.extend(port.to_be_bytes());
    io.write_all(&request).await?;
    io.flush().await?;

    let [version, reply, _reserved, kind] = read::<4, S>(io).await?;
    if version != 5 {
        return Err(Refused::Nonsense.into());
    }
    if reply != 0 {
        return Err(Refused::Socks(socks5_reason(reply)).into());
    }
    // The address the proxy connects from; nobody needs it.
    match kind {
        1 => drop(read::<6, S>(io).await?),
        4 => drop(read::<18, S>(io).await?),
        3 => {
            let [length] = read::<1, S>(io).await?;
            let mut rest = vec![0; usize::from(length) + 2];
            io.read_exact(&mut rest).await.map_err(closed)?;
        }
        _ => return Err(Refused::Nonsense.into()),
    }
    Ok(())
}

async fn read<const N: usize, S: AsyncRead + Unpin>(io: &mut S) -> Result<[u8; N], BoxError> {
    let mut bytes = [0; N];
    io.read_exact(&mut bytes).await.map_err(closed)?;
    Ok(bytes)
}

fn closed(error: io::Error) -> BoxError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        Refused::Closed.into()
    } else {
        error.into()
    }
}

fn push_text(request: &mut Vec<u8>, text: &str) -> Result<(), Refused> {
    request.push(u8::try_from(text.len()).map_err(|_| Refused::TooLong)?);
    request.extend(text.as_bytes());
    Ok(())
}

fn socks5_reason(reply: u8) -> &'static str {
    match reply {
        2 => "it does not allow the connection",
        3 => "it says: network unreachable",
        4 => "it says: host unreachable",
        5 => "it says: connection refused",
        6 => "it says: time to live expired",
        7 => "it does not know the CONNECT command",
        8 => "it does not know this type of address",
        _ => "it says: general failure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::env::Env;
    use crate::cluster::http_proxy::proxy_for;

    /// Greets through a proxy that answers each request of the script with the bytes beside it.
    async fn greeted(proxy: &str, target: &str, script: &[(&[u8], &[u8])]) -> Result<(), String> {
        let target: Uri = target.parse().unwrap();
        let proxy = proxy_for(&target, Some(proxy), &Env::from_vars::<&str, &str>([]))
            .unwrap()
            .unwrap();
        let (mut ours, mut theirs) = tokio::io::duplex(1024);
        let answering = async {
            for (request, answer) in script {
                let mut seen = vec![0; request.len()];
                theirs.read_exact(&mut seen).await.unwrap();
                assert_eq!(seen, *request, "{}", String::from_utf8_lossy(&seen));
                for byte in *answer {
                    theirs.write_all(&[*byte]).await.unwrap();
                }
            }
            drop(theirs);
        };
        let (outcome, ()) = tokio::join!(greet(&mut ours, &proxy, &target), answering);
        outcome.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn connect_greetings() {
        let plain: &[u8] = b"CONNECT api:6443 HTTP/1.1\r\nHost: api:6443\r\n\r\n";
        let api = "https://api:6443/prefix";
        let cases: [(&str, &[u8], Result<(), &str>); 7] = [
            (
                "http://p",
                b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n",
                Ok(()),
            ),
            ("http://p", b"HTTP/1.0 200 OK\r\n\r\n", Ok(())),
            (
                "http://p",
                b"HTTP/1.1 403 Forbidden\r\n\r\n",
                Err("it answered 403 Forbidden to CONNECT api:6443"),
            ),
            (
                "http://p",
                b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
                Err("it demands authentication; put USER:PASSWORD@ into its URL"),
            ),
            (
                "http://p",
                b"SSH-2.0-OpenSSH\r\n",
                Err("its answer is not of its protocol"),
            ),
            ("http://p", b"HTTP/1.1 2", Err("it closed the connection")),
            ("http://p", b"", Err("it closed the connection")),
        ];
        for (proxy, answer, expected) in cases {
            let outcome = greeted(proxy, api, &[(plain, answer)]).await;
            assert_eq!(
                outcome,
                expected.map_err(str::to_owned),
                "{}",
                String::from_utf8_lossy(answer)
            );
        }
        let with_password: &[u8] = b"CONNECT [fd00::1]:443 HTTP/1.1\r\nHost: [fd00::1]:443\r\n\
            Proxy-Authorization: Basic YW5hOnNAYw==\r\n\r\n";
        let refused: &[u8] = b"HTTP/1.1 407 No\r\n\r\n";
        assert_eq!(
            greeted(
                "http://ana:s%40c@p",
                "https://[fd00::1]",
                &[(with_password, refused)]
            )
            .await,
            Err("it does not accept the credentials of its URL".to_owned())
        );
    }

    #[tokio::test]
    async fn socks5_greetings() {
        let hello: (&[u8], &[u8]) = (&[5, 1, 0], &[5, 0]);
        let name: &[u8] = b"\x05\x01\x00\x03\x03api\x19\x2b";
        let ok: &[u8] = &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let api = "https://api:6443";
        assert_eq!(greeted("socks5://p", api, &[hello, (name, ok)]).await, Ok(()));
        assert_eq!(
            greeted(
                "socks5://p",
                api,
                &[hello, (name, b"\x05\x00\x00\x03\x02ab\x00\x00")]
            )
            .await,
            Ok(())
        );
        assert_eq!(
            greeted("socks5://p", api, &[hello, (name, &[5, 5, 0, 1])]).await,
            Err("it says: connection refused".to_owned())
        );
        let ipv6: &[u8] = b"\x05\x01\x00\x04\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x01\xbb";
        assert_eq!(
            greeted("socks5://p", "https://[fd00::1]", &[hello, (ipv6, ok)]).await,
            Ok(())
        );
        let hello_password: (&[u8], &[u8]) = (&[5, 2, 0, 2], &[5, 2]);
        let password: &[u8] = b"\x01\x03ana\x02pw";
        assert_eq!(
            greeted(
                "socks5://ana:pw@p",
                api,
                &[hello_password, (password, &[1, 0]), (name, ok)]
            )
            .await,
            Ok(())
        );
        assert_eq!(
            greeted("socks5://ana:pw@p", api, &[hello_password, (password, &[1, 1])]).await,
            Err("it does not accept the credentials of its URL".to_owned())
        );
        assert_eq!(
            greeted("socks5://p", api, &[(&[5, 1, 0], &[5, 0xff])]).await,
            Err("it demands authentication; put USER:PASSWORD@ into its URL".to_owned())
        );
        assert_eq!(
            greeted("socks5://p", api, &[(&[5, 1, 0], b"HTTP")]).await,
            Err("its answer is not of its protocol".to_owned())
        );
        assert_eq!(
            greeted("socks5://p", api, &[(&[5, 1, 0], &[5])]).await,
            Err("it closed the connection".to_owned())
        );
    }
}
