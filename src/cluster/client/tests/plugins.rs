//! Credentials: plugins that run, fail or may not run, and files that are not there.

use super::*;
use crate::cluster::api_error::CredentialError;

fn setup(server: &TestServer, exec: &str) -> Setup {
    let mut setup = Setup::to(server);
    setup.user =
        format!("exec: {{apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, {exec}}}");
    setup
}

async fn fails(setup: &Setup) -> CredentialError {
    match setup.access().connect().await {
        Err(AccessError::Credentials(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_plugin_runs_once_for_each_client() {
    let server = TestServer::http(no_pods).await;
    let setup = setup(
        &server,
        "command: ./login, args: [x], env: [{name: WHO, value: ana}]",
    );
    let runs = setup.dir.path("runs");
    setup.dir.script(
        "login",
        &format!(
            "echo run >> '{}'\necho '{{\"apiVersion\":\"client.authentication.k8s.io/v1\",\
             \"kind\":\"ExecCredential\",\"status\":{{\"token\":\"'$WHO-$1'\"}}}}'",
            runs.display()
        ),
    );
    let access = setup.access();
    let api = access.connect().await.unwrap();
    assert_eq!(
        std::fs::read_to_string(&runs).unwrap().lines().count(),
        1,
        "before the first request"
    );
    list(&api).await.unwrap();
    list(&access.connect().await.unwrap()).await.unwrap();
    assert_eq!(std::fs::read_to_string(&runs).unwrap().lines().count(), 2);
    assert_eq!(header(&server.seen()[0], "authorization"), Some("Bearer ana-x"));
}

#[tokio::test]
async fn a_missing_plugin_comes_with_its_hint() {
    let server = TestServer::http(no_pods).await;
    let error = fails(&setup(
        &server,
        "command: no-such-login, installHint: 'brew install it'",
    ))
    .await;
    assert_eq!(
        error.to_string(),
        "getting credentials: exec: executable no-such-login not found"
    );
    assert_eq!(error.install_hint(), Some("brew install it"));
}

#[tokio::test]
async fn a_failing_plugin_is_quoted_without_its_arguments() {
    let server = TestServer::http(no_pods).await;
    let setup = setup(&server, "command: ./login, args: [--password=hunter2]");
    setup.dir.script("login", "echo session expired >&2; exit 3");
    let error = fails(&setup).await.to_string();
    assert!(
        error.contains("exit status: 3: session expired") && !error.contains("hunter2"),
        "{error}"
    );
    setup.dir.script("login", "echo 'token: [hunter2'");
    let error = fails(&setup).await.to_string();
    assert!(
        error.contains("no usable credentials") && !error.contains("hunter2"),
        "{error}"
    );
    setup.dir.script("login", "echo '{\"kind\":\"ExecCredential\"}'");
    assert!(matches!(
        fails(&setup).await,
        CredentialError::PluginAnswer { .. }
    ));
}

#[tokio::test]
async fn kubectls_policy_is_obeyed() {
    let server = TestServer::http(no_pods).await;
    let mut setup = setup(&server, "command: ./login");
    let marker = setup.dir.path("ran");
    setup
        .dir
        .script("login", &format!("touch '{}'", marker.display()));
    let kuberc = setup
        .dir
        .write("kuberc", "kind: Preference\ncredentialPluginPolicy: DenyAll");
    setup
        .vars
        .push(("KUBERC".to_owned(), kuberc.to_str().unwrap().to_owned()));
    let error = setup.access().connect().await.unwrap_err();
    assert!(
        matches!(error, AccessError::Kubeconfig(KubeconfigError::Policy(_))),
        "{error}"
    );
    assert!(!marker.exists());
}

#[tokio::test]
async fn a_missing_token_file_or_certificate_is_named() {
    let server = TestServer::http(no_pods).await;
    let mut setup = Setup::to(&server);
    setup.user = "tokenFile: gone".to_owned();
    let error = fails(&setup).await;
    assert!(error.to_string().contains("gone"), "{error}");
    setup.user = "client-certificate: gone, client-key: gone".to_owned();
    let error = setup.access().connect().await.unwrap_err();
    assert!(matches!(error, AccessError::Tls { .. }), "{error}");
}
