//! The whole objects as they go over the wire, and the invariants they must keep.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{fixture::Fixture, *};
use crate::cluster::{
    agents::AgentBinaries,
    options::{AgentSource, Architecture, Mesh, TransportChoice},
    patch::PodPatch,
};

const UID: &str = "8f2c1f0e-7d0c-4c3e-9e0b-2f1a6b1c0d9e";

fn fixture() -> Fixture {
    Fixture::new("2026-01-02T03:04:05.678Z".parse::<Timestamp>().unwrap())
}

/// The agent from a ConfigMap, on the standard base image.
fn with_config_map() -> Fixture {
    let mut fixture = fixture();
    fixture.options.source = AgentSource::ConfigMap {
        binaries: AgentBinaries::for_tests(),
        base_image: "registry.k8s.io/pause:3.10".to_owned(),
    };
    fixture
}

fn service_request() -> ServiceRequest {
    let port = |name: &str, port| ServicePortRequest {
        name: name.to_owned(),
        port,
        protocol: Protocol::Tcp,
    };
    ServiceRequest {
        name: "api".to_owned(),
        ports: vec![port("p80", 80), port("p443", 443)],
        ..ServiceRequest::default()
    }
}

fn guarded_request() -> ServiceRequest {
    let peers = ["app=web,tier!=db", "namespace/shop", "10.1.0.0/16"];
    ServiceRequest {
        allow_from: peers.map(|peer| peer.parse().unwrap()).into(),
        ..service_request()
    }
}

#[track_caller]
fn assert_snapshot(actual: &Value, expected: &str) {
    let expected: Value = serde_json::from_str(expected).unwrap();
    assert_eq!(actual, &expected, "\n{actual:#}\n");
}

#[test]
fn job_is_the_documented_one() {
    let fixture = with_config_map();
    let job = fixture.spec(Architecture::Amd64).job().unwrap();
    assert_snapshot(&job, include_str!("job.json"));
}

#[test]
fn service_is_the_documented_one() {
    let fixture = fixture();
    let service = fixture.spec(Architecture::Amd64).service(&service_request(), UID);
    assert_snapshot(&service, include_str!("service.json"));
}

#[test]
fn network_policy_is_the_documented_one() {
    let fixture = fixture();
    let policy = fixture
        .spec(Architecture::Amd64)
        .network_policy(&guarded_request(), UID);
    assert_snapshot(&policy, include_str!("network_policy.json"));
}

#[test]
fn the_network_policy_holds_for_this_generations_pod_only() {
    let fixture = fixture();
    let mut spec = fixture.spec(Architecture::Amd64);
    spec.generation = 2;
    let policy = spec.network_policy(&guarded_request(), UID);
    assert_eq!(policy["metadata"]["name"], "tunnel-x7k2p9-2");
    let service = spec.service(&guarded_request(), UID);
    let pod = &policy["spec"]["podSelector"]["matchLabels"];
    assert_eq!(pod, &service["spec"]["selector"]);
    let own = policy["spec"]["ingress"][0]["from"].as_array().unwrap().last();
    assert_eq!(&own.unwrap()["podSelector"]["matchLabels"], pod);
}

#[test]
fn a_service_carries_the_users_labels_beside_ours() {
    let fixture = fixture();
    let mut request = service_request();
    let pair = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    request.labels = pair("team", "a");
    request.annotations = pair("example.com/note", "b c");
    let spec = fixture.spec(Architecture::Amd64);
    let (plain, service) = (spec.service(&service_request(), UID), spec.service(&request, UID));
    let metadata = &service["metadata"];
    assert_eq!(metadata["labels"]["team"], "a");
    assert_eq!(metadata["annotations"]["example.com/note"], "b c");
    for kind in ["labels", "annotations"] {
        for (key, value) in plain["metadata"][kind].as_object().unwrap() {
            assert_eq!(&metadata[kind][key], value);
        }
    }
    // Even if a flag let it through.
    request.labels = pair(LABEL_INSTANCE, "other");
    assert_eq!(
        spec.service(&request, UID)["metadata"]["labels"][LABEL_INSTANCE],
        "x7k2p9"
    );
}

#[test]
fn ports_carry_their_protocol() {
    let fixture = fixture();
    let mut request = guarded_request();
    request.ports[1].protocol = Protocol::Udp;
    let spec = fixture.spec(Architecture::Amd64);
    let service = spec.service(&request, UID);
    let policy = spec.network_policy(&request, UID);
    for ports in [&service["spec"]["ports"], &policy["spec"]["ingress"][0]["ports"]] {
        assert_eq!(
            (&ports[0]["protocol"], &ports[1]["protocol"]),
            (&json!("TCP"), &json!("UDP"))
        );
    }
}

#[test]
fn an_image_of_its_own_needs_no_config_map() {
    let fixture = fixture();
    let job = fixture.spec(Architecture::Arm64).job().unwrap();
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"]["kubernetes.io/arch"], "arm64");
    assert_eq!(pod["volumes"].as_array().map(Vec::len), Some(1));
    assert_eq!(pod["containers"][0]["command"], json!(["/tunnel-agent", "serve"]));
    assert_eq!(pod["containers"][0]["image"], "agent:1");
}

#[test]
fn a_mesh_is_inherited_on_demand() {
    let mut fixture = fixture();
    fixture.options.mesh = Mesh::Inherit;
    let job = fixture.spec(Architecture::Amd64).job().unwrap().to_string();
    for key in ["istio", "linkerd", "kuma", "consul"] {
        assert!(!job.contains(key), "{key}");
    }
}

#[test]
fn options_reach_the_pod() {
    let mut fixture = fixture();
    fixture.options.keep = true;
    fixture.options.image_pull_secrets = vec!["registry".to_owned()];
    fixture.options.allow_targets = vec!["127.0.0.1".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
    fixture.options.max_lifetime = Duration::from_secs(15);
    fixture.options.patches =
        vec![PodPatch::parse("{metadata: {labels: {team: a}}, spec: {hostname: h}}", "--patch").unwrap()];
    let mut spec = fixture.spec(Architecture::Amd64);
    spec.generation = 3;
    let job = spec.job().unwrap();
    assert_eq!(job["metadata"]["name"], "tunnel-x7k2p9-3");
    assert_eq!(job["spec"]["ttlSecondsAfterFinished"], 3600);
    assert_eq!(job["spec"]["activeDeadlineSeconds"], 30);
    let template = &job["spec"]["template"];
    assert_eq!(template["metadata"]["labels"][LABEL_GENERATION], "3");
    assert_eq!(template["metadata"]["labels"]["team"], "a");
    assert_eq!(template["spec"]["hostname"], "h");
    assert_eq!(
        template["spec"]["imagePullSecrets"],
        json!([{"name": "registry"}])
    );
    let env = template["spec"]["containers"][0]["env"].as_array().unwrap();
    assert!(env.contains(&json!({"name": "TUNNEL_ALLOW_TARGETS", "value": "127.0.0.1,10.0.0.0/8"})));
}

#[test]
fn the_entrance_is_open_on_the_pods_own_loopback_only() {
    let opens = |transport, patches: &[&str]| {
        let mut fixture = fixture();
        fixture.options.transport = transport;
        let patch = |text: &&str| PodPatch::parse(text, "--patch").unwrap();
        fixture.options.patches = patches.iter().map(patch).collect();
        let job = fixture.spec(Architecture::Amd64).job().unwrap();
        let containers = job["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .clone();
        let entrances = containers.iter().filter(|container| {
            let environment = container["env"].as_array();
            environment
                .is_some_and(|environment| environment.iter().any(|entry| entry["name"] == "TUNNEL_ENTRANCE"))
        });
        entrances
            .map(|container| container["name"].clone())
            .collect::<Vec<_>>()
    };
    let beside = "{spec: {containers: [{name: sidecar, image: proxy, env: []}]}}";
    for transport in [TransportChoice::Auto, TransportChoice::PortForward] {
        assert_eq!(opens(transport, &[]), ["agent"]);
        assert_eq!(opens(transport, &[beside]), ["agent"]);
        assert!(opens(transport, &["{spec: {hostNetwork: true}}"]).is_empty());
        // What counts is the pod as it will be.
        let both = ["{spec: {hostNetwork: true}}", "{spec: {hostNetwork: false}}"];
        assert_eq!(opens(transport, &both), ["agent"]);
    }
    assert!(opens(TransportChoice::Exec, &[]).is_empty());
}

#[test]
fn a_patch_cannot_open_an_entrance() {
    let mut fixture = fixture();
    let text = "{spec: {containers: [{name: agent, env: [{name: TUNNEL_ENTRANCE, value: '127.0.0.1'}]}]}}";
    fixture.options.patches = vec![PodPatch::parse(text, "--patch").unwrap()];
    assert!(fixture.spec(Architecture::Amd64).job().is_err());
}

#[test]
fn the_service_leads_to_this_generation_only() {
    let fixture = fixture();
    let mut spec = fixture.spec(Architecture::Amd64);
    spec.generation = 2;
    let service = spec.service(&service_request(), UID);
    let labels = &spec.job().unwrap()["spec"]["template"]["metadata"]["labels"];
    for (key, value) in service["spec"]["selector"].as_object().unwrap() {
        assert_eq!(&labels[key], value);
    }
    assert_eq!(service["spec"]["selector"][LABEL_GENERATION], "2");
}

#[test]
fn dry_run_pod_is_the_jobs_pod() {
    let fixture = with_config_map();
    let spec = fixture.spec(Architecture::Amd64);
    let mut pod = spec.dry_run_pod().unwrap();
    let job = spec.job().unwrap();
    let template = &job["spec"]["template"];
    assert_eq!(pod["spec"], template["spec"]);
    assert_eq!(pod["metadata"]["generateName"].take(), "tunnel-x7k2p9-");
    assert_eq!(pod["metadata"]["labels"], template["metadata"]["labels"]);
}

/// Invariant: nothing of ours ever blocks a deletion.
#[test]
fn nothing_blocks_a_deletion() {
    let fixture = with_config_map();
    let spec = fixture.spec(Architecture::Amd64);
    let objects = [
        spec.job().unwrap(),
        spec.service(&service_request(), UID),
        spec.network_policy(&guarded_request(), UID),
        json!({"metadata": spec.config_map_metadata(UID)}),
    ];
    for object in &objects {
        let text = object.to_string();
        assert!(
            !text.contains("finalizers") && !text.contains("blockOwnerDeletion"),
            "{text}"
        );
    }
    for dependent in &objects[1..] {
        assert_eq!(dependent["metadata"]["ownerReferences"][0]["uid"], UID);
        assert_eq!(
            dependent["metadata"]["ownerReferences"][0]["name"],
            "tunnel-x7k2p9"
        );
    }
}

#[test]
fn label_values_are_legal() {
    assert_eq!(label_value("1.2.3+git.5"), "1.2.3-git.5");
    assert_eq!(label_value(&"x".repeat(100)).len(), 63);
}

#[test]
fn an_endless_lifetime_expires_at_the_end_of_time() {
    let mut fixture = fixture();
    fixture.options.max_lifetime = Duration::MAX;
    let job = fixture.spec(Architecture::Amd64).job().unwrap();
    assert!(
        job["metadata"]["annotations"][ANNOTATION_EXPIRES_AT]
            .as_str()
            .unwrap()
            .starts_with("9999-")
    );
}

#[test]
fn target_ports_count_from_20000() {
    assert_eq!(ServiceRequest::target_port(0), 20_000);
    assert_eq!(ServiceRequest::target_port(7), 20_007);
    assert_eq!(ServiceRequest::target_port(1_000_000), u16::MAX);
}
