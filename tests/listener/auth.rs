//! `--auth-file` guards every protocol.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kubectl_tunnel::listener::{Credentials, Listener, Warning};

use crate::support::{World, options};

fn credentials(lines: &str, mode: u32) -> (tempfile::Guard, Credentials) {
    let file = tempfile::Guard::new(lines, mode);
    let credentials = Credentials::read(&file.path).unwrap();
    (file, credentials)
}

/// A file that is gone when the test ends.
mod tempfile {
    use super::Write;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    pub(crate) struct Guard {
        pub(crate) path: PathBuf,
    }

    impl Guard {
        pub(crate) fn new(lines: &str, mode: u32) -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path =
                std::env::temp_dir().join(format!("kubectl-tunnel-test-{}-{number}", std::process::id()));
            let mut file = std::fs::File::create(&path).unwrap();
            file.write_all(lines.as_bytes()).unwrap();
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt as _;
                file.set_permissions(std::fs::Permissions::from_mode(mode))
                    .unwrap();
            }
            Self { path }
        }
    }

    impl Drop for Guard {
        fn drop(&mut self) {
            std::fs::remove_file(&self.path).unwrap();
        }
    }
}

pub(crate) async fn guarded() -> World {
    let (_file, credentials) = credentials("ann:s3:cret\nbob:x\n", 0o600);
    let mut options = options();
    options.credentials = Some(credentials);
    World::with(options).await
}

fn basic(pair: &str) -> String {
    format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(pair))
}

#[tokio::test]
async fn http_asks_for_basic() {
    let world = guarded().await;
    for request in [
        "GET http://web/ HTTP/1.1\r\nHost: web\r\n",
        "CONNECT web:80 HTTP/1.1\r\n",
        "GET http://127.0.0.1/ HTTP/1.1\r\nHost: x\r\n",
    ] {
        for header in [
            String::new(),
            basic("ann:wrong"),
            basic("ann"),
            basic("eve:x"),
            basic("ann:s3:cret") + &basic("bob:x"),
        ] {
            let response = world.rejected(format!("{request}{header}\r\n")).await;
            assert_eq!(response.status, 407, "{request} {header}");
            assert!(
                response.head.contains("Proxy-Authenticate: Basic realm="),
                "{}",
                response.head
            );
        }
    }
}

#[tokio::test]
async fn the_right_password_passes_and_is_not_passed_on() {
    let world = guarded().await;
    let web = world.upstream("web:80").await;
    let mut program = world.connect().await;
    program
        .write("GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n")
        .await;
    assert_eq!(program.response().await.status, 407);
    // The same connection goes on with a password, as programs do.
    program
        .write(format!(
            "GET http://web/ HTTP/1.1\r\n{}Host: web\r\n\r\n",
            basic("ann:s3:cret")
        ))
        .await;
    assert_eq!(web.request().await.1, "GET / HTTP/1.1\r\nHost: web\r\n\r\n");
    let mut program = world
        .send(format!("CONNECT web:80 HTTP/1.1\r\n{}\r\n", basic("bob:x")))
        .await;
    web.accept().await;
    program.until("200 Connection established\r\n\r\n").await;
}

#[tokio::test]
async fn host_routing_is_off() {
    let world = guarded().await;
    let own = world.address;
    for (path, host) in [
        ("/", "web".to_owned()),
        ("/proxy.pac", own.to_string()),
        ("/", "evil.example".to_owned()),
    ] {
        for header in [String::new(), basic("ann:s3:cret")] {
            let response = world
                .rejected(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{header}\r\n"))
                .await;
            assert_eq!(response.status, 403, "{host}");
        }
    }
}

#[tokio::test]
async fn socks_asks_for_user_and_password() {
    let world = guarded().await;
    let web = world.upstream("web:80").await;
    // Without the method: nothing is acceptable.
    assert_eq!(world.send([5, 1, 0]).await.rest().await.unwrap(), [5, 0xff]);
    for (user, password, allowed) in [
        ("ann", "s3:cret", true),
        ("ann", "wrong", false),
        ("eve", "x", false),
        ("", "", false),
    ] {
        let mut program = world.send([5, 2, 0, 2]).await;
        assert_eq!(program.exactly(2).await, [5, 2]);
        let length = |text: &str| u8::try_from(text.len()).unwrap();
        let message = [
            &[1, length(user)],
            user.as_bytes(),
            &[length(password)],
            password.as_bytes(),
            b"\x05\x01\0\x03\x03web\0\x50",
        ];
        program.write(message.concat()).await;
        if allowed {
            web.accept().await;
            assert_eq!(program.exactly(12).await[..4], [1, 0, 5, 0]);
        } else {
            assert_eq!(program.rest().await.unwrap(), [1, 1]);
        }
    }
    assert_eq!(world.opened(), ["web:80"]);
}

/// SOCKS4 has no password.
#[tokio::test]
async fn socks4_is_off() {
    let world = guarded().await;
    for request in [
        &b"\x04\x01\0\x50\x0a\0\0\x07\0"[..],
        b"\x04\x01\0\x50\0\0\0\x01ann:s3:cret\0web\0",
    ] {
        let answer = world.send(request).await.rest().await.unwrap();
        assert_eq!(answer, [0, 0x5b, 0, 0, 0, 0, 0, 0]);
    }
    assert!(world.opened().is_empty());
}

/// TLS has no password for a proxy.
#[tokio::test]
async fn tls_is_off() {
    let world = guarded().await;
    let answer = world
        .send(crate::tls::client_hello("web"))
        .await
        .rest()
        .await
        .unwrap();
    assert_eq!(answer, [0x15, 3, 3, 0, 2, 2, 49], "access_denied");
    assert!(world.opened().is_empty());
}

/// As Host routing, which it is another form of.
#[tokio::test]
async fn h2c_is_off() {
    let world = guarded().await;
    let mut program = world.send(crate::h2c::opening("web")).await;
    let text = crate::h2c::goaway(&mut program, 7).await;
    assert!(text.contains("with --auth-file"), "{text}");
    assert!(world.opened().is_empty());
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_others_can_read_is_a_warning() {
    for (mode, exposed) in [(0o600, false), (0o640, true), (0o604, true)] {
        let (file, credentials) = credentials("a:b\n", mode);
        let mut options = options();
        options.credentials = Some(credentials);
        let warnings = Listener::bind(options).await.unwrap().warnings();
        let expected = exposed.then(|| Warning::AuthFileExposed {
            path: file.path.clone(),
        });
        assert_eq!(warnings, expected.into_iter().collect::<Vec<_>>(), "{mode:o}");
    }
}
