//! The whole stack against small servers on loopback: kubeconfig in, requests, WebSocket and errors out.

#[cfg(unix)]
mod plugins;
mod renewal;
mod server;

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use tokio_tungstenite::tungstenite::Message;

use self::server::{Answer, TestProxy, TestServer, header};
use super::*;
use crate::cluster::api_error::ConnectFailure;
use crate::cluster::kubeconfig::fixture::Dir;

/// The year of the tests' certificates that are valid whenever the tests run: 2020 and 2021 have passed.
const LONG_AGO: i32 = 2020;

const NO_PODS: &str = r#"{"apiVersion":"v1","kind":"PodList","metadata":{},"items":[]}"#;
const DATE: &str = "Date: Tue, 10 Nov 2026 12:00:00 GMT\r\n";

fn this_year() -> i32 {
    i32::from(Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).year())
}

fn no_pods(_head: &str) -> Answer {
    Answer::Http(200, DATE, NO_PODS)
}

/// Never answers requests for the namespace `hang`.
fn hang_on_demand(head: &str) -> Answer {
    if head.contains("/hang/") {
        Answer::Hang
    } else {
        no_pods(head)
    }
}

fn forbidden(_head: &str) -> Answer {
    let body = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"pods is forbidden: User \"ana\" cannot list resource \"pods\"","reason":"Forbidden","details":{"kind":"pods"},"code":403}"#;
    Answer::Http(403, "", body)
}

/// A way to a server, with `cluster` and `user` as further fields of the kubeconfig and these variables.
struct Setup {
    dir: Dir,
    server: String,
    cluster: String,
    user: String,
    overrides: Overrides,
    vars: Vec<(String, String)>,
}

impl Setup {
    fn new(server: &str) -> Self {
        Self {
            dir: Dir::new(),
            server: server.to_owned(),
            cluster: String::new(),
            user: "token: secret".to_owned(),
            overrides: Overrides::default(),
            vars: Vec::new(),
        }
    }

    /// To a test server, by the name in its certificate.
    fn to(server: &TestServer) -> Self {
        if server.ca_pem.is_empty() {
            return Self::new(&format!("http://{}", server.address));
        }
        let mut setup = Self::new(&format!("https://{}", server.address));
        setup.dir.write("ca.crt", &server.ca_pem);
        setup.cluster = "certificate-authority: ca.crt".to_owned();
        setup
    }

    fn access(&self) -> Access {
        let content = format!(
            "current-context: ctx\n\
             contexts: [{{name: ctx, context: {{cluster: cl, user: ana, namespace: dev}}}}]\n\
             clusters: [{{name: cl, cluster: {{server: '{}', {}}}}}]\n\
             users: [{{name: ana, user: {{{}}}}}]\n",
            self.server, self.cluster, self.user
        );
        let config = self.dir.write("config", &content);
        let mut vars = self.vars.clone();
        vars.push(("KUBECONFIG".to_owned(), config.to_str().unwrap().to_owned()));
        Access::new(self.overrides.clone(), Env::from_vars(vars), "proxy")
    }

    async fn connect(&self) -> ApiServer {
        self.access().connect().await.unwrap()
    }
}

async fn list(api: &ApiServer) -> Result<(), ApiError> {
    let pods: Api<Pod> = Api::namespaced(api.client(), api.namespace());
    api.request(("list", "pods"), pods.list(&ListParams::default()))
        .await
        .map(drop)
}

async fn list_fails(setup: &Setup) -> ApiError {
    list(&setup.connect().await).await.unwrap_err()
}

fn cause(error: &ApiError) -> &ConnectFailure {
    let ApiError::Unreachable { cause, .. } = error else {
        panic!("unexpected: {error:?}")
    };
    cause
}

#[tokio::test]
async fn requests_go_out_over_tls_with_credentials_and_headers() {
    let server = TestServer::https("127.0.0.1", this_year(), no_pods).await;
    let mut setup = Setup::to(&server);
    setup.server.push_str("/k8s/clusters/c-x/");
    setup
        .user
        .push_str(", as: eve, as-groups: [a, b], as-user-extra: {Why/x: [y]}");
    let access = setup.access();
    let api = access.connect().await.unwrap();
    list(&api).await.unwrap();
    list(&access.connect().await.unwrap()).await.unwrap();

    let seen = server.seen();
    let first = seen[0].as_str();
    assert!(
        first.starts_with("GET /k8s/clusters/c-x/api/v1/namespaces/dev/pods?"),
        "{first}"
    );
    assert_eq!(header(first, "authorization"), Some("Bearer secret"));
    assert_eq!(header(first, "kubectl-command"), Some("kubectl tunnel proxy"));
    let agent = header(first, "user-agent").unwrap();
    assert!(
        agent.starts_with(concat!("kubectl-tunnel/", env!("CARGO_PKG_VERSION"), " (")),
        "{agent}"
    );
    assert_eq!(header(first, "impersonate-user"), Some("eve"));
    assert_eq!(first.matches("impersonate-group: ").count(), 2);
    assert_eq!(header(first, "impersonate-extra-why%2fx"), Some("y"));
    let session = header(first, "kubectl-session").unwrap();
    assert_eq!(session.len(), 36);
    assert_eq!(header(&seen[1], "kubectl-session"), Some(session));

    assert_eq!(
        (api.host().as_str(), api.address().as_str()),
        ("127.0.0.1", server.address.to_string().as_str())
    );
    assert_eq!(
        (api.context().as_deref(), api.user().as_deref(), api.namespace()),
        (Some("ctx"), Some("eve"), "dev")
    );
    assert!(!format!("{api:?} {access:?}").contains("secret"));
}

#[tokio::test]
async fn a_websocket_goes_through_the_same_stack() {
    let server = TestServer::https("127.0.0.1", this_year(), |_| Answer::WebSocket).await;
    let api = Setup::to(&server).connect().await;
    let request = Request::get("/api/v1/namespaces/dev/pods/p/exec?command=x")
        .body(Vec::new())
        .unwrap();
    let upgrade = tokio::time::timeout(REQUEST_TIMEOUT, async { api.client().connect(request).await });
    let connection = upgrade.await.unwrap().unwrap();
    assert!(connection.supports_stream_close());
    let mut socket = connection.into_stream();
    socket.send(Message::Ping(vec![7].into())).await.unwrap();
    // The echoed ping carries our mask bit, which a client must refuse: so the bytes came back.
    let echoed = tokio::time::timeout(REQUEST_TIMEOUT, socket.next())
        .await
        .unwrap();
    assert!(echoed.unwrap().is_err());
    let head = &server.seen()[0];
    assert_eq!(header(head, "authorization"), Some("Bearer secret"));
    assert!(
        head.starts_with("GET /api/v1/namespaces/dev/pods/p/exec?command=x HTTP/1.1\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn a_websocket_that_is_refused_says_why() {
    let server = TestServer::http(forbidden).await;
    let api = Setup::to(&server).connect().await;
    let request = || Request::get("/exec").body(Vec::new()).unwrap();
    let call = || Call::new("create", "pods/exec");
    let error = api
        .client()
        .connect(request())
        .await
        .map(drop)
        .map_err(|error| api.explain(call(), error));
    assert!(matches!(error, Err(ApiError::Forbidden { call, .. }) if call.resource == "pods/exec"));
    let server = TestServer::http(|_| Answer::Http(200, "", "hello")).await;
    let api = Setup::to(&server).connect().await;
    let error = api
        .client()
        .connect(request())
        .await
        .map(drop)
        .map_err(|error| api.explain(call(), error));
    assert!(matches!(error, Err(ApiError::Upgrade { .. })), "{error:?}");
}

#[tokio::test]
async fn refusals_are_typed() {
    let server = TestServer::http(forbidden).await;
    let error = list_fails(&Setup::to(&server)).await;
    let ApiError::Forbidden { call, message } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(
        (call.verb, call.resource, call.namespace.as_deref()),
        ("list", "pods", Some("dev"))
    );
    assert!(message.contains("cannot list resource"));
    let server = TestServer::http(|_| {
        Answer::Http(
            401,
            "",
            r#"{"kind":"Status","message":"Unauthorized","code":401}"#,
        )
    })
    .await;
    let error = list_fails(&Setup::to(&server)).await;
    assert_eq!(
        error.to_string(),
        "You must be logged in to the server (Unauthorized)"
    );
    let server = TestServer::http(|_| Answer::Http(502, "", "<html>proxy</html>")).await;
    let error = list_fails(&Setup::to(&server)).await;
    assert_eq!(
        error.to_string(),
        "Error from server (Bad Gateway): <html>proxy</html>"
    );
    let server = TestServer::http(|_| Answer::Http(200, "", "<html>login</html>")).await;
    assert!(matches!(
        list_fails(&Setup::to(&server)).await,
        ApiError::UnexpectedAnswer { .. }
    ));
}

#[tokio::test]
async fn certificates_are_checked() {
    let server = TestServer::https("127.0.0.1", this_year(), no_pods).await;
    let other = TestServer::https("127.0.0.1", this_year(), no_pods).await;
    let mut wrong_ca = Setup::to(&server);
    wrong_ca.dir.write("ca.crt", &other.ca_pem);
    assert_eq!(
        *cause(&list_fails(&wrong_ca).await),
        ConnectFailure::UnknownAuthority
    );
    wrong_ca.cluster = "insecure-skip-tls-verify: true".to_owned();
    list(&wrong_ca.connect().await).await.unwrap();

    let named = TestServer::https("api.internal", this_year(), no_pods).await;
    let mut setup = Setup::to(&named);
    let error = list_fails(&setup).await;
    assert!(matches!(cause(&error), ConnectFailure::WrongName(_)), "{error}");
    setup.overrides.tls_server_name = Some("api.internal".to_owned());
    list(&setup.connect().await).await.unwrap();

    let expired = TestServer::https("127.0.0.1", LONG_AGO, no_pods).await;
    let error = list_fails(&Setup::to(&expired)).await;
    assert!(
        matches!(cause(&error), ConnectFailure::OutsideValidity(_)),
        "{error}"
    );

    let plain = TestServer::http(no_pods).await;
    let error = list_fails(&Setup::new(&format!("https://{}", plain.address))).await;
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
}

#[tokio::test]
async fn unreachable_servers_are_told_apart() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let error = list_fails(&Setup::new(&format!("https://{free}"))).await;
    assert_eq!(
        error.to_string(),
        format!("The connection to the server {free} was refused - did you specify the right host or port?")
    );
    let error = list_fails(&Setup::new("http://no-such-host..invalid:6443")).await;
    let ConnectFailure::Lookup { host, .. } = cause(&error) else {
        panic!("{error:?}")
    };
    assert_eq!(host, "no-such-host..invalid");
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_proxy_gets_the_name_and_its_own_password() {
    let server = TestServer::https("api.internal", this_year(), no_pods).await;
    let proxy = TestProxy::start(Some(server.address)).await;
    let mut setup = Setup::to(&server);
    setup.server = "https://api.internal:6443".to_owned();
    let variable = (
        "HTTPS_PROXY".to_owned(),
        format!("http://ana:s%40c@{}", proxy.address),
    );
    setup.vars.push(variable.clone());
    let api = setup.connect().await;
    list(&api).await.unwrap();
    let seen = proxy.seen();
    assert!(
        seen[0].starts_with("CONNECT api.internal:6443 HTTP/1.1\r\n"),
        "{seen:?}"
    );
    assert_eq!(
        header(&seen[0], "proxy-authorization"),
        Some("Basic YW5hOnNAYw==")
    );
    assert_eq!(header(&server.seen()[0], "proxy-authorization"), None);
    assert_eq!(
        api.proxy().as_ref().map(ToString::to_string),
        Some(format!("http://{}", proxy.address))
    );

    let refusing = TestProxy::start(None).await;
    setup.vars = vec![("HTTPS_PROXY".to_owned(), format!("http://{}", refusing.address))];
    let error = list_fails(&setup).await;
    assert!(
        error
            .to_string()
            .contains("it answered 403 Forbidden to CONNECT api.internal:6443"),
        "{error}"
    );
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    setup.vars = vec![("HTTPS_PROXY".to_owned(), format!("http://{closed}"))];
    let error = list_fails(&setup).await;
    let ConnectFailure::Proxy { reason, .. } = cause(&error) else {
        panic!("{error:?}")
    };
    assert_eq!(reason, "connection refused");
}

#[tokio::test]
async fn a_silent_server_costs_one_deadline_and_its_connection() {
    let server = TestServer::http(hang_on_demand).await;
    let mut setup = Setup::to(&server);
    setup.overrides.request_timeout = Some(Duration::from_millis(200));
    let api = setup.connect().await;
    list(&api).await.unwrap();
    list(&api).await.unwrap();
    assert_eq!(server.connections(), 1, "connections are reused");

    let pods: Api<Pod> = Api::namespaced(api.client(), "hang");
    let error = api
        .request(("list", "pods"), pods.list(&ListParams::default()))
        .await
        .unwrap_err();
    assert!(matches!(&error, ApiError::Deadline { timeout, .. } if *timeout == Duration::from_millis(200)));
    assert!(error.is_transient());
    list(&api).await.unwrap();
    assert_eq!(server.connections(), 2, "a new connection after a deadline");
}

#[tokio::test]
async fn dropping_a_request_replaces_idle_connections_too() {
    let server = TestServer::http(hang_on_demand).await;
    let api = Setup::to(&server).connect().await;
    let (first, second) = tokio::join!(list(&api), list(&api));
    first.and(second).unwrap();
    let before = server.connections();
    let pods: Api<Pod> = Api::namespaced(api.client(), "hang");
    let hanging = tokio::time::timeout(Duration::from_millis(200), pods.list(&ListParams::default())).await;
    assert!(hanging.is_err());
    list(&api).await.unwrap();
    assert!(
        server.connections() > before,
        "the connections of before the drop must not be used again"
    );
}

#[tokio::test]
async fn the_request_timeout_flag() {
    let with = |timeout| {
        let mut setup = Setup::new("http://127.0.0.1:1");
        setup.overrides.request_timeout = timeout;
        async move { setup.connect().await.request_timeout() }
    };
    assert_eq!(with(None).await, Some(REQUEST_TIMEOUT));
    assert_eq!(with(Some(Duration::ZERO)).await, None);
    assert_eq!(
        with(Some(Duration::from_secs(7))).await,
        Some(Duration::from_secs(7))
    );
}

#[tokio::test]
async fn every_answer_tells_the_time() {
    let server = TestServer::http(|head| {
        if head.contains("/version") {
            let body = r#"{"major":"1","minor":"35","gitVersion":"v1.35.0","gitCommit":"","gitTreeState":"","buildDate":"","goVersion":"","compiler":"","platform":"linux/arm64"}"#;
            return Answer::Http(200, DATE, body);
        }
        Answer::Http(403, "Date: Tue, 10 Nov 2026 13:00:00 GMT\r\n", "{}")
    })
    .await;
    let api = Setup::to(&server).connect().await;
    assert_eq!(api.server_now(), None);
    let version = api.version().await.unwrap();
    assert_eq!(
        (version.git_version.as_str(), version.platform.as_str()),
        ("v1.35.0", "linux/arm64")
    );
    let noon: Timestamp = "2026-11-10T12:00:00Z".parse().unwrap();
    let now = api.server_now().unwrap();
    assert!(
        now >= noon && now < noon + jiff::SignedDuration::from_secs(10),
        "{now}"
    );
    list(&api).await.unwrap_err();
    assert!(
        api.server_now().unwrap() >= noon + jiff::SignedDuration::from_hours(1),
        "refusals tell it too"
    );
}

#[tokio::test]
async fn a_busy_server_is_asked_again_but_not_for_ever() {
    let answers = std::sync::atomic::AtomicUsize::new(0);
    let server = TestServer::http(move |head| {
        if answers.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
            return Answer::Http(429, "Retry-After: 0\r\n", "{}");
        }
        no_pods(head)
    })
    .await;
    list(&Setup::to(&server).connect().await).await.unwrap();
    assert_eq!(server.seen().len(), 2);

    let server = TestServer::http(|_| Answer::Http(503, "Retry-After: 0\r\n", "{}")).await;
    let error = list_fails(&Setup::to(&server)).await;
    assert_eq!((error.code(), server.seen().len()), (Some(503), 4));
    let server = TestServer::http(|_| Answer::Http(503, "Retry-After: 600\r\n", "{}")).await;
    list_fails(&Setup::to(&server)).await;
    assert_eq!(server.seen().len(), 1);
}
