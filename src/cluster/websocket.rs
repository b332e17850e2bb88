//! The WebSocket handshake with the API server, with the sub-protocols of the caller's choice.
//!
//! `kube::Client::connect` always offers those of exec. What travels inside is [`super::messages`]' business.

use http::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use kube::client::{Body, UpgradeConnectionError};
use kube::core::Status;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// A WebSocket to the API server.
pub(super) type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

/// Opens a WebSocket and tells which of the sub-protocols in `offer`, the best first, the server has chosen.
///
/// # Errors
/// The API server refused the request (rights, no such object), answered something else than a WebSocket, or could not
/// be reached.
pub(super) async fn open(
    client: &kube::Client,
    uri: &str,
    offer: &[&'static str],
) -> Result<(WebSocket, &'static str), kube::Error> {
    open_with(client, uri, offer, HeaderMap::new()).await
}

/// [`open`] with further headers.
pub(super) async fn open_with(
    client: &kube::Client,
    uri: &str,
    offer: &[&'static str],
    headers: HeaderMap,
) -> Result<(WebSocket, &'static str), kube::Error> {
    let key = generate_key();
    let mut request = Request::get(uri)
        .header(CONNECTION, HeaderValue::from_static("Upgrade"))
        .header(UPGRADE, HeaderValue::from_static("websocket"))
        .header(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))
        .header(SEC_WEBSOCKET_KEY, key.as_str())
        // Of several headers only the first is read.
        .header(SEC_WEBSOCKET_PROTOCOL, offer.join(", "))
        .body(Body::empty())
        .map_err(kube::Error::HttpError)?;
    request.headers_mut().extend(headers);
    let response = client.send(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response).await);
    }
    let chosen = chosen(response.headers(), &key, offer).map_err(kube::Error::UpgradeConnection)?;
    let upgraded = hyper::upgrade::on(response)
        .await
        .map_err(UpgradeConnectionError::GetPendingUpgrade)
        .map_err(kube::Error::UpgradeConnection)?;
    let websocket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
    Ok((websocket, chosen))
}

/// Which sub-protocol an answer to our handshake names (RFC 6455, 4.1).
fn chosen(
    answer: &HeaderMap,
    key: &str,
    offer: &[&'static str],
) -> Result<&'static str, UpgradeConnectionError> {
    let header = |name| answer.get(name).and_then(|value| value.to_str().ok());
    if header(SEC_WEBSOCKET_ACCEPT) != Some(derive_accept_key(key.as_bytes()).as_str()) {
        return Err(UpgradeConnectionError::SecWebSocketAcceptKeyMismatch);
    }
    let protocol = header(SEC_WEBSOCKET_PROTOCOL);
    let chosen = offer.iter().find(|name| protocol == Some(**name));
    chosen
        .copied()
        .ok_or(UpgradeConnectionError::SecWebSocketProtocolMismatch)
}

/// An answer that is no WebSocket; refusals are a `Status` always (see the client's pool).
async fn refusal(response: Response<Body>) -> kube::Error {
    let code = response.status();
    let body = match response.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return error,
    };
    match serde_json::from_slice::<Status>(&body) {
        Ok(status) => kube::Error::Api(status.boxed()),
        Err(_) => kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(code)),
    }
}
