//! Watches: one line of JSON per change, from a resource version on or from the present state.
//!
//! A stream ends when its time is over or its client goes. Objects that leave the selection are
//! `DELETED`, objects that enter it `ADDED`, as in a real API server. Bookmarks are sent only where
//! a client waits for one: at the end of the initial events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::resources::selector_of;
use super::selector::Selector;
use super::status::Refusal;
use super::{Answer, Call};
use crate::resource::Resource;
use crate::store::Change;
use crate::world::World;

/// How long a watch lasts when the client does not say; a real one takes 30 to 60 minutes.
const DEFAULT_LENGTH: Duration = Duration::from_secs(1800);

struct Watch {
    world: Arc<World>,
    resource: Resource,
    /// Empty for all namespaces.
    namespace: String,
    selector: Selector,
    revision: u64,
    revision_rx: watch::Receiver<u64>,
    deadline: Instant,
    lines: VecDeque<Bytes>,
}

pub(crate) fn start(world: &Arc<World>, call: &Call, resource: Resource) -> Answer {
    let route = &call.route;
    let selector = selector_of(route)?;
    let from = match route.param("resourceVersion") {
        None | Some("" | "0") => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| Refusal::bad_request("invalid resource version"))?,
        ),
    };
    let length = route.param("timeoutSeconds").and_then(|text| text.parse().ok());
    let revision_rx = world.store.subscribe();
    let mut watch = Watch {
        world: Arc::clone(world),
        resource,
        namespace: if resource.is_namespaced() {
            route.namespace.clone()
        } else {
            String::new()
        },
        selector,
        revision: 0,
        revision_rx,
        deadline: Instant::now() + length.map_or(DEFAULT_LENGTH, Duration::from_secs),
        lines: VecDeque::new(),
    };
    match from {
        Some(revision) if !route.is_set("sendInitialEvents") => watch.revision = revision,
        Some(_) | None => watch.send_present(route.is_set("sendInitialEvents")),
    }
    let frames = futures::stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(line)), watch))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    *response.status_mut() = StatusCode::OK;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

impl Watch {
    /// Queues what there is as `ADDED`.
    fn send_present(&mut self, bookmark: bool) {
        let namespace = (!self.namespace.is_empty()).then_some(self.namespace.as_str());
        let (revision, objects) = self.world.store.list(self.resource, namespace);
        self.revision = revision;
        for object in objects.iter().filter(|object| self.selector.matches(object)) {
            self.lines.push_back(line("ADDED", object));
        }
        if bookmark {
            let object = json!({
                "kind": self.resource.kind(), "apiVersion": self.resource.api_version(),
                "metadata": {
                    "resourceVersion": revision.to_string(),
                    "annotations": {"k8s.io/initial-events-end": "true"},
                },
            });
            self.lines.push_back(line("BOOKMARK", &object));
        }
    }

    /// The next line; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            self.revision_rx.borrow_and_update();
            let Some(changes) = self.world.store.changes_since(self.revision) else {
                self.deadline = Instant::now();
                let expired = Refusal::new(StatusCode::GONE, "Expired", "too old resource version");
                self.revision = u64::MAX - 1;
                return Some(line("ERROR", &expired.body()));
            };
            for change in changes {
                self.revision = change.revision;
                self.lines.extend(self.line_of(&change));
            }
            if !self.lines.is_empty() {
                continue;
            }
            tokio::select! {
                changed = self.revision_rx.changed() => changed.ok()?,
                () = tokio::time::sleep_until(self.deadline) => return None,
            }
        }
    }

    fn line_of(&self, change: &Change) -> Option<Bytes> {
        let here = self.namespace.is_empty() || change.key.namespace == self.namespace;
        if change.key.resource != self.resource || !here {
            return None;
        }
        let selected =
            |object: &Option<Arc<Value>>| object.as_ref().is_some_and(|o| self.selector.matches(o));
        match (selected(&change.old), selected(&change.new)) {
            (false, false) => None,
            (false, true) => Some(line("ADDED", change.new.as_deref()?)),
            (true, true) => Some(line("MODIFIED", change.new.as_deref()?)),
            (true, false) => Some(line("DELETED", change.last.as_deref().or(change.new.as_deref())?)),
        }
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut line = json!({"type": kind, "object": object}).to_string();
    line.push('\n');
    line.into()
}
