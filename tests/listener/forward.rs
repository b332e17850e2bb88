//! Absolute-form and Host-routed requests: what goes where, byte for byte, and when.

use tunnel_wire::RefusalCode;

use crate::support::{World, options};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn only_the_target_form_and_the_proxys_headers_change() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world
        .send(
            "GET http://web/a%20b?c=d#e HTTP/1.1\r\nhOST: web\r\nX-Twice: 1\r\nAccept:  */* \r\nx-twice: 2\r\n\
             Proxy-Connection: Keep-Alive\r\nCookie: a=b\r\nproxy-authorization: Basic eDp5\r\n\r\n",
        )
        .await;
    let (mut upstream, head) = web.request().await;
    assert_eq!(
        head,
        "GET /a%20b?c=d#e HTTP/1.1\r\nhOST: web\r\nX-Twice: 1\r\nAccept:  */* \r\nx-twice: 2\r\nCookie: a=b\r\n\r\n"
    );
    let response = "HTTP/1.1 302 Found It\r\nSet-Cookie: a=1; Path=/\r\nset-COOKIE: b=2\r\nSet-Cookie: c=3\r\n\
                    Location: http://web/other?x=y\r\nX-Dup: 1\r\nX-Dup: 1\r\nProxy-Authenticate: Basic\r\n\
                    Content-Length:3\r\n\r\nbye";
    upstream.write(response).await;
    program.expect(response).await;
}

#[tokio::test]
async fn changing_hosts_on_one_connection() {
    let world = World::new().await;
    let (web, api, other_port) = (
        world.upstream("web:80").await,
        world.upstream("api.dev:8081").await,
        world.upstream("web:8081").await,
    );
    let mut program = world.send("GET http://web/1 HTTP/1.1\r\nHost: web\r\n\r\n").await;
    let (mut first, _) = web.request().await;
    first.write(OK).await;
    program.expect(OK).await;

    program
        .write("GET http://web/2 HTTP/1.1\r\nHost: web\r\n\r\n")
        .await;
    assert!(
        first.head().await.starts_with("GET /2 "),
        "the same stream carries the next request"
    );
    first.write(OK).await;
    program.expect(OK).await;

    program
        .write("GET http://api.dev:8081/3 HTTP/1.1\r\nHost: api.dev:8081\r\n\r\n")
        .await;
    let (mut second, head) = api.request().await;
    assert!(head.starts_with("GET /3 "));
    first.ends().await;
    second.write(OK).await;
    program.expect(OK).await;

    program.write("GET /4 HTTP/1.1\r\nHost: web:8081\r\n\r\n").await;
    let (mut third, head) = other_port.request().await;
    assert_eq!(head, "GET /4 HTTP/1.1\r\nHost: web:8081\r\n\r\n");
    third.write(OK).await;
    program.expect(OK).await;
    assert_eq!(world.opened(), ["web:80", "api.dev:8081", "web:8081"]);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let world = World::new().await;
    let (web, api) = (world.upstream("web:80").await, world.upstream("api:80").await);
    let mut program = world
        .send(
            "POST http://web/1 HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\n\r\nabcGET http://api/2 HTTP/1.1\r\n\
             Host: api\r\n\r\nGET http://api/3 HTTP/1.1\r\nHost: api\r\n\r\n",
        )
        .await;
    let (mut first, _) = web.request().await;
    first.expect("abc").await;
    assert_eq!(
        world.opened(),
        ["web:80"],
        "the next host only when the response has ended"
    );
    first
        .write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfi")
        .await;
    program.until("fi").await;
    assert_eq!(world.opened(), ["web:80"]);
    first.write("rs").await;
    program.expect("rs").await;
    let (mut second, head) = api.request().await;
    assert!(head.starts_with("GET /2 "));
    second.write(OK).await;
    program.expect(OK).await;
    assert!(second.head().await.starts_with("GET /3 "));
    second.write(OK).await;
    program.expect(OK).await;
}

#[tokio::test]
async fn a_head_may_come_byte_by_byte() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world.connect().await;
    program
        .dribble("\r\n\r\nPOST http://web/ HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    program.dribble("3;a=b\r\nabc\r\n0\r\nT: x\r\n\r\n").await;
    let (mut upstream, head) = web.request().await;
    assert_eq!(
        head,
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    upstream.expect("3;a=b\r\nabc\r\n0\r\nT: x\r\n\r\n").await;
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    upstream.dribble(response).await;
    program.expect(response).await;
    program
        .write("GET http://web/next HTTP/1.1\r\nHost: web\r\n\r\n")
        .await;
    assert!(upstream.head().await.starts_with("GET /next "));
}

#[tokio::test]
async fn http10_is_taken_and_gets_a_host() {
    let world = World::new().await;
    let web = world.upstream("web:8081").await;
    let mut program = world.send("GET http://web:8081/a HTTP/1.0\r\n\r\n").await;
    let (mut upstream, head) = web.request().await;
    assert_eq!(head, "GET /a HTTP/1.0\r\nHost: web:8081\r\n\r\n");
    upstream.write("HTTP/1.0 200 OK\r\n\r\nall to the end").await;
    upstream.shutdown().await;
    assert!(program.rest().await.unwrap().ends_with(b"all to the end"));
}

#[tokio::test]
async fn host_routing_takes_the_names_of_the_cluster() {
    let world = World::new().await;
    let own = world.address.port();
    for (host, target) in [
        ("web".to_owned(), "web:80"),
        ("api.dev.svc:8081".to_owned(), "api.dev.svc:8081"),
        (
            "pod-0.web.dev.svc.cluster.local".to_owned(),
            "pod-0.web.dev.svc.cluster.local:80",
        ),
        (format!("web.dev.localhost:{own}"), "web.dev:80"),
    ] {
        let upstream = world.upstream(target).await;
        let mut program = world
            .send(format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
        let (mut upstream, head) = upstream.request().await;
        assert_eq!(head, format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        upstream.write(OK).await;
        program.expect(OK).await;
    }
}

#[tokio::test]
async fn the_cluster_domain_can_be_another() {
    let mut options = options();
    options.cluster_domain = "k8s.example".to_owned();
    let world = World::with(options).await;
    let web = world.upstream("web.dev.svc.k8s.example:80").await;
    let _program = world
        .send("GET / HTTP/1.1\r\nHost: web.dev.svc.k8s.example\r\n\r\n")
        .await;
    web.request().await;
    assert_eq!(
        world
            .rejected("GET / HTTP/1.1\r\nHost: web.dev.svc.cluster.local\r\n\r\n")
            .await
            .status,
        421
    );
}

#[tokio::test]
async fn failures_are_told_in_http() {
    let world = World::new().await;
    world.fails("closed:80", RefusalCode::ConnectionRefused);
    world.fails("hole:80", RefusalCode::TimedOut);
    world.fails("self:80", RefusalCode::NotAllowed);
    world.fails("full:80", RefusalCode::TooManyStreams);
    world.fails("over:80", RefusalCode::ShuttingDown);
    let mut program = world.connect().await;
    for (host, status, words) in [
        ("nobody", 502, "no such host"),
        ("closed", 502, "connection refused"),
        ("hole", 504, "no answer in time"),
        ("self", 403, "--allow-target"),
        ("full", 503, "as many connections"),
        ("over", 503, "the session ended"),
    ] {
        // All on one connection: a failure is an answer like any other.
        program
            .write(format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
        let response = program.response().await;
        assert_eq!(response.status, status, "{host}");
        assert!(
            response.head.contains("Content-Type: text/plain"),
            "{}",
            response.head
        );
        assert!(
            response.head.contains("Proxy-Status: kubectl-tunnel; error="),
            "{}",
            response.head
        );
        assert!(
            response.body.contains(words) && response.body.contains("next: "),
            "{}",
            response.body
        );
        assert!(response.body.contains(&format!("{host}:80")), "{}", response.body);
    }
    program.ends().await;
}

#[tokio::test]
async fn a_failure_answers_head_without_a_body() {
    let world = World::new().await;
    let mut program = world
        .send("HEAD http://nobody/ HTTP/1.1\r\nHost: nobody\r\nConnection: close\r\n\r\n")
        .await;
    let answer = String::from_utf8(program.rest().await.unwrap()).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_failure_reaches_a_program_that_still_sends_its_body() {
    let world = World::new().await;
    let mut program = world
        .send("POST http://nobody/ HTTP/1.1\r\nHost: nobody\r\nContent-Length: 1000000\r\n\r\n")
        .await;
    program.flood(500_000).await.unwrap();
    assert_eq!(program.response().await.status, 502);
    program.ends().await;
}

#[tokio::test]
async fn a_silent_session_is_a_time_out() {
    let mut options = options();
    options.limits.dial = std::time::Duration::from_millis(50);
    let world = World::with(options).await;
    world.silent("web:80");
    assert_eq!(
        world
            .send("GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n")
            .await
            .response()
            .await
            .status,
        504
    );
    assert_eq!(
        world
            .send("CONNECT web:80 HTTP/1.1\r\n\r\n")
            .await
            .response()
            .await
            .status,
        504
    );
}

#[tokio::test]
async fn a_dead_kept_stream_is_replaced_for_requests_that_may_be_repeated() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world.send("GET http://web/1 HTTP/1.1\r\nHost: web\r\n\r\n").await;
    let (mut first, _) = web.request().await;
    first.write(OK).await;
    program.expect(OK).await;
    program
        .write("GET http://web/2 HTTP/1.1\r\nHost: web\r\n\r\n")
        .await;
    // The upstream's idle time-out met the request.
    first.head().await;
    first.reset();
    let (mut second, head) = web.request().await;
    assert!(head.starts_with("GET /2 "));
    second.write(OK).await;
    program.expect(OK).await;

    // A POST must not be sent twice: the connection ends without an answer, as the upstream's did.
    program
        .write("POST http://web/3 HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert!(second.head().await.starts_with("POST /3 "));
    second.reset();
    program.ends().await;
    assert_eq!(world.opened(), ["web:80", "web:80"]);
}

#[tokio::test]
async fn an_upstream_that_ends_while_idle_is_opened_again() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world.send("GET http://web/1 HTTP/1.1\r\nHost: web\r\n\r\n").await;
    let (mut first, _) = web.request().await;
    first.write(OK).await;
    program.expect(OK).await;
    first.shutdown().await;
    // The listener gives its end up too, with an abort or an end, but nothing more to read.
    assert!(first.rest().await.unwrap_or_default().is_empty());
    program
        .write("POST http://web/2 HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\n\r\n")
        .await;
    let (mut second, _) = web.request().await;
    second.write(OK).await;
    program.expect(OK).await;
}

#[tokio::test]
async fn bytes_nobody_asked_for_are_not_the_next_answer() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world.send("GET http://web/1 HTTP/1.1\r\nHost: web\r\n\r\n").await;
    let (mut first, _) = web.request().await;
    first
        .write(format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"))
        .await;
    program.expect(OK).await;
    program
        .write("GET http://web/2 HTTP/1.1\r\nHost: web\r\n\r\n")
        .await;
    let (mut second, _) = web.request().await;
    second.write(OK).await;
    program.expect(OK).await;
}
