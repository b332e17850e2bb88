//! Whether WebSockets get through to the API server, found out without a pod.
//!
//! Exec cannot tell: without a running container the API server refuses it before the handshake. A watch can, since it
//! is served over a WebSocket when asked for that way, on the same host and port and through the same proxies. It shows
//! the upgrade and that a sub-protocol's name passes; what the node makes of an exec only a session shows. Called by
//! `doctor`.

use http::header::{HeaderMap, HeaderValue, ORIGIN};

use super::api_error::ApiError;
use super::client::ApiServer;
use super::exec;
use super::websocket;

/// A watch that has nothing to tell and is over at once should nobody close it.
const QUERY: &str = "watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Dnone";

/// Opens and closes a WebSocket; tells which sub-protocol was chosen. Needs the right to watch pods.
///
/// # Errors
/// [`ApiError::Upgrade`] when the answer was none to an upgrade.
pub async fn upgrade(server: &ApiServer) -> Result<&'static str, ApiError> {
    let uri = format!("/api/v1/namespaces/{}/pods?{QUERY}", server.namespace());
    // Go's WebSocket server refuses who names no origin.
    let headers = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static("http://localhost"))]);
    let client = server.client();
    let (_, chosen) = server
        .request(("watch", "pods"), async {
            websocket::open_with(&client, &uri, &[exec::PASSED_ON], headers).await
        })
        .await?;
    Ok(chosen)
}
