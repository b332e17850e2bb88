//! The NetworkPolicy of `expose --allow-from`: made before the Service, one for each Job of the session.
//!
//! It belongs to its Job and selects that Job's pod alone, so it is never changed, handed over or deleted here: the
//! garbage collector takes it with the Job. Whether it does anything is up to the cluster's network.

use http::{Request, header};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Resource;
use serde_json::Value;

use super::{api_error::ApiError, client::ApiServer, names::FIELD_MANAGER};

/// Creates it. A conflict means that the Job before of this name has left its own, which is about to go.
pub(super) async fn create(server: &ApiServer, namespace: &str, manifest: Value) -> Result<(), ApiError> {
    let path = NetworkPolicy::url_path(&(), Some(namespace));
    let request = Request::post(format!("{path}?fieldManager={FIELD_MANAGER}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(manifest.to_string().into_bytes());
    let client = server.client();
    let answer = async move {
        client
            .request::<NetworkPolicy>(request.map_err(kube::Error::HttpError)?)
            .await
    };
    let policy = server
        .request(("create", "networkpolicies.networking.k8s.io"), answer)
        .await?;
    let name = policy.metadata.name.unwrap_or_default();
    tracing::info!(networkpolicy = name, "network policy created");
    Ok(())
}
