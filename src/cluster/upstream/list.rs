//! Lists of any length, a page at a time: each page is a request with a deadline of its own.

use std::fmt::Debug;

use kube::Api;
use kube::api::ListParams;
use serde::de::DeserializeOwned;

use crate::cluster::api_error::{ApiError, Call};
use crate::cluster::client::ApiServer;

/// Objects of one page: a few MB of pods, which come within a request's deadline over a bad line too.
const PAGE: u32 = 250;

/// All objects, each reduced by `keep` as it comes, and the version to watch from.
pub(super) async fn list_all<K, T>(
    server: &ApiServer,
    api: &Api<K>,
    params: ListParams,
    call: Call,
    keep: impl Fn(K) -> T,
) -> Result<(Vec<T>, String), ApiError>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut params = params.limit(PAGE);
    let mut kept = Vec::new();
    loop {
        let page = server.request(call.clone(), api.list(&params)).await?;
        kept.extend(page.items.into_iter().map(&keep));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            // All pages are of the first one's version.
            None => return Ok((kept, page.metadata.resource_version.unwrap_or_default())),
        }
    }
}
