//! Sending the agent: a ConfigMap whose body waits for its owner's UID.
//!
//! On a long line 0.9 MB need 6 round trips, and a ConfigMap that comes that much later than its
//! Job meets the kubelet's first mount attempt (`FailedMount`, half a second lost, doubling). But
//! the ConfigMap names the Job's UID as its owner, so that no orphan can exist. Hence the order:
//!
//! ```text
//!   POST configmaps  {"binaryData": ... 0.9 MB ...,            "metadata": {... uid ...}}
//!                    '------- sent at once -------'  held back '----- sent at last ----'
//!   POST jobs                                       '-- uid --^
//! ```
//!
//! An upload that is dropped before its end is an incomplete request: nothing is created.
//! Called by `start`.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::FutureExt;
use http::{Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use kube::{
    Client,
    client::Body,
    core::{Status, response::StatusSummary},
};
use tokio::sync::oneshot;

use super::{
    api_error::ApiError,
    client::ApiServer,
    manifest::AgentSpec,
    names::{CONFIG_MAP_KEY, FIELD_MANAGER},
};

/// Room for the UID. It has 36 characters everywhere we know of; what it leaves is filled with
/// blanks, which JSON allows, since the length of the body is announced before the UID is known.
const UID_ROOM: usize = 64;
/// Size of the pieces the body is handed over in. The HTTP code buffers about 16 of them before it
/// asks for more, so "handed over" means that at most 256 KiB and the kernel's buffer are unsent.
const PIECE: usize = 16 * 1024;
/// A megabyte on a line of 0.2 Mbit/s; the start's own deadline is usually the shorter one.
const UPLOAD_DEADLINE: Duration = Duration::from_secs(60);

/// The part of the request that does not depend on the Job.
#[derive(Debug)]
pub(super) struct Upload {
    namespace: String,
    head: Bytes,
    /// Bytes kept free for the end of the body.
    tail_room: usize,
}

/// Completes an [`Upload`]; dropping it makes the request fail.
#[derive(Debug)]
pub(super) struct Completion {
    /// Resolves when all but the end is handed to the connection.
    handed_over: oneshot::Receiver<()>,
    tail: oneshot::Sender<Bytes>,
    tail_room: usize,
}

/// The UID is longer than any API server's.
#[derive(Debug, thiserror::Error)]
#[error("the job's uid has more than {UID_ROOM} characters")]
pub(super) struct UidTooLong;

impl Upload {
    pub(super) fn new(namespace: &str, spec: &AgentSpec<'_>, binary: &[u8]) -> Self {
        let mut head = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","immutable":true,"binaryData":{{"{CONFIG_MAP_KEY}":""#
        );
        STANDARD.encode_string(binary, &mut head);
        head.push_str(r#""},"metadata":"#);
        let tail_room = tail(spec, &"x".repeat(UID_ROOM)).len();
        Self {
            namespace: namespace.to_owned(),
            head: head.into(),
            tail_room,
        }
    }

    /// The request and the means to complete it. The future does nothing until it is polled.
    pub(super) fn start(
        self,
        server: &ApiServer,
    ) -> (
        impl Future<Output = Result<(), ApiError>> + Send + use<>,
        Completion,
    ) {
        let (handed_over_tx, handed_over) = oneshot::channel();
        let (tail_tx, tail_rx) = oneshot::channel();
        let completion = Completion {
            handed_over,
            tail: tail_tx,
            tail_room: self.tail_room,
        };
        let body = HeldBody::new(self.head, self.tail_room, handed_over_tx, tail_rx);
        let path = format!(
            "/api/v1/namespaces/{}/configmaps?fieldManager={FIELD_MANAGER}",
            self.namespace
        );
        let server = server.clone();
        let request = async move {
            let client = server.client();
            server
                .request_within(UPLOAD_DEADLINE, ("create", "configmaps"), async move {
                    let request = Request::post(path)
                        .header(header::CONTENT_TYPE, "application/json")
                        // Or the whole megabyte comes back.
                        .header(
                            header::ACCEPT,
                            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
                        )
                        .body(into_kube_body(body).await?)
                        .map_err(kube::Error::HttpError)?;
                    refusal(client.send(request).await?).await
                })
                .await
        };
        (request, completion)
    }
}

impl Completion {
    /// Waits until all but the end is handed over. Also returns when the request has failed; its
    /// own result then says why.
    pub(super) async fn handed_over(&mut self) {
        // An error means that the request is over.
        (&mut self.handed_over).map(drop).await;
    }

    /// Sends the end. A request that has failed meanwhile reports it by itself.
    pub(super) fn complete(self, spec: &AgentSpec<'_>, job_uid: &str) -> Result<(), UidTooLong> {
        let mut tail = tail(spec, job_uid).into_bytes();
        if tail.len() > self.tail_room {
            return Err(UidTooLong);
        }
        tail.resize(self.tail_room, b' ');
        drop(self.tail.send(tail.into()));
        Ok(())
    }
}

fn tail(spec: &AgentSpec<'_>, job_uid: &str) -> String {
    format!("{}}}", spec.config_map_metadata(job_uid))
}

/// `Ok` for a success, the API server's status for anything else.
async fn refusal(response: Response<Body>) -> kube::Result<()> {
    let code = response.status();
    if code.is_success() {
        return Ok(());
    }
    let body = response.into_body().collect().await?.to_bytes();
    let status = serde_json::from_slice::<Status>(&body).unwrap_or_else(|_| Status {
        status: Some(StatusSummary::Failure),
        code: code.as_u16(),
        message: String::from_utf8_lossy(&body).chars().take(512).collect(),
        reason: code.canonical_reason().unwrap_or_default().to_owned(),
        ..Status::default()
    });
    Err(kube::Error::Api(status.boxed()))
}

/// kube makes a request body from bytes only, and any body only out of a response: so this one
/// goes through a client that answers with it.
async fn into_kube_body(body: HeldBody) -> kube::Result<Body> {
    let mut body = Some(body);
    let echo = tower::service_fn(move |_: Request<Body>| {
        let answer = body.take().map(Response::new);
        async move { answer.ok_or_else(|| io::Error::other("asked twice")) }
    });
    Client::new(echo, "")
        .send(Request::new(Body::empty()))
        .await
        .map(Response::into_body)
}

/// A body of known length whose end comes later.
struct HeldBody {
    pieces: VecDeque<Bytes>,
    handed_over: Option<oneshot::Sender<()>>,
    /// `None` when the end has been given out.
    tail: Option<oneshot::Receiver<Bytes>>,
    remaining: u64,
}

impl HeldBody {
    fn new(
        mut head: Bytes,
        tail_room: usize,
        handed_over: oneshot::Sender<()>,
        tail: oneshot::Receiver<Bytes>,
    ) -> Self {
        let remaining = (head.len() + tail_room) as u64;
        let mut pieces = VecDeque::with_capacity(head.len() / PIECE + 1);
        while !head.is_empty() {
            pieces.push_back(head.split_to(PIECE.min(head.len())));
        }
        Self {
            pieces,
            handed_over: Some(handed_over),
            tail: Some(tail),
            remaining,
        }
    }

    fn give(&mut self, piece: Bytes) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.remaining = self.remaining.saturating_sub(piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        if let Some(piece) = this.pieces.pop_front() {
            return this.give(piece);
        }
        // Asked for more: all before is with the connection.
        if let Some(handed_over) = this.handed_over.take() {
            // Nobody waits for it any more: the request goes on nevertheless.
            let (Ok(()) | Err(())) = handed_over.send(());
        }
        let Some(tail) = &mut this.tail else {
            return Poll::Ready(None);
        };
        match tail.poll_unpin(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(piece)) => {
                this.tail = None;
                this.give(piece)
            }
            Poll::Ready(Err(_)) => {
                this.tail = None;
                Poll::Ready(Some(Err(io::Error::other("the upload was given up"))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.tail.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::cluster::{manifest::fixture::Fixture, options::Architecture};

    fn held(fixture: &Fixture, binary: &[u8]) -> (HeldBody, Completion) {
        let upload = Upload::new("dev", &fixture.spec(Architecture::Amd64), binary);
        let (handed_over_tx, handed_over) = oneshot::channel();
        let (tail_tx, tail) = oneshot::channel();
        let completion = Completion {
            handed_over,
            tail: tail_tx,
            tail_room: upload.tail_room,
        };
        (
            HeldBody::new(upload.head, upload.tail_room, handed_over_tx, tail),
            completion,
        )
    }

    #[tokio::test]
    async fn the_body_is_whole_json_of_the_announced_length() {
        let fixture = Fixture::new(Timestamp::UNIX_EPOCH);
        let spec = fixture.spec(Architecture::Amd64);
        let binary = vec![0x5a; 3 * PIECE + 7];
        for uid in ["8f2c1f0e-7d0c-4c3e-9e0b-2f1a6b1c0d9e", "short"] {
            let (body, mut completion) = held(&fixture, &binary);
            let announced = body.size_hint().exact().unwrap();
            let body = into_kube_body(body).await.unwrap();
            assert_eq!(body.size_hint().exact(), Some(announced), "kube keeps the length");
            let (collected, ()) = tokio::join!(body.collect_bytes(), async {
                completion.handed_over().await;
                completion.complete(&spec, uid).unwrap();
            });
            let bytes = collected.unwrap();
            assert_eq!(bytes.len() as u64, announced);
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(value["kind"], "ConfigMap");
            assert_eq!(value["immutable"], true);
            assert_eq!(value["metadata"], spec.config_map_metadata(uid));
            let decoded = STANDARD
                .decode(value["binaryData"]["agent"].as_str().unwrap())
                .unwrap();
            assert_eq!(decoded, binary);
        }
    }

    #[tokio::test]
    async fn an_upload_given_up_is_an_error_not_a_short_body() {
        let fixture = Fixture::new(Timestamp::UNIX_EPOCH);
        let (body, completion) = held(&fixture, b"agent");
        drop(completion);
        assert!(body.collect().await.is_err());
    }

    #[tokio::test]
    async fn a_uid_that_does_not_fit_is_refused() {
        let fixture = Fixture::new(Timestamp::UNIX_EPOCH);
        let (_body, completion) = held(&fixture, b"agent");
        let long = "x".repeat(UID_ROOM + 1);
        assert!(
            completion
                .complete(&fixture.spec(Architecture::Amd64), &long)
                .is_err()
        );
    }
}
