//! Which pod is chosen, and what is said when there is none.

use std::collections::HashSet;

use super::*;
use crate::cluster::upstream::pod::{Life, NamedPort};

const WEB: u16 = 8080;

fn pod(name: &str, life: Life) -> (String, Arc<PodState>) {
    let state = PodState {
        name: name.to_owned(),
        uid: format!("uid of {name}"),
        ip: format!("10.0.0.{}", name.len()),
        labels: BTreeMap::new(),
        ports: vec![NamedPort {
            name: "web".to_owned(),
            number: WEB,
            protocol: Protocol::Tcp,
        }],
        life,
    };
    (name.to_owned(), Arc::new(state))
}

fn ready(names: &[&str]) -> Vec<(String, Arc<PodState>)> {
    names.iter().map(|name| pod(name, Life::Ready)).collect()
}

fn set(group: &PodGroup, pods: Vec<(String, Arc<PodState>)>) {
    group.update(|known| {
        known.listed = true;
        known.pods = pods.into_iter().collect();
        true
    });
}

fn group(pods: Vec<(String, Arc<PodState>)>) -> PodGroup {
    let group = PodGroup::new(
        "deploy/api".to_owned(),
        "dev".to_owned(),
        Pick::Labels(Selector::default()),
    );
    set(&group, pods);
    group
}

fn named(pods: Vec<(String, Arc<PodState>)>) -> PodGroup {
    let group = PodGroup::new(
        "pod/db-0".to_owned(),
        "dev".to_owned(),
        Pick::Name("db-0".to_owned()),
    );
    set(&group, pods);
    group
}

async fn choose(group: &PodGroup, avoid: &[&str]) -> Result<ChosenPod, NoPod> {
    let avoid: Vec<String> = avoid.iter().map(|name| (*name).to_owned()).collect();
    let port = RemotePort::Name("web".to_owned());
    group.choose(&port, Protocol::Tcp, &avoid, Instant::now()).await
}

async fn chosen_of_many(group: &PodGroup, avoid: &[&str]) -> HashSet<String> {
    let mut names = HashSet::new();
    for _ in 0..60 {
        names.insert(choose(group, avoid).await.unwrap().name);
    }
    names
}

fn names(names: &[&str]) -> HashSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn any_ready_pod_but_those_to_avoid() {
    let mut pods = ready(&["a", "ab"]);
    pods.push(pod("unready", Life::Running("is not ready".to_owned())));
    pods.push(pod("leaving", Life::Terminating));
    let group = group(pods);
    assert_eq!(chosen_of_many(&group, &[]).await, names(&["a", "ab"]));
    assert_eq!(chosen_of_many(&group, &["a"]).await, names(&["ab"]));
    assert_eq!(
        chosen_of_many(&group, &["a", "ab"]).await,
        names(&["a", "ab"]),
        "rather than none"
    );
    let chosen = choose(&group, &["ab"]).await.unwrap();
    assert_eq!(
        (chosen.ip.as_str(), chosen.port, chosen.namespace.as_str()),
        ("10.0.0.1", WEB, "dev")
    );
}

#[tokio::test(start_paused = true)]
async fn pods_that_failed_come_last_and_are_forgiven() {
    let group = group(ready(&["a", "ab"]));
    group.failed(&choose(&group, &["ab"]).await.unwrap());
    assert_eq!(chosen_of_many(&group, &[]).await, names(&["ab"]));
    time::advance(Duration::from_secs(1)).await;
    group.failed(&choose(&group, &[]).await.unwrap());
    assert_eq!(
        chosen_of_many(&group, &[]).await,
        names(&["a"]),
        "the older failure"
    );
    time::advance(FAILURE_MEMORY).await;
    assert_eq!(chosen_of_many(&group, &[]).await, names(&["a", "ab"]));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_becomes_ready_is_waited_for() {
    let waiting = group(vec![]);
    let waker = waiting.clone();
    let deadline = Instant::now() + Duration::from_secs(10);
    let port = RemotePort::Number(80);
    let (chosen, ()) = tokio::join!(waiting.choose(&port, Protocol::Tcp, &[], deadline), async {
        time::sleep(Duration::from_secs(3)).await;
        set(&waker, vec![pod("a", Life::Down("is pending".to_owned()))]);
        time::sleep(Duration::from_secs(3)).await;
        set(&waker, ready(&["a"]));
    });
    assert_eq!(chosen.unwrap().name, "a");

    let nobody = group(vec![]);
    let none = nobody
        .choose(&port, Protocol::Tcp, &[], Instant::now() + Duration::from_secs(1))
        .await;
    assert_eq!(
        none.unwrap_err().to_string(),
        "no ready pod behind deploy/api: 0 of 0"
    );
}

#[tokio::test]
async fn what_there_is_instead_is_told() {
    let down = |name: &str| pod(name, Life::Down("waits: ImagePullBackOff".to_owned()));
    let mut pods = vec![pod("a", Life::Terminating)];
    pods.extend(["b", "c", "d", "e", "f"].map(down));
    let error = choose(&group(pods), &[]).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "no ready pod behind deploy/api: 0 of 6 (a is being deleted, b waits: ImagePullBackOff, \
         c waits: ImagePullBackOff, d waits: ImagePullBackOff, and 2 more)"
    );
    let group = group(ready(&["a"]));
    let port = RemotePort::Name("grpc".to_owned());
    let later = Instant::now() + Duration::from_secs(60);
    let error = group.choose(&port, Protocol::Tcp, &[], later).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no pod behind deploy/api has a tcp port named grpc"
    );

    let unknown = PodGroup::new("sts/db".to_owned(), "dev".to_owned(), Pick::Name("x".to_owned()));
    let error = choose(&unknown, &[]).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "the pods behind sts/db are not known: the API server has not answered yet"
    );
}

#[tokio::test]
async fn a_named_pod_need_not_be_ready() {
    let running = Life::Running("is not ready".to_owned());
    assert!(choose(&named(vec![pod("db-0", running)]), &[]).await.is_ok());
    for (pods, expected) in [
        (vec![], "pod/db-0 is not there (in namespace dev)"),
        (vec![pod("db-0", Life::Terminating)], "pod/db-0 is being deleted"),
        (
            vec![pod("db-0", Life::Down("has failed".to_owned()))],
            "pod/db-0 has failed",
        ),
    ] {
        let error = choose(&named(pods), &[]).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn labels_and_expressions_select() {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
    let selector: LabelSelector = serde_json::from_value(serde_json::json!({
        "matchLabels": {"app": "web"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "env", "operator": "NotIn", "values": ["old"]},
            {"key": "hash", "operator": "Exists"},
            {"key": "canary", "operator": "DoesNotExist"},
        ],
    }))
    .unwrap();
    let selector = Selector::try_from(selector).unwrap();
    assert_eq!(
        selector.to_string(),
        "app=web,tier in (a,b),env notin (old),hash,!canary"
    );
    let pick = Pick::Labels(selector);
    let matches = |labels: &[(&str, &str)]| {
        let (_, state) = pod("a", Life::Ready);
        let mut state = PodState::clone(&state);
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        state.labels = labels.iter().map(own).collect();
        pick.matches(&state)
    };
    assert!(matches(&[("app", "web"), ("tier", "a"), ("hash", "1")]));
    assert!(matches(&[
        ("app", "web"),
        ("tier", "b"),
        ("hash", ""),
        ("env", "new")
    ]));
    assert!(!matches(&[("app", "db"), ("tier", "a"), ("hash", "1")]));
    assert!(!matches(&[("app", "web"), ("tier", "c"), ("hash", "1")]));
    assert!(!matches(&[("app", "web"), ("hash", "1")]));
    assert!(!matches(&[
        ("app", "web"),
        ("tier", "a"),
        ("hash", "1"),
        ("env", "old")
    ]));
    assert!(!matches(&[("app", "web"), ("tier", "a")]));
    assert!(!matches(&[
        ("app", "web"),
        ("tier", "a"),
        ("hash", "1"),
        ("canary", "")
    ]));
}

#[tokio::test]
async fn a_missing_right_is_told_at_once() {
    use crate::cluster::api_error::Call;
    let group = PodGroup::new(
        "deploy/api".to_owned(),
        "dev".to_owned(),
        Pick::Name("x".to_owned()),
    );
    group.update(|known| {
        known.trouble = Some(ApiError::Forbidden {
            call: Call::new("list", "pods"),
            message: "pods is forbidden".to_owned(),
        });
        true
    });
    let much_later = Instant::now() + Duration::from_secs(3600);
    let port = RemotePort::Number(80);
    let error = group
        .choose(&port, Protocol::Tcp, &[], much_later)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the pods behind deploy/api are not known: Error from server (Forbidden): pods is forbidden"
    );
}
