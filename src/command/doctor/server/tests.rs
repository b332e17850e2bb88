//! The texts, as people read them.

use super::*;
use crate::cluster::api_error::Call;
use crate::cluster::failure::{Failure, FailureKind};
use crate::cluster::names::ObjectRef;
use crate::command::doctor::report::{State, text};

fn right(verb: &'static str, group: &'static str, resource: &'static str) -> Right {
    Right {
        verb,
        group,
        resource,
    }
}

fn refused(kind: FailureKind, words: &str) -> Answer {
    let object = ObjectRef::new("pod", "tunnel-x7k2p9");
    Answer::Refused(StartError::Failed(Failure::new(kind, object, "Forbidden", words)))
}

#[test]
fn rights_that_are_missing_are_named_with_the_role_that_grants_them() {
    let survey = Survey {
        missing: vec![right("create", "batch", "jobs"), right("get", "", "pods/exec")],
        lacking: vec![("`expose`", vec![right("create", "", "services")])],
        dry_run: false,
        untold: Vec::new(),
    };
    let checks = rights_checks("dev", &Identity::from_name("ana"), &survey);
    let printed = text(&checks);
    let head = "\
failure  rights    missing in namespace dev: create jobs.batch, get pods/exec
                   -> have an administrator apply the Role and the RoleBinding below
warning  features  `expose` needs create services

apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: kubectl-tunnel
  namespace: dev
rules:
";
    assert!(printed.starts_with(head), "{printed}");
    assert!(
        printed.ends_with(r#"- {"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"ana"}"#),
        "{printed}"
    );
    // One Role is enough.
    assert_eq!(printed.matches("kind: RoleBinding").count(), 1);
}

#[test]
fn a_feature_without_its_rights_is_a_warning() {
    let survey = Survey {
        lacking: vec![("`expose`", vec![right("create", "", "services")])],
        ..Survey::default()
    };
    let checks = rights_checks("dev", &Identity::from_name("ana"), &survey);
    let states: Vec<State> = checks.iter().map(|check| check.state).collect();
    assert_eq!(states, [State::Ok, State::Warning]);
    assert!(checks[1].manifest.is_some());

    let untold = Survey {
        untold: vec![right("create", "batch", "jobs")],
        ..Survey::default()
    };
    assert_eq!(
        text(&rights_checks("dev", &Identity::from_name("ana"), &untold)),
        "unknown  rights  not allowed to see who may create jobs.batch"
    );
}

#[test]
fn what_the_namespace_refuses_is_said_in_its_words() {
    let rehearsal = Rehearsal {
        job: Answer::Admitted,
        pod: Some(refused(
            FailureKind::Quota,
            "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1",
        )),
        followed: None,
    };
    assert_eq!(
        text(&rehearsal_checks(rehearsal, "dev")),
        "\
ok       job  namespace dev would take it (dry run)
failure  pod  pod/tunnel-x7k2p9: refused by a resource quota (Forbidden): exceeded quota: q, \
         requested: pods=1, used: pods=1, limited: pods=1
              -> see what is used: `kubectl describe quota -n dev`"
    );
    let rehearsal = Rehearsal {
        job: refused(
            FailureKind::PodSecurity,
            "violates PodSecurity \"restricted:latest\": hostNetwork=true",
        ),
        pod: None,
        followed: None,
    };
    assert_eq!(
        text(&rehearsal_checks(rehearsal, "dev")),
        "\
failure  job  pod/tunnel-x7k2p9: refused by pod security (Forbidden): violates PodSecurity \
         \"restricted:latest\": hostNetwork=true
              -> leave out of `--patch` what it names, or see the namespace's level: `kubectl get namespace dev \
         --show-labels`
unknown  pod  not checked: the right `create pods` is missing, which sessions do not need"
    );
}

#[test]
fn a_namespace_that_may_not_be_seen_is_no_failure() {
    let call = || Call::new("get", "namespaces");
    let state = |enforced: Option<&str>, terminating| NamespaceState {
        enforced: enforced.map(str::to_owned),
        terminating,
    };
    let message = "no".to_owned();
    let checks = [
        namespace_check("dev", Ok(state(Some("restricted"), false))),
        namespace_check("dev", Ok(state(None, false))),
        namespace_check("dev", Ok(state(None, true))),
        namespace_check(
            "dev",
            Err(ApiError::Forbidden {
                call: call(),
                message: message.clone(),
            }),
        ),
        namespace_check(
            "dev",
            Err(ApiError::NotFound {
                call: call(),
                message,
            }),
        ),
    ];
    assert_eq!(
        text(&checks),
        "\
ok       namespace  dev, Pod Security level restricted
ok       namespace  dev, no Pod Security level of its own
failure  namespace  dev is being deleted
                    -> name another one with `-n`
unknown  namespace  not allowed to see namespace dev
failure  namespace  namespace dev does not exist
                    -> name another one with `-n`; `kubectl get namespaces` lists them"
    );
}

#[test]
fn versions_and_clocks() {
    let checks = [
        version_check("v1.35.0"),
        version_check("v1.30.4-gke.1348000"),
        version_check("v1.24.17+k3s1"),
        version_check("main"),
        clock_check(SignedDuration::from_secs(3)),
        clock_check(SignedDuration::from_secs(-61)),
        clock_check(SignedDuration::from_secs(3600)),
    ];
    assert_eq!(
        text(&checks),
        "\
ok       version  v1.35.0
ok       version  v1.30.4-gke.1348000
warning  version  v1.24.17+k3s1 is older than 1.25
                  -> sessions may work, but nobody has tried
warning  version  main is no version of Kubernetes
ok       clock    within 3s of the server's
warning  clock    this machine's clock is 1m 1s behind the server's
                  -> set the clock: certificates and tokens may be refused; sessions do not depend on it
warning  clock    this machine's clock is 1h ahead of the server's
                  -> set the clock: certificates and tokens may be refused; sessions do not depend on it"
    );
}
