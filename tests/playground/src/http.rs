//! The HTTP side of the API server: accepts connections, says who asks, and hands each request on.
//!
//! Order of every request: planned failure, authentication, route, rights, answer, audit.
//! The answers are made by `resources`, `watch`, `reviews`, `crate::exec` and `crate::port_forward`.

mod admission;
mod discovery;
mod patch;
mod resources;
mod reviews;
mod route;
mod selector;
pub(crate) mod status;
mod watch;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::audit;
use crate::auth::{Access, User};
use crate::exec;
use crate::line::{Line, Switch};
use crate::port_forward;
use crate::world::World;
use route::{Route, Target};
use status::Refusal;

pub(crate) use admission::{prepare, prepare_pod};

/// Largest request body, as in a real API server.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

pub(crate) type Body = BoxBody<Bytes, Infallible>;
pub(crate) type Answer = Result<Response<Body>, Refusal>;

/// One request with everything known about it.
pub(crate) struct Call {
    pub(crate) user: User,
    pub(crate) route: Route,
    pub(crate) request: Request<Incoming>,
    /// The switch of the connection it came on.
    pub(crate) switch: Arc<Switch>,
}

/// Accepts connections until the playground ends.
pub(crate) async fn run(world: Arc<World>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                if let Err(error) = tcp.set_nodelay(true) {
                    tracing::debug!(%error, "no nodelay on an api connection");
                }
                let line = world.faults.lines.add(tcp);
                world.spawn(connection(Arc::clone(&world), line));
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(world: Arc<World>, line: Line) {
    let switch = line.switch();
    let service = service_fn(move |request| {
        let (world, switch) = (Arc::clone(&world), Arc::clone(&switch));
        async move { Ok::<_, Infallible>(Box::pin(answer(world, switch, request)).await) }
    });
    let served = http1::Builder::new()
        .serve_connection(TokioIo::new(line), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "api connection ended");
    }
}

async fn answer(world: Arc<World>, switch: Arc<Switch>, request: Request<Incoming>) -> Response<Body> {
    let mut entry = audit::Request {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        user: String::new(),
        status: 0,
    };
    let result = match identify(&world, &request) {
        Ok(user) => {
            entry.user.clone_from(&user.name);
            respond(&world, user, switch, request).await
        }
        Err(refusal) => Err(refusal),
    };
    let mut response = result.unwrap_or_else(|refusal| json_response(refusal.code(), &refusal.body()));
    if let Ok(date) = HeaderValue::from_str(&world.clock.http_date()) {
        response.headers_mut().insert(header::DATE, date);
    }
    entry.status = response.status().as_u16();
    world.audit.record(entry);
    response
}

/// The user of the token, or of `Impersonate-User` when an administrator asks.
fn identify(world: &World, request: &Request<Incoming>) -> Result<User, Refusal> {
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let user = world
        .users
        .find(text("authorization"))
        .ok_or_else(Refusal::unauthorized)?;
    let Some(other) = text("impersonate-user") else {
        return Ok(user);
    };
    let access = Access {
        verb: "impersonate",
        group: "",
        resource: "users",
        namespace: "",
    };
    if !user.rights.allows(&access) {
        let text = format!("users {other:?} is forbidden: {}", user.refusal_text(&access));
        return Err(Refusal::new(StatusCode::FORBIDDEN, "Forbidden", text));
    }
    Ok(world.users.named(other))
}

async fn respond(world: &Arc<World>, user: User, switch: Arc<Switch>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path();
    if let Some(status) = world.faults.take_failure(request.method(), path) {
        return Err(Refusal::new(
            status,
            "InternalError",
            "the playground was told to fail this request",
        ));
    }
    let route =
        Route::parse(request.method(), path, request.uri().query()).ok_or_else(Refusal::no_such_path)?;
    let call = Call {
        user,
        route,
        request,
        switch,
    };
    let Target::Resource(resource) = call.route.target else {
        return other(world, call).await;
    };
    authorize(&call, resource)?;
    match (call.route.subresource.as_str(), call.route.verb) {
        ("exec", _) => exec::upgrade(world, call),
        ("portforward", _) => port_forward::upgrade(world, call),
        ("log", "get") => resources::log(world, &call),
        ("", "watch") => watch::start(world, &call, resource),
        ("", _) => resources::answer(world, call, resource).await,
        _ => Err(Refusal::no_such_path()),
    }
}

async fn other(world: &Arc<World>, call: Call) -> Answer {
    match call.route.target {
        Target::Health => Ok(text_response("ok".to_owned())),
        Target::Version => Ok(json_response(
            StatusCode::OK,
            &discovery::version(&world.options.platform),
        )),
        Target::Groups | Target::Resources => {
            let body = discovery::answer(&call.route).ok_or_else(Refusal::no_such_path)?;
            Ok(json_response(StatusCode::OK, &body))
        }
        Target::Review(kind) => reviews::answer(world, call, kind).await,
        Target::Resource(_) => Err(Refusal::no_such_path()),
    }
}

fn authorize(call: &Call, resource: crate::resource::Resource) -> Result<(), Refusal> {
    let route = &call.route;
    let plural = match route.subresource.as_str() {
        "" => resource.plural().to_owned(),
        sub => format!("{}/{sub}", resource.plural()),
    };
    // These need both verbs: the handshake is a GET, and from 1.35 on `create` is asked as well.
    let verbs: &[&str] = if matches!(route.subresource.as_str(), "exec" | "portforward") {
        &["get", "create"]
    } else {
        &[route.verb]
    };
    for verb in verbs {
        let access = Access {
            verb,
            group: resource.group(),
            resource: &plural,
            namespace: &route.namespace,
        };
        if !call.user.rights.allows(&access) {
            return Err(Refusal::forbidden(
                resource,
                &route.name,
                &call.user.refusal_text(&access),
            ));
        }
    }
    Ok(())
}

/// The whole body, however slowly it comes, read as JSON. An empty body is null.
pub(crate) async fn read_json(request: Request<Incoming>) -> Result<Value, Refusal> {
    let body = Limited::new(request.into_body(), BODY_LIMIT)
        .collect()
        .await
        .map_err(|error| {
            let too_large = error.downcast_ref::<http_body_util::LengthLimitError>().is_some();
            if too_large {
                let text = format!("Request entity too large: limit is {BODY_LIMIT}");
                return Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", text);
            }
            Refusal::bad_request(format!("the body ended early: {error}"))
        })?;
    let bytes = body.to_bytes();
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        Refusal::bad_request(format!(
            "the object provided is unrecognized (must be of type JSON): {error}"
        ))
    })
}

pub(crate) fn json_response(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(full(body.to_string()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(crate) fn text_response(text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}
