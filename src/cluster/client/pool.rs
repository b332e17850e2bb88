//! The connections to the API server, and what every answer tells: the time, and whether to come again later.
//!
//! hyper keeps idle connections for reuse. When the line broke, each of them is dead, and each would cost a deadline
//! to find out. So any failure here - also a request dropped without an answer, which is what a deadline does - throws
//! all of them away, and the next request opens a new one. Answers in progress (a watch) live on.
//!
//! A refusal becomes a Kubernetes `Status` in any case: kube takes any JSON for one and would forget the HTTP status.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Collected, Either, Full, Limited};
use hyper::body::Incoming;
use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};
use kube::client::Body;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt as _};

/// How often one request is sent again because the API server asked for it (429 or 5xx with `Retry-After`).
const MAX_RETRIES: u32 = 3;

/// The longest `Retry-After` that is obeyed; with more, the answer goes to the caller, who can say so.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(2);

/// The longest body of a refusal that is read, in bytes.
const MAX_REFUSAL: usize = 64 * 1024;

/// The body of an answer as it comes, or of a refusal as a `Status`.
pub(super) type AnswerBody = Either<Incoming, Full<Bytes>>;

/// A hyper client with its connections.
pub(super) type Connections = BoxCloneSyncService<Request<Body>, Response<Incoming>, BoxError>;

/// Makes hyper clients that have no connections yet.
pub(super) type Maker = Arc<dyn Fn() -> Connections + Send + Sync>;

/// See the file's head. Clones share everything.
#[derive(Clone)]
pub(super) struct Pool {
    make: Maker,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    connections: Connections,
    /// Counts up with every set of connections, so that a late failure does not throw away a newer set.
    generation: u64,
    /// The API server's last `Date`, and when it came.
    date: Option<(Timestamp, Instant)>,
}

/// Throws the connections away when dropped, unless an answer came.
struct Attempt<'a> {
    pool: &'a Pool,
    generation: u64,
    answered: bool,
}

impl Pool {
    pub(super) fn new(make: Maker) -> Self {
        let shared = Shared {
            connections: make(),
            generation: 0,
            date: None,
        };
        Self {
            make,
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// The last `Date` and the time since.
    pub(super) fn server_now(&self) -> Option<Timestamp> {
        let (date, received) = self.shared().date?;
        let elapsed = SignedDuration::try_from(received.elapsed()).ok()?;
        date.checked_add(elapsed).ok()
    }

    /// Takes over the time another pool was told, until this one is told itself.
    pub(super) fn inherit_date(&self, other: &Self) {
        let date = other.shared().date;
        let mut shared = self.shared();
        shared.date = shared.date.or(date);
    }

    /// Makes the next request open a new connection.
    pub(super) fn discard(&self) {
        let generation = self.shared().generation;
        self.discard_generation(generation);
    }

    fn discard_generation(&self, generation: u64) {
        let fresh = (self.make)();
        let mut shared = self.shared();
        if shared.generation == generation {
            shared.generation += 1;
            shared.connections = fresh;
        }
    }

    /// The lock is held for a few instructions only, none of which can panic half-way.
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, mut request: Request<Body>) -> Result<Response<AnswerBody>, BoxError> {
        let mut retries = 0;
        loop {
            let again = copy(&request);
            let response = self.attempt(request).await?;
            let wait = retry_after(&response);
            match (again, wait) {
                (Some(again), Some(wait)) if retries < MAX_RETRIES && wait <= MAX_RETRY_AFTER => {
                    retries += 1;
                    tracing::warn!(status = %response.status(), ?wait, "the API server asks to come again later");
                    drop(response);
                    tokio::time::sleep(wait).await;
                    request = again;
                }
                _ => return Ok(refusal_as_status(response).await),
            }
        }
    }

    async fn attempt(&self, request: Request<Body>) -> Result<Response<Incoming>, BoxError> {
        let (connections, generation) = {
            let shared = self.shared();
            (shared.connections.clone(), shared.generation)
        };
        let mut attempt = Attempt {
            pool: self,
            generation,
            answered: false,
        };
        let response = connections.oneshot(request).await?;
        attempt.answered = true;
        if let Some(date) = date(response.headers()) {
            self.shared().date = Some((date, Instant::now()));
        }
        Ok(response)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.pool.discard_generation(self.generation);
        }
    }
}

impl Service<Request<Body>> for Pool {
    type Response = Response<AnswerBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let pool = self.clone();
        Box::pin(async move { pool.send(request).await })
    }
}

/// The same request once more; `None` when its body is a stream that can be sent only once.
fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let mut copy = Request::new(request.body().try_clone()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

/// The API server answers this way before it has done anything, so that any request may be sent again (client-go
/// does the same).
fn retry_after<B>(response: &Response<B>) -> Option<Duration> {
    let status = response.status();
    if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
        return None;
    }
    let seconds = response
        .headers()
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

/// Leaves an answer as it is, and gives a refusal that is none of Kubernetes' the form of one.
async fn refusal_as_status(response: Response<Incoming>) -> Response<AnswerBody> {
    let code = response.status();
    if !code.is_client_error() && !code.is_server_error() {
        return response.map(Either::Left);
    }
    let (parts, body) = response.into_parts();
    // Without its words it is still a refusal.
    let body = Limited::new(body, MAX_REFUSAL)
        .collect()
        .await
        .map(Collected::to_bytes)
        .unwrap_or_default();
    Response::from_parts(parts, Either::Right(Full::new(as_status(code, body))))
}

fn as_status(code: StatusCode, body: Bytes) -> Bytes {
    let json: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let message = match &json {
        Some(json) if json["kind"] == "Status" && json["code"] == code.as_u16() => return body,
        Some(json) => json["message"].as_str().map(str::to_owned),
        None => None,
    };
    let message = message.unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
    let message = if message.trim().is_empty() {
        code.to_string()
    } else {
        message
    };
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(), "message": message,
    });
    Bytes::from(status.to_string())
}

fn date(headers: &HeaderMap) -> Option<Timestamp> {
    DateTimeParser::new()
        .parse_timestamp(headers.get(DATE)?.as_bytes())
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_http_writes_them() {
        let mut headers = HeaderMap::new();
        headers.insert(DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        assert_eq!(date(&headers), Some("1994-11-06T08:49:37Z".parse().unwrap()));
        headers.insert(DATE, "yesterday".parse().unwrap());
        assert_eq!(date(&headers), None);
        assert_eq!(date(&HeaderMap::new()), None);
    }

    #[test]
    fn every_refusal_becomes_a_status() {
        let told = |code: u16, body: &'static str| {
            let status = as_status(
                StatusCode::from_u16(code).unwrap(),
                Bytes::from_static(body.as_bytes()),
            );
            let status: kube::core::Status = serde_json::from_slice(&status).unwrap();
            (status.code, status.message, status.reason)
        };
        let own = r#"{"kind":"Status","code":403,"message":"no","reason":"Forbidden"}"#;
        assert_eq!(told(403, own), (403, "no".to_owned(), "Forbidden".to_owned()));
        assert_eq!(
            told(401, r#"{"message":"log in"}"#),
            (401, "log in".to_owned(), String::new())
        );
        assert_eq!(told(502, "{}"), (502, "{}".to_owned(), String::new()));
        assert_eq!(told(502, "<html>"), (502, "<html>".to_owned(), String::new()));
        assert_eq!(
            told(503, ""),
            (503, "503 Service Unavailable".to_owned(), String::new())
        );
    }

    #[test]
    fn only_answers_that_ask_for_it_are_retried() {
        let cases = [
            (429, Some("1"), Some(1)),
            (503, Some("2"), Some(2)),
            (500, Some("0"), Some(0)),
            (429, None, None),
            (503, Some("Wed, 21 Oct 2026 07:28:00 GMT"), None),
            (404, Some("1"), None),
            (200, Some("1"), None),
        ];
        for (status, header, expected) in cases {
            let mut response = Response::builder().status(status);
            if let Some(value) = header {
                response = response.header(RETRY_AFTER, value);
            }
            let response = response.body(()).unwrap();
            assert_eq!(
                retry_after(&response),
                expected.map(Duration::from_secs),
                "{status} {header:?}"
            );
        }
    }
}
