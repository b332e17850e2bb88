//! What a start has to know before it creates anything, asked in one round trip.

use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::Event};
use kube::{Api, api::ListParams};

use super::{StartError, StartRequest};
use crate::cluster::{
    agent::Agent,
    agents::AgentBinaryError,
    answer::is_not_found,
    client::ApiServer,
    footprint::Footprint,
    identity::{self, Identity},
    options::Architecture,
    rights::{self, Granted, Needs},
    service,
};

/// What the API server told.
#[derive(Debug)]
pub(super) struct Preparation {
    pub(super) granted: Granted,
    pub(super) identity: Identity,
    /// First guess; the nodes cannot be asked with `edit`.
    pub(super) architecture: Architecture,
    /// Resource version from which on no event of ours can be missed; `None` without the right.
    pub(super) events_from: Option<String>,
    /// The API server's clock.
    pub(super) now: Timestamp,
}

pub(super) async fn prepare(
    server: &ApiServer,
    request: &StartRequest,
    footprint: &Footprint,
) -> Result<Preparation, StartError> {
    let namespace = footprint.namespace();
    let needs = Needs {
        expose: request.service.is_some(),
        allow_from: request
            .service
            .as_ref()
            .is_some_and(|service| !service.allow_from.is_empty()),
        transport: request.options.transport,
    };
    let (granted, identity, architecture, events_from, service) = tokio::join!(
        rights::check(server, namespace, needs),
        identity::identify(server),
        guess_architecture(server, request),
        events_version(server, namespace),
        async {
            match &request.service {
                Some(service) => service::look_up(server, namespace, &service.name).await,
                None => Ok(None),
            }
        },
    );
    // Rights first: their error lists all that is missing, the others' only their own.
    let granted = granted?;
    let identity = identity?;
    if let (Some(wanted), Some(present)) = (&request.service, service?) {
        service::claim(server, namespace, &wanted.name, &present, &identity, &request.ask).await?;
    }
    Ok(Preparation {
        events_from: events_from.filter(|_| granted.events),
        granted,
        identity,
        architecture: architecture?,
        now: server.server_now().unwrap_or_else(Timestamp::now),
    })
}

/// What a successor of `previous` has to know: rights were proven at the start, and its pod is like
/// the one before, which was admitted. With it, whether the Job of `previous` is still there.
pub(super) async fn prepare_successor(
    server: &ApiServer,
    previous: &Agent,
) -> Result<(Preparation, bool), StartError> {
    let jobs: Api<Job> = Api::namespaced(server.client(), &previous.namespace);
    let (job, identity, events_from, _) = tokio::join!(
        server.request(("get", "jobs"), jobs.get(&previous.job_name)),
        identity::identify(server),
        events_version(server, &previous.namespace),
        // Only for the open connection it leaves, as in a start: the client may just have been renewed.
        server.version(),
    );
    let present = match job {
        Ok(_) => true,
        Err(error) if is_not_found(&error) => false,
        Err(error) => return Err(error.into()),
    };
    let preparation = Preparation {
        granted: Granted {
            events: events_from.is_some(),
            pod_logs: true,
            dry_run: false,
            endpoint_slices: true,
            port_forward: previous.port_forward,
        },
        identity: identity?,
        architecture: previous.architecture,
        events_from,
        now: server.server_now().unwrap_or_else(Timestamp::now),
    };
    Ok((preparation, present))
}

/// `--arch`, or the API server's own: mostly the nodes have the same.
async fn guess_architecture(server: &ApiServer, request: &StartRequest) -> Result<Architecture, StartError> {
    let source = &request.options.source;
    // Asked for with `--arch` as well: each of these requests leaves an open connection, and the next
    // step needs four at once (upload, dry run, two watches). A fresh one costs three round trips.
    let version = server.version().await;
    if let Some(architecture) = request.options.architecture {
        if !source.offers(architecture) {
            return Err(AgentBinaryError::NotEmbeddedFor(architecture).into());
        }
        return Ok(architecture);
    }
    let guess = match version {
        Ok(version) => Architecture::from_platform(&version.platform),
        // Some gateways hide `/version`; the rights review tells whether the API server answers.
        Err(error) => {
            tracing::debug!(%error, "cannot ask for the platform");
            None
        }
    };
    let guess = guess.unwrap_or(Architecture::Amd64);
    Ok(if source.offers(guess) {
        guess
    } else {
        guess.other()
    })
}

async fn events_version(server: &ApiServer, namespace: &str) -> Option<String> {
    let events: Api<Event> = Api::namespaced(server.client(), namespace);
    let params = ListParams::default().limit(1);
    match server.request(("list", "events"), events.list(&params)).await {
        Ok(list) => list.metadata.resource_version,
        Err(error) => {
            tracing::debug!(%error, "events cannot be seen");
            None
        }
    }
}
