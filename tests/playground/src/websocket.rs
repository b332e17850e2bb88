//! The WebSocket handshake of the API server, for exec and port-forward.

use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderValue, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::http::status::Refusal;
use crate::http::{Body, Call, full};

pub(crate) const V5: &str = "v5.channel.k8s.io";
pub(crate) const V4: &str = "v4.channel.k8s.io";

/// The first known sub-protocol that is offered, and the key the client waits for.
pub(crate) fn negotiate(call: &Call, known: &[&'static str]) -> Result<(&'static str, String), Refusal> {
    let headers = call.request.headers();
    let is_websocket = headers
        .get(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY).filter(|_| is_websocket) else {
        return Err(Refusal::bad_request("Upgrade request required"));
    };
    let offered: Vec<&str> = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(',').map(str::trim))
        .collect();
    let protocol = known
        .iter()
        .find(|protocol| offered.contains(protocol))
        .ok_or_else(|| {
            let text =
                format!("unable to upgrade: unable to negotiate protocol: client supports {offered:?}");
            Refusal::new(StatusCode::FORBIDDEN, "Forbidden", text)
        })?;
    Ok((protocol, derive_accept_key(key.as_bytes())))
}

/// The answer that turns the connection into a WebSocket.
pub(crate) fn switching_protocols(protocol: &'static str, accept: &str) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}
