//! Bodies: where messages end, what passes while they are on their way, and what happens when they break off.

use crate::support::World;

const GET: &str = "GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Sends a response and asserts that it arrives unchanged and that the connection then serves another request.
async fn passes_and_goes_on(method: &str, response: &str) {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world
        .send(format!("{method} http://web/ HTTP/1.1\r\nHost: web\r\n\r\n"))
        .await;
    let (mut upstream, _) = web.request().await;
    upstream.write(response).await;
    program.expect(response).await;
    program.write(GET).await;
    upstream.head().await;
    upstream.write(OK).await;
    program.expect(OK).await;
}

#[tokio::test]
async fn responses_end_where_they_say() {
    passes_and_goes_on("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    passes_and_goes_on("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
    passes_and_goes_on("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    passes_and_goes_on("GET", "HTTP/1.1 204 No Content\r\n\r\n").await;
    passes_and_goes_on("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n").await;
    passes_and_goes_on(
        "GET",
        "HTTP/1.1 200 OK\r\nTrailer: Grpc-Status\r\nTransfer-Encoding: chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n0\r\n\
         grpc-status: 0\r\nX: \r\n\r\n",
    )
    .await;
    passes_and_goes_on(
        "GET",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    )
    .await;
}

#[tokio::test]
async fn a_response_without_a_length_ends_with_the_connection() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world.send(GET).await;
    let (mut upstream, _) = web.request().await;
    upstream.write("HTTP/1.1 200 OK\r\n\r\nuntil the end").await;
    upstream.shutdown().await;
    assert_eq!(
        program.rest().await.unwrap(),
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end"
    );
}

#[tokio::test]
async fn connection_close_is_followed() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world
        .send("GET http://web/ HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
        .await;
    let (mut upstream, head) = web.request().await;
    assert!(head.contains("Connection: close\r\n"));
    upstream.write(OK).await;
    assert_eq!(program.rest().await.unwrap(), OK.as_bytes());
    let mut program = world.send(GET).await;
    let (mut upstream, _) = web.request().await;
    let response = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    upstream.write(response).await;
    assert_eq!(program.rest().await.unwrap(), response.as_bytes());
}

#[tokio::test]
async fn an_upstream_that_breaks_off_resets_the_program() {
    for (start, rest) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", "part"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "64\r\npart",
        ),
        ("HTTP/1.1 200 OK\r\n\r\n", "part"),
    ] {
        let world = World::new().await;
        let web = world.upstream("web:80").await;
        let mut program = world.send(GET).await;
        let (mut upstream, _) = web.request().await;
        upstream.write(format!("{start}{rest}")).await;
        program.expect(&format!("{start}{rest}")).await;
        upstream.reset();
        program.is_reset().await;
    }
}

#[tokio::test]
async fn an_end_in_the_middle_of_a_body_is_a_reset_too() {
    for start in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n0\r\n",
    ] {
        let world = World::new().await;
        let web = world.upstream("web:80").await;
        let mut program = world.send(GET).await;
        let (mut upstream, _) = web.request().await;
        upstream.write(start).await;
        program.expect(start).await;
        upstream.shutdown().await;
        program.is_reset().await;
    }
}

#[tokio::test]
async fn chunks_that_break_the_rules_are_a_reset() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world.send(GET).await;
    let (mut upstream, _) = web.request().await;
    let start = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n";
    upstream.write(start).await;
    program.expect(start).await;
    upstream.write("nonsense\r\n").await;
    program.is_reset().await;
}

#[tokio::test]
async fn an_upstream_without_an_answer_is_502() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    for reset in [true, false] {
        let mut program = world.send(GET).await;
        let (mut upstream, _) = web.request().await;
        if reset {
            upstream.reset();
        } else {
            upstream.shutdown().await;
        }
        let response = program.response().await;
        assert_eq!(response.status, 502);
        assert!(
            response
                .body
                .contains("web:80 ended the connection without an answer"),
            "{}",
            response.body
        );
    }
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_502() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    for answer in [
        "SSH-2.0-OpenSSH_9.9\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ] {
        let mut program = world.send(GET).await;
        let (mut upstream, _) = web.request().await;
        upstream.write(answer).await;
        assert_eq!(program.response().await.status, 502, "{answer}");
        program.ends().await;
    }
}

#[tokio::test]
async fn a_useless_content_length_is_left_out() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world.send(GET).await;
    let (mut upstream, _) = web.request().await;
    upstream
        .write(
            "HTTP/1.1 200 OK\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        )
        .await;
    let answer = program.rest().await.unwrap();
    assert_eq!(
        String::from_utf8(answer).unwrap(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    );
}

#[tokio::test]
async fn smuggling_gets_400_and_reaches_nothing() {
    let world = World::new().await;
    for request in [
        "POST http://web/ HTTP/1.1\r\nHost: web\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        "POST http://web/ HTTP/1.1\r\nHost: web\r\nContent-Length: 6\r\nContent-Length: 5\r\n\r\nabcdef",
        "POST http://web/ HTTP/1.1\r\nHost: web\r\nContent-Length: +6\r\n\r\nabcdef",
        "POST http://web/ HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST http://web/ HTTP/1.1\r\nHost: web\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST http://web/ HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST http://web/ HTTP/1.0\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST http://web/ HTTP/1.1\r\nHost: web\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        "GET http://web/ HTTP/1.1\nHost: web\n\n",
        "GET http://web/ HTTP/1.1\r\nHost: web\nX: y\r\n\r\n",
        "GET http://web/ HTTP/1.1\r\nHost: web\rX: y\r\n\r\n",
        "GET http://web/ HTTP/1.1\r\nHost: web\r\nX: a\0b\r\n\r\n",
        "GET http://web/ HTTP/1.1\r\nHost: web\r\nHost: web\r\n\r\n",
        "GET http://web/ HTTP/1.1\r\n\r\n",
        "GET  http://web/ HTTP/1.1\r\nHost: web\r\n\r\n",
        "GET http://web /x HTTP/1.1\r\nHost: web\r\n\r\n",
        "GET https://web/ HTTP/1.1\r\nHost: web\r\n\r\n",
        "\x01\x02\x03",
    ] {
        let response = world.rejected(request).await;
        assert_eq!(response.status, 400, "{request}");
        assert!(response.head.contains("Connection: close\r\n"));
    }
    // HTTP/2 is a matter of the whole connection.
    let mut program = world
        .send("GET http://nobody/ HTTP/1.1\r\nHost: nobody\r\n\r\n")
        .await;
    assert_eq!(program.response().await.status, 502);
    program.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(program.response().await.status, 505);
}

#[tokio::test]
async fn a_head_has_a_limit() {
    let world = World::new().await;
    let long = format!(
        "GET http://web/ HTTP/1.1\r\nHost: web\r\nCookie: {}\r\n\r\n",
        "x".repeat(70_000)
    );
    assert_eq!(world.rejected(long).await.status, 431);
    let web = world.upstream("web:80").await;
    let head = format!(
        "GET / HTTP/1.1\r\nHost: web\r\nCookie: {}\r\n\r\n",
        "x".repeat(60_000)
    );
    let _program = world.send(&head).await;
    assert_eq!(web.request().await.1, head);
}

#[tokio::test]
async fn a_bad_chunk_in_a_request_is_400_and_an_abort_upstream() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world
        .send("POST http://web/ HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let (mut upstream, _) = web.request().await;
    program.write("3\r\nabc\r\n").await;
    upstream.expect("3\r\nabc\r\n").await;
    program.write("3\nabc").await;
    assert_eq!(program.response().await.status, 400);
    upstream.is_reset().await;
}

#[tokio::test]
async fn continue_is_passed_on_before_the_body() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world
        .send("POST http://web/ HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await;
    let (mut upstream, head) = web.request().await;
    assert!(head.contains("Expect: 100-continue\r\n"));
    upstream.write("HTTP/1.1 100 Continue\r\n\r\n").await;
    program.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
    program.write("body").await;
    upstream.expect("body").await;
    upstream.write(OK).await;
    program.expect(OK).await;
    program.write(GET).await;
    upstream.head().await;
}

#[tokio::test]
async fn an_early_answer_arrives_before_the_body_ends() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world
        .send("POST http://web/ HTTP/1.1\r\nHost: web\r\nContent-Length: 6\r\n\r\nabc")
        .await;
    let (mut upstream, _) = web.request().await;
    upstream.write(OK).await;
    program.expect(OK).await;
    // The upstream goes on, so the rest of the body reaches it, and then the next request.
    program.write(format!("def{GET}")).await;
    upstream.expect("abcdef").await;
    assert!(upstream.head().await.starts_with("GET / "));
}

#[tokio::test]
async fn an_upstream_that_answers_and_leaves_is_heard_by_a_busy_program() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world
        .send("POST http://web/ HTTP/1.1\r\nHost: web\r\nContent-Length: 10000000\r\n\r\n")
        .await;
    let (mut upstream, _) = web.request().await;
    let answer = "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    upstream.write(answer).await;
    program.expect(answer).await;
    // Whoever writes first and reads then must not be stuck: the rest is taken and dropped.
    program.flood(1_000_000).await.unwrap();
    program.ends().await;
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world
        .send("POST http://web/ HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let (mut upstream, _) = web.request().await;
    upstream
        .write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    program.head().await;
    for _ in 0..3 {
        program.write("4\r\nping\r\n").await;
        upstream.expect("4\r\nping\r\n").await;
        upstream.write("4\r\npong\r\n").await;
        program.expect("4\r\npong\r\n").await;
    }
    upstream.write("0\r\n\r\n").await;
    program.expect("0\r\n\r\n").await;
    program.write("0\r\n\r\n").await;
    upstream.expect("0\r\n\r\n").await;
}

#[tokio::test]
async fn an_event_is_not_held_back() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world
        .send("GET http://web/events HTTP/1.1\r\nHost: web\r\n\r\n")
        .await;
    let (mut upstream, _) = web.request().await;
    upstream
        .write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        .await;
    program.head().await;
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        // The next event is sent only when this one has arrived.
        upstream.write(event).await;
        program.expect(event).await;
    }
    // A reader that leaves is noticed though nothing is sent to it.
    drop(program);
    assert!(upstream.rest().await.is_ok_and(|rest| rest.is_empty()));
}

#[tokio::test]
async fn a_program_that_half_closes_gets_its_answer() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world.send(GET).await;
    program.shutdown().await;
    let (mut upstream, _) = web.request().await;
    upstream.ends().await;
    upstream.write(OK).await;
    assert_eq!(program.rest().await.unwrap(), OK.as_bytes());
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_whole_body_upstream() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let mut program = world
        .send("POST http://web/ HTTP/1.1\r\nHost: web\r\nContent-Length: 6\r\n\r\nabc")
        .await;
    let (mut upstream, _) = web.request().await;
    upstream.expect("abc").await;
    program.shutdown().await;
    upstream.ends().await;
    upstream.write(OK).await;
    assert_eq!(program.rest().await.unwrap(), OK.as_bytes());

    let program = world
        .send("POST http://web/ HTTP/1.1\r\nHost: web\r\nContent-Length: 6\r\n\r\nabc")
        .await;
    let (mut upstream, _) = web.request().await;
    upstream.expect("abc").await;
    program.reset();
    upstream.is_reset().await;
}

#[tokio::test]
async fn an_upgrade_turns_the_connection_raw() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let request = "GET /ws HTTP/1.1\r\nHost: web\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
                   Sec-WebSocket-Key: x\r\n\r\n";
    // Raw bytes may follow at once, on both sides.
    let mut program = world.send(format!("{request}\u{1}early")).await;
    let (mut upstream, head) = web.request().await;
    assert_eq!(head, request);
    let answer =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\u{2}hello";
    upstream.write(answer).await;
    program.expect(answer).await;
    upstream.expect("\u{1}early").await;
    for _ in 0..3 {
        program.write([0x81, 0, 0xff]).await;
        let frame = upstream.exactly(3).await;
        upstream.write(frame).await;
        assert_eq!(program.exactly(3).await, [0x81, 0, 0xff]);
    }
    program.shutdown().await;
    upstream.ends().await;
    upstream.write("last").await;
    upstream.shutdown().await;
    assert_eq!(program.rest().await.unwrap(), b"last");
}

#[tokio::test]
async fn large_bodies_pass_whole() {
    let world = World::new().await;
    let web = world.upstream("web:80").await;
    let body: Vec<u8> = (0..3_000_000_u32)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    let mut program = world.connect().await;
    let head = format!(
        "POST http://web/ HTTP/1.1\r\nHost: web\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let both = async {
        program.write(head).await;
        program.write(&body).await;
        assert_eq!(program.head().await, answer);
        assert!(program.exactly(body.len()).await == body);
    };
    let echo = async {
        let (mut upstream, _) = web.request().await;
        let got = upstream.exactly(body.len()).await;
        upstream.write(&answer).await;
        upstream.write(got).await;
    };
    tokio::join!(both, echo);
}
