//! Which context, cluster and user are meant, what the flags change about them, and the `kube::Config` of that.
//!
//! The rules are client-go's (`clientcmd`), down to which values a flag clears: a token on the command line replaces
//! every other kind of credential but a certificate, a CA replaces "do not check", a server forgets the server name.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Config;
use kube::config::{AuthInfo, Cluster, Context, ExecAuthCluster};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::files::Files;
use super::{CaError, KubeconfigError, Overrides, Resolved, exec_policy, in_cluster, server_url};
use crate::cluster::env::Env;
use crate::cluster::http_proxy::proxy_for;

/// The extension of a cluster that is passed on to credential plugins.
const EXEC_EXTENSION: &str = "client.authentication.k8s.io/exec";

/// What a kubeconfig or a pod says, before the flags.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub(super) cluster: Cluster,
    pub(super) auth: AuthInfo,
    pub(super) namespace: Option<String>,
    pub(super) context: Option<String>,
    pub(super) cluster_name: String,
    pub(super) user: Option<String>,
}

/// Picks context, cluster and user. `None` when neither files nor flags name a cluster.
pub(super) fn choose(files: &Files, overrides: &Overrides) -> Result<Option<Choice>, KubeconfigError> {
    let file = &files.merged;
    let context_name = overrides.context.clone().or_else(|| file.current_context.clone());
    let context = match &context_name {
        None => Context::default(),
        Some(name) => file
            .contexts
            .iter()
            .find(|named| &named.name == name)
            .map(|named| named.context.clone().unwrap_or_default())
            .ok_or_else(|| KubeconfigError::ContextNotFound {
                context: name.clone(),
                known: contexts(files),
            })?,
    };
    let cluster_name = overrides.cluster.clone().unwrap_or(context.cluster);
    if context_name.is_none() && cluster_name.is_empty() && overrides.server.is_none() {
        return Ok(None);
    }
    let found = file.clusters.iter().find(|named| named.name == cluster_name);
    if found.is_none()
        && (overrides.cluster.is_some() || (!cluster_name.is_empty() && overrides.server.is_none()))
    {
        return Err(KubeconfigError::ClusterNotFound {
            cluster: cluster_name,
        });
    }
    let user = overrides.user.clone().or(context.user);
    let auth = file
        .auth_infos
        .iter()
        .find(|named| Some(&named.name) == user.as_ref());
    // A user that only the context names may be missing: client-go goes on without credentials.
    if let (None, Some(user)) = (auth, &overrides.user) {
        return Err(KubeconfigError::UserNotFound { user: user.clone() });
    }
    Ok(Some(Choice {
        cluster: found.and_then(|named| named.cluster.clone()).unwrap_or_default(),
        auth: auth.and_then(|named| named.auth_info.clone()).unwrap_or_default(),
        namespace: context.namespace,
        context: context_name,
        cluster_name,
        user,
    }))
}

/// Why there is no choice.
pub(super) fn nothing_chosen(files: &Files) -> KubeconfigError {
    let known = contexts(files);
    if known.is_empty() {
        KubeconfigError::NoConfiguration {
            searched: files.searched.clone(),
        }
    } else {
        KubeconfigError::NoCurrentContext { known }
    }
}

pub(super) fn contexts(files: &Files) -> Vec<String> {
    files
        .merged
        .contexts
        .iter()
        .map(|named| named.name.clone())
        .collect()
}

/// Applies the flags and builds the config.
pub(super) fn resolve(choice: Choice, overrides: &Overrides, env: &Env) -> Result<Resolved, KubeconfigError> {
    let Choice {
        mut cluster,
        mut auth,
        namespace,
        context,
        cluster_name,
        user,
    } = choice;
    override_cluster(&mut cluster, overrides);
    override_auth(&mut auth, overrides);
    check_impersonation(&auth)?;

    let insecure = cluster.insecure_skip_tls_verify.unwrap_or(false);
    let ca_pem = load_ca(&cluster).map_err(KubeconfigError::CertificateAuthority)?;
    if insecure && ca_pem.is_some() {
        return Err(KubeconfigError::InsecureWithCa);
    }
    let has_tls = insecure
        || ca_pem.is_some()
        || auth.client_certificate.is_some()
        || auth.client_certificate_data.is_some();
    let Some(server) = &cluster.server else {
        return Err(KubeconfigError::NoServer {
            cluster: cluster_name,
        });
    };
    let url = server_url(server, has_tls)?;
    let proxy = proxy_for(&url, cluster.proxy_url.as_deref(), env).map_err(KubeconfigError::Proxy)?;
    if let Some(exec) = &mut auth.exec {
        exec_policy::admit(exec, env)?;
        if exec.provide_cluster_info {
            exec.cluster = Some(exec_cluster(&cluster, ca_pem.clone()));
        }
    }

    let mut config = Config::new(url);
    config.default_namespace = overrides
        .namespace
        .clone()
        .or(namespace)
        .or_else(|| in_cluster::namespace(env))
        .unwrap_or_else(|| "default".to_owned());
    config.root_cert = ca_pem.as_deref().map(certificates).transpose()?;
    config.accept_invalid_certs = insecure;
    config.tls_server_name = cluster.tls_server_name;
    config.disable_compression = cluster.disable_compression.unwrap_or(false);
    // Time-outs and retries are ours (`client`), whoever builds a client of this config.
    config.connect_timeout = None;
    config.write_timeout = None;
    config.default_retry = false;
    let user = auth.impersonate.clone().or(user);
    config.auth_info = auth;
    Ok(Resolved {
        config,
        proxy,
        context,
        user,
        request_timeout: overrides.request_timeout,
    })
}

fn override_cluster(cluster: &mut Cluster, overrides: &Overrides) {
    if overrides.server.is_some() {
        cluster.server.clone_from(&overrides.server);
    }
    if overrides.insecure_skip_tls_verify == Some(true) || overrides.certificate_authority.is_some() {
        cluster.insecure_skip_tls_verify = overrides.insecure_skip_tls_verify;
        cluster.certificate_authority = overrides.certificate_authority.as_deref().map(text);
        cluster.certificate_authority_data = None;
    } else if overrides.insecure_skip_tls_verify == Some(false) {
        cluster.insecure_skip_tls_verify = Some(false);
    }
    if overrides.server.is_some() || overrides.tls_server_name.is_some() {
        cluster.tls_server_name.clone_from(&overrides.tls_server_name);
    }
}

fn override_auth(auth: &mut AuthInfo, overrides: &Overrides) {
    if let Some(token) = &overrides.token {
        auth.token = Some(token.0.clone().into());
        auth.token_file = None;
        auth.exec = None;
        auth.auth_provider = None;
        auth.username = None;
        auth.password = None;
    }
    if let Some(path) = &overrides.client_certificate {
        auth.client_certificate = Some(text(path));
        auth.client_certificate_data = None;
    }
    if let Some(path) = &overrides.client_key {
        auth.client_key = Some(text(path));
        auth.client_key_data = None;
    }
    if overrides.impersonate.is_some() {
        auth.impersonate.clone_from(&overrides.impersonate);
    }
    if overrides.impersonate_uid.is_some() {
        auth.impersonate_uid.clone_from(&overrides.impersonate_uid);
    }
    if !overrides.impersonate_groups.is_empty() {
        auth.impersonate_groups = Some(overrides.impersonate_groups.clone());
    }
    if !overrides.impersonate_extra.is_empty() {
        let extra = auth.impersonate_user_extra.get_or_insert_default();
        for (key, _) in &overrides.impersonate_extra {
            extra.remove(key);
        }
        for (key, value) in &overrides.impersonate_extra {
            extra.entry(key.clone()).or_default().push(value.clone());
        }
    }
}

/// The API server would refuse each request; better once and here.
fn check_impersonation(auth: &AuthInfo) -> Result<(), KubeconfigError> {
    let has_more = auth.impersonate_uid.is_some()
        || auth
            .impersonate_groups
            .as_ref()
            .is_some_and(|groups| !groups.is_empty())
        || auth
            .impersonate_user_extra
            .as_ref()
            .is_some_and(|extra| !extra.is_empty());
    if auth.impersonate.is_none() && has_more {
        return Err(KubeconfigError::ImpersonationWithoutUser);
    }
    Ok(())
}

/// The CA as PEM; data wins over a path.
fn load_ca(cluster: &Cluster) -> Result<Option<Vec<u8>>, CaError> {
    if let Some(data) = &cluster.certificate_authority_data {
        return STANDARD.decode(data.trim()).map(Some).map_err(CaError::Base64);
    }
    let Some(path) = cluster.certificate_authority.as_deref().map(PathBuf::from) else {
        return Ok(None);
    };
    match std::fs::read(&path) {
        Ok(pem) => Ok(Some(pem)),
        Err(source) => Err(CaError::Read { path, source }),
    }
}

/// The certificates of a PEM text as DER, at least one.
fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, KubeconfigError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem)
        .map(|cert| cert.map(|der| der.to_vec()))
        .collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(KubeconfigError::CertificateAuthority(CaError::Pem)),
    }
}

/// What a plugin with `provideClusterInfo` is told, flags included.
fn exec_cluster(cluster: &Cluster, ca_pem: Option<Vec<u8>>) -> ExecAuthCluster {
    let extensions = cluster.extensions.as_deref().unwrap_or_default();
    let mut told = ExecAuthCluster::default();
    told.server.clone_from(&cluster.server);
    told.insecure_skip_tls_verify = cluster.insecure_skip_tls_verify;
    told.certificate_authority_data = ca_pem;
    told.proxy_url.clone_from(&cluster.proxy_url);
    told.tls_server_name.clone_from(&cluster.tls_server_name);
    told.config = extensions
        .iter()
        .find(|extension| extension.name == EXEC_EXTENSION)
        .map(|extension| extension.extension.clone());
    told
}

/// kube keeps paths as text.
pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
