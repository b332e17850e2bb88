//! From flags, kubeconfig files and a pod's service account to one `kube::Config`, as client-go does it.
//!
//! [`resolve`] decides which cluster, user and namespace are meant and fills every field of the config, the proxy
//! included. kube's own loader is used only to parse files: it fails where kubectl goes on (a missing file in
//! `KUBECONFIG`, no current context) and reads the proxy variables by rules of its own. Nothing here opens a
//! connection or runs a credential plugin; `client` does, with what this file returns.
//!
//! Order: flags, then `--kubeconfig` or `KUBECONFIG` or `~/.kube/config`, then the service account of the pod we run in.

mod exec_policy;
mod files;
mod in_cluster;
mod merge;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::Uri;
use kube::Config;

use super::env::Env;
use super::http_proxy::{Proxy, ProxyError, has_wrong_port};

pub use exec_policy::PolicyError;

/// What the flags said; each wins over the kubeconfig. Not given is `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--kubeconfig`: the only file to read; it must exist.
    pub kubeconfig: Option<PathBuf>,
    /// `--context`
    pub context: Option<String>,
    /// `--cluster`
    pub cluster: Option<String>,
    /// `--user`
    pub user: Option<String>,
    /// `-n`, `--namespace`
    pub namespace: Option<String>,
    /// `-s`, `--server`
    pub server: Option<String>,
    /// `--token`
    pub token: Option<Token>,
    /// `--as`
    pub impersonate: Option<String>,
    /// `--as-group`
    pub impersonate_groups: Vec<String>,
    /// `--as-uid`
    pub impersonate_uid: Option<String>,
    /// `--as-user-extra`, key and value
    pub impersonate_extra: Vec<(String, String)>,
    /// `--certificate-authority`
    pub certificate_authority: Option<PathBuf>,
    /// `--client-certificate`
    pub client_certificate: Option<PathBuf>,
    /// `--client-key`
    pub client_key: Option<PathBuf>,
    /// `--insecure-skip-tls-verify`
    pub insecure_skip_tls_verify: Option<bool>,
    /// `--tls-server-name`
    pub tls_server_name: Option<String>,
    /// `--request-timeout`; zero is no limit.
    pub request_timeout: Option<Duration>,
}

/// A bearer token that Debug does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Token {
    fn from(token: String) -> Self {
        Self(token)
    }
}

impl FromStr for Token {
    type Err = Infallible;

    fn from_str(token: &str) -> Result<Self, Infallible> {
        Ok(Self(token.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// One cluster, as one user, in one namespace: everything a client is built from.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// For kube. `proxy_url` is never set: the proxy is below, with its credentials.
    pub config: Config,
    /// The way to the API server.
    pub proxy: Option<Proxy>,
    /// The context's name; `None` when flags or the service account alone decided.
    pub context: Option<String>,
    /// The user's name: the impersonated one, else the kubeconfig's. A label, not a proof of identity.
    pub user: Option<String>,
    /// From `--request-timeout`: `None` was not given, zero is no limit.
    pub request_timeout: Option<Duration>,
}

/// Why flags and files make no config.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// A kubeconfig cannot be read.
    #[error("read kubeconfig {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A kubeconfig is not a kubeconfig.
    #[error("parse kubeconfig {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Neither kubeconfig nor flags nor a service account name a cluster.
    #[error("no configuration has been provided: no kubeconfig at {}", paths(searched))]
    NoConfiguration {
        /// The files looked for.
        searched: Vec<PathBuf>,
    },
    /// There is a kubeconfig, but it does not say which context to use.
    #[error("current-context is not set in the kubeconfig")]
    NoCurrentContext {
        /// The contexts there are.
        known: Vec<String>,
    },
    /// The named context is not there.
    #[error("context \"{context}\" does not exist")]
    ContextNotFound {
        /// The name asked for.
        context: String,
        /// The contexts there are.
        known: Vec<String>,
    },
    /// The named cluster is not there.
    #[error("cluster \"{cluster}\" does not exist")]
    ClusterNotFound {
        /// The name asked for.
        cluster: String,
    },
    /// The user named by `--user` is not there.
    #[error("auth info \"{user}\" does not exist")]
    UserNotFound {
        /// The name asked for.
        user: String,
    },
    /// The cluster has no `server`.
    #[error("no server found for cluster \"{cluster}\"")]
    NoServer {
        /// The cluster's name.
        cluster: String,
    },
    /// The server is not a URL with a host.
    #[error("server `{server}` is not a URL with a host")]
    InvalidServer {
        /// What was given.
        server: String,
    },
    /// The cluster's `proxy-url` cannot be used.
    #[error("use the proxy of the kubeconfig")]
    Proxy(#[source] ProxyError),
    /// The certificate authority cannot be read.
    #[error("load the certificate authority")]
    CertificateAuthority(#[source] CaError),
    /// Both a certificate authority and "do not check".
    #[error("specifying a root certificates file with the insecure flag is not allowed")]
    InsecureWithCa,
    /// Groups, a UID or extras without a user.
    #[error("requesting a uid, groups or user-extra without impersonating a user; add --as")]
    ImpersonationWithoutUser,
    /// A file of the pod's service account cannot be used.
    #[error("read the service account file {}", path.display())]
    ServiceAccount {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The credential plugin may not run.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// Why a certificate authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `certificate-authority-data` is not base64.
    #[error("certificate-authority-data is not base64")]
    Base64(#[source] base64::DecodeError),
    /// There is no certificate in it, or a broken one.
    #[error("no PEM certificate found")]
    Pem,
}

fn paths(searched: &[PathBuf]) -> String {
    let shown: Vec<String> = searched.iter().map(|path| path.display().to_string()).collect();
    if shown.is_empty() {
        "~/.kube/config".to_owned()
    } else {
        shown.join(", ")
    }
}

/// Reads the files again at each call, so that a reconnect sees new credentials. Blocks on small files.
pub fn resolve(overrides: &Overrides, env: &Env) -> Result<Resolved, KubeconfigError> {
    let files = files::load(overrides.kubeconfig.as_deref(), env)?;
    let Some(choice) = merge::choose(&files, overrides)? else {
        return match in_cluster::find(env) {
            Some(pod) => in_cluster::resolve(pod, overrides, env),
            None => Err(merge::nothing_chosen(&files)),
        };
    };
    merge::resolve(choice, overrides, env)
}

/// The kubeconfig files that are read, of those looked for: those that exist.
pub fn files_in_use(overrides: &Overrides, env: &Env) -> Vec<PathBuf> {
    files::load(overrides.kubeconfig.as_deref(), env)
        .map(|files| files.searched)
        .unwrap_or_default()
        .into_iter()
        .filter(|path| path.exists())
        .collect()
}

/// The names of the contexts there are, for completion; none where the files cannot be read.
pub fn contexts(overrides: &Overrides, env: &Env) -> Vec<String> {
    files::load(overrides.kubeconfig.as_deref(), env)
        .map(|files| merge::contexts(&files))
        .unwrap_or_default()
}

/// The server as a URL: a scheme is added as client-go does, `https` when anything speaks for TLS.
fn server_url(server: &str, has_tls: bool) -> Result<Uri, KubeconfigError> {
    let invalid = || KubeconfigError::InvalidServer {
        server: server.to_owned(),
    };
    let with_scheme = if server.contains("://") {
        server.to_owned()
    } else {
        format!("{}://{server}", if has_tls { "https" } else { "http" })
    };
    let uri: Uri = with_scheme.parse().map_err(|_| invalid())?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https" | "http"), Some(host)) if !host.is_empty() && !has_wrong_port(&uri) => Ok(uri),
        _ => Err(invalid()),
    }
}
