//! Every kind of target, with three manners of speaking.

use serde_json::json;
use tunnel_test_target as ports;

use super::{expect_dialogue, expect_first_word, expect_http};
use crate::harness::namespace::Namespace;
use crate::harness::run;
use crate::harness::workload::WORKLOADS;

#[test]
#[ignore = "needs a cluster: make e2e"]
fn every_kind_of_target_is_reached() {
    run(async {
        let (namespace, other) = tokio::join!(Namespace::create(), Namespace::create());
        let (target, _) = tokio::join!(namespace.target("web"), other.target("web"));
        for (short, ..) in WORKLOADS {
            namespace.workload(short, &format!("by-{short}"), 1).await;
        }
        let numbers = [ports::HTTP, ports::ECHO, ports::END_FIRST].map(|port| format!(":{port}"));
        let names = ["http", "echo", "first"].map(|name| format!(":{name}"));
        by_hand(&namespace, &target.pod_ip.to_string()).await;
        let mut targets = vec![
            ("svc/web".to_owned(), numbers.clone()),
            ("svc/web-headless".to_owned(), numbers.clone()),
            ("svc/alias".to_owned(), numbers.clone()),
            ("svc/by-hand".to_owned(), names.clone()),
            (format!("svc/web.{}", other.name()), numbers.clone()),
            ("pod/web-pod".to_owned(), numbers.clone()),
            ("host/web".to_owned(), numbers.clone()),
            (format!("ip/{}", target.pod_ip), numbers.clone()),
            (format!("ip/{}", target.cluster_ip), numbers),
        ];
        for (short, ..) in WORKLOADS {
            namespace.wait_pods_ready(&format!("by-{short}")).await;
            targets.push((format!("{short}/by-{short}"), names.clone()));
        }
        let words = targets
            .iter()
            .flat_map(|(target, ports)| [std::slice::from_ref(target), &ports[..]].concat());
        let words: Vec<String> = words.collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (plugin, ready) = namespace.forward(&[&words[..], &["-v=1"]].concat()).ready().await;
        let addresses = ready.forwarded();
        assert_eq!(addresses.len(), 3 * targets.len());
        for ((target, _), address) in targets.iter().zip(addresses.chunks(3)) {
            expect_http(address[0], target).await;
            expect_dialogue(address[1], target).await;
            expect_first_word(address[2], target).await;
        }
        assert!(!plugin.said().contains("warning"), "{}", plugin.said());
        plugin.stop().await;
        assert_eq!(namespace.strangers().await.len(), 0);
    });
}

/// An `ExternalName` Service, and one whose endpoints somebody wrote.
async fn by_hand(namespace: &Namespace, address: &str) {
    let outside = format!("web.{}.svc.cluster.local", namespace.name());
    let alias = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "alias"},
        "spec": {"type": "ExternalName", "externalName": outside},
    });
    namespace.create_object("services", alias).await;
    let numbers = [
        ("http", 80, ports::HTTP),
        ("echo", 7, ports::ECHO),
        ("first", 25, ports::END_FIRST),
    ];
    let listed = numbers.map(|(name, port, _)| json!({"name": name, "port": port}));
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "by-hand"}, "spec": {"ports": listed},
    });
    namespace.create_object("services", service).await;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "by-hand", "labels": {"kubernetes.io/service-name": "by-hand"}},
        "ports": numbers.map(|(name, _, target)| json!({"name": name, "port": target, "protocol": "TCP"})),
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
    });
    namespace.create_object("endpointslices", slice).await;
}
