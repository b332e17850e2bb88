//! The agents of one session, one after the other, by the cluster code alone: no session runs above them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use kubectl_tunnel::cli::port::Protocol;
use kubectl_tunnel::cluster::agent::Agent;
use kubectl_tunnel::cluster::agents::AgentBinaries;
use kubectl_tunnel::cluster::client::{Access, ApiServer};
use kubectl_tunnel::cluster::end::{self, END_WAIT};
use kubectl_tunnel::cluster::env::Env;
use kubectl_tunnel::cluster::footprint::Footprint;
use kubectl_tunnel::cluster::identity::identify;
use kubectl_tunnel::cluster::kubeconfig::Overrides;
use kubectl_tunnel::cluster::manifest::{ServicePortRequest, ServiceRequest};
use kubectl_tunnel::cluster::names::SessionId;
use kubectl_tunnel::cluster::options::{
    AgentOptions, AgentSource, ImagePullPolicy, Mesh, Resources, TransportChoice,
};
use kubectl_tunnel::cluster::start::{self, StartError, StartRequest};
use kubectl_tunnel::cluster::sweep::{self, AgentState, AskAgent, Scope, SweepOptions};
use kubectl_tunnel::cluster::watch::{self, AgentEnd};
use serde_json::Value;
use tokio::time::timeout;
use tunnel_playground::{Key, Resource};

use crate::support::{DEADLINE, Stage, agent_binary};

/// A session's place in the cluster.
struct Cluster {
    stage: Stage,
    server: ApiServer,
    footprint: Footprint,
    request: StartRequest,
}

impl Cluster {
    async fn start() -> Self {
        let stage = Stage::start().await;
        let overrides = Overrides {
            kubeconfig: Some(stage.playground.kubeconfig_path().to_owned()),
            ..Overrides::default()
        };
        let access = Access::new(overrides, Env::from_vars([] as [(&str, &str); 0]), "expose");
        let server = access.connect().await.unwrap();
        let footprint = Footprint::new(server.namespace(), SessionId::random(), false);
        let port = ServicePortRequest {
            name: "http".to_owned(),
            port: 18_080,
            protocol: Protocol::Tcp,
        };
        let request = StartRequest {
            options: options(),
            secret_sha256: [7; 32],
            command: "kubectl tunnel expose api 18080".to_owned(),
            service: Some(Arc::new(ServiceRequest {
                name: "api".to_owned(),
                ports: vec![port],
                ..ServiceRequest::default()
            })),
            ask: Arc::new(|_| Box::pin(async { Err("not asked in these tests".into()) })),
        };
        Self {
            stage,
            server,
            footprint,
            request,
        }
    }

    async fn first(&self) -> Agent {
        let started = start::start(&self.server, &self.request, &self.footprint, &|_| ());
        timeout(DEADLINE, started).await.unwrap().unwrap()
    }

    async fn next(&self, previous: &Agent) -> Result<Agent, StartError> {
        let started = start::succeed(&self.server, &self.request, &self.footprint, previous, &|_| ());
        timeout(DEADLINE, started).await.unwrap()
    }

    async fn delete_pod(&self, agent: &Agent) {
        let pods: Api<Pod> = Api::namespaced(self.server.client(), &agent.namespace);
        pods.delete(&agent.pod_name, &DeleteParams::default())
            .await
            .unwrap();
    }

    async fn delete_job(&self, agent: &Agent) {
        let jobs: Api<Job> = Api::namespaced(self.server.client(), &agent.namespace);
        jobs.delete(&agent.job_name, &DeleteParams::background())
            .await
            .unwrap();
    }

    /// How the agent ended.
    async fn fate(&self, agent: &Agent) -> AgentEnd {
        let end = timeout(DEADLINE, watch::watch_agent(&self.server, agent))
            .await
            .unwrap();
        assert_eq!(
            watch::look(&self.server, agent).await.unwrap().as_ref(),
            Some(&end)
        );
        end
    }

    fn service(&self) -> Arc<Value> {
        let key = Key::new(Resource::Service, "dev", "api");
        let objects = self.stage.playground.objects();
        let mut found = objects.into_iter().filter(|(other, _)| *other == key);
        found.next().expect("the Service").1
    }

    /// The Service leads to this agent and goes with its Job.
    fn assert_leads_to(&self, agent: &Agent) {
        let service = self.service();
        let owners = service["metadata"]["ownerReferences"].as_array().unwrap();
        assert_eq!(owners.len(), 1, "{service}");
        assert_eq!(owners[0]["uid"], agent.job_uid.as_str());
        let generation = agent.generation.to_string();
        let key = "kubectl-tunnel.dev/generation";
        assert_eq!(service["spec"]["selector"][key], generation.as_str());
        assert_eq!(service["metadata"]["labels"][key], generation.as_str());
        assert_eq!(
            service["spec"]["clusterIP"],
            agent.service.as_ref().unwrap().cluster_ip.as_str()
        );
    }

    fn jobs(&self) -> Vec<String> {
        let ours = self.stage.playground.tunnel_objects();
        ours.into_iter()
            .filter(|key| key.resource == Resource::Job)
            .map(|key| key.name)
            .collect()
    }

    async fn end(self) {
        let ending = end::end(&self.server, &self.footprint, END_WAIT).await;
        assert!(ending.is_clean(), "{ending}");
        assert!(self.footprint.is_empty());
        self.stage.until_nothing_is_left().await;
    }
}

fn options() -> AgentOptions {
    AgentOptions {
        source: AgentSource::ConfigMap {
            binaries: AgentBinaries::from_file(agent_binary()).unwrap(),
            base_image: "registry.k8s.io/pause:3.10".to_owned(),
        },
        image_pull_policy: ImagePullPolicy::IfNotPresent,
        image_pull_secrets: Vec::new(),
        patches: Vec::new(),
        mesh: Mesh::Exclude,
        architecture: None,
        keep: false,
        resources: Resources::standard(),
        pod_running_timeout: Duration::from_secs(20),
        grace: Duration::from_secs(30),
        grace_open: Duration::from_secs(120),
        hold: Duration::from_secs(10),
        max_lifetime: Duration::from_secs(3600),
        transport: TransportChoice::Auto,
        allow_targets: Vec::new(),
    }
}

#[tokio::test]
async fn a_running_agent_has_no_fate() {
    let cluster = Cluster::start().await;
    let agent = cluster.first().await;
    assert_eq!(watch::look(&cluster.server, &agent).await.unwrap(), None);
    cluster.end().await;
}

#[tokio::test]
async fn a_lost_pod_is_followed_by_the_next_job_and_the_service_keeps_its_address() {
    let cluster = Cluster::start().await;
    let first = cluster.first().await;
    let service = cluster.service();
    cluster.delete_pod(&first).await;
    assert_eq!(cluster.fate(&first).await, AgentEnd::PodDeleted);

    let second = cluster.next(&first).await.unwrap();
    assert_eq!(second.job_name, format!("{}-2", first.job_name));
    assert_eq!((second.generation, &second.session), (2, &first.session));
    assert_eq!(second.service, first.service, "name, address and ports");
    assert_eq!(cluster.service()["metadata"]["uid"], service["metadata"]["uid"]);
    cluster.assert_leads_to(&second);
    assert_eq!(cluster.jobs(), [second.job_name.as_str()]);

    cluster.delete_pod(&second).await;
    let third = cluster.next(&second).await.unwrap();
    assert_eq!(third.generation, 3);
    assert_eq!(third.service, first.service);
    cluster.assert_leads_to(&third);
    cluster.end().await;
}

#[tokio::test]
async fn a_job_found_gone_is_made_anew_under_its_names() {
    let cluster = Cluster::start().await;
    let first = cluster.first().await;
    cluster.delete_job(&first).await;
    assert_eq!(cluster.fate(&first).await, AgentEnd::JobDeleted { gone: true });
    cluster.stage.until_nothing_is_left().await;

    let second = cluster.next(&first).await.unwrap();
    assert_eq!((&second.job_name, second.generation), (&first.job_name, 1));
    assert_ne!(second.job_uid, first.job_uid);
    cluster.assert_leads_to(&second);
    assert_eq!(watch::look(&cluster.server, &second).await.unwrap(), None);
    cluster.end().await;
}

/// What the deleted Job owned may still be there when its successor is made.
#[tokio::test]
async fn a_job_that_is_just_going_does_not_take_its_successor_along() {
    let cluster = Cluster::start().await;
    let first = cluster.first().await;
    cluster.delete_job(&first).await;
    let second = cluster.next(&first).await.unwrap();
    let old_pod_gone = |all: &[(Key, Arc<Value>)]| all.iter().all(|(key, _)| key.name != first.pod_name);
    cluster.stage.until("the old pod gone", old_pod_gone).await;
    cluster.assert_leads_to(&second);
    assert_eq!(watch::look(&cluster.server, &second).await.unwrap(), None);
    cluster.end().await;
}

/// The policy of a Job that is going has the name that its successor's is to have.
#[tokio::test]
async fn a_policy_that_is_just_going_is_not_taken_for_its_successors() {
    let mut cluster = Cluster::start().await;
    let request = cluster.request.service.as_deref().unwrap();
    cluster.request.service = Some(Arc::new(ServiceRequest {
        allow_from: vec!["app=web".parse().unwrap()],
        ..request.clone()
    }));
    let first = cluster.first().await;
    cluster.delete_job(&first).await;
    let second = cluster.next(&first).await.unwrap();
    cluster.assert_leads_to(&second);
    let own_alone = |all: &[(Key, Arc<Value>)]| {
        let policies = all
            .iter()
            .filter(|(key, _)| key.resource == Resource::NetworkPolicy);
        let owners: Vec<&Value> = policies
            .map(|(_, policy)| &policy["metadata"]["ownerReferences"][0]["uid"])
            .collect();
        owners == [second.job_uid.as_str()]
    };
    cluster
        .stage
        .until("the successor's policy alone", own_alone)
        .await;
    cluster.end().await;
}

#[tokio::test]
async fn a_quota_for_one_pod_is_waited_for() {
    let cluster = Cluster::start().await;
    let first = cluster.first().await;
    cluster.delete_pod(&first).await;
    let faults = cluster.stage.playground.faults();
    faults.forbid_pods(Some(
        "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1",
    ));
    let refused = |all: &[(Key, Arc<Value>)]| {
        let mut events = all.iter().filter(|(key, _)| key.resource == Resource::Event);
        events.any(|(_, event)| event["reason"] == "FailedCreate")
    };
    let (second, ()) = tokio::join!(cluster.next(&first), async {
        cluster.stage.until("a refusal", refused).await;
        faults.forbid_pods(None);
    });
    let second = second.unwrap();
    assert_eq!(second.generation, 2, "the same Job waited");
    cluster.assert_leads_to(&second);
    cluster.end().await;
}

#[tokio::test]
async fn a_succession_that_failed_can_be_repeated() {
    let cluster = Cluster::start().await;
    let first = cluster.first().await;
    cluster.delete_pod(&first).await;
    let faults = cluster.stage.playground.faults();
    let unavailable = StatusCode::INTERNAL_SERVER_ERROR;
    faults.fail_next_where(1, unavailable, Some(&Method::PATCH), "/services/");
    cluster.next(&first).await.unwrap_err();
    let second = cluster.next(&first).await.unwrap();
    assert_eq!(second.generation, 3, "the name of the failed one is taken");
    assert_eq!(second.service, first.service);
    cluster.assert_leads_to(&second);
    assert_eq!(cluster.jobs(), [second.job_name.as_str()]);
    cluster.end().await;
}

#[tokio::test]
async fn a_succession_that_is_given_up_leaves_nothing() {
    let cluster = Cluster::start().await;
    let first = cluster.first().await;
    cluster.delete_pod(&first).await;
    {
        let next = cluster.next(&first);
        let moved = cluster.stage.until("the Service moved", |_| {
            cluster.service()["spec"]["selector"]["kubectl-tunnel.dev/generation"] == "2"
        });
        tokio::select! {
            _ = next => panic!("sooner than its Service was moved"),
            () = moved => {}
        }
    }
    cluster.end().await;
}

#[tokio::test]
async fn a_service_of_somebody_else_is_not_touched() {
    let cluster = Cluster::start().await;
    let first = cluster.first().await;
    cluster.delete_job(&first).await;
    cluster.stage.until_nothing_is_left().await;
    let services: Api<k8s_openapi::api::core::v1::Service> = Api::namespaced(cluster.server.client(), "dev");
    let foreign = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "api"}, "spec": {"ports": [{"port": 18_081}]},
    }));
    services
        .create(&kube::api::PostParams::default(), &foreign.unwrap())
        .await
        .unwrap();
    let error = cluster.next(&first).await.unwrap_err();
    assert!(
        error.to_string().contains("was not made by kubectl tunnel"),
        "{error}"
    );
    assert_eq!(cluster.service()["spec"]["selector"], Value::Null);
    cluster.end().await;
}

/// `--keep` leaves the Job of the lost agent beside its successor's.
#[tokio::test]
async fn a_sweep_takes_the_jobs_of_a_session_together() {
    let mut cluster = Cluster::start().await;
    cluster.footprint = Footprint::new("dev", SessionId::random(), true);
    let first = cluster.first().await;
    cluster.delete_pod(&first).await;
    cluster.fate(&first).await;
    let second = cluster.next(&first).await.unwrap();
    assert_eq!(cluster.jobs().len(), 2);
    cluster.assert_leads_to(&second);
    let runs = |all: &[(Key, Arc<Value>)]| {
        let mut pods = all.iter().filter(|(key, _)| key.name == second.pod_name);
        pods.any(|(_, pod)| pod["status"]["containerStatuses"][0]["state"]["running"].is_object())
    };
    cluster.stage.until("a running agent", runs).await;

    let identity = identify(&cluster.server).await.unwrap();
    let options = SweepOptions {
        scope: Scope::Namespace,
        dry_run: false,
        force: false,
    };
    let sweep = async |attached| {
        let seconds = 60;
        let state = AgentState {
            attached,
            seconds,
            streams: 0,
        };
        let ask: AskAgent = Arc::new(move |_| Box::pin(async move { Ok(state) }));
        sweep::sweep(&cluster.server, &identity, options, &ask, &BTreeSet::new())
            .await
            .unwrap()
    };
    let report = sweep(true).await;
    assert_eq!((report.kept.len(), report.removed.len()), (1, 0), "{report:?}");
    assert_eq!(cluster.jobs().len(), 2, "a living session is left alone");
    let report = sweep(false).await;
    assert_eq!((report.kept.len(), report.removed.len()), (0, 1), "{report:?}");
    cluster.stage.until_nothing_is_left().await;
}
