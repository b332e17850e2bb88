//! TLS by its server name: the program and the upstream shake hands with each other, not with us.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use tunnel_wire::RefusalCode;

use crate::support::{World, options, soon};

pub(crate) const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 0x70];
const INTERNAL_ERROR: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 80];

fn client(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
        .into()
}

/// The first bytes of a program that connects to that name, or that address.
pub(crate) fn client_hello(name: &str) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(client(RootCertStore::empty()), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_handshake_is_between_the_program_and_the_upstream() {
    let issued = rcgen::generate_simple_self_signed(["web.dev.svc".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let server = ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![issued.cert.der().clone()],
            PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let world = World::new().await;
    let web = world.upstream("web.dev.svc:443").await;
    let program = async {
        let stream = TcpStream::connect(world.address).await.unwrap();
        let name = ServerName::try_from("web.dev.svc").unwrap();
        let connector = tokio_rustls::TlsConnector::from(client(roots));
        let mut program = connector.connect(name, stream).await.unwrap();
        program.write_all(b"request").await.unwrap();
        program.shutdown().await.unwrap();
        let mut reply = Vec::new();
        program.read_to_end(&mut reply).await.unwrap();
        reply
    };
    let upstream = async {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let mut upstream = acceptor.accept(web.accept_stream().await).await.unwrap();
        let mut request = Vec::new();
        upstream.read_to_end(&mut request).await.unwrap();
        upstream.write_all(b"reply").await.unwrap();
        upstream.shutdown().await.unwrap();
        request
    };
    let (reply, request) = soon("the handshake and its data", async {
        tokio::join!(program, upstream)
    })
    .await;
    assert_eq!((&reply[..], &request[..]), (&b"reply"[..], &b"request"[..]));
}

#[tokio::test]
async fn every_byte_is_passed_on_however_it_comes() {
    let world = World::new().await;
    let web = world.upstream("web:443").await;
    for name in ["web", "web.localhost"] {
        let hello = client_hello(name);
        let mut program = world.connect().await;
        program.dribble(&hello).await;
        program.write(b"more").await;
        let mut upstream = web.accept().await;
        assert_eq!(upstream.exactly(hello.len()).await, hello);
        upstream.expect("more").await;
        upstream.reset();
        program.is_reset().await;
    }
    assert_eq!(world.opened(), ["web:443", "web:443"]);
}

#[tokio::test]
async fn without_a_name_of_the_cluster_it_is_an_alert() {
    let world = World::new().await;
    for name in ["10.0.0.7", "::1", "api.example"] {
        let answer = world.send(client_hello(name)).await.rest().await.unwrap();
        assert_eq!(answer, UNRECOGNIZED_NAME, "{name}");
    }
    // A handshake record that holds no client hello.
    let answer = world
        .send([0x16, 3, 1, 0, 4, 2, 0, 0, 0])
        .await
        .rest()
        .await
        .unwrap();
    assert_eq!(answer[..5], [0x15, 3, 3, 0, 2], "{answer:?}");
    assert!(world.opened().is_empty());
}

#[tokio::test]
async fn what_is_not_reached_is_an_alert() {
    let world = World::new().await;
    world.fails("closed:443", RefusalCode::ConnectionRefused);
    for (name, alert) in [("nobody", UNRECOGNIZED_NAME), ("closed", INTERNAL_ERROR)] {
        let answer = world.send(client_hello(name)).await.rest().await.unwrap();
        assert_eq!(answer, alert, "{name}");
    }
}

#[tokio::test]
async fn half_a_hello_ends_the_connection() {
    let mut options = options();
    options.limits.head = Duration::from_millis(50);
    let world = World::with(options).await;
    let hello = client_hello("web");
    let mut program = world.send(&hello[..hello.len() - 1]).await;
    assert!(program.rest().await.is_err());
    assert!(world.opened().is_empty());
}
