//! What is a target, what is refused, and with which words.

use proptest::prelude::*;

use super::*;

fn spec(kind: TargetKind, name: &str, namespace: Option<&str>) -> TargetSpec {
    TargetSpec {
        kind,
        name: name.to_owned(),
        namespace: namespace.map(str::to_owned),
    }
}

#[test]
fn every_form() {
    use TargetKind as Kind;
    for (text, expected) in [
        ("svc/web", spec(Kind::Service, "web", None)),
        ("service/web", spec(Kind::Service, "web", None)),
        ("services/db.other", spec(Kind::Service, "db", Some("other"))),
        ("svc/db.other.svc", spec(Kind::Service, "db", Some("other"))),
        (
            "svc/db.other.svc.cluster.local",
            spec(Kind::Service, "db", Some("other")),
        ),
        ("svc/db.other.svc.corp.", spec(Kind::Service, "db", Some("other"))),
        ("db-0", spec(Kind::Pod, "db-0", None)),
        ("po/db-0", spec(Kind::Pod, "db-0", None)),
        ("Pod/a.b", spec(Kind::Pod, "a.b", None)),
        ("deploy/api", spec(Kind::Deployment, "api", None)),
        ("deployments.apps/api", spec(Kind::Deployment, "api", None)),
        ("deployment.v1.apps/api", spec(Kind::Deployment, "api", None)),
        ("rs/api-5d", spec(Kind::ReplicaSet, "api-5d", None)),
        ("sts/db", spec(Kind::StatefulSet, "db", None)),
        ("daemonset/log", spec(Kind::DaemonSet, "log", None)),
        ("jobs.batch/x", spec(Kind::Job, "x", None)),
        ("host/rds.internal", spec(Kind::Host, "rds.internal", None)),
        ("ip/10.0.0.7", spec(Kind::Ip, "10.0.0.7", None)),
        ("ip/fd00::1", spec(Kind::Ip, "fd00::1", None)),
        ("ip/[FD00::1]", spec(Kind::Ip, "fd00::1", None)),
    ] {
        assert_eq!(text.parse(), Ok(expected), "{text}");
    }
}

#[test]
fn refusals_tell_what_to_type() {
    for (text, expected) in [
        ("", "such as `svc/web`"),
        ("svc/", "such as `svc/web`"),
        ("svc/Web", "lower-case"),
        ("svc/a.b.c", "`host/a.b.c`"),
        ("svc/a..", "namespace"),
        ("pod/a_b", "name of a pod"),
        ("node/n1", "`ip/ADDRESS`"),
        ("ingress/x", "the service behind it"),
        ("svcs/x", "did you mean `svc`?"),
        ("deplyoment/x", "did you mean `deployment`?"),
        (
            "configmap/x",
            "the types are svc, pod, deploy, rs, sts, ds, job, host, ip",
        ),
        ("pods.apps/x", "not a type"),
        ("ip/rds", "`host/rds`"),
        ("ip/10.0.0", "not an IP address"),
        ("ip/[10.0.0.7]", "not an IP address"),
        ("host/10.0.0.7", "type `ip/10.0.0.7`"),
        ("10.0.0.7", "type `ip/10.0.0.7`"),
        ("host/a b", "letters, digits"),
        ("svc/a/b", "cannot be the name"),
    ] {
        let error = text.parse::<TargetSpec>().expect_err(text).to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn what_is_printed_parses_back(
        kind in "svc|service|po|pod|deploy|rs|sts|ds|job|host|ip",
        name in "[a-z0-9.:-]{1,12}",
    ) {
        if let Ok(target) = format!("{kind}/{name}").parse::<TargetSpec>() {
            prop_assert_eq!(target.to_string().parse::<TargetSpec>(), Ok(target));
        }
    }

    #[test]
    fn nothing_panics(text in ".{0,40}") {
        drop(text.parse::<TargetSpec>());
    }
}
