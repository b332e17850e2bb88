//! The configuration of a pod: its service account's token, CA and namespace, and the address in its environment.
//!
//! Used when neither a kubeconfig nor a flag names a cluster. The folder is an argument (`Env::service_account`).

use std::net::Ipv6Addr;
use std::path::PathBuf;

use kube::config::{AuthInfo, Cluster};

use super::merge::{self, Choice, text};
use super::{KubeconfigError, Overrides, Resolved};
use crate::cluster::env::Env;

/// A pod that can reach its API server.
#[derive(Debug)]
pub(super) struct Pod {
    server: String,
    token: PathBuf,
    ca: PathBuf,
}

/// Whether we run in a pod with a token.
pub(super) fn find(env: &Env) -> Option<Pod> {
    let host = env.var("KUBERNETES_SERVICE_HOST")?;
    let port = env.var("KUBERNETES_SERVICE_PORT")?;
    let token = env.service_account().join("token");
    if !token.is_file() {
        return None;
    }
    let host = if host.parse::<Ipv6Addr>().is_ok() {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    Some(Pod {
        server: format!("https://{host}:{port}"),
        token,
        ca: env.service_account().join("ca.crt"),
    })
}

/// The pod's configuration with the flags on top.
pub(super) fn resolve(pod: Pod, overrides: &Overrides, env: &Env) -> Result<Resolved, KubeconfigError> {
    // Without its file, as in client-go, the system's certificates decide.
    let has_ca = pod.ca.is_file();
    let token = std::fs::metadata(&pod.token);
    token.map_err(|source| KubeconfigError::ServiceAccount {
        path: pod.token.clone(),
        source,
    })?;
    let choice = Choice {
        cluster: Cluster {
            server: Some(pod.server),
            certificate_authority: has_ca.then(|| text(&pod.ca)),
            ..Cluster::default()
        },
        auth: AuthInfo {
            token_file: Some(text(&pod.token)),
            ..AuthInfo::default()
        },
        ..Choice::default()
    };
    let mut resolved = merge::resolve(choice, overrides, env)?;
    // The kubelet renews the file, so kube reads it again; a CA from the flags stays as it is.
    if has_ca && overrides.certificate_authority.is_none() && !resolved.config.accept_invalid_certs {
        resolved.config.root_cert_file = Some(pod.ca);
    }
    Ok(resolved)
}

/// The pod's namespace, if we run in one.
pub(super) fn namespace(env: &Env) -> Option<String> {
    find(env)?;
    if let Some(namespace) = env.var("POD_NAMESPACE") {
        return Some(namespace.to_owned());
    }
    let text = std::fs::read_to_string(env.service_account().join("namespace")).ok()?;
    Some(text.trim().to_owned()).filter(|namespace| !namespace.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Dir, TWO_CONTEXTS, pem, token};
    use super::super::resolve;
    use super::*;

    /// A pod with a service account.
    fn pod(dir: &Dir) -> Env {
        dir.write("sa/token", "pod-token");
        dir.write("sa/namespace", "pod-ns\n");
        dir.write("sa/ca.crt", &pem());
        Env::from_vars([
            ("KUBERNETES_SERVICE_HOST", "fd00::1"),
            ("KUBERNETES_SERVICE_PORT", "443"),
        ])
        .with_service_account(dir.path("sa"))
    }

    #[test]
    fn a_pod_without_kubeconfig_uses_its_service_account() {
        let dir = Dir::new();
        let resolved = resolve(&Overrides::default(), &pod(&dir)).unwrap();
        let config = resolved.config;
        assert_eq!(config.cluster_url, "https://[fd00::1]:443/");
        assert_eq!(config.default_namespace, "pod-ns");
        assert_eq!(
            config.auth_info.token_file.as_deref(),
            dir.path("sa/token").to_str()
        );
        assert_eq!(config.root_cert_file, Some(dir.path("sa/ca.crt")));
        assert_eq!(config.root_cert.map(|ca| ca.len()), Some(1));
        let flags = Overrides {
            namespace: Some("flag-ns".into()),
            token: Some("flag".to_owned().into()),
            impersonate: Some("eve".into()),
            ..Overrides::default()
        };
        let config = resolve(&flags, &pod(&dir)).unwrap().config;
        assert_eq!(
            (config.default_namespace.as_str(), token(&config.auth_info)),
            ("flag-ns", Some("flag"))
        );
        assert_eq!(
            (
                config.auth_info.token_file,
                config.auth_info.impersonate.as_deref()
            ),
            (None, Some("eve"))
        );
    }

    #[test]
    fn without_a_token_we_are_not_in_a_pod() {
        let dir = Dir::new();
        let env = pod(&dir);
        std::fs::remove_file(dir.path("sa/token")).unwrap();
        assert!(matches!(
            resolve(&Overrides::default(), &env),
            Err(KubeconfigError::NoConfiguration { .. })
        ));
    }

    #[test]
    fn in_a_pod_a_kubeconfig_decides_but_for_the_namespace() {
        let dir = Dir::new();
        let path = dir.write("config", TWO_CONTEXTS);
        let of = |context: &str| {
            let overrides = Overrides {
                kubeconfig: Some(path.clone()),
                context: Some(context.to_owned()),
                ..Overrides::default()
            };
            let config = resolve(&overrides, &pod(&dir)).unwrap().config;
            (
                config.cluster_url.host().map(str::to_owned),
                config.default_namespace,
            )
        };
        assert_eq!(of("one"), (Some("one".to_owned()), "dev".to_owned()));
        assert_eq!(of("two"), (Some("two".to_owned()), "pod-ns".to_owned()));
    }
}
