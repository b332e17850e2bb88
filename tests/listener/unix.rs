//! `--listen unix:PATH`: the file, and the same doors behind it.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use kubectl_tunnel::listener::{BindError, Listener, LocalAddress, Options};

use crate::support::{Peer, World, options};

const GET: &str = "GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn at(path: &Path) -> Options {
    let mut options = options();
    options.listen = vec![format!("unix:{}", path.display()).parse().unwrap()];
    options
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

#[tokio::test]
async fn every_door_opens_at_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tunnel.sock");
    let world = World::with(at(&path)).await;
    let web = world.upstream("web:80").await;
    for (request, answer) in [
        (GET.as_bytes(), &b""[..]),
        (b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n", b""),
        (
            b"\x05\x01\x00\x05\x01\x00\x03\x03web\0\x50",
            b"\x05\0\x05\0\0\x01\0\0\0\0\0\0",
        ),
        (
            b"CONNECT web:80 HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 200 Connection established\r\n\r\n",
        ),
    ] {
        let mut program = Peer::unix(&path).await;
        program.write(request).await;
        let mut upstream = web.accept().await;
        assert_eq!(program.exactly(answer.len()).await, answer);
        if answer.is_empty() {
            upstream.head().await;
        }
        upstream.write(OK).await;
        program.expect(OK).await;
    }
}

#[tokio::test]
async fn half_close_delivers_the_reply_at_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tunnel.sock");
    let world = World::with(at(&path)).await;
    let web = world.upstream("web:443").await;
    let mut program = Peer::unix(&path).await;
    program.write("CONNECT web:443 HTTP/1.1\r\n\r\nrequest").await;
    let mut upstream = web.accept().await;
    program.head().await;
    program.shutdown().await;
    assert_eq!(upstream.rest().await.unwrap(), b"request");
    upstream.write("reply").await;
    upstream.shutdown().await;
    assert_eq!(program.rest().await.unwrap(), b"reply");
}

/// A unix socket has no reset: only the framing tells that an answer is not whole.
#[tokio::test]
async fn a_cut_is_an_end_that_its_framing_tells() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tunnel.sock");
    let world = World::with(at(&path)).await;
    let web = world.upstream("web:80").await;
    let mut program = Peer::unix(&path).await;
    program.write(GET).await;
    let (mut upstream, _) = web.request().await;
    upstream
        .write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n")
        .await;
    program.until("part\r\n").await;
    upstream.reset();
    program.ends().await;
}

#[tokio::test]
async fn there_is_no_page_of_our_own_without_an_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tunnel.sock");
    let world = World::with(at(&path)).await;
    let mut program = Peer::unix(&path).await;
    program
        .write("GET /proxy.pac HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(program.response().await.status, 421);
    assert!(world.opened().is_empty());
}

#[tokio::test]
async fn the_file_is_the_users_alone_and_goes_with_the_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tunnel.sock");
    let bound = Listener::bind(at(&path)).await.unwrap();
    assert_eq!(bound.addresses(), [LocalAddress::Unix(path.clone())]);
    assert_eq!(
        bound.addresses()[0].to_string(),
        format!("unix:{}", path.display())
    );
    assert!(bound.warnings().is_empty());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut world = World::serve(bound);
    world.drain.cancel();
    world.ended().await;
    assert!(!path.exists());
    // A listener that never served, and one that is aborted.
    drop(Listener::bind(at(&path)).await.unwrap());
    assert!(!path.exists());
    let mut world = World::with(at(&path)).await;
    assert!(is_socket(&path));
    world.abort().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_live_socket_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tunnel.sock");
    let world = World::with(at(&path)).await;
    let error = Listener::bind(at(&path)).await.unwrap_err();
    assert!(matches!(error, BindError::SocketInUse { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("listen on unix:{}: another program listens there", path.display())
    );
    assert!(error.hint().unwrap().contains("--listen unix:PATH"));
    // It still serves.
    let mut program = Peer::unix(&path).await;
    program
        .write("GET http://nobody/ HTTP/1.1\r\nHost: nobody\r\n\r\n")
        .await;
    assert_eq!(program.response().await.status, 502);
    drop(world);
}

#[tokio::test]
async fn the_socket_of_a_dead_process_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tunnel.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(is_socket(&path), "std leaves the file behind");
    let world = World::with(at(&path)).await;
    let mut program = Peer::unix(&path).await;
    program
        .write("GET http://nobody/ HTTP/1.1\r\nHost: nobody\r\n\r\n")
        .await;
    assert_eq!(program.response().await.status, 502);
    drop(world);
}

#[tokio::test]
async fn a_file_of_another_kind_is_never_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "mine").unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for file in [&path, &link, &folder.path().to_owned()] {
        let error = Listener::bind(at(file)).await.unwrap_err();
        assert!(matches!(error, BindError::NotASocket { .. }), "{error:?}");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    let error = Listener::bind(at(&folder.path().join("no/such")))
        .await
        .unwrap_err();
    assert!(matches!(error, BindError::Socket { .. }), "{error:?}");
    assert!(error.hint().is_some());
}

/// A file that took the socket's place while it was served is somebody else's.
#[tokio::test]
async fn another_file_at_the_same_path_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tunnel.sock");
    let bound = Listener::bind(at(&path)).await.unwrap();
    std::fs::rename(&path, folder.path().join("moved")).unwrap();
    std::fs::write(&path, "theirs").unwrap();
    drop(bound);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs");
}
