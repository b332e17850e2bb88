//! How a plan changes with what the cluster answers.

use jiff::Timestamp;

use super::*;
use crate::cluster::{
    agents::AgentBinaries,
    failure::{Failure, FailureKind},
    manifest::fixture::Fixture,
    names::ObjectRef,
    options::AgentSource,
};

fn plan(options: &AgentOptions) -> Plan {
    Plan {
        generation: 1,
        architecture: Architecture::Amd64,
        resources: options.resources.clone(),
        architecture_is_final: options.architecture.is_some(),
        followed_limit_range: false,
        followed_quota: false,
    }
}

fn failure(text: &str) -> Failure {
    Failure::denial(ObjectRef::new("job", "tunnel-x7k2p9"), "Forbidden", text)
}

fn no_node() -> Failure {
    Failure::new(
        FailureKind::NoMatchingNode,
        ObjectRef::new("pod", "p"),
        "Unschedulable",
        "x",
    )
}

#[test]
fn the_other_architecture_is_tried_once() {
    let mut options = Fixture::new(Timestamp::UNIX_EPOCH).options;
    options.source = AgentSource::ConfigMap {
        binaries: AgentBinaries::for_tests(),
        base_image: "p".to_owned(),
    };
    let next = plan(&options)
        .answer(&no_node(), &options)
        .expect("a second plan");
    assert_eq!(next.architecture, Architecture::Arm64);
    assert!(next.answer(&no_node(), &options).is_none(), "both were tried");

    options.architecture = Some(Architecture::Amd64);
    assert!(
        plan(&options).answer(&no_node(), &options).is_none(),
        "--arch decides"
    );
}

#[test]
fn a_node_selector_of_the_users_own_keeps_the_architecture() {
    let mut options = Fixture::new(Timestamp::UNIX_EPOCH).options;
    options.source = AgentSource::ConfigMap {
        binaries: AgentBinaries::for_tests(),
        base_image: "p".to_owned(),
    };
    for (patch, tried) in [
        (r#"{"spec":{"nodeSelector":{"disk":"ssd"}}}"#, false),
        (r#"{"spec":{"affinity":{"nodeAffinity":{}}}}"#, false),
        (r#"{"spec":{"priorityClassName":"low"}}"#, true),
    ] {
        options.patches = vec![PodPatch::parse(patch, "--patch").unwrap()];
        let next = plan(&options).answer(&no_node(), &options);
        assert_eq!(next.is_some(), tried, "{patch}");
    }
}

#[test]
fn a_successor_takes_the_next_names_while_the_old_are_in_use() {
    let options = Fixture::new(Timestamp::UNIX_EPOCH).options;
    let mut resources = options.resources.clone();
    resources.limits.insert("cpu".to_owned(), "1".to_owned());
    let previous = Agent {
        namespace: "dev".to_owned(),
        session: "x7k2p9".parse().unwrap(),
        generation: 3,
        job_name: "tunnel-x7k2p9-3".to_owned(),
        job_uid: "j".to_owned(),
        pod_name: "p".to_owned(),
        pod_uid: "u".to_owned(),
        architecture: Architecture::Arm64,
        resources: resources.clone(),
        port_forward: true,
        binary: "/tunnel/agent",
        service: None,
    };
    let plan = |present| Plan::after(&previous, present, &options);
    assert_eq!((plan(true).generation, plan(false).generation), (4, 3));
    assert_eq!(plan(true).architecture, Architecture::Arm64);
    assert_eq!(
        plan(true).resources,
        resources,
        "what the namespace's policy wanted is known"
    );
}

#[test]
fn a_limit_range_and_a_quota_are_each_followed_once() {
    let options = Fixture::new(Timestamp::UNIX_EPOCH).options;
    let minimum =
        failure("pods \"p\" is forbidden: minimum cpu usage per Container is 50m, but request is 10m");
    let demand = failure("pods \"p\" is forbidden: failed quota: q: must specify limits.cpu for: agent");
    let first = plan(&options)
        .answer(&minimum, &options)
        .expect("follows the limit range");
    assert_eq!(first.resources.requests["cpu"], "50m");
    let second = first.answer(&demand, &options).expect("follows the quota");
    assert_eq!(second.resources.limits["cpu"], "1");
    assert_eq!(second.resources.requests["cpu"], "50m");
    let more = failure("pods \"p\" is forbidden: minimum cpu usage per Container is 90m, but request is 50m");
    assert!(second.answer(&more, &options).is_none());
    assert!(second.answer(&demand, &options).is_none());
}

#[test]
fn other_failures_are_final() {
    let options = Fixture::new(Timestamp::UNIX_EPOCH).options;
    for text in [
        "exceeded quota: q",
        "violates PodSecurity \"restricted\"",
        "something else",
    ] {
        assert!(
            plan(&options).answer(&failure(text), &options).is_none(),
            "{text}"
        );
    }
}
