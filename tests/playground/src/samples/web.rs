//! A small web program: in the cluster as `web`, on the laptop as what `expose` exposes.
//!
//! | path | answer |
//! |---|---|
//! | `/bytes/N` | N bytes of a fixed pattern |
//! | `/echo` | the body as it comes |
//! | `/events` | three server-sent events, 100 ms apart |
//! | `/cookies` | two `Set-Cookie` headers |
//! | `/redirect` | 302 to `/` of the host that was asked |
//! | `/status/N` | status N |
//! | `/delay/MS` | as any other, later |
//! | any other | greeting, request line, headers and length of the body, as text |

use std::convert::Infallible;
use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

type Body = BoxBody<Bytes, hyper::Error>;

/// Length of one piece of `/bytes/N`.
const PIECE: usize = 64 * 1024;

/// Serves until dropped. Each answer begins with `greeting` and comes `delay` late.
pub(crate) async fn serve(listener: TcpListener, greeting: String, delay: Duration) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((connection, peer)) = accepted else { continue };
                let greeting = greeting.clone();
                let service = service_fn(move |request| {
                    let greeting = greeting.clone();
                    async move {
                        tokio::time::sleep(delay).await;
                        Ok::<_, Infallible>(answer(&greeting, request).await)
                    }
                });
                connections.spawn(async move {
                    let io = TokioIo::new(connection);
                    if let Err(error) = http1::Builder::new().half_close(true).serve_connection(io, service).await {
                        tracing::debug!(%peer, %error, "sample connection ended");
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(greeting: &str, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let number = |text: &str| text.parse::<usize>().unwrap_or(0);
    match path
        .trim_start_matches('/')
        .split_once('/')
        .unwrap_or((path.trim_start_matches('/'), ""))
    {
        ("bytes", count) => bytes(number(count)),
        ("echo", _) => Response::new(request.into_body().boxed()),
        ("events", _) => events(),
        ("cookies", _) => {
            let mut response = text("two cookies\n".to_owned());
            for cookie in ["a=1", "b=2"] {
                response
                    .headers_mut()
                    .append(header::SET_COOKIE, HeaderValue::from_static(cookie));
            }
            response
        }
        ("redirect", _) => {
            let host = request
                .headers()
                .get(header::HOST)
                .and_then(|host| host.to_str().ok())
                .unwrap_or_default();
            let mut response = text(String::new());
            *response.status_mut() = StatusCode::FOUND;
            if let Ok(location) = HeaderValue::from_str(&format!("http://{host}/")) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            response
        }
        ("status", code) => {
            let mut response = text(format!("{code}\n"));
            let code = u16::try_from(number(code))
                .ok()
                .and_then(|code| StatusCode::from_u16(code).ok());
            *response.status_mut() = code.unwrap_or(StatusCode::BAD_REQUEST);
            response
        }
        ("delay", ms) => {
            tokio::time::sleep(Duration::from_millis(number(ms) as u64)).await;
            describe(greeting, request).await
        }
        _ => describe(greeting, request).await,
    }
}

async fn describe(greeting: &str, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut answer = format!(
        "hello from {greeting}\n{} {} {:?}\n",
        head.method, head.uri, head.version
    );
    for (name, value) in &head.headers {
        writeln!(answer, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))
            .expect("writing to a string");
    }
    let length = match body.collect().await {
        Ok(body) => format!("{} bytes", body.to_bytes().len()),
        Err(error) => format!("cut short: {error}"),
    };
    writeln!(answer, "\nbody: {length}").expect("writing to a string");
    text(answer)
}

fn bytes(count: usize) -> Response<Body> {
    let piece = Bytes::from(
        (0..PIECE)
            .map(|index| u8::try_from(index % 251).unwrap_or(0))
            .collect::<Vec<_>>(),
    );
    let pieces = stream::unfold(count, move |left| {
        let next = piece.slice(..left.min(PIECE));
        async move { (left > 0).then(|| (Ok(Frame::data(next.clone())), left - next.len())) }
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(pieces)));
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, count.into());
    response
}

fn events() -> Response<Body> {
    let events = stream::unfold(0, |index| async move {
        if index == 3 {
            return None;
        }
        if index > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Some((
            Ok(Frame::data(Bytes::from(format!("data: {index}\n\n")))),
            index + 1,
        ))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(events)));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    response
}

fn text(text: String) -> Response<Body> {
    let mut response = Response::new(
        Full::new(Bytes::from(text))
            .map_err(|never| match never {})
            .boxed(),
    );
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
