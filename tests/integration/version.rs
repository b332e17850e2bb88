//! `version`: what is said with a server, without one, and without asking.

use serde_json::Value;

use crate::support::Stage;

#[tokio::test]
async fn version_names_the_server_unless_told_not_to() {
    let stage = Stage::start().await;
    let (status, stdout, said) = stage.plugin("both", &["version", "-o", "json"]).ended().await;
    assert!(status.success(), "{said}");
    let version: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(version["client"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["wire"], tunnel_wire::version::WIRE_VERSION);
    assert!(
        version["server"]["version"].as_str().unwrap().starts_with('v'),
        "{version}"
    );

    let asked = stage.playground.requests().len();
    let (status, stdout, said) = stage.plugin("client", &["version", "--client"]).ended().await;
    assert!(status.success(), "{said}");
    assert!(stdout.starts_with("Client Version: v"), "{stdout}");
    assert!(!stdout.contains("Server Version"), "{stdout}");
    assert_eq!(stage.playground.requests().len(), asked);
}

#[tokio::test]
async fn version_says_what_it_knows_before_it_fails() {
    let stage = Stage::start().await;
    let nobody = ["version", "--server", "https://127.0.0.1:1"];
    let (status, stdout, said) = stage.plugin("nobody", &nobody).ended().await;
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(stdout.starts_with("Client Version: v"), "{stdout}");
    assert!(said.contains("refused"), "{said}");
}
