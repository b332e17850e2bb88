//! `playground fetch`: one HTTP/1.1 request, plain, through an HTTP proxy, by CONNECT or by SOCKS5.
//!
//! For the demo on machines without curl. It asks for the connection to be closed and reads to its
//! end, so it needs no parser for bodies but the one for chunks.

use std::io;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[derive(Debug, Args)]
pub(crate) struct Fetch {
    /// Send the request through this HTTP proxy (HOST:PORT)
    #[arg(long, conflicts_with = "socks5")]
    proxy: Option<String>,

    /// With --proxy: ask it for a tunnel by CONNECT
    #[arg(long, requires = "proxy")]
    connect: bool,

    /// Connect through this SOCKS5 proxy (HOST:PORT), which resolves the name
    #[arg(long)]
    socks5: Option<String>,

    /// Add a header, as `Name: value`
    #[arg(long)]
    header: Vec<String>,

    /// Print the status code instead of the body, and take any status as success
    #[arg(long)]
    status: bool,

    /// Give up after so many seconds
    #[arg(long, default_value_t = 10)]
    timeout: u64,

    /// The URL, http only
    url: String,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("{url:?} is not a URL of the form http://HOST[:PORT]/PATH")]
    Url { url: String },
    #[error("fetch {url}: no answer within {seconds}s")]
    Timeout { url: String, seconds: u64 },
    #[error("fetch {url}")]
    Io {
        url: String,
        #[source]
        source: io::Error,
    },
    #[error("{proxy} refused: {answer}")]
    Proxy { proxy: String, answer: String },
    #[error("fetch {url}: not an HTTP answer")]
    Answer { url: String },
    #[error("fetch {url}: status {status}\n{body}")]
    Status { url: String, status: u16, body: String },
}

/// The parts of the URL.
struct Target<'a> {
    /// As in the URL, for the Host header.
    authority: &'a str,
    host: &'a str,
    port: u16,
    path: &'a str,
}

impl Fetch {
    pub(crate) async fn run(&self) -> Result<String, FetchError> {
        let target = self.target().ok_or_else(|| FetchError::Url {
            url: self.url.clone(),
        })?;
        let answer = timeout(Duration::from_secs(self.timeout), self.exchange(&target)).await;
        let answer = answer.map_err(|_| FetchError::Timeout {
            url: self.url.clone(),
            seconds: self.timeout,
        })??;
        let (status, body) = split(&answer).ok_or_else(|| FetchError::Answer {
            url: self.url.clone(),
        })?;
        let body = String::from_utf8_lossy(&body).into_owned();
        match (self.status, status) {
            (true, _) => Ok(format!("{status}\n")),
            (false, 200..=299) => Ok(body),
            (false, _) => Err(FetchError::Status {
                url: self.url.clone(),
                status,
                body,
            }),
        }
    }

    fn target(&self) -> Option<Target<'_>> {
        let rest = self.url.strip_prefix("http://")?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
            Some(_) | None => (authority, 80),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then_some(Target {
            authority,
            host,
            port,
            path,
        })
    }

    async fn exchange(&self, target: &Target<'_>) -> Result<Vec<u8>, FetchError> {
        let failed = |source| FetchError::Io {
            url: self.url.clone(),
            source,
        };
        let mut stream = match self.proxy.as_deref().or(self.socks5.as_deref()) {
            Some(proxy) => TcpStream::connect(proxy).await,
            None => TcpStream::connect((target.host, target.port)).await,
        }
        .map_err(failed)?;
        if self.connect {
            self.ask_http_tunnel(&mut stream, target).await?;
        } else if let Some(proxy) = &self.socks5 {
            self.ask_socks5(&mut stream, proxy, target).await?;
        }
        let path = if self.proxy.is_some() && !self.connect {
            &self.url
        } else {
            target.path
        };
        let mut request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n");
        if !self
            .header
            .iter()
            .any(|header| header.to_ascii_lowercase().starts_with("host:"))
        {
            request.push_str("Host: ");
            request.push_str(target.authority);
            request.push_str("\r\n");
        }
        for header in &self.header {
            request.push_str(header);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map_err(failed)?;
        Ok(answer)
    }

    async fn ask_http_tunnel(&self, stream: &mut TcpStream, target: &Target<'_>) -> Result<(), FetchError> {
        let failed = |source| FetchError::Io {
            url: self.url.clone(),
            source,
        };
        let to = format!("{}:{}", target.host, target.port);
        let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.map_err(failed)?);
        }
        if let Some((200..=299, _)) = split(&head) {
            Ok(())
        } else {
            let answer = String::from_utf8_lossy(&head)
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned();
            Err(FetchError::Proxy {
                proxy: self.proxy.clone().unwrap_or_default(),
                answer,
            })
        }
    }

    /// RFC 1928 without authentication, the name left to the proxy.
    async fn ask_socks5(
        &self,
        stream: &mut TcpStream,
        proxy: &str,
        target: &Target<'_>,
    ) -> Result<(), FetchError> {
        let failed = |source| FetchError::Io {
            url: self.url.clone(),
            source,
        };
        let refused = |answer: String| FetchError::Proxy {
            proxy: proxy.to_owned(),
            answer,
        };
        let length = u8::try_from(target.host.len()).map_err(|_| FetchError::Url {
            url: self.url.clone(),
        })?;
        stream.write_all(&[5, 1, 0]).await.map_err(failed)?;
        let mut method = [0; 2];
        stream.read_exact(&mut method).await.map_err(failed)?;
        if method != [5, 0] {
            return Err(refused(format!("method {}", method[1])));
        }
        let mut request = vec![5, 1, 0, 3, length];
        request.extend_from_slice(target.host.as_bytes());
        request.extend_from_slice(&target.port.to_be_bytes());
        stream.write_all(&request).await.map_err(failed)?;
        let mut reply = [0; 4];
        stream.read_exact(&mut reply).await.map_err(failed)?;
        if reply[1] != 0 {
            return Err(refused(format!("reply code {}", reply[1])));
        }
        let rest = match reply[3] {
            1 => 4,
            4 => 16,
            _ => usize::from(stream.read_u8().await.map_err(failed)?),
        };
        stream.read_exact(&mut vec![0; rest + 2]).await.map_err(failed)?;
        Ok(())
    }
}

/// Status and body of an answer that was read to the end.
fn split(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = &answer[end + 4..];
    let chunked = head
        .to_ascii_lowercase()
        .contains("\r\ntransfer-encoding: chunked");
    Some((status, if chunked { dechunk(body)? } else { body.to_vec() }))
}

fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + 2 + size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_split_and_chunks_are_joined() {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(split(plain), Some((200, b"hi".to_vec())));
        let chunked = b"HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1;x=y\r\n!\r\n0\r\n\r\n";
        assert_eq!(split(chunked), Some((502, b"hi!".to_vec())));
        let cut = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi";
        assert_eq!(split(cut), None);
        assert_eq!(split(b"garbage"), None);
    }
}
