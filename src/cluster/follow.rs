//! Following objects by watch: one task an API, its changes into a bounded channel.
//!
//! A watch that ends or fails is started again from the present state, and the receiver is told
//! so, since a deletion in between is not repeated. So is one whose client was renewed: the old
//! connection may be dead without a word. Used by `start` and `watch`.

use std::{fmt::Debug, time::Duration};

use futures::{StreamExt, TryStreamExt};
use kube::{
    Api,
    api::WatchParams,
    core::{NamespaceResourceScope, Resource, WatchEvent},
};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, time};

use super::client::ApiServer;

/// First and longest pause before a broken watch starts again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What a watch reports.
#[derive(Debug)]
pub(super) enum Change<K> {
    /// The object is there, in this state.
    Applied(K),
    Deleted(K),
    /// The watch is open, for the first time or again: nobody told of deletions before.
    Opened,
}

/// What to follow.
#[derive(Debug)]
pub(super) struct Subject {
    /// Plural, as messages have it.
    pub(super) resource: &'static str,
    pub(super) namespace: String,
    pub(super) params: WatchParams,
    /// The resource version to start at; empty for "what is there now, then changes".
    pub(super) version: String,
}

/// Sends every change as `wrap` makes it, until the receiver is gone.
pub(super) async fn follow<K, T>(
    server: ApiServer,
    subject: Subject,
    tx: mpsc::Sender<T>,
    wrap: impl Fn(Change<K>) -> T + Send,
) where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + 'static,
    T: Send,
{
    let Subject {
        resource,
        namespace,
        params,
        mut version,
    } = subject;
    let mut pause = PAUSES.0;
    loop {
        let renewed = server.renewed();
        tokio::pin!(renewed);
        let api: Api<K> = Api::namespaced(server.client(), &namespace);
        match server
            .request(("watch", resource), api.watch(&params, &version))
            .await
        {
            Ok(stream) => {
                if tx.send(wrap(Change::Opened)).await.is_err() {
                    return;
                }
                let mut stream = stream.boxed();
                loop {
                    let event = tokio::select! {
                        event = stream.try_next() => event,
                        () = &mut renewed => break,
                    };
                    let change = match event {
                        Ok(Some(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                            Change::Applied(object)
                        }
                        Ok(Some(WatchEvent::Deleted(object))) => Change::Deleted(object),
                        Ok(Some(WatchEvent::Bookmark(_))) => continue,
                        Ok(Some(WatchEvent::Error(_)) | None) | Err(_) => break,
                    };
                    pause = PAUSES.0;
                    if tx.send(wrap(change)).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => tracing::debug!(%error, resource, "watch failed"),
        }
        tokio::select! {
            () = tx.closed() => return,
            () = time::sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSES.1);
        version.clear();
    }
}
