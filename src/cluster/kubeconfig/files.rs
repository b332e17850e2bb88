//! Finding, reading and merging kubeconfig files. What they mean is `merge`'s business.

use std::collections::HashSet;
use std::io;
use std::path::{MAIN_SEPARATOR, Path, PathBuf};

use kube::config::Kubeconfig;
use secrecy::{ExposeSecret as _, SecretString};

use super::KubeconfigError;
use crate::cluster::env::Env;
use crate::cluster::yaml::YamlError;

/// The merged files.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) merged: Kubeconfig,
    /// Every path looked at, also those that do not exist.
    pub(super) searched: Vec<PathBuf>,
}

/// Reads `explicit` alone (it must exist), else the files of `KUBECONFIG`, else `~/.kube/config`; missing ones are
/// skipped. The first file to set a value or a named entry wins; relative paths are relative to their own file.
pub(super) fn load(explicit: Option<&Path>, env: &Env) -> Result<Files, KubeconfigError> {
    if let Some(path) = explicit {
        let merged = read(path)?.ok_or_else(|| KubeconfigError::Read {
            path: path.to_owned(),
            source: io::ErrorKind::NotFound.into(),
        })?;
        return Ok(Files {
            merged,
            searched: vec![path.to_owned()],
        });
    }
    let mut files = Files::default();
    let mut seen = HashSet::new();
    for path in candidates(env) {
        if !seen.insert(path.clone()) {
            continue;
        }
        if let Some(next) = read(&path)? {
            files.merged = files
                .merged
                .merge(next)
                .map_err(|source| KubeconfigError::Parse {
                    path: path.clone(),
                    source: Box::new(source),
                })?;
        }
        files.searched.push(path);
    }
    Ok(files)
}

fn candidates(env: &Env) -> Vec<PathBuf> {
    let listed: Vec<PathBuf> = env
        .os_var("KUBECONFIG")
        .map(|list| {
            std::env::split_paths(list)
                .filter(|path| !path.as_os_str().is_empty())
                .collect()
        })
        .unwrap_or_default();
    if listed.is_empty() {
        return env
            .home()
            .map(|home| home.join(".kube").join("config"))
            .into_iter()
            .collect();
    }
    listed
}

/// `None` when there is no such file.
fn read(path: &Path) -> Result<Option<Kubeconfig>, KubeconfigError> {
    use kube::config::KubeconfigError as Kube;
    match Kubeconfig::read_from(path) {
        Ok(file) => Ok(Some(without_empty_values(file))),
        Err(Kube::ReadConfig(source, _)) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(Kube::ReadConfig(source, _)) => Err(KubeconfigError::Read {
            path: path.to_owned(),
            source,
        }),
        Err(Kube::Parse(source)) => Err(KubeconfigError::Parse {
            path: path.to_owned(),
            source: Box::new(YamlError::from(source)),
        }),
        Err(other) => Err(KubeconfigError::Parse {
            path: path.to_owned(),
            source: Box::new(other),
        }),
    }
}

/// Go knows no difference between `""` and not set; kube does, and turns an empty relative path into its folder.
fn without_empty_values(mut file: Kubeconfig) -> Kubeconfig {
    clear_empty(&mut file.current_context);
    for cluster in file
        .clusters
        .iter_mut()
        .filter_map(|named| named.cluster.as_mut())
    {
        clear_empty(&mut cluster.server);
        clear_empty(&mut cluster.proxy_url);
        clear_empty(&mut cluster.tls_server_name);
        clear_empty(&mut cluster.certificate_authority_data);
        clear_folder(&mut cluster.certificate_authority);
    }
    for user in file
        .auth_infos
        .iter_mut()
        .filter_map(|named| named.auth_info.as_mut())
    {
        clear_empty(&mut user.username);
        clear_empty(&mut user.client_certificate_data);
        clear_empty(&mut user.impersonate);
        clear_empty(&mut user.impersonate_uid);
        clear_folder(&mut user.client_certificate);
        clear_folder(&mut user.client_key);
        clear_folder(&mut user.token_file);
        user.token.take_if(|token| is_empty_secret(token));
        user.client_key_data.take_if(|key| is_empty_secret(key));
    }
    for context in file
        .contexts
        .iter_mut()
        .filter_map(|named| named.context.as_mut())
    {
        clear_empty(&mut context.namespace);
        clear_empty(&mut context.user);
    }
    file
}

fn clear_empty(value: &mut Option<String>) {
    value.take_if(|value| value.is_empty());
}

/// A path to a file never ends with a separator, so this one was empty before it was made absolute.
fn clear_folder(path: &mut Option<String>) {
    path.take_if(|path| path.is_empty() || path.ends_with('/') || path.ends_with(MAIN_SEPARATOR));
}

fn is_empty_secret(secret: &SecretString) -> bool {
    secret.expose_secret().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::kubeconfig::fixture::{Dir, kubeconfig};

    fn listing(dir: &Dir, names: &[&str]) -> Env {
        let list = std::env::join_paths(names.iter().map(|name| dir.path(name))).unwrap();
        Env::from_vars([("KUBECONFIG", list)])
    }

    #[test]
    fn missing_files_of_the_list_are_skipped() {
        let dir = Dir::new();
        dir.write("b", &kubeconfig("https://b"));
        let files = load(None, &listing(&dir, &["a", "b", "c"])).unwrap();
        assert_eq!(files.merged.current_context.as_deref(), Some("ctx"));
        assert_eq!(files.searched, [dir.path("a"), dir.path("b"), dir.path("c")]);
    }

    #[test]
    fn the_first_file_wins_and_an_empty_value_is_none() {
        let dir = Dir::new();
        dir.write(
            "a",
            "current-context: \"\"\nclusters: [{name: one, cluster: {server: 'https://a'}}]",
        );
        dir.write(
            "b",
            "current-context: late\nclusters: [{name: one, cluster: {server: 'https://b'}}, \
             {name: two, cluster: {server: 'https://c', proxy-url: '', certificate-authority: ''}}]",
        );
        let merged = load(None, &listing(&dir, &["a", "b"])).unwrap().merged;
        assert_eq!(merged.current_context.as_deref(), Some("late"));
        let servers: Vec<_> = merged
            .clusters
            .iter()
            .map(|named| named.cluster.clone().unwrap().server)
            .collect();
        assert_eq!(
            servers,
            [Some("https://a".to_owned()), Some("https://c".to_owned())]
        );
        let two = merged.clusters[1].cluster.clone().unwrap();
        assert_eq!((two.proxy_url, two.certificate_authority), (None, None));
    }

    #[test]
    fn relative_paths_belong_to_their_own_file() {
        let dir = Dir::new();
        dir.write(
            "sub/config",
            "clusters: [{name: one, cluster: {certificate-authority: ca.crt}}]",
        );
        dir.write(
            "config",
            "users: [{name: ana, user: {client-key: k, client-certificate: /abs/c, tokenFile: t}}]",
        );
        let merged = load(None, &listing(&dir, &["sub/config", "config"]))
            .unwrap()
            .merged;
        let cluster = merged.clusters[0].cluster.clone().unwrap();
        let user = merged.auth_infos[0].auth_info.clone().unwrap();
        let text = |name: &str| Some(dir.path(name).to_str().unwrap().to_owned());
        assert_eq!(cluster.certificate_authority, text("sub/ca.crt"));
        assert_eq!(user.client_key, text("k"));
        assert_eq!(user.token_file, text("t"));
        assert_eq!(user.client_certificate.as_deref(), Some("/abs/c"));
    }

    #[test]
    fn the_explicit_file_must_exist_and_stands_alone() {
        let dir = Dir::new();
        dir.write("env", &kubeconfig("https://env"));
        dir.write("flag", &kubeconfig("https://flag"));
        let env = Env::from_vars([("KUBECONFIG", dir.path("env"))]);
        let files = load(Some(&dir.path("flag")), &env).unwrap();
        assert_eq!(files.merged.clusters.len(), 1);
        assert_eq!(
            files.merged.clusters[0]
                .cluster
                .clone()
                .unwrap()
                .server
                .as_deref(),
            Some("https://flag")
        );
        let missing = load(Some(&dir.path("none")), &env).unwrap_err();
        assert!(matches!(missing, KubeconfigError::Read { path, .. } if path == dir.path("none")));
    }

    #[test]
    fn home_is_used_when_the_list_is_empty() {
        let dir = Dir::new();
        dir.write(".kube/config", &kubeconfig("https://home"));
        for list in ["", ":"] {
            let env = Env::from_vars([("KUBECONFIG", list)]).with_home(dir.path(""));
            assert_eq!(
                load(None, &env).unwrap().merged.clusters.len(),
                1,
                "KUBECONFIG={list:?}"
            );
        }
    }

    #[test]
    fn a_broken_or_unreadable_file_is_named() {
        let dir = Dir::new();
        dir.write("broken", "clusters: [");
        dir.write("folder/x", "");
        let broken = load(None, &listing(&dir, &["broken"])).unwrap_err();
        assert!(matches!(broken, KubeconfigError::Parse { path, .. } if path == dir.path("broken")));
        dir.write("secret", "clusters: {\nusers:\n- user: {token: sesame}\n");
        let KubeconfigError::Parse { source, .. } = load(None, &listing(&dir, &["secret"])).unwrap_err()
        else {
            panic!("it is no YAML");
        };
        assert!(!source.to_string().contains("sesame"), "{source}");
        let folder = load(None, &listing(&dir, &["folder"])).unwrap_err();
        assert!(matches!(folder, KubeconfigError::Read { path, .. } if path == dir.path("folder")));
    }
}
