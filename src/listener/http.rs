//! HTTP at the local port. HTTP/1: requests one after the other, each sent where its head says.
//!
//! ```text
//! next_head -> check the password -> route -+-> CONNECT: dial, 200, raw relay
//!     ^                                     +-> a page of our own, or an error
//!     |                                     +-> forward: same target as before? the same stream : a new one
//!     +-- both messages complete ---------------------'
//! ```
//!
//! The next head is looked at only when the last response has ended, so pipelined requests are answered in
//! order. What is passed on and how it is framed is in `http/`; nothing here reads a body. A connection that
//! starts as HTTP/2 is `h2c`'s.

mod body;
mod exchange;
mod fields;
mod h2c;
mod head;
mod pac;
mod reply;
mod route;
mod upstream;

use std::io;

use bytes::{Buf as _, BytesMut};
use tokio::time::Instant;
use tunnel_wire::RefusalCode;

use self::body::{Body, Framing};
use self::exchange::{Exchange, Exchanged, Facts, exchange};
use self::head::{REQUEST_HEAD_LIMIT, RequestHead, head_length};
use self::reply::Reply;
use self::route::Route;
use self::upstream::{Upstream, send};
use super::access::Report;
use super::connection::{Ended, Shared, dial, splice};
use super::local::Local;
use super::names::Place;
use super::target::Target;
use super::{Connect, DialError};

/// The answer to a CONNECT whose upstream is connected.
const CONNECTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// How much of a body goes along with its head, in bytes.
const FIRST_BODY: usize = 16 * 1024;

/// Serves a connection that speaks HTTP.
pub(super) async fn serve<C: Connect>(local: Local, shared: &Shared<C>, report: &mut Report) -> Ended {
    let mut conversation = Conversation {
        local,
        shared,
        upstream: None,
        report,
    };
    loop {
        conversation = match conversation.step().await {
            Step::Next(conversation) => *conversation,
            Step::End(ended) => return ended,
        };
    }
}

/// One program and the requests it sends.
struct Conversation<'a, C: Connect> {
    local: Local,
    shared: &'a Shared<C>,
    /// The stream the last request went to, while it can carry another.
    upstream: Option<Upstream<C::Stream>>,
    report: &'a mut Report,
}

/// What follows one request.
enum Step<'a, C: Connect> {
    Next(Box<Conversation<'a, C>>),
    End(Ended),
}

/// What comes instead of a request.
enum NoHead {
    /// Tell the program why, and end.
    Bad(Reply),
    /// The connection turns out to be HTTP/2.
    Http2,
    /// The connection is over.
    Over(Ended),
    /// The program's end failed, or it left in the middle of a head.
    Lost(io::Error),
}

/// A request that is ready to go.
struct Forward {
    target: Target,
    /// The head and, for small requests, the body.
    first: Vec<u8>,
    /// What of the body is not in `first`.
    body: Body,
    facts: Facts,
    /// It may be sent again, on a new stream, when the kept one turns out to be dead.
    repeatable: bool,
}

impl<'a, C: Connect> Conversation<'a, C> {
    /// Serves one request.
    async fn step(mut self) -> Step<'a, C> {
        self.report.count(&self.local);
        let head = match self.next_head().await {
            Ok(head) => head,
            Err(NoHead::Bad(reply)) => return self.reply_and_end(&reply, false).await,
            Err(NoHead::Lost(error)) => return Step::End(Ended::Local(error)),
            Err(NoHead::Over(ended)) => return self.over(ended),
            Err(NoHead::Http2) => return Step::End(h2c::serve(self.local, self.shared, self.report).await),
        };
        self.report.begin(&head.method);
        if head.target.starts_with('/') {
            self.report.path(&head.target);
        }
        let head_request = head.method == "HEAD";
        let body = match head.framing() {
            // What follows CONNECT is not a body, whatever its head says.
            _ if head.method == "CONNECT" => Body::new(Framing::Empty),
            Ok(framing) => Body::new(framing),
            Err(error) => return self.reply_and_end(&Reply::bad_framing(error), head_request).await,
        };
        let keep = body.is_done() && head.persistent();
        let route = match self.admit(&head) {
            Ok(route) => route,
            // What is not understood may hide more of the same: nothing behind it is read.
            Err(reply) => {
                return self
                    .reply(&reply, head_request, keep && reply.status != 400)
                    .await;
            }
        };
        match route {
            Route::ProxyPac(own) => {
                let script = pac::script(own, &self.shared.options.cluster_domain);
                self.reply(&Reply::pac(script), head_request, keep).await
            }
            Route::Tunnel(target) => self.tunnel(target, keep).await,
            Route::Forward { target, path, host } => {
                self.report.target(&target);
                self.report.path(&path);
                let forward = self.prepare(&head, target, head.rewritten(&path, host.as_deref()), body);
                match forward {
                    Ok(forward) => self.forward(forward).await,
                    Err(reply) => self.reply_and_end(&reply, head_request).await,
                }
            }
        }
    }

    /// Waits for a request and reads its head.
    async fn next_head(&mut self) -> Result<RequestHead, NoHead> {
        let limits = &self.shared.options.limits;
        let idle_until = Instant::now() + limits.idle;
        let mut head_until = None;
        let mut seen = 0;
        loop {
            // Blank lines in front of a request are left out (RFC 9112, 2.2).
            while self.local.buf.starts_with(b"\r\n") {
                self.local.buf.advance(2);
                seen = 0;
            }
            if let Some(length) =
                head_length(&self.local.buf, seen).filter(|&length| length <= REQUEST_HEAD_LIMIT)
            {
                if self.report.is_fresh() && self.local.buf.starts_with(h2c::START) {
                    return Err(NoHead::Http2);
                }
                let raw = self.local.buf.split_to(length).freeze();
                return RequestHead::parse(raw).map_err(|error| NoHead::Bad(Reply::bad_head(error)));
            }
            if self.local.buf.len() > REQUEST_HEAD_LIMIT {
                return Err(NoHead::Bad(Reply::too_large(REQUEST_HEAD_LIMIT)));
            }
            if self.local.buf.first().is_some_and(|&b| !could_start_a_head(b)) {
                return Err(NoHead::Bad(Reply::bad_request(
                    "this is neither HTTP, nor SOCKS, nor TLS",
                )));
            }
            seen = self.local.buf.len();
            let idle = self.local.buf.is_empty();
            let until = if idle {
                idle_until
            } else {
                *head_until.get_or_insert(Instant::now() + limits.head)
            };
            tokio::select! {
                read = self.local.fill() => match read {
                    Ok(0) if idle => return Err(NoHead::Over(Ended::Eof)),
                    Ok(0) => return Err(NoHead::Lost(io::ErrorKind::UnexpectedEof.into())),
                    Ok(_) => {}
                    Err(error) => return Err(NoHead::Lost(error)),
                },
                () = spoiled(&mut self.upstream) => {
                    if let Some(upstream) = self.upstream.take() {
                        upstream.end(self.shared);
                    }
                }
                () = self.shared.drain.cancelled(), if idle => return Err(NoHead::Over(Ended::Drained)),
                () = tokio::time::sleep_until(until) => {
                    return Err(if idle { NoHead::Over(Ended::Idle) } else { NoHead::Bad(Reply::too_slow()) });
                }
            }
        }
    }

    /// Whether the request may pass, and where it goes.
    fn admit(&self, head: &RequestHead) -> Result<Route, Reply> {
        let options = &self.shared.options;
        if let Some(credentials) = &options.credentials {
            // A request that came as to a server: its program knows nothing of a proxy to log in to.
            if head.method != "CONNECT" && (head.target.starts_with('/') || head.target == "*") {
                return Err(Reply::host_routing_off());
            }
            let mut values = head.fields.values("proxy-authorization");
            let (first, second) = (values.next(), values.next());
            if second.is_some() || !first.is_some_and(|value| credentials.allow_basic(value)) {
                return Err(Reply::unauthenticated());
            }
        }
        let place = Place {
            own: self.local.own,
            cluster_domain: &options.cluster_domain,
        };
        route::route(head, place).map_err(|error| Reply::unrouted(&error, &options.cluster_domain))
    }

    /// Puts the head and what is there of the body together.
    fn prepare(
        &mut self,
        head: &RequestHead,
        target: Target,
        first: Vec<u8>,
        body: Body,
    ) -> Result<Forward, Reply> {
        let mut forward = Forward {
            target,
            first,
            facts: Facts {
                head_request: head.method == "HEAD",
                upgrade: head.upgrade(),
                persistent: head.persistent(),
            },
            // RFC 9110, 9.2.2; and only without a body, which is gone once it was sent.
            repeatable: body.is_done()
                && matches!(
                    head.method.as_str(),
                    "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
                ),
            body,
        };
        let ahead = &self.local.buf[..self.local.buf.len().min(FIRST_BODY)];
        let length = forward
            .body
            .take(ahead)
            .map_err(|error| Reply::bad_request(&error.to_string()))?;
        forward.first.extend_from_slice(&ahead[..length]);
        self.local.buf.advance(length);
        Ok(forward)
    }

    /// Sends a request to its target and passes the response on.
    async fn forward(mut self, mut forward: Forward) -> Step<'a, C> {
        let kept = match self.upstream.take() {
            Some(upstream) if upstream.serves(&forward.target) => Some(upstream),
            Some(other) => {
                other.end(self.shared);
                None
            }
            None => None,
        };
        if let Some(mut upstream) = kept {
            let end = match send(&mut upstream.write, &forward.first).await {
                Ok(()) => self.exchange(&mut upstream, &mut forward).await,
                Err(error) => Exchanged::NoAnswer(error),
            };
            let Exchanged::NoAnswer(error) = end else {
                return self.conclude(end, upstream, &forward).await;
            };
            if !forward.repeatable {
                // As a server that ends a kept connection: the program knows that nobody answered it.
                self.report.count(&self.local);
                self.local.finish(self.shared.options.limits.linger).await;
                return Step::End(Ended::Upstream(error));
            }
            tracing::trace!(%error, target = %forward.target, "a kept stream was dead; asked again");
        }
        match Upstream::open(self.shared, &forward.target, &forward.first).await {
            Ok(mut upstream) => {
                let end = self.exchange(&mut upstream, &mut forward).await;
                self.conclude(end, upstream, &forward).await
            }
            Err(error) => {
                let keep = forward.body.is_done() && forward.facts.persistent;
                self.not_reached(&forward.target, error, forward.facts.head_request, keep)
                    .await
            }
        }
    }

    async fn exchange(&mut self, upstream: &mut Upstream<C::Stream>, forward: &mut Forward) -> Exchanged {
        self.report.upstream(upstream.address);
        let Exchange { end, status } = exchange(
            &mut self.local,
            upstream,
            forward.facts,
            &mut forward.body,
            self.shared.options.limits.idle,
        )
        .await;
        if let Some(status) = status {
            self.report.status(status);
        }
        end
    }

    /// What follows an exchange.
    async fn conclude(
        mut self,
        exchanged: Exchanged,
        mut upstream: Upstream<C::Stream>,
        forward: &Forward,
    ) -> Step<'a, C> {
        let linger = self.shared.options.limits.linger;
        let head_request = forward.facts.head_request;
        self.report.count(&self.local);
        match exchanged {
            Exchanged::Kept => {
                // An idle connection holds no buffer.
                if upstream.buf.is_empty() {
                    upstream.buf = BytesMut::new();
                }
                if self.local.buf.is_empty() {
                    self.local.buf = BytesMut::new();
                }
                self.upstream = Some(upstream);
                self.report.end(&Ended::Complete);
                Step::Next(Box::new(self))
            }
            Exchanged::Last => {
                upstream.end(self.shared);
                self.report.end(&Ended::Complete);
                self.local.finish(linger).await;
                Step::End(Ended::Eof)
            }
            Exchanged::Upgraded => {
                let (stream, early) = upstream.into_raw();
                Step::End(splice(self.local, stream, early, self.report).await)
            }
            Exchanged::NoAnswer(_) => {
                self.reply_and_end(&Reply::no_answer(&forward.target), head_request)
                    .await
            }
            Exchanged::BadAnswer(why) => {
                drop(upstream);
                self.reply_and_end(&Reply::bad_answer(&forward.target, &why), head_request)
                    .await
            }
            Exchanged::BadBody {
                error,
                answered: false,
            } => {
                drop(upstream);
                self.reply_and_end(&Reply::bad_request(&error.to_string()), head_request)
                    .await
            }
            // In the middle of something: only a reset says that it is not whole.
            Exchanged::BadBody {
                error,
                answered: true,
            } => Step::End(Ended::Rejected(error.to_string())),
            Exchanged::Truncated(error) => Step::End(Ended::Upstream(error)),
            Exchanged::Local(error) => Step::End(Ended::Local(error)),
        }
    }

    /// Serves a CONNECT: from here on the connection is the program's and the upstream's.
    async fn tunnel(mut self, target: Target, keep: bool) -> Step<'a, C> {
        if let Some(other) = self.upstream.take() {
            other.end(self.shared);
        }
        match dial(self.shared, &target, self.report).await {
            Ok(stream) => {
                self.report.status(200);
                match self.local.write_all(CONNECTED).await {
                    Ok(()) => Step::End(splice(self.local, stream, BytesMut::new(), self.report).await),
                    Err(error) => Step::End(Ended::Local(error)),
                }
            }
            Err(error) => self.not_reached(&target, error, false, keep).await,
        }
    }

    async fn not_reached(
        self,
        target: &Target,
        error: DialError,
        head_request: bool,
        keep: bool,
    ) -> Step<'a, C> {
        let reply = Reply::dial(target, &error, &self.shared.options.namespace);
        let session_over = error.code == RefusalCode::ShuttingDown;
        let ended = Ended::NotReached(error);
        self.answer(&reply, head_request, keep && !session_over, ended)
            .await
    }

    /// Answers, and goes on with the next request if `keep`.
    async fn reply(self, reply: &Reply, head_request: bool, keep: bool) -> Step<'a, C> {
        self.answer(reply, head_request, keep, reply.ended()).await
    }

    /// Answers and ends the connection.
    async fn reply_and_end(self, reply: &Reply, head_request: bool) -> Step<'a, C> {
        self.answer(reply, head_request, false, reply.ended()).await
    }

    async fn answer(mut self, reply: &Reply, head_request: bool, keep: bool, ended: Ended) -> Step<'a, C> {
        self.report.begin_unnamed();
        self.report.status(reply.status);
        if let Err(error) = self.local.write_all(&reply.bytes(head_request, !keep)).await {
            return Step::End(Ended::Local(error));
        }
        self.report.count(&self.local);
        self.report.end(&ended);
        if keep {
            return Step::Next(Box::new(self));
        }
        let linger = self.shared.options.limits.linger;
        self.local.finish(linger).await;
        Step::End(ended)
    }

    /// Ends an idle connection.
    fn over(self, ended: Ended) -> Step<'a, C> {
        self.local.close();
        if let Some(upstream) = self.upstream {
            upstream.end(self.shared);
        }
        Step::End(ended)
    }
}

/// Resolves when the kept stream is of no more use; never without one.
async fn spoiled<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    upstream: &mut Option<Upstream<S>>,
) {
    match upstream {
        Some(upstream) => upstream.spoiled().await,
        None => std::future::pending().await,
    }
}

/// A method starts with a token character; a carriage return may come before a line feed.
fn could_start_a_head(byte: u8) -> bool {
    byte.is_ascii_graphic() || byte == b'\r'
}
