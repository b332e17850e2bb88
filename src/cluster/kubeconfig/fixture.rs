//! Test support for the kubeconfig tests: a folder that removes itself, kubeconfigs and a certificate.

use std::path::{Path, PathBuf};

use kube::config::AuthInfo;
use secrecy::ExposeSecret;

/// A temporary folder of one test.
#[derive(Debug)]
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("kubectl-tunnel-test-{:016x}", rand::random::<u64>()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            self.0.clone()
        } else {
            self.0.join(name)
        }
    }

    /// Writes a file, folders above it included, and returns its path.
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Writes an executable shell script.
    #[cfg(unix)]
    pub(crate) fn script(&self, name: &str, body: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.write(name, &format!("#!/bin/sh\n{body}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // A folder that stays behind in the temporary directory hurts nobody.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// One context `ctx` of the cluster `cl` and the user `ana`, namespace `dev`.
pub(crate) fn kubeconfig(server: &str) -> String {
    format!(
        "current-context: ctx\n\
         contexts: [{{name: ctx, context: {{cluster: cl, user: ana, namespace: dev}}}}]\n\
         clusters: [{{name: cl, cluster: {{server: '{server}'}}}}]\n\
         users: [{{name: ana, user: {{token: file-token}}}}]\n"
    )
}

/// Several contexts, clusters and users, some of them incomplete.
pub(crate) const TWO_CONTEXTS: &str = "
current-context: one
contexts:
- {name: one, context: {cluster: cl-1, user: ana, namespace: dev}}
- {name: two, context: {cluster: cl-2, user: bob}}
- {name: nobody, context: {cluster: cl-1, user: gone}}
- {name: nowhere, context: {cluster: gone, user: ana}}
- {name: empty, context: {cluster: no-server, user: ana}}
clusters:
- {name: cl-1, cluster: {server: 'https://one:6443', tls-server-name: inside}}
- {name: cl-2, cluster: {server: 'https://two/k8s/clusters/c-x', insecure-skip-tls-verify: true, proxy-url: 'http://p:1'}}
- {name: no-server, cluster: {}}
users:
- {name: ana, user: {token: ana-token}}
- {name: bob, user: {username: bob, password: secret, as: boss, as-groups: [staff]}}
";

/// A self-signed certificate; only its form matters here.
pub(crate) fn pem() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::new(vec![])
        .unwrap()
        .self_signed(&key)
        .unwrap()
        .pem()
}

/// The bearer token.
pub(crate) fn token(auth: &AuthInfo) -> Option<&str> {
    auth.token.as_ref().map(ExposeSecret::expose_secret)
}
