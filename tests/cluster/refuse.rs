//! Users without rights, and clusters that cannot be reached: the exit code, the reason, nothing created.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::namespace::{Namespace, kubectl_config};
use crate::harness::settings::Settings;
use crate::harness::{notice, run};

const TOLD: Duration = Duration::from_secs(5);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn nobody_is_told_which_right_is_missing() {
    run(async {
        let Some(nobody) = &Settings::get().nobody else {
            return notice("TUNNEL_TEST_NOBODY_KUBECONFIG is not set");
        };
        let namespace = Namespace::create().await;
        let nobody = namespace.kubeconfig_of(nobody, "nobody");
        for launch in [namespace.proxy(&[]), namespace.expose(&["1234"])] {
            let ended = launch.with_kubeconfig(&nobody).finish(TOLD).await;
            ended.expect_code(4).expect_error_events(4);
            let can_i = "kubectl auth can-i create jobs";
            ended.expect_said(&["create", "jobs", can_i, namespace.name()]);
        }
        assert_eq!(namespace.strangers().await.len(), 0);
    });
}

/// A user who may do only this, as a kubeconfig.
pub(crate) async fn user_with_rules(namespace: &Namespace, name: &str, rules: &Value) -> PathBuf {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    namespace.create_object("serviceaccounts", account).await;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules,
    });
    namespace.create_object("roles", role).await;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace.name()}],
    });
    namespace.create_object("rolebindings", binding).await;
    let token = namespace
        .kubectl_ok(&["create", "token", name, "--duration=1h"])
        .await;
    user_with_token(namespace, name, token.trim())
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_single_missing_right_is_found_before_anything_is_created() {
    run(async {
        let namespace = Namespace::create().await;
        let rules = json!([
            {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["*"]},
            {"apiGroups": [""], "resources": ["pods", "pods/log", "configmaps", "services", "events"], "verbs": ["*"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["*"]},
        ]);
        let half = user_with_rules(&namespace, "half", &rules).await;
        let ended = namespace.proxy(&[]).with_kubeconfig(&half).finish(TOLD).await;
        ended
            .expect_code(4)
            .expect_said(&["pods/exec", "kubectl auth can-i"])
            .expect_error_events(4);
        assert!(
            !namespace
                .events()
                .await
                .iter()
                .any(|event| event.starts_with("SuccessfulCreate"))
        );
        assert_eq!(namespace.strangers().await.len(), 0);
    });
}

/// The developer's kubeconfig with another user, who has only this token.
pub(crate) fn user_with_token(namespace: &Namespace, name: &str, token: &str) -> PathBuf {
    let kubeconfig = namespace.kubeconfig_of(&Settings::get().developer, name);
    kubectl_config(
        &kubeconfig,
        &["set-credentials", name, &format!("--token={token}")],
    );
    kubectl_config(
        &kubeconfig,
        &["set-context", "--current", &format!("--user={name}")],
    );
    kubeconfig
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_token_that_is_not_valid_any_more_is_not_authenticated() {
    run(async {
        let namespace = Namespace::create().await;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "gone"}});
        namespace.create_object("serviceaccounts", account).await;
        let token = namespace.kubectl_ok(&["create", "token", "gone"]).await;
        // A token dies with its account, without waiting for its expiry.
        namespace.kubectl_ok(&["delete", "serviceaccount", "gone"]).await;
        let gone = user_with_token(&namespace, "gone", token.trim());
        for launch in [
            namespace.proxy(&[]).with_kubeconfig(&gone),
            namespace.launch(&["cleanup"]).with_kubeconfig(&gone),
        ] {
            // The API server remembers a token that it has accepted for a few seconds; this one it never saw.
            launch
                .finish(TOLD)
                .await
                .expect_code(3)
                .expect_said(&["logged in"]);
        }
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_context_that_does_not_exist_is_named() {
    run(async {
        let namespace = Namespace::create().await;
        let ended = namespace
            .proxy(&["--context", "no-such-context"])
            .finish(TOLD)
            .await;
        ended
            .expect_code(3)
            .expect_said(&["no-such-context"])
            .expect_error_events(3);
        let missing = namespace.folder().join("no-such-file");
        let missing = missing.to_str().expect("a plain path");
        let ended = namespace.proxy(&["--kubeconfig", missing]).finish(TOLD).await;
        ended
            .expect_code(3)
            .expect_said(&["no-such-file"])
            .expect_error_events(3);
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_server_that_cannot_be_reached_is_named_in_time() {
    run(async {
        let namespace = Namespace::create().await;
        // A port that was free a moment ago: nobody listens.
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a local port");
            listener.local_addr().expect("bound").port()
        };
        let refused = format!("https://127.0.0.1:{port}");
        let ended = namespace.proxy(&["--server", &refused]).finish(TOLD).await;
        ended
            .expect_code(3)
            .expect_said(&[&format!("127.0.0.1:{port}"), "refused"])
            .expect_error_events(3);

        // Accepts and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a local port");
        let address = silent.local_addr().expect("bound");
        let ended = namespace
            .proxy(&["--server", &format!("https://{address}")])
            .finish(Duration::from_secs(20))
            .await;
        ended
            .expect_code(3)
            .expect_said(&[&address.to_string()])
            .expect_error_events(3);
        notice(&format!("a silent server was given up after {:?}", ended.after));

        let ended = namespace
            .proxy(&["--server", "https://no-such-host.invalid"])
            .finish(Duration::from_secs(20))
            .await;
        ended
            .expect_code(3)
            .expect_said(&["no-such-host.invalid"])
            .expect_error_events(3);
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_namespace_that_does_not_exist_is_named() {
    run(async {
        let namespace = Namespace::create().await;
        let ended = namespace
            .proxy(&["-n", "tunnel-test-no-such-namespace"])
            .finish(TOLD)
            .await;
        // For this user a namespace without rights and one that is not there look the same.
        ended
            .expect_code(4)
            .expect_said(&["tunnel-test-no-such-namespace"]);
    });
}
