//! The two POSTs of a start whose refusals have to be read in full: the pod's dry run and the Job.

use http::{Request, header};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{batch::v1::Job, core::v1::Pod},
};
use kube::{Resource, core::Status};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cluster::{
    api_error::{ApiError, shorten},
    client::ApiServer,
    failure::{Failure, FailureKind},
    manifest::AgentSpec,
    names::{FIELD_MANAGER, ObjectRef},
    start::StartError,
};

/// The API server's answer to the Job.
pub(in crate::cluster::start) enum Posted {
    /// With this UID.
    Created(String),
    /// It certainly does not exist.
    Refused(StartError),
}

/// What a POST led to.
enum Answer<K> {
    Created(K),
    Refused(Box<Status>),
}

/// What a dry run showed.
#[derive(Debug)]
pub(in crate::cluster::start) enum Verdict {
    Admitted,
    Refused(Failure),
    /// It was not judged: a webhook takes no dry run, or there was no answer.
    Unknown(String),
}

/// Whether the namespace would refuse the pod. Reported for `object`, since the pod never exists.
pub(in crate::cluster::start) async fn dry_run(
    server: &ApiServer,
    namespace: &str,
    spec: &AgentSpec<'_>,
    object: ObjectRef,
) -> Result<Verdict, StartError> {
    let manifest = spec.dry_run_pod()?;
    match post::<Pod>(server, namespace, ("create", "pods"), manifest, Mode::DryRun).await {
        Ok(Answer::Created(_)) => Ok(Verdict::Admitted),
        Ok(Answer::Refused(status)) => match (status.code, refusal(object, &status)) {
            (404, _) => Err(StartError::NoNamespace(namespace.to_owned())),
            (code, failure) if code == 403 || failure.kind != FailureKind::Other => {
                Ok(Verdict::Refused(failure))
            }
            (code, _) => {
                // Such as a webhook that takes no dry run.
                tracing::debug!(code, message = %status.message, "no dry run");
                Ok(Verdict::Unknown(shorten(&status.message)))
            }
        },
        // The Job's own request tells whether the API server is there.
        Err(error) => {
            tracing::debug!(%error, "no dry run");
            Ok(Verdict::Unknown(error.to_string()))
        }
    }
}

/// Creates the Job, or has that judged. `Err` leaves open whether it exists.
pub(in crate::cluster::start) async fn job(
    server: &ApiServer,
    namespace: &str,
    spec: &AgentSpec<'_>,
    mode: Mode,
) -> Result<Posted, ApiError> {
    let manifest = match spec.job() {
        Ok(manifest) => manifest,
        Err(error) => return Ok(Posted::Refused(error.into())),
    };
    let call = ("create", "jobs");
    let posted = post::<Job>(server, namespace, call, manifest, mode).await;
    match posted {
        Ok(Answer::Created(job)) => Ok(match job.metadata.uid {
            Some(uid) => Posted::Created(uid),
            None => Posted::Refused(StartError::Failed(Failure::new(
                FailureKind::Other,
                ObjectRef::new("job", spec.name()),
                "",
                "the API server gave it no uid",
            ))),
        }),
        Ok(Answer::Refused(status)) => {
            let failure = refusal(ObjectRef::new("job", spec.name()), &status);
            Ok(Posted::Refused(match (status.code, &failure.kind) {
                (404, _) => StartError::NoNamespace(namespace.to_owned()),
                (_, FailureKind::Other) => server.explain(call, kube::Error::Api(status)).into(),
                _ => failure.into(),
            }))
        }
        Err(error) => Err(error),
    }
}

/// Why `object` was refused. Admission answers with any code: a policy with 422, a webhook with what it likes.
fn refusal(object: ObjectRef, status: &Status) -> Failure {
    let failure = Failure::denial(object, &status.reason, &status.message);
    if failure.kind == FailureKind::Other && is_invalid(status.code, &status.message) {
        return Failure {
            kind: FailureKind::Invalid,
            ..failure
        };
    }
    failure
}

/// A patch that makes no valid pod, or one whose fields are misspelt or of another type. Other 400s
/// are no verdict on the object, such as a webhook that takes no dry run.
fn is_invalid(code: u16, message: &str) -> bool {
    code == 422 || (code == 400 && message.contains("cannot be handled as a"))
}

/// Whether a POST is to have an effect.
#[derive(Debug, Clone, Copy)]
pub(in crate::cluster::start) enum Mode {
    DryRun,
    Real,
}

/// Posts `manifest`. A refusal (4xx) comes back as the whole status: errors for people are
/// shortened, and a limit range's text is long.
async fn post<K>(
    server: &ApiServer,
    namespace: &str,
    call: (&'static str, &'static str),
    manifest: Value,
    mode: Mode,
) -> Result<Answer<K>, ApiError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    // Strict: a misspelt field of a patch is an error, not a field that does nothing.
    let query = match mode {
        Mode::DryRun => "&dryRun=All",
        Mode::Real => "",
    };
    let path = K::url_path(&(), Some(namespace));
    let request = Request::post(format!(
        "{path}?fieldManager={FIELD_MANAGER}&fieldValidation=Strict{query}"
    ))
    .header(header::CONTENT_TYPE, "application/json")
    .body(manifest.to_string().into_bytes());
    let client = server.client();
    server
        .request(call, async move {
            let request = request.map_err(kube::Error::HttpError)?;
            match client.request::<K>(request).await {
                Ok(created) => Ok(Answer::Created(created)),
                Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 401 => {
                    Ok(Answer::Refused(status))
                }
                Err(error) => Err(error),
            }
        })
        .await
}
