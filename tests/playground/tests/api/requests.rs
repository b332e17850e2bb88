//! Requests and refusals: watch, patch, dry run, preconditions, sizes, rights, audit.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::SelfSubjectRulesReview;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent, WatchParams,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tunnel_playground::Options;

use crate::support::{DEADLINE, Stage, client};

fn config_map(name: &str, labels: &Value, data: &str) -> ConfigMap {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": labels}, "data": {"d": data},
    });
    serde_json::from_value(map).unwrap()
}

fn code(error: &kube::Error) -> (u16, String, String) {
    let kube::Error::Api(status) = error else {
        panic!("not an answer of the API server: {error:?}")
    };
    (status.code, status.reason.clone(), status.message.clone())
}

#[tokio::test]
async fn a_watch_shows_what_enters_changes_and_leaves_its_selection() {
    let stage = Stage::start().await;
    let api = stage.config_maps();
    let start = api
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    let params = WatchParams::default().labels("app=a").timeout(20);
    let mut watch = api.watch(&params, &start).await.unwrap().boxed();
    api.create(
        &PostParams::default(),
        &config_map("other", &json!({"app": "b"}), ""),
    )
    .await
    .unwrap();
    api.create(&PostParams::default(), &config_map("m", &json!({"app": "a"}), ""))
        .await
        .unwrap();
    api.patch(
        "m",
        &PatchParams::default(),
        &Patch::Merge(json!({"data": {"d": "2"}})),
    )
    .await
    .unwrap();
    let leave = json!({"metadata": {"labels": {"app": "b"}}});
    api.patch("m", &PatchParams::default(), &Patch::Merge(leave))
        .await
        .unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let event = timeout(DEADLINE, watch.try_next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        seen.push(match event {
            WatchEvent::Added(map) => format!("added {}", map.metadata.name.unwrap()),
            WatchEvent::Modified(map) => format!("modified {}", map.data.unwrap()["d"]),
            WatchEvent::Deleted(map) => format!("deleted {}", map.metadata.name.unwrap()),
            other @ (WatchEvent::Bookmark(_) | WatchEvent::Error(_)) => format!("{other:?}"),
        });
    }
    assert_eq!(seen, ["added m", "modified 2", "deleted m"]);
}

#[tokio::test]
async fn a_watch_from_zero_begins_with_what_there_is_and_ends_in_time() {
    let stage = Stage::start().await;
    let api = stage.config_maps();
    api.create(&PostParams::default(), &config_map("m", &json!({}), ""))
        .await
        .unwrap();
    let params = WatchParams::default().fields("metadata.name=m").timeout(1);
    let events: Vec<_> = timeout(DEADLINE, api.watch(&params, "0").await.unwrap().try_collect())
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(events.as_slice(), [WatchEvent::Added(_)]), "{events:?}");
}

#[tokio::test]
async fn a_dry_run_answers_and_stores_nothing() {
    let stage = Stage::start().await;
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    stage
        .config_maps()
        .create(&dry, &config_map("m", &json!({}), ""))
        .await
        .unwrap();
    assert!(stage.config_maps().get_opt("m").await.unwrap().is_none());
    stage
        .playground
        .faults()
        .forbid_pods(Some("violates PodSecurity"));
    let pod: Pod = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-"},
        "spec": {"containers": [{"name": "agent", "image": "x"}]},
    }))
    .unwrap();
    let refused = code(&stage.pods().create(&dry, &pod).await.unwrap_err());
    assert_eq!((refused.0, refused.1.as_str()), (403, "Forbidden"));
    assert!(
        refused.2.starts_with("pods \"p-") && refused.2.ends_with("is forbidden: violates PodSecurity"),
        "{}",
        refused.2
    );
}

#[tokio::test]
async fn refusals_have_the_codes_and_texts_of_a_real_server() {
    let stage = Stage::start().await;
    let api = stage.config_maps();
    let map = api
        .create(&PostParams::default(), &config_map("m", &json!({}), ""))
        .await
        .unwrap();
    let taken = code(
        &api.create(&PostParams::default(), &config_map("m", &json!({}), ""))
            .await
            .unwrap_err(),
    );
    assert_eq!(
        taken,
        (
            409,
            "AlreadyExists".to_owned(),
            "configmaps \"m\" already exists".to_owned()
        )
    );
    let absent = code(&stage.jobs().get("j").await.unwrap_err());
    assert_eq!(
        absent,
        (
            404,
            "NotFound".to_owned(),
            "jobs.batch \"j\" not found".to_owned()
        )
    );
    let full = "x".repeat(1_048_576);
    api.create(&PostParams::default(), &config_map("full", &json!({}), &full))
        .await
        .unwrap();
    let long = code(
        &api.create(
            &PostParams::default(),
            &config_map("long", &json!({}), &(full + "x")),
        )
        .await
        .unwrap_err(),
    );
    assert_eq!((long.0, long.1.as_str()), (422, "Invalid"));
    assert!(
        long.2.ends_with("Too long: may not be more than 1048576 bytes"),
        "{}",
        long.2
    );
    let wrong_uid = Preconditions {
        uid: Some("x".to_owned()),
        resource_version: None,
    };
    let other = DeleteParams {
        preconditions: Some(wrong_uid),
        ..DeleteParams::default()
    };
    let conflict = code(&api.delete("m", &other).await.unwrap_err());
    assert_eq!((conflict.0, conflict.1.as_str()), (409, "Conflict"));
    let right_uid = Preconditions {
        uid: map.metadata.uid,
        resource_version: None,
    };
    let same = DeleteParams {
        preconditions: Some(right_uid),
        ..DeleteParams::default()
    };
    api.delete("m", &same).await.unwrap();
    let test = json!([{"op": "test", "path": "/data/d", "value": "y"}]);
    let failed = patch(&stage, "full", &test).await;
    assert_eq!(failed, 422);
    stage.create_job("j", &["/bin/sleep", "60"], &Value::Null).await;
    let template = json!({"spec": {"template": {"spec": {"restartPolicy": "OnFailure"}}}});
    let fixed = stage
        .jobs()
        .patch("j", &PatchParams::default(), &Patch::Merge(template))
        .await
        .unwrap_err();
    assert_eq!(code(&fixed).0, 422);
}

#[tokio::test]
async fn who_asks_decides() {
    let stage = Stage::start().await;
    let nobody: Api<Pod> = Api::namespaced(client(&stage.playground, "nobody").await, "dev");
    let refused = code(&nobody.list(&ListParams::default()).await.unwrap_err());
    let text = "pods is forbidden: User \"nobody\" cannot list resource \"pods\" in API group \"\" in the namespace \"dev\"";
    assert_eq!(refused, (403, "Forbidden".to_owned(), text.to_owned()));
    let kubeconfig = std::fs::read_to_string(stage.playground.kubeconfig_path()).unwrap();
    let expired =
        kube::config::Kubeconfig::from_yaml(&kubeconfig.replace("playground-developer", "expired")).unwrap();
    let config = kube::Config::from_custom_kubeconfig(expired, &kube::config::KubeConfigOptions::default())
        .await
        .unwrap();
    let stranger: Api<Pod> = Api::namespaced(kube::Client::try_from(config).unwrap(), "dev");
    assert_eq!(
        code(&stranger.list(&ListParams::default()).await.unwrap_err()).0,
        401
    );
    let reviews: Api<SelfSubjectReview> = Api::all(stage.client.clone());
    let review = reviews
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await
        .unwrap();
    assert_eq!(
        review.status.unwrap().user_info.unwrap().username.as_deref(),
        Some("developer")
    );
    let rules: Api<SelfSubjectRulesReview> = Api::all(stage.client.clone());
    let mut question = SelfSubjectRulesReview::default();
    question.spec.namespace = Some("dev".to_owned());
    let status = rules
        .create(&PostParams::default(), &question)
        .await
        .unwrap()
        .status
        .unwrap();
    assert!(
        !status.incomplete
            && status
                .resource_rules
                .iter()
                .any(|rule| rule.verbs.contains(&"create".to_owned()))
    );
}

#[tokio::test]
async fn a_body_whose_end_is_held_back_is_waited_for() {
    let stage = Stage::start().await;
    let head = r#"{"apiVersion":"v1","kind":"ConfigMap","data":{"d":"1"},"#;
    let tail = r#""metadata":{"name":"m"}}"#;
    let mut stream = TcpStream::connect(stage.playground.address()).await.unwrap();
    let request = format!(
        "POST /api/v1/namespaces/dev/configmaps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer playground-developer\r\n\
         Content-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{head}",
        head.len() + tail.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    // Meanwhile other requests are answered.
    assert!(stage.config_maps().get_opt("m").await.unwrap().is_none());
    stream.write_all(tail.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 Created"), "{answer}");
    assert!(answer.to_lowercase().contains("\r\ndate: "), "{answer}");
    let requests = stage.playground.requests();
    let posts = requests
        .iter()
        .filter(|request| request.method == "POST" && request.status == 201);
    assert_eq!(posts.count(), 1, "{requests:?}");
}

#[tokio::test]
async fn a_namespace_is_deleted_with_all_that_runs_in_it() {
    let stage = Stage::start_with(Options {
        start_delay: Duration::ZERO,
        samples: false,
        ..Options::default()
    })
    .await;
    stage.create_job("j", &["/bin/sleep", "60"], &Value::Null).await;
    stage.pod_in("j", "Running").await;
    let admin: Api<Namespace> = Api::all(client(&stage.playground, "admin").await);
    admin.delete("dev", &DeleteParams::default()).await.unwrap();
    let late = stage
        .config_maps()
        .create(&PostParams::default(), &config_map("m", &json!({}), ""))
        .await
        .unwrap_err();
    assert!(matches!(code(&late).0, 403 | 404), "{late:?}");
    stage
        .until("no namespace dev", |all| {
            !all.iter()
                .any(|(key, _)| key.name == "dev" || key.namespace == "dev")
        })
        .await;
    stage.until_no_process().await;
}

/// The status of a JSON patch on a `ConfigMap`.
async fn patch(stage: &Stage, name: &str, operations: &Value) -> u16 {
    let uri = format!("/api/v1/namespaces/dev/configmaps/{name}");
    let request = http::Request::patch(uri)
        .header("content-type", "application/json-patch+json")
        .body(operations.to_string().into_bytes())
        .unwrap();
    match stage.client.request::<Value>(request).await {
        Ok(_) => 200,
        Err(error) => code(&error).0,
    }
}
