use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::*;

/// A command that is asked.
struct Asked(CancellationToken);

pub(crate) fn snapshot(id: &str) -> Snapshot {
    Snapshot {
        id: id.to_owned(),
        session: Some(id.to_owned()),
        namespace: "dev".to_owned(),
        server: "127.0.0.1:6443".to_owned(),
        context: None,
        command: "kubectl-tunnel proxy".to_owned(),
        pid: 7,
        state: "ready".to_owned(),
        reason: None,
        transport: Some("exec".to_owned()),
        pod: None,
        listeners: Vec::new(),
        services: Vec::new(),
        ready_lines: Vec::new(),
        metrics: None,
        streams: 1,
        streams_total: 2,
        sent_bytes: 3,
        received_bytes: 4,
        round_trip_ms: Some(1.5),
        reconnects: 5,
        dropped_datagrams: 6,
        errors: [("no-such-host".to_owned(), 7)].into(),
        started_at: "2026-01-02T03:04:05Z".to_owned(),
        expires_at: None,
        log: None,
    }
}

impl Seen for Asked {
    fn snapshot(&self) -> Snapshot {
        snapshot("abc123")
    }

    fn stop(&self) {
        self.0.cancel();
    }
}

fn surroundings() -> (tempfile::TempDir, Env) {
    let folder = tempfile::tempdir().expect("a folder");
    let env = Env::from_vars([("XDG_RUNTIME_DIR", folder.path().as_os_str())]);
    (folder, env)
}

#[tokio::test]
async fn a_running_command_tells_how_it_stands_to_its_user_alone() {
    let (folder, env) = surroundings();
    let server = Server::start(&env, "abc123", Arc::new(Asked(CancellationToken::new()))).unwrap();
    let found = list(&env).await;
    assert!(matches!(&found[..], [Found::Running(running)] if **running == snapshot("abc123")));
    let mode = |path: &str| {
        std::fs::metadata(folder.path().join(path))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(mode("kubectl-tunnel") & 0o777, 0o700);
    assert_eq!(mode("kubectl-tunnel/abc123.sock") & 0o777, 0o600);
    drop(server);
    assert!(list(&env).await.is_empty());
}

#[tokio::test]
async fn a_stop_is_over_when_the_command_is() {
    let (_folder, env) = surroundings();
    let asked = CancellationToken::new();
    let server = Server::start(&env, "abc123", Arc::new(Asked(asked.clone()))).unwrap();
    let stopping = stop(&env, "abc123", Duration::from_secs(10));
    let ending = async {
        asked.cancelled().await;
        drop(server);
    };
    let (stopped, ()) = tokio::join!(stopping, ending);
    stopped.unwrap();
    let nobody = stop(&env, "abc123", Duration::from_secs(10)).await.unwrap_err();
    assert_eq!(nobody.kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn the_socket_of_a_killed_plugin_is_known_for_dead_until_it_is_buried() {
    let (folder, env) = surroundings();
    folders::runtime(&env).unwrap();
    // Closed without being removed, as a kill does.
    drop(std::os::unix::net::UnixListener::bind(folder.path().join("kubectl-tunnel/gone42.sock")).unwrap());
    assert!(matches!(&list(&env).await[..], [Found::Dead { id }] if id == "gone42"));
    bury(&env, "gone42");
    assert!(list(&env).await.is_empty());
}

#[tokio::test]
async fn another_version_is_told_which_one_this_is() {
    let (near, far) = tokio::net::UnixStream::pair().unwrap();
    let asked = Asked(CancellationToken::new());
    let asking = async {
        let mut connection = BufReader::new(far);
        connection
            .get_mut()
            .write_all(b"{\"version\":9,\"request\":\"stop\"}\n")
            .await
            .unwrap();
        let mut line = String::new();
        connection.read_line(&mut line).await.unwrap();
        line
    };
    let (answered, line) = tokio::join!(answer(near, &asked), asking);
    answered.unwrap();
    assert!(line.contains("speaks version 1"), "{line}");
    assert!(!asked.0.is_cancelled());
}

#[test]
fn a_folder_that_leads_elsewhere_is_not_used() {
    let (folder, env) = surroundings();
    std::os::unix::fs::symlink("/", folder.path().join("kubectl-tunnel")).unwrap();
    let error = folders::runtime(&env).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
}
