//! Bytes from end to end: the proxy in its three protocols, an exposed program, both at once.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tunnel_playground::{LATE_REPLY, TCP_PORT};

use crate::support::{CONFIG_MAP_LIMIT, DEADLINE, Stage, agent_binary, exchange, get_through};

#[test]
fn the_agent_fits_a_config_map() {
    let size = std::fs::metadata(agent_binary()).unwrap().len();
    assert!(size < CONFIG_MAP_LIMIT, "{size} bytes");
}

#[tokio::test]
async fn every_form_of_name_is_reached_through_the_proxy() {
    let stage = Stage::start().await;
    let (plugin, proxy) = stage.proxy().await;
    let port = stage.web_port();
    let address = stage
        .playground
        .service_address("dev", "web")
        .unwrap()
        .to_string();
    let names = [
        "web",
        "web.dev",
        "web.dev.svc",
        "web.dev.svc.cluster.local",
        "web.open",
        "web-alias",
        &address,
    ];
    for name in names {
        let answer = get_through(&proxy, &format!("http://{name}:{port}/a?b")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{name}: {answer}");
        assert!(
            answer.contains("hello from web\nGET /a?b HTTP/1.1\n"),
            "{name}: {answer}"
        );
    }
    let routed = format!("GET / HTTP/1.1\r\nHost: web:{port}\r\nConnection: close\r\n\r\n");
    assert!(exchange(&proxy, &routed).await.contains("hello from web"));
    plugin.stop().await;
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_as_502() {
    let stage = Stage::start().await;
    let (plugin, proxy) = stage.proxy().await;
    for target in [
        "no-such-service:80".to_owned(),
        format!("refusing:{}", stage.web_port()),
    ] {
        let answer = get_through(&proxy, &format!("http://{target}/")).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{target}: {answer}");
    }
    plugin.stop().await;
}

#[tokio::test]
async fn half_close_delivers_the_reply() {
    let stage = Stage::start().await;
    let (plugin, proxy) = stage.proxy().await;
    let mut stream = TcpStream::connect(&proxy).await.unwrap();
    let connect = format!("CONNECT late:{TCP_PORT} HTTP/1.1\r\nHost: late:{TCP_PORT}\r\n\r\n");
    stream.write_all(connect.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(DEADLINE, stream.read_u8()).await.unwrap().unwrap());
    }
    assert!(
        head.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    stream.write_all(b"request").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut reply = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut reply))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(reply.len(), LATE_REPLY);
    plugin.stop().await;
}

#[tokio::test]
async fn an_exposed_program_is_reached_by_name_from_another_pod() {
    let stage = Stage::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = listener.local_addr().unwrap().port();
    let mut programs = JoinSet::new();
    programs.spawn(tunnel_playground::serve_web(listener, "the laptop".to_owned()));
    let port = stage.web_port();
    let mut expose = stage.plugin("expose", &["expose", "api", &format!("{port}:{local}")]);
    let ready = expose.ready().await;
    assert_eq!(ready["services"][0]["name"], "api");
    let (proxy, address) = stage.proxy().await;
    let mut callers = JoinSet::new();
    for index in 0..20 {
        let address = address.clone();
        let url = format!("http://api.dev:{port}/call/{index}");
        callers.spawn(async move { (index, get_through(&address, &url).await) });
    }
    while let Some(answer) = callers.join_next().await {
        let (index, answer) = answer.unwrap();
        let expected = format!("hello from the laptop\nGET /call/{index} HTTP/1.1\nhost: api.dev:{port}\n");
        assert!(answer.contains(&expected), "{answer}");
    }
    expose.stop().await;
    let gone = get_through(&address, &format!("http://api.dev:{port}/")).await;
    assert!(gone.starts_with("HTTP/1.1 502 "), "{gone}");
    proxy.stop().await;
    stage.until_nothing_is_left().await;
}

#[tokio::test]
async fn datagrams_reach_an_upstream_by_name() {
    let stage = Stage::start().await;
    let (plugin, proxy) = stage.proxy().await;
    let address = stage.playground.service_address("dev", "web").unwrap();
    let upstream = UdpSocket::bind((address, 0)).await.unwrap();
    let port = upstream.local_addr().unwrap().port().to_be_bytes();

    let mut control = TcpStream::connect(&proxy).await.unwrap();
    control
        .write_all(&[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    let mut reply = [0; 12];
    timeout(DEADLINE, control.read_exact(&mut reply))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(reply[..10], [5, 0, 5, 0, 0, 1, 127, 0, 0, 1]);
    let program = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = ("127.0.0.1", u16::from_be_bytes([reply[10], reply[11]]));
    let header = [b"\0\0\0\x03\x03web", &port[..]].concat();
    let data: Vec<u8> = (0..27_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    program.send_to(&[&header[..], &data].concat(), to).await.unwrap();

    let mut room = vec![0; 65_536];
    let (length, agent) = timeout(DEADLINE, upstream.recv_from(&mut room))
        .await
        .unwrap()
        .unwrap();
    assert!(room[..length] == data);
    upstream.send_to(&data, agent).await.unwrap();
    let length = timeout(DEADLINE, program.recv(&mut room)).await.unwrap().unwrap();
    assert!(room[..length] == [&header[..], &data].concat());
    drop(control);
    plugin.stop().await;
    stage.until_nothing_is_left().await;
}
