//! One request and its response, in both directions at once.
//!
//! ```text
//! local  --- rest of the request body --->  upstream        `upload`
//! local  <-- 1xx heads, head, body --------  upstream       `download`
//! ```
//!
//! The two run side by side: a response may start, and end, while the body is still on its way. Each read is
//! passed on at once, so events are not held back. The exchange is over when both messages are complete.

use std::io;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Duration, timeout};

use super::body::{Body, BodyError, Framing};
use super::head::{RESPONSE_HEAD_LIMIT, ResponseHead, head_length};
use super::upstream::{Upstream, fill, send};
use crate::listener::local::{Local, LocalReader, LocalWriter};

/// What of a request matters for its response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// Its response has no body whatever its head says.
    pub(crate) head_request: bool,
    /// It asks for another protocol.
    pub(crate) upgrade: bool,
    /// The connection may carry another request.
    pub(crate) persistent: bool,
}

/// An exchange that is over.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) end: Exchanged,
    /// Of the response, if the program got the head of one.
    pub(crate) status: Option<u16>,
}

/// How an exchange ended.
#[derive(Debug)]
pub(crate) enum Exchanged {
    /// Both messages are complete and both ends go on.
    Kept,
    /// The response is complete, and was the last one.
    Last,
    /// The upstream changed the protocol: all that follows is raw.
    Upgraded,
    /// The upstream ended or failed before it answered.
    NoAnswer(io::Error),
    /// The upstream's answer cannot be passed on; nothing of it was.
    BadAnswer(String),
    /// The request body breaks the rules. `answered`: some of a response was passed on.
    BadBody {
        /// What is wrong.
        error: BodyError,
        /// Some bytes of a response were passed on.
        answered: bool,
    },
    /// The upstream broke off in the middle of the response.
    Truncated(io::Error),
    /// The program's end failed.
    Local(io::Error),
}

/// Passes on the rest of the request body and the whole response. `stall` is how long a request body may
/// outlast its response.
pub(crate) async fn exchange<S>(
    local: &mut Local,
    upstream: &mut Upstream<S>,
    facts: Facts,
    body: &mut Body,
    stall: Duration,
) -> Exchange
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut status = None;
    let sent = local.sent;
    let (mut reader, mut writer) = local.split();
    let Upstream { read, write, buf, .. } = upstream;
    let mut uploaded = Ok(Uploaded::Whole);
    let downloaded = {
        let mut download = std::pin::pin!(download(read, buf, &mut writer, facts, &mut status));
        let mut early = None;
        if !body.is_done() {
            let mut upload = std::pin::pin!(upload(&mut reader, write, body));
            tokio::select! {
                end = &mut upload => uploaded = end,
                end = &mut download => {
                    // Else the connection ends anyway, and the rest of the body goes nowhere.
                    if matches!(end, Ok(Answer::Whole { last: false } | Answer::Upgraded)) {
                        uploaded = timeout(stall, upload).await.unwrap_or(Ok(Uploaded::Refused));
                    }
                    early = Some(end);
                }
            }
        }
        match (&uploaded, early) {
            (Err(_), _) => None,
            (Ok(_), Some(end)) => Some(end),
            (Ok(Uploaded::Whole), None) => Some(until_answered(download, &mut reader, write).await),
            (Ok(Uploaded::Ended | Uploaded::Refused), None) => Some(watched(download, &mut reader).await),
        }
    };
    let end = match (uploaded, downloaded) {
        (Err(UploadError::Local(error)), _) => Exchanged::Local(error),
        (Err(UploadError::Body(error)), _) => Exchanged::BadBody {
            error,
            answered: local.sent > sent,
        },
        (Ok(_), Some(Err(error))) => error.into(),
        (Ok(Uploaded::Whole), Some(Ok(Answer::Upgraded))) => Exchanged::Upgraded,
        // Raw bytes behind half a body would be read as its rest.
        (Ok(_), Some(Ok(Answer::Upgraded))) => Exchanged::Truncated(io::ErrorKind::BrokenPipe.into()),
        (Ok(Uploaded::Whole), Some(Ok(Answer::Whole { last: false }))) => Exchanged::Kept,
        (Ok(_), Some(Ok(Answer::Whole { .. })) | None) => Exchanged::Last,
    };
    Exchange { end, status }
}

/// Waits for the response; an end of the program's direction is passed on as such, since it may mean that
/// nobody waits any more. With more requests behind this one it does not.
async fn until_answered<W: AsyncWrite + Unpin>(
    mut download: std::pin::Pin<&mut impl Future<Output = Result<Answer, DownloadError>>>,
    reader: &mut LocalReader<'_>,
    write: &mut W,
) -> Result<Answer, DownloadError> {
    let mut half_closed = false;
    {
        let mut ended = std::pin::pin!(async {
            reader.ended().await?;
            if !reader.buf.is_empty() {
                return Ok(false);
            }
            // An upstream that fails here says so to the download as well.
            Ok::<_, io::Error>(write.shutdown().await.is_ok())
        });
        tokio::select! {
            answer = &mut download => return answer,
            end = &mut ended => half_closed |= end.map_err(DownloadError::Local)?,
        }
    }
    match download.await {
        Ok(Answer::Whole { .. }) if half_closed => Ok(Answer::Whole { last: true }),
        answer => answer,
    }
}

/// Waits for the response to a request whose body goes nowhere any more; what still comes of it is dropped,
/// or a program that only reads once it has written would wait for ever.
async fn watched(
    mut download: std::pin::Pin<&mut impl Future<Output = Result<Answer, DownloadError>>>,
    reader: &mut LocalReader<'_>,
) -> Result<Answer, DownloadError> {
    loop {
        reader.buf.clear();
        tokio::select! {
            answer = &mut download => return answer,
            read = reader.fill() => match read {
                Ok(0) => return download.await,
                Ok(_) => {}
                Err(error) => return Err(DownloadError::Local(error)),
            },
        }
    }
}

/// How far a request body came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Uploaded {
    /// To its end.
    Whole,
    /// The program ended its direction in the middle; the upstream was told so.
    Ended,
    /// The upstream takes no more; it may have answered why.
    Refused,
}

#[derive(Debug)]
enum UploadError {
    Local(io::Error),
    Body(BodyError),
}

/// Passes on the rest of a request body.
async fn upload<W>(
    reader: &mut LocalReader<'_>,
    write: &mut W,
    body: &mut Body,
) -> Result<Uploaded, UploadError>
where
    W: AsyncWrite + Unpin,
{
    while !body.is_done() {
        if reader.buf.is_empty() && reader.fill().await.map_err(UploadError::Local)? == 0 {
            let refused = write.shutdown().await.is_err();
            return Ok(if refused {
                Uploaded::Refused
            } else {
                Uploaded::Ended
            });
        }
        let length = body.take(reader.buf).map_err(UploadError::Body)?;
        if send(write, &reader.buf[..length]).await.is_err() {
            return Ok(Uploaded::Refused);
        }
        reader.buf.advance(length);
    }
    Ok(Uploaded::Whole)
}

/// A response that was passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The whole message; `last` when the connection carries no other.
    Whole { last: bool },
    /// `101 Switching Protocols`.
    Upgraded,
}

#[derive(Debug)]
enum DownloadError {
    NoAnswer(io::Error),
    Bad(String),
    Truncated(io::Error),
    Local(io::Error),
}

impl From<DownloadError> for Exchanged {
    fn from(error: DownloadError) -> Self {
        match error {
            DownloadError::NoAnswer(error) => Self::NoAnswer(error),
            DownloadError::Bad(reason) => Self::BadAnswer(reason),
            DownloadError::Truncated(error) => Self::Truncated(error),
            DownloadError::Local(error) => Self::Local(error),
        }
    }
}

/// Passes on interim responses, then the response.
async fn download<R: AsyncRead + Unpin>(
    read: &mut R,
    buf: &mut BytesMut,
    writer: &mut LocalWriter<'_>,
    facts: Facts,
    status: &mut Option<u16>,
) -> Result<Answer, DownloadError> {
    let head = loop {
        let head = response_head(read, buf).await?;
        match head.status {
            101 if facts.upgrade => {
                *status = Some(101);
                writer
                    .write_all(&head.bytes())
                    .await
                    .map_err(DownloadError::Local)?;
                return Ok(Answer::Upgraded);
            }
            101 => {
                return Err(DownloadError::Bad(
                    "it changes the protocol without being asked".to_owned(),
                ));
            }
            100..=199 => writer
                .write_all(&head.bytes())
                .await
                .map_err(DownloadError::Local)?,
            _ => break head,
        }
    };
    let framing = head
        .framing(facts.head_request)
        .map_err(|error| DownloadError::Bad(error.to_string()))?;
    let mut body = Body::new(framing);
    let broken = |error: BodyError| io::Error::new(io::ErrorKind::InvalidData, error);
    // Head and first bytes in one write: one packet for a small response.
    let mut first = head.bytes();
    let length = body
        .take(buf)
        .map_err(|error| DownloadError::Bad(error.to_string()))?;
    first.extend_from_slice(&buf[..length]);
    buf.advance(length);
    *status = Some(head.status);
    writer.write_all(&first).await.map_err(DownloadError::Local)?;
    drop(first);
    while !body.is_done() {
        if fill(read, buf).await.map_err(DownloadError::Truncated)? == 0 {
            if body.may_end() {
                break;
            }
            return Err(DownloadError::Truncated(io::ErrorKind::UnexpectedEof.into()));
        }
        let length = body
            .take(buf)
            .map_err(|error| DownloadError::Truncated(broken(error)))?;
        writer
            .write_all(&buf[..length])
            .await
            .map_err(DownloadError::Local)?;
        buf.advance(length);
    }
    let last = framing == Framing::UntilEnd || !head.persistent() || !facts.persistent;
    Ok(Answer::Whole { last })
}

/// Reads one response head.
async fn response_head<R: AsyncRead + Unpin>(
    read: &mut R,
    buf: &mut BytesMut,
) -> Result<ResponseHead, DownloadError> {
    let mut seen = 0;
    let length = loop {
        if let Some(length) = head_length(buf, seen) {
            break length;
        }
        if buf.len() > RESPONSE_HEAD_LIMIT {
            return Err(DownloadError::Bad(format!(
                "its head is longer than {RESPONSE_HEAD_LIMIT} bytes"
            )));
        }
        // Found out now, not when 256 KiB have come: another protocol may well wait for us to speak.
        if !buf.is_empty() && !could_be_http(buf) {
            return Err(DownloadError::Bad("it is not HTTP/1".to_owned()));
        }
        seen = buf.len();
        if fill(read, buf).await.map_err(DownloadError::NoAnswer)? == 0 {
            if buf.is_empty() {
                return Err(DownloadError::NoAnswer(io::ErrorKind::UnexpectedEof.into()));
            }
            return Err(DownloadError::Bad("it ends in the middle of its head".to_owned()));
        }
    };
    ResponseHead::parse(buf.split_to(length).freeze()).map_err(|error| DownloadError::Bad(error.to_string()))
}

fn could_be_http(start: &[u8]) -> bool {
    start.iter().zip(b"HTTP/").all(|(is, wanted)| is == wanted)
}
