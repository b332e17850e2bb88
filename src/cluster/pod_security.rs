//! A namespace as far as it may be seen: whether it is there, and its Pod Security level.
//!
//! Called by `doctor`; sessions do not ask, since `edit` is enough without it.

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;

use super::api_error::ApiError;
use super::client::ApiServer;

/// The label that says what is refused.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// What a namespace says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceState {
    /// Such as `restricted`; `None` leaves it to the cluster's default.
    pub enforced: Option<String>,
    /// It is being deleted, and takes nothing new.
    pub terminating: bool,
}

/// Asks for the namespace of `server`.
///
/// # Errors
/// 404 when it is not there, 403 when it may not be seen.
pub async fn look(server: &ApiServer) -> Result<NamespaceState, ApiError> {
    let namespaces: Api<Namespace> = Api::all(server.client());
    let namespace = server
        .request(("get", "namespaces"), namespaces.get(server.namespace()))
        .await?;
    Ok(NamespaceState {
        terminating: namespace.metadata.deletion_timestamp.is_some(),
        enforced: namespace
            .metadata
            .labels
            .and_then(|mut labels| labels.remove(ENFORCE)),
    })
}
