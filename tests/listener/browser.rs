//! A web page must get nothing through the local port.

use crate::support::World;

/// What a browser sends when a page rebinds its own name to 127.0.0.1 and asks for the local port.
#[tokio::test]
async fn the_rebinding_page_gets_nothing() {
    let world = World::new().await;
    let port = world.address.port();
    for host in [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        format!("127.0.0.1.evil.example:{port}"),
    ] {
        for path in ["/", "/proxy.pac", "/api/v1/secrets"] {
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\nSec-Fetch-Site: same-origin\r\nReferer: http://{host}/\r\n\r\n"
            );
            let response = world.rejected(request).await;
            assert_eq!(response.status, 421, "{host}");
            assert!(
                !response.head.to_ascii_lowercase().contains("access-control"),
                "{}",
                response.head
            );
        }
        let post = format!(
            "POST / HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nContent-Length: 3\r\n\r\nabc"
        );
        assert_eq!(world.rejected(post).await.status, 421);
        let upgrade = format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        );
        assert_eq!(world.rejected(upgrade).await.status, 421);
    }
}

/// What a browser sends when a page asks for the local port by a name that Host routing takes.
#[tokio::test]
async fn a_page_of_another_site_gets_nothing() {
    let world = World::new().await;
    let port = world.address.port();
    let own = format!("127.0.0.1:{port}");
    let service = format!("web.localhost:{port}");
    for host in [&own, &service, &"web".to_owned(), &"web.dev.svc".to_owned()] {
        for browser in [
            "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image",
            "Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: cors",
            "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document",
            "Origin: http://evil.example",
            "Origin: null",
            "Origin: http://localhost:3000",
        ] {
            for path in ["/", "/proxy.pac"] {
                let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{browser}\r\n\r\n");
                let response = world.rejected(request).await;
                assert_eq!(response.status, 403, "{host} {browser}");
                assert!(
                    response.body.contains("a web page of another site"),
                    "{}",
                    response.body
                );
            }
        }
        let preflight = format!(
            "OPTIONS / HTTP/1.1\r\nHost: {host}\r\nOrigin: http://evil.example\r\nAccess-Control-Request-Method: PUT\r\n\r\n"
        );
        assert_eq!(world.rejected(preflight).await.status, 403);
    }
}

#[tokio::test]
async fn the_users_own_page_works() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let host = format!("web.localhost:{}", world.address.port());
    for browser in [
        "Sec-Fetch-Site: none",
        &format!("Sec-Fetch-Site: same-origin\r\nOrigin: http://{host}"),
    ] {
        let _program = world
            .send(format!("POST /x HTTP/1.1\r\nHost: {host}\r\n{browser}\r\n\r\n"))
            .await;
        assert!(web.request().await.1.starts_with("POST /x "));
    }
}

#[tokio::test]
async fn addresses_and_other_names_are_misdirected() {
    let world = World::new().await;
    let port = world.address.port();
    for host in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("[::1]:{port}"),
        "10.0.0.7".to_owned(),
        "10.0.0.7:8081".to_owned(),
        "2130706433".to_owned(),
        "web.dev".to_owned(),
        String::new(),
    ] {
        let response = world
            .rejected(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
        assert_eq!(response.status, 421, "{host}");
        assert!(response.body.contains("NAME.localhost"), "{}", response.body);
    }
}

#[tokio::test]
async fn a_foreign_page_in_a_browser_that_uses_the_proxy_gets_nothing() {
    let world = World::new().await;
    let request =
        "POST http://web/ HTTP/1.1\r\nHost: web\r\nOrigin: http://evil.example\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(world.rejected(request).await.status, 403);
}

#[tokio::test]
async fn the_proxy_script_is_on_our_own_address_only() {
    let world = World::new().await;
    let address = world.address;
    let mut program = world.connect().await;
    for host in [address.to_string(), format!("localhost:{}", address.port())] {
        program
            .write(format!("GET /proxy.pac HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
        let response = program.response().await;
        assert_eq!(response.status, 200);
        assert!(
            response
                .head
                .contains("Content-Type: application/x-ns-proxy-autoconfig\r\n")
        );
        assert!(
            response.body.contains(&format!("PROXY {address}")),
            "{}",
            response.body
        );
        assert!(response.body.contains(".cluster.local"));
    }
    let web = world.upstream("web:80").await;
    program
        .write("GET /proxy.pac HTTP/1.1\r\nHost: web\r\n\r\n")
        .await;
    web.request().await;
}

/// The same over TLS: a browser sends the page's name as the server name, and none for an address.
#[tokio::test]
async fn the_rebinding_page_gets_nothing_over_tls() {
    let world = World::new().await;
    for host in [
        "evil.example",
        "127.0.0.1.evil.example",
        "svc.evil.example",
        "localhost",
        "127.0.0.1",
    ] {
        let hello = crate::tls::client_hello(host);
        let answer = world.send(hello).await.rest().await.unwrap();
        assert_eq!(answer, crate::tls::UNRECOGNIZED_NAME, "{host}");
    }
    assert!(world.opened().is_empty());
}
