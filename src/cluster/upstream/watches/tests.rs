//! How many watches there are, and what their events do to the groups. The watch itself runs in `upstream/tests`.

use serde_json::json;

use super::*;

fn group(namespace: &str, pick: Pick) -> PodGroup {
    PodGroup::new("deploy/api".to_owned(), namespace.to_owned(), pick)
}

fn app(name: &str) -> Pick {
    Pick::Labels(std::iter::once(("app".to_owned(), name.to_owned())).collect())
}

fn pod(name: &str, uid: &str, app: &str) -> PodState {
    let pod = json!({"metadata": {"name": name, "uid": uid, "labels": {"app": app}}});
    PodState::of(serde_json::from_value(pod).unwrap())
}

fn names(group: &PodGroup) -> Vec<String> {
    let mut names = Vec::new();
    group.update(|known| {
        names = known.pods.keys().cloned().collect();
        false
    });
    names
}

#[test]
fn equal_selectors_share_a_watch() {
    let groups = [
        group("dev", app("a")),
        group("dev", app("a")),
        group("dev", app("b")),
        group("other", app("a")),
        group("dev", Pick::Name("a".to_owned())),
    ];
    let subjects = subjects(&groups);
    let of_dev = subjects.iter().filter(|subject| subject.namespace == "dev");
    assert_eq!((subjects.len(), of_dev.count()), (4, 3));
    assert_eq!(subjects[0].groups.len(), 2);
    assert_eq!(subjects[0].selectors(), (Some("app=a".to_owned()), None));
}

#[test]
fn many_selectors_of_one_namespace_share_a_watch_of_all_its_pods() {
    let many: Vec<PodGroup> = (0..300)
        .map(|index| group("dev", app(&format!("a{index}"))))
        .collect();
    assert_eq!(subjects(&many[..WATCHES]).len(), WATCHES);
    let one = subjects(&many);
    assert_eq!((one.len(), one[0].groups.len()), (1, 300));
    assert_eq!(one[0].selectors(), (None, None));
}

#[test]
fn pods_enter_and_leave_groups_by_their_labels_and_successors_stay() {
    let (a, b) = (group("dev", app("a")), group("dev", app("b")));
    let subject = Subject {
        namespace: "dev".to_owned(),
        pick: None,
        groups: vec![a.clone(), b.clone()],
    };
    subject.apply(pod("p", "1", "a"));
    subject.apply(pod("q", "2", "b"));
    assert_eq!(
        (names(&a), names(&b)),
        (vec!["p".to_owned()], vec!["q".to_owned()])
    );
    subject.apply(pod("p", "1", "b"));
    assert!(names(&a).is_empty());
    assert_eq!(names(&b), ["p", "q"]);
    subject.apply(pod("q", "3", "b"));
    subject.remove(&pod("q", "2", "b"));
    assert_eq!(
        names(&b),
        ["p", "q"],
        "the successor of the same name is another pod"
    );
    subject.remove(&pod("q", "3", "b"));
    assert_eq!(names(&b), ["p"]);
}
