//! The EndpointSlices of those headless Services whose own text does not tell the number of a port.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{self, StreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;

use super::list::list_all;
use super::lookup::{Found, Key, Object};
use super::service::{SERVICE_NAME, needs_slices};
use super::{Place, UpstreamError, Via, Wanted};
use crate::cluster::api_error::{ApiError, Call};
use crate::cluster::client::ApiServer;

/// Lists in flight at once.
const AT_ONCE: usize = 8;

/// What was read, by Service; nothing for those that need none.
#[derive(Debug, Default)]
pub(super) struct Slices(BTreeMap<Key, Result<Vec<EndpointSlice>, ApiError>>);

impl Slices {
    pub(super) fn of(&self, service: &Key, wanted: &Wanted) -> Result<&[EndpointSlice], UpstreamError> {
        match self.0.get(service) {
            None => Ok(&[]),
            Some(Ok(slices)) => Ok(slices),
            Some(Err(error)) => Err(UpstreamError::Api {
                target: wanted.target.to_string(),
                source: error.clone(),
            }),
        }
    }
}

/// Reads the slices that are needed.
pub(super) async fn look_up<'a>(
    server: &ApiServer,
    wanted: impl Iterator<Item = (&'a Wanted, Place)>,
    found: &Found,
) -> Slices {
    let needed = wanted.filter_map(|(wanted, place)| {
        let key = place.key()?;
        match found.get(&key)? {
            Ok(Some(Object::Service(service))) if wanted.via != Via::Pod => {
                needs_slices(wanted, service).then_some(key)
            }
            _ => None,
        }
    });
    let needed: BTreeSet<Key> = needed.collect();
    let lists = needed.into_iter().map(|key| async move {
        let slices: Api<EndpointSlice> = Api::namespaced(server.client(), &key.namespace);
        let params = ListParams::default().labels(&format!("{SERVICE_NAME}={}", key.name));
        let call = Call::new("list", "endpointslices.discovery.k8s.io").in_namespace(key.namespace.as_str());
        let listed = list_all(server, &slices, params, call, |slice| slice).await;
        (key, listed.map(|(slices, _)| slices))
    });
    Slices(stream::iter(lists).buffer_unordered(AT_ONCE).collect().await)
}
