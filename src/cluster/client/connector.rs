//! From a config and a proxy to TLS connections: name lookup, TCP, proxy, TLS, HTTP/1.1.
//!
//! HTTP/2 is not offered, since a WebSocket needs an HTTP/1.1 connection of its own. Each step has an error type of
//! its own, so that `api_error` can tell who refused.

mod buffered;
mod proxied;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::Config;
use kube::client::{Body, ConfigExt as _};
use kube::config::AuthInfo;
use tokio::net::TcpStream;
use tower::timeout::Timeout;
use tower::util::{BoxCloneSyncService, MapResponse};
use tower::{BoxError, Service, ServiceExt as _};

use self::buffered::Buffered;
use self::proxied::Proxied;
use super::pool::Maker;
use crate::cluster::http_proxy::{Proxy, ProxyKind};

pub(in crate::cluster) use self::proxied::ProxyFailure;

/// For name lookup, TCP, proxy and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Go's defaults for keep-alive probes; they keep idle NAT entries alive and end a dead watch in a minute.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 3;

/// A host name has no address.
#[derive(Debug, thiserror::Error)]
#[error("lookup {host}")]
pub(in crate::cluster) struct ResolveFailure {
    pub(in crate::cluster) host: String,
    pub(in crate::cluster) source: std::io::Error,
}

/// rustls takes its cryptography from one process-wide provider; the first call sets it.
pub(super) fn install_crypto() {
    // An error means that there is one already, which is what we want.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
}

/// How to make hyper clients for this cluster.
pub(super) fn maker(config: &Config, proxy: Option<&Proxy>) -> kube::Result<Maker> {
    let Some(proxy) = proxy else {
        return over(config, tcp());
    };
    if proxy.kind() == ProxyKind::Https {
        // The proxy's certificate is checked as kubectl does it, against the same authorities as the cluster's,
        // but it gets neither the cluster's name nor our client certificate.
        let mut to_proxy = config.clone();
        to_proxy.auth_info = AuthInfo::default();
        to_proxy.tls_server_name = None;
        let tls = to_proxy.rustls_https_connector_with_connector(tcp())?;
        return over(config, Proxied::new(proxy, tls));
    }
    over(config, Proxied::new(proxy, tcp()))
}

/// TCP connections, read in large pieces.
type Tcp = MapResponse<HttpConnector<Resolver>, fn(TokioIo<TcpStream>) -> TokioIo<Buffered>>;

fn tcp() -> Tcp {
    let mut tcp = HttpConnector::new_with_resolver(Resolver(GaiResolver::new()));
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    tcp.map_response(|tcp| TokioIo::new(Buffered::new(tcp.into_inner())))
}

/// TLS and HTTP on top of a connector.
fn over<C>(config: &Config, connector: C) -> kube::Result<Maker>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    let tls = config.rustls_https_connector_with_connector(connector)?;
    // hyper wants a future it can move.
    let bounded = Timeout::new(tls, CONNECT_TIMEOUT).map_future(Box::pin);
    Ok(Arc::new(move || {
        let client: Client<_, Body> = Client::builder(TokioExecutor::new()).build(bounded.clone());
        BoxCloneSyncService::new(client.map_err(BoxError::from))
    }))
}

type BoxFuture<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// The system's resolver, with an error that names the host.
#[derive(Clone)]
struct Resolver(GaiResolver);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = ResolveFailure;
    type Future = BoxFuture<Self::Response, ResolveFailure>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ResolveFailure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let host = name.as_str().to_owned();
        let lookup = self.0.call(name);
        Box::pin(async move {
            match lookup.await {
                Ok(addresses) => Ok(addresses.collect::<Vec<_>>().into_iter()),
                Err(source) => Err(ResolveFailure { host, source }),
            }
        })
    }
}
