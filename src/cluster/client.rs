//! The client of one API server: [`Access`] knows how to reach it, [`ApiServer`] is one connected use of it.
//!
//! Each [`Access::connect`] starts from nothing: kubeconfig, credentials (a plugin may run and ask something, so no
//! spinner before it returns), proxy, TLS. A live WebSocket outlives its token, so every reconnect wants a new one:
//! [`ApiServer::renew`] puts it under all clones, whose holders live as long as the session.
//!
//! The stack is ours rather than kube's, because kube sets no `TCP_NODELAY`, cuts a busy WebSocket with its write
//! time-out and retries for minutes:
//!
//! ```text
//! kube::Client -> base URI -> credentials -> headers -> Pool (Date, Retry-After, fresh connections) -> hyper, HTTP/1.1
//!     -> TLS -> CONNECT or SOCKS5, if any -> TCP (NODELAY, keep-alive)
//! ```
//!
//! Every request goes through [`ApiServer::request`] or [`ApiServer::request_within`], which give it a deadline and
//! a typed error. `WebSocket`s go through [`ApiServer::client`] with [`ApiServer::explain`] for the error.

mod connector;
mod identity;
mod pool;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::client::ConfigExt as _;
use tokio::sync::watch;
use tower::ServiceBuilder;

use self::identity::Identity;
use self::pool::Pool;
use super::api_error::{ApiError, Call, CredentialError, CredentialPlugin};
use super::env::Env;
use super::http_proxy::Proxy;
use super::kubeconfig::{KubeconfigError, Overrides, Resolved, resolve};

pub(super) use self::connector::{ProxyFailure, ResolveFailure};

/// How long the API server may take to answer one request, unless `--request-timeout` says otherwise.
///
/// Long enough for a slow admission webhook on a bad line, short enough that a dead connection is noticed and
/// replaced while somebody waits.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How to reach the API server: what the flags said, the surroundings, and who we say we are.
#[derive(Debug, Clone)]
pub struct Access {
    overrides: Overrides,
    env: Env,
    identity: Identity,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Flags and files name no usable cluster.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// No credentials: a plugin is missing or failed, a token file cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The client certificate, its key, or the server name cannot be used.
    #[error("prepare the connection to {server}")]
    Tls {
        /// The API server, host and port.
        server: String,
        /// What kube or rustls said.
        source: Box<kube::Error>,
    },
}

impl Access {
    /// `verb` is the command that runs, such as `proxy`; audit logs show it. All clients of one `Access` share one
    /// kubectl session id there.
    pub fn new(overrides: Overrides, env: Env, verb: &str) -> Self {
        Self {
            overrides,
            env,
            identity: Identity::new(verb),
        }
    }

    /// Reads everything anew and builds a client. Sends nothing itself, but runs the credential plugin, which may
    /// take as long as a person needs to log in: there is no deadline, and nothing else may use the terminal.
    pub async fn connect(&self) -> Result<ApiServer, AccessError> {
        let access = self.clone();
        let prepared = tokio::task::spawn_blocking(move || access.prepare());
        prepared
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// The same cluster, user and namespace as `server` has, whatever `current-context` becomes: what a running
    /// session renews with.
    #[must_use]
    pub fn pinned_to(&self, server: &ApiServer) -> Self {
        let mut pinned = self.clone();
        // Without a context, flags or the pod's service account alone decided, and will again.
        if let Some(context) = server.context() {
            pinned.overrides.context = Some(context);
        }
        pinned.overrides.namespace = Some(server.namespace().to_owned());
        pinned
    }

    /// The blocking part: files and the plugin.
    fn prepare(&self) -> Result<ApiServer, AccessError> {
        connector::install_crypto();
        let Resolved {
            mut config,
            proxy,
            context,
            user,
            request_timeout,
        } = resolve(&self.overrides, &self.env)?;
        config.headers.extend(self.identity.headers());
        let server = Server::new(&config.cluster_url);
        let tls = |source| AccessError::Tls {
            server: server.address.clone(),
            source: Box::new(source),
        };

        let plugin = config.auth_info.exec.as_ref().map(CredentialPlugin::from);
        let auth = match config.auth_layer() {
            Ok(auth) => auth,
            Err(kube::Error::Auth(error)) => return Err(CredentialError::new(&error, plugin.as_ref()).into()),
            Err(other) => return Err(tls(other)),
        };
        let headers = config.extra_headers_layer().map_err(tls)?;
        let mut for_tls = config.clone();
        if auth.is_some() {
            // kube would run the plugin again to look for a client certificate; it gave a token.
            for_tls.auth_info.exec = None;
        }
        let pool = Pool::new(connector::maker(&for_tls, proxy.as_ref()).map_err(tls)?);
        let stack = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(auth)
            .layer(headers)
            .service(pool.clone());
        let about = About {
            server,
            context,
            user,
            proxy,
            plugin,
            request_timeout,
        };
        let namespace = config.default_namespace;
        let connected = Connected {
            client: Client::new(stack, namespace.clone()),
            pool,
            about: Arc::new(about),
        };
        Ok(ApiServer {
            namespace: namespace.into(),
            connected: Arc::new(watch::Sender::new(connected)),
        })
    }
}

/// A client of one API server, as one user, in one namespace. Clones share its connections, also after
/// [`ApiServer::renew`].
#[derive(Clone)]
pub struct ApiServer {
    /// Of the first connect: a session stays where it is.
    namespace: Arc<str>,
    /// Borrowed only to clone a part of it, never across an await.
    connected: Arc<watch::Sender<Connected>>,
}

/// What one [`Access::connect`] led to.
#[derive(Clone)]
struct Connected {
    client: Client,
    pool: Pool,
    about: Arc<About>,
}

#[derive(Debug)]
struct About {
    server: Server,
    context: Option<String>,
    user: Option<String>,
    proxy: Option<Proxy>,
    plugin: Option<CredentialPlugin>,
    request_timeout: Option<Duration>,
}

#[derive(Debug)]
struct Server {
    host: String,
    /// Host and port as kubectl names it in messages.
    address: String,
}

impl Server {
    fn new(url: &http::Uri) -> Self {
        let host = url.host().unwrap_or_default();
        Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            address: url
                .port_u16()
                .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
        }
    }
}

/// What an API server says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerVersion {
    /// Such as `v1.35.0`.
    pub git_version: String,
    /// Operating system and architecture of the API server, such as `linux/amd64`.
    pub platform: String,
}

impl ApiServer {
    /// For `Api<K>` and `WebSocket`s. Wrap each request in [`ApiServer::request`]; do not keep it, since it stays
    /// what it is when the connection is renewed.
    pub fn client(&self) -> Client {
        self.connected.borrow().client.clone()
    }

    /// Connects anew with what kubeconfig, credential plugin, certificates and proxy say now, for all clones. Open
    /// WebSockets and running requests keep the old connections. Nothing changes when it fails.
    ///
    /// `access` should be [`Access::pinned_to`] this. Like [`Access::connect`] it has no deadline: a plugin may run.
    pub async fn renew(&self, access: &Access) -> Result<(), AccessError> {
        let fresh = access.connect().await?;
        let fresh = fresh.connected.borrow().clone();
        self.connected.send_modify(|connected| {
            // A caller whose answer came over the old connections asks for the time now.
            fresh.pool.inherit_date(&connected.pool);
            *connected = fresh;
        });
        Ok(())
    }

    /// Resolves with the next [`ApiServer::renew`].
    pub(super) fn renewed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut connected_rx = self.connected.subscribe();
        async move {
            if connected_rx.changed().await.is_err() {
                // Nobody is left who could renew it.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The namespace to work in.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The API server's host name or address, without port and brackets (for `NO_PROXY`).
    pub fn host(&self) -> String {
        self.about().server.host.clone()
    }

    /// The API server's host and port, for messages.
    pub fn address(&self) -> String {
        self.about().server.address.clone()
    }

    /// The kubeconfig context in use, if one is.
    pub fn context(&self) -> Option<String> {
        self.about().context.clone()
    }

    /// The impersonated user, else the kubeconfig's name of the user. A fallback where the API server does not tell.
    pub fn user(&self) -> Option<String> {
        self.about().user.clone()
    }

    /// The proxy on the way, if any.
    pub fn proxy(&self) -> Option<Proxy> {
        self.about().proxy.clone()
    }

    fn about(&self) -> Arc<About> {
        Arc::clone(&self.connected.borrow().about)
    }

    /// How long one request may take; `None` is without limit (`--request-timeout=0`).
    pub fn request_timeout(&self) -> Option<Duration> {
        match self.about().request_timeout {
            None => Some(REQUEST_TIMEOUT),
            Some(Duration::ZERO) => None,
            given => given,
        }
    }

    /// The API server's clock: its last `Date` header and the time since.
    ///
    /// `None` before the first answer. Behind by at most one second and the time the answer travelled. A sleep of
    /// the laptop may not count as time passed: use it right after a request, not after a pause.
    pub fn server_now(&self) -> Option<Timestamp> {
        self.connected.borrow().pool.server_now()
    }

    /// Asks `/version`.
    pub async fn version(&self) -> Result<ServerVersion, ApiError> {
        let client = self.client();
        let info = self
            .request(("get", "/version"), client.apiserver_version())
            .await?;
        Ok(ServerVersion {
            git_version: info.git_version,
            platform: info.platform,
        })
    }

    /// Waits for one request, at most [`ApiServer::request_timeout`]. `call` names it in errors.
    ///
    /// Dropping the future, a failure and a missed deadline all make the next request open a new connection.
    pub async fn request<T, F>(&self, call: impl Into<Call>, request: F) -> Result<T, ApiError>
    where
        F: Future<Output = kube::Result<T>>,
    {
        match self.request_timeout() {
            Some(timeout) => self.request_within(timeout, call, request).await,
            None => request.await.map_err(|error| self.explain(call, error)),
        }
    }

    /// [`ApiServer::request`] with another deadline, for requests that must not wait, or must wait longer.
    pub async fn request_within<T, F>(
        &self,
        timeout: Duration,
        call: impl Into<Call>,
        request: F,
    ) -> Result<T, ApiError>
    where
        F: Future<Output = kube::Result<T>>,
    {
        // Of the client that sends it, if it is renewed meanwhile.
        let Connected { pool, about, .. } = self.connected.borrow().clone();
        match tokio::time::timeout(timeout, request).await {
            Ok(answer) => answer.map_err(|error| self.explain(call, error)),
            Err(_elapsed) => {
                pool.discard();
                Err(ApiError::Deadline {
                    server: about.server.address.clone(),
                    call: call.into(),
                    timeout,
                })
            }
        }
    }

    /// Turns kube's error into ours, for what does not fit [`ApiServer::request`]: watches and `WebSocket`s.
    pub fn explain(&self, call: impl Into<Call>, error: kube::Error) -> ApiError {
        let mut call = call.into();
        call.namespace.get_or_insert_with(|| self.namespace().to_owned());
        let about = self.about();
        ApiError::new(call, &about.server.address, about.plugin.as_ref(), error)
    }
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer")
            .field("namespace", &self.namespace)
            .field("about", &self.about())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
