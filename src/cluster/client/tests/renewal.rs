//! A running session's client, renewed in place: new credentials and servers for all clones, the rest as it was.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn all_clones_see_a_new_token_and_a_new_server() {
    let (first, second) = (TestServer::http(no_pods).await, TestServer::http(no_pods).await);
    let mut setup = Setup::to(&first);
    let api = setup.connect().await;
    let clone = api.clone();
    list(&clone).await.unwrap();

    setup.server = format!("http://{}", second.address);
    setup.user = "token: fresh".to_owned();
    let access = setup.access().pinned_to(&api);
    let renewed = clone.renewed();
    api.renew(&access).await.unwrap();
    tokio::time::timeout(REQUEST_TIMEOUT, renewed).await.unwrap();
    assert!(
        clone.server_now().is_some(),
        "the time is known before the new connection's first answer"
    );
    list(&clone).await.unwrap();
    assert_eq!(first.seen().len(), 1);
    assert_eq!(header(&second.seen()[0], "authorization"), Some("Bearer fresh"));
    assert_eq!(clone.address(), second.address.to_string());
}

#[tokio::test]
async fn a_failed_renewal_changes_nothing() {
    let server = TestServer::http(no_pods).await;
    let mut setup = Setup::to(&server);
    let api = setup.connect().await;
    setup.server = "http://".to_owned();
    let mut renewed = Box::pin(api.renewed());
    api.renew(&setup.access()).await.unwrap_err();
    assert!(
        tokio::time::timeout(Duration::ZERO, &mut renewed).await.is_err(),
        "nothing was renewed"
    );
    list(&api).await.unwrap();
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn another_current_context_does_not_move_a_session() {
    let server = TestServer::http(no_pods).await;
    let setup = Setup::to(&server);
    let api = setup.connect().await;
    let pinned = setup.access().pinned_to(&api);
    let other = format!(
        "current-context: other\n\
         contexts: [{{name: ctx, context: {{cluster: cl, user: ana, namespace: moved}}}}, \
         {{name: other, context: {{cluster: there, user: ana}}}}]\n\
         clusters: [{{name: cl, cluster: {{server: '{}'}}}}, {{name: there, cluster: {{server: 'http://192.0.2.1'}}}}]\n\
         users: [{{name: ana, user: {{token: secret}}}}]\n",
        setup.server
    );
    setup.dir.write("config", &other);
    api.renew(&pinned).await.unwrap();
    list(&api).await.unwrap();
    assert_eq!((api.context().as_deref(), api.namespace()), (Some("ctx"), "dev"));
    assert!(
        server.seen()[0].contains("/namespaces/dev/"),
        "{:?}",
        server.seen()
    );
}
