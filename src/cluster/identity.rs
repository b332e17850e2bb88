//! Who we are to the cluster: the user's name and the label made of it.
//!
//! One request, and none of its failures stops anything: an old or closed API server leaves the
//! kubeconfig's own name for the user.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{Api, api::PostParams};
use sha2::{Digest, Sha256};

use super::{
    answer::{is_forbidden, is_not_found},
    api_error::ApiError,
    client::ApiServer,
};

/// The user as the API server sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Such as `alice` or `system:serviceaccount:dev:robot`.
    pub name: String,
    /// First 16 hex digits of the name's SHA-256, since a name is no legal label value.
    pub label: String,
}

impl Identity {
    pub fn from_name(name: impl Into<String>) -> Self {
        let name = name.into();
        let digest = Sha256::digest(name.as_bytes());
        let label = hex(&digest[..8]);
        Self { name, label }
    }

    /// By the kubeconfig's user name, where the API server does not tell.
    pub fn of_kubeconfig(server: &ApiServer) -> Self {
        Self::from_name(server.user().unwrap_or_else(|| "unknown".to_owned()))
    }
}

/// Lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            for digit in [byte >> 4, byte & 0xf] {
                text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
            }
            text
        })
}

/// Asks the API server. The kubeconfig's user name counts when it does not offer the review
/// (before 1.28) or refuses it.
pub async fn identify(server: &ApiServer) -> Result<Identity, ApiError> {
    let name = whoami(server).await?;
    Ok(name.map_or_else(|| Identity::of_kubeconfig(server), Identity::from_name))
}

/// The name the API server knows us by; `None` when it does not tell.
pub async fn whoami(server: &ApiServer) -> Result<Option<String>, ApiError> {
    let reviews: Api<SelfSubjectReview> = Api::all(server.client());
    let (params, review) = (PostParams::default(), SelfSubjectReview::default());
    let answer = server
        .request(("create", "selfsubjectreviews"), reviews.create(&params, &review))
        .await;
    match answer {
        Ok(review) => Ok(review
            .status
            .and_then(|status| status.user_info)
            .and_then(|user| user.username)),
        Err(error) if is_forbidden(&error) || is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_is_the_head_of_the_sha256() {
        let identity = Identity::from_name("developer");
        assert_eq!(identity.label.len(), 16);
        // `printf developer | sha256sum`
        assert_eq!(identity.label, "88fa0d759f845b47");
        assert_ne!(identity.label, Identity::from_name("Developer").label);
    }
}
