//! The Service of `expose`: may we have its name, create it, hand it over, is it ready.
//!
//! A Service that is not ours is never touched. One that a dead session of the same user left is
//! removed; one of a living session, or of another user, is an error that names the session.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use http::{Request, header};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, WatchParams},
    core::WatchEvent,
};
use serde_json::Value;
use tokio::time::{self, Instant};

use super::{
    agent::{AgentService, AgentServicePort},
    answer::{is_conflict, is_not_found},
    api_error::ApiError,
    client::ApiServer,
    end,
    identity::Identity,
    names::{
        ANNOTATION_USER, APP_NAME, FIELD_MANAGER, LABEL_GENERATION, LABEL_INSTANCE, LABEL_MANAGED_BY,
        LABEL_NAME, LABEL_USER, SessionId, managed_selector,
    },
    sweep::{self, AskAgent, Liveness},
};
use crate::cli::port::Protocol;

/// How long a dead session's Service may take to go.
const REMOVAL_WAIT: Duration = Duration::from_secs(3);
/// Between two looks at it.
const REMOVAL_PAUSE: Duration = Duration::from_millis(50);

/// Why the Service cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Somebody's own Service.
    #[error(
        "service/{name} exists in namespace {namespace} and was not made by {}",
        crate::program::name()
    )]
    Foreign { namespace: String, name: String },
    /// Another session holds the name and is alive, or may be.
    #[error("service/{name} belongs to session {session} of {user}")]
    Taken {
        name: String,
        session: String,
        user: String,
    },
    /// A dead session's Service does not go away.
    #[error("service/{name} of the dead session {session} is still being deleted")]
    Stuck { name: String, session: String },
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl ServiceError {
    /// Whether the session's own Service only changed or went meanwhile, which is soon over.
    fn is_passing(&self, own: &SessionId) -> bool {
        match self {
            Self::Stuck { .. } => true,
            Self::Taken { session, .. } => session == own.as_str(),
            Self::Api(error) => matches!(error.code(), Some(404 | 409 | 422)),
            Self::Foreign { .. } => false,
        }
    }
}

/// The Service of this name, if there is one.
pub async fn look_up(
    server: &ApiServer,
    namespace: &str,
    name: &str,
) -> Result<Option<Service>, ServiceError> {
    let services: Api<Service> = Api::namespaced(server.client(), namespace);
    match server.request(("get", "services"), services.get(name)).await {
        Ok(service) => Ok(Some(service)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes the name of `present` free if a dead session of this user holds it.
pub async fn claim(
    server: &ApiServer,
    namespace: &str,
    name: &str,
    present: &Service,
    identity: &Identity,
    ask: &AskAgent,
) -> Result<(), ServiceError> {
    let Some(session) = session_of(present) else {
        return Err(foreign(namespace, name));
    };
    if present.labels().get(LABEL_USER) != Some(&identity.label) {
        return Err(taken(name, &session, present));
    }
    // Its owner alone does not tell: the session may be about to hand it over to its next Job.
    let params = ListParams::default().labels(&format!("{},{LABEL_INSTANCE}={session}", managed_selector()));
    let jobs: Api<Job> = Api::namespaced(server.client(), namespace);
    let jobs = server.request(("list", "jobs"), jobs.list(&params)).await?.items;
    if !jobs.is_empty() {
        let pods: Api<Pod> = Api::namespaced(server.client(), namespace);
        let pods = server.request(("list", "pods"), pods.list(&params)).await?;
        for job in &jobs {
            match sweep::liveness(server, namespace, job, &pods.items, ask).await {
                Liveness::Dead(_) => {}
                Liveness::Alive | Liveness::Unknown(_) => return Err(taken(name, &session, present)),
            }
        }
    }
    for job in jobs {
        let deadline = Instant::now() + REMOVAL_WAIT;
        let uid = job.uid().unwrap_or_default();
        end::delete_by_uid(server, namespace, &job.name_any(), &uid, deadline).await?;
    }
    remove(server, namespace, name, present, session).await
}

/// Makes the session's Service lead to another Job of it, as `manifest` says: moved with its
/// address if it is there, else made anew. Waits a moment for one that is just being deleted.
pub async fn hand_over(
    server: &ApiServer,
    namespace: &str,
    session: &SessionId,
    manifest: &Value,
) -> Result<Service, ServiceError> {
    let name = name_in(manifest);
    let deadline = Instant::now() + REMOVAL_WAIT;
    loop {
        let tried = match look_up(server, namespace, name).await? {
            Some(present) if present.metadata.deletion_timestamp.is_some() => Err(ServiceError::Stuck {
                name: name.to_owned(),
                session: session.to_string(),
            }),
            Some(present) => match session_of(&present) {
                Some(holder) if holder == session.as_str() => {
                    re_own(server, namespace, &present, manifest).await
                }
                Some(holder) => return Err(taken(name, &holder, &present)),
                None => return Err(foreign(namespace, name)),
            },
            None => create(server, namespace, manifest.clone()).await,
        };
        match tried {
            Err(error) if error.is_passing(session) && Instant::now() < deadline => {
                tracing::debug!(%error, service = name, "service not handed over yet");
            }
            other => return other,
        }
        time::sleep(REMOVAL_PAUSE).await;
    }
}

/// One patch, so that there is no moment without an owner or with the pod of another.
async fn re_own(
    server: &ApiServer,
    namespace: &str,
    present: &Service,
    manifest: &Value,
) -> Result<Service, ServiceError> {
    let name = name_in(manifest);
    let patch = serde_json::json!([
        {"op": "test", "path": "/metadata/uid", "value": present.metadata.uid},
        {"op": "add", "path": "/metadata/ownerReferences", "value": manifest["metadata"]["ownerReferences"]},
        {"op": "add", "path": format!("/metadata/labels/{}", LABEL_GENERATION.replace('/', "~1")),
         "value": manifest["metadata"]["labels"][LABEL_GENERATION]},
        {"op": "replace", "path": "/spec/selector", "value": manifest["spec"]["selector"]},
    ]);
    let path = Service::url_path(&(), Some(namespace));
    let request = Request::patch(format!("{path}/{name}?fieldManager={FIELD_MANAGER}"))
        .header(header::CONTENT_TYPE, "application/json-patch+json")
        .body(patch.to_string().into_bytes());
    let service = send(server, ("patch", "services"), request).await?;
    tracing::info!(service = name, "service handed over");
    Ok(service)
}

/// Creates it. The name was free a moment ago; if it is not, the error says who has it.
pub async fn create(server: &ApiServer, namespace: &str, manifest: Value) -> Result<Service, ServiceError> {
    let name = name_in(&manifest).to_owned();
    let path = Service::url_path(&(), Some(namespace));
    let request = Request::post(format!("{path}?fieldManager={FIELD_MANAGER}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(manifest.to_string().into_bytes());
    match send(server, ("create", "services"), request).await {
        Ok(service) => {
            tracing::info!(service = %name, "service created");
            Ok(service)
        }
        Err(error) if is_conflict(&error) => match look_up(server, namespace, &name).await? {
            Some(present) => Err(match session_of(&present) {
                Some(session) => taken(&name, &session, &present),
                None => foreign(namespace, &name),
            }),
            None => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// The parts of a created Service that the session uses.
pub(super) fn describe(service: &Service) -> AgentService {
    let spec = service.spec.as_ref();
    let port = |port: i32| u16::try_from(port).unwrap_or_default();
    AgentService {
        name: service.name_any(),
        cluster_ip: spec
            .and_then(|spec| spec.cluster_ip.clone())
            .filter(|address| address != "None")
            .unwrap_or_default(),
        ports: spec
            .and_then(|spec| spec.ports.as_deref())
            .unwrap_or_default()
            .iter()
            .map(|entry| AgentServicePort {
                name: entry.name.clone().unwrap_or_default(),
                port: port(entry.port),
                protocol: match entry.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    _ => Protocol::Tcp,
                },
                target_port: match &entry.target_port {
                    Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(number)) => {
                        port(*number)
                    }
                    _ => port(entry.port),
                },
            })
            .collect(),
    }
}

/// Waits until an endpoint of the Service is this pod and ready; `false` when `wait` was over or
/// endpoint slices cannot be seen.
pub async fn wait_ready(
    server: &ApiServer,
    namespace: &str,
    name: &str,
    pod_uid: &str,
    wait: Duration,
) -> bool {
    let slices: Api<EndpointSlice> = Api::namespaced(server.client(), namespace);
    let params = WatchParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    let seen = async {
        loop {
            match server
                .request(
                    ("watch", "endpointslices.discovery.k8s.io"),
                    slices.watch(&params, ""),
                )
                .await
            {
                Ok(stream) => {
                    let mut stream = stream.boxed();
                    while let Ok(Some(event)) = stream.try_next().await {
                        if let WatchEvent::Added(slice) | WatchEvent::Modified(slice) = event
                            && leads_to(&slice, pod_uid)
                        {
                            return true;
                        }
                    }
                }
                Err(error) if error.code() == Some(403) => return false,
                Err(error) => tracing::debug!(%error, "endpoint slices cannot be seen"),
            }
            time::sleep(Duration::from_millis(200)).await;
        }
    };
    time::timeout(wait, seen).await.unwrap_or(false)
}

fn leads_to(slice: &EndpointSlice, pod_uid: &str) -> bool {
    slice.endpoints.iter().any(|endpoint| {
        endpoint
            .target_ref
            .as_ref()
            .is_some_and(|target| target.uid.as_deref() == Some(pod_uid))
            && endpoint
                .conditions
                .as_ref()
                .is_some_and(|conditions| conditions.ready == Some(true))
    })
}

/// The session that made it, if one of ours did.
fn session_of(service: &Service) -> Option<String> {
    let labels = service.labels();
    let ours = |key: &str| labels.get(key).is_some_and(|value| value == APP_NAME);
    if ours(LABEL_NAME) && ours(LABEL_MANAGED_BY) {
        labels.get(LABEL_INSTANCE).cloned()
    } else {
        None
    }
}

fn name_in(manifest: &Value) -> &str {
    manifest["metadata"]["name"].as_str().unwrap_or_default()
}

async fn send(
    server: &ApiServer,
    call: (&'static str, &'static str),
    request: http::Result<Request<Vec<u8>>>,
) -> Result<Service, ApiError> {
    let client = server.client();
    let answer = async move { client.request(request.map_err(kube::Error::HttpError)?).await };
    server.request(call, answer).await
}

fn foreign(namespace: &str, name: &str) -> ServiceError {
    ServiceError::Foreign {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn taken(name: &str, session: &str, service: &Service) -> ServiceError {
    let user = service
        .annotations()
        .get(ANNOTATION_USER)
        .map_or("another user", String::as_str);
    ServiceError::Taken {
        name: name.to_owned(),
        session: session.to_owned(),
        user: user.to_owned(),
    }
}

/// Deletes exactly this Service and waits until its name is free.
async fn remove(
    server: &ApiServer,
    namespace: &str,
    name: &str,
    present: &Service,
    session: String,
) -> Result<(), ServiceError> {
    let services: Api<Service> = Api::namespaced(server.client(), namespace);
    let uid = present.metadata.uid.as_deref();
    let params = end::background(uid);
    let request = services.delete(name, &params);
    end::done(server.request(("delete", "services"), request).await.map(drop))?;
    tracing::info!(service = name, %session, "service of a dead session removed");
    let deadline = Instant::now() + REMOVAL_WAIT;
    loop {
        match look_up(server, namespace, name).await? {
            Some(found) if found.metadata.uid.as_deref() == uid => {}
            _ => return Ok(()),
        }
        if Instant::now() >= deadline {
            return Err(ServiceError::Stuck {
                name: name.to_owned(),
                session,
            });
        }
        time::sleep(REMOVAL_PAUSE).await;
    }
}
