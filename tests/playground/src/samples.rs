//! Sample programs that run inside the playground as containers, the Services in front of them, and a Deployment
//! each, whose selector finds the pod.
//!
//! | image | port | does |
//! |---|---|---|
//! | `playground/web` | 28080 | HTTP, see `samples/web.rs` |
//! | `playground/slow` | 28080 | the same, each answer 2 s later |
//! | `playground/raw` | 28080 | answers an HTTP request with the bytes of its head |
//! | `playground/inner` | 28080 | as `web`, on the pod's loopback only |
//! | `playground/echo` | 27000 | sends back what comes, half-closes after the caller; datagrams too |
//! | `playground/late` | 27000 | reads to the end, then sends 1 MiB |
//! | `playground/stalled` | 27000 | accepts and neither reads nor writes |

pub(crate) mod web;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use crate::addresses::loopback_of;
use crate::resource::Resource;
use crate::world::World;

/// Port of the HTTP samples. Their Services have it as well as 80 and 8080, which a program of this machine that
/// listens on all addresses takes away, and of which 80 needs a right (see `Playground::service_ports`).
pub const HTTP_PORT: u16 = 28_080;

/// Port of the TCP samples, and of their Services.
pub const TCP_PORT: u16 = 27_000;

/// Delay of each answer of `slow`.
const SLOW: Duration = Duration::from_secs(2);

/// What `late` sends after the caller's end.
pub const LATE_REPLY: usize = 1024 * 1024;

/// Longest request head `raw` reads.
const HEAD_LIMIT: usize = 64 * 1024;

/// Largest datagram.
const DATAGRAM: usize = 65_535;

/// Binds the sample's port and returns what serves it until dropped.
pub(crate) async fn start(
    name: &str,
    address: Ipv4Addr,
) -> io::Result<Pin<Box<dyn Future<Output = ()> + Send>>> {
    let http = matches!(name, "web" | "slow" | "raw" | "inner");
    let port = if http { HTTP_PORT } else { TCP_PORT };
    let address = match name {
        "inner" => loopback_of(address),
        _ => address,
    };
    let listener = TcpListener::bind(SocketAddr::from((address, port))).await?;
    Ok(match name {
        "web" => Box::pin(web::serve(listener, "web".to_owned(), Duration::ZERO)),
        "slow" => Box::pin(web::serve(listener, "slow".to_owned(), SLOW)),
        "inner" => Box::pin(web::serve(listener, "inner".to_owned(), Duration::ZERO)),
        "raw" => Box::pin(each(listener, raw)),
        "echo" => {
            let datagrams = UdpSocket::bind(SocketAddr::from((address, port))).await?;
            Box::pin(async move {
                tokio::join!(each(listener, echo), echo_datagrams(datagrams));
            })
        }
        "late" => Box::pin(each(listener, late)),
        "stalled" => Box::pin(each(listener, stalled)),
        other => {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no sample called {other:?}"),
            ));
        }
    })
}

/// Creates pods and Services of all samples in the first namespace, and `web` in the second.
pub(crate) fn create(world: &World) {
    let Some(first) = world.options.namespaces.first() else {
        return;
    };
    let http = [
        ("http", 80, HTTP_PORT),
        ("http-alt", 8080, HTTP_PORT),
        ("http-own", HTTP_PORT, HTTP_PORT),
    ];
    let tcp = [("tcp", TCP_PORT, TCP_PORT)];
    for name in ["web", "slow", "raw", "inner"] {
        create_one(world, first, name, &http);
    }
    for name in ["echo", "late", "stalled"] {
        create_one(world, first, name, &tcp);
    }
    let nobody = json!({"selector": {"app": "refusing"}, "ports": ports(&http)});
    create_service(world, first, "refusing", &nobody);
    let headless = json!({"selector": {"app": "web"}, "clusterIP": "None", "ports": ports(&http[2..])});
    create_service(world, first, "web-headless", &headless);
    let alias = json!({"type": "ExternalName", "externalName": format!("web.{first}.svc.cluster.local")});
    create_service(world, first, "web-alias", &alias);
    if let Some(second) = world.options.namespaces.get(1) {
        create_one(world, second, "web", &http);
    }
}

fn create_one(world: &World, namespace: &str, name: &str, service_ports: &[(&str, u16, u16)]) {
    let (port_name, _, port) = service_ports[0];
    let container = json!({
        "name": name, "image": format!("playground/{name}"),
        "ports": [{"name": port_name, "containerPort": port, "protocol": "TCP"}],
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
            "containers": [container],
        },
        "status": {"phase": "Pending"},
    });
    world.store.create(Resource::Pod, pod);
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
        },
    });
    world.store.create(Resource::Deployment, deployment);
    let spec = json!({"selector": {"app": name}, "ports": ports(service_ports)});
    create_service(world, namespace, name, &spec);
}

fn create_service(world: &World, namespace: &str, name: &str, spec: &Value) {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": spec,
    });
    match crate::http::prepare(world, Resource::Service, &mut service, false) {
        Ok(()) => {
            world.store.create(Resource::Service, service);
        }
        Err(refusal) => tracing::warn!(name, body = %refusal.body(), "sample service refused"),
    }
}

fn ports(rows: &[(&str, u16, u16)]) -> Vec<Value> {
    let port =
        |&(name, port, target): &(&str, u16, u16)| json!({"name": name, "port": port, "targetPort": target});
    rows.iter().map(port).collect()
}

/// Runs `handle` on each connection; dropping it ends them all.
async fn each<F, R>(listener: TcpListener, handle: F)
where
    F: Fn(TcpStream) -> R,
    R: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((connection, _)) = accepted {
                connections.spawn(handle(connection));
            },
            Some(ended) = connections.join_next() => if let Ok(Err(error)) = ended {
                tracing::debug!(%error, "sample connection ended");
            },
        }
    }
}

async fn echo(mut connection: TcpStream) -> io::Result<()> {
    let (mut read, mut write) = connection.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

async fn echo_datagrams(socket: UdpSocket) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        if let Ok((length, peer)) = socket.recv_from(&mut buffer).await
            && let Err(error) = socket.send_to(&buffer[..length], peer).await
        {
            tracing::debug!(%peer, %error, "datagram not sent back");
        }
    }
}

async fn late(mut connection: TcpStream) -> io::Result<()> {
    tokio::io::copy(&mut connection, &mut tokio::io::sink()).await?;
    connection.write_all(&vec![b'.'; LATE_REPLY]).await?;
    connection.shutdown().await
}

async fn stalled(connection: TcpStream) -> io::Result<()> {
    // Holding the connection is all there is to do.
    std::future::pending::<()>().await;
    drop(connection);
    Ok(())
}

async fn raw(mut connection: TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if connection.read_buf(&mut head).await? == 0 || head.len() > HEAD_LIMIT {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        head.len()
    );
    connection.write_all(answer.as_bytes()).await?;
    connection.write_all(&head).await?;
    connection.shutdown().await
}
