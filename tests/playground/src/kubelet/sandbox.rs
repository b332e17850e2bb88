//! What a container sees: its files, environment and address; and whether its process runs.
//!
//! Shared by the pod's task, by exec and by the log request.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::addresses::loopback_of;
use crate::object;
use crate::resource::Resource;
use crate::store::Key;
use crate::world::World;

/// Why a volume cannot be mounted yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : configmap {name:?} not found")]
    NoConfigMap { volume: String, name: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : key {key:?} cannot be decoded")]
    Unreadable { volume: String, key: String },
    #[error("write volume {volume:?}")]
    Write {
        volume: String,
        #[source]
        source: io::Error,
    },
}

#[derive(Debug)]
pub(crate) struct Sandbox {
    container: String,
    folder: PathBuf,
    address: Ipv4Addr,
    environment: Vec<(String, String)>,
    /// Path in the container and on this machine; files of the image as well as volumes.
    mounts: Vec<(String, PathBuf)>,
    began: AtomicBool,
    /// Cancelled when the container's process has ended; kills its execs.
    ended: CancellationToken,
}

/// Sandboxes by pod uid.
#[derive(Debug, Default)]
pub(crate) struct Sandboxes {
    by_uid: Mutex<HashMap<String, Arc<Sandbox>>>,
}

impl Sandboxes {
    pub(crate) fn get(&self, uid: &str) -> Option<Arc<Sandbox>> {
        self.by_uid
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(uid)
            .cloned()
    }

    pub(crate) fn insert(&self, uid: &str, sandbox: &Arc<Sandbox>) {
        let mut by_uid = self.by_uid.lock().unwrap_or_else(PoisonError::into_inner);
        by_uid.insert(uid.to_owned(), Arc::clone(sandbox));
    }

    pub(crate) fn remove(&self, uid: &str) {
        let removed = self
            .by_uid
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
        if let Some(sandbox) = removed
            && let Err(error) = fs::remove_dir_all(&sandbox.folder)
        {
            tracing::debug!(folder = %sandbox.folder.display(), %error, "pod folder not removed");
        }
    }
}

impl Sandbox {
    /// Writes the volumes and collects the environment.
    pub(crate) async fn make(world: &Arc<World>, pod: &Value, address: Ipv4Addr) -> Result<Self, MountError> {
        let container = &pod["spec"]["containers"][0];
        // The uid's first part is enough to be unique here and keeps socket paths short.
        let folder = world
            .root
            .path()
            .join(object::uid(pod).split('-').next().unwrap_or("pod"));
        let mut mounts = Vec::new();
        for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
            let name = object::field(volume, "name");
            let at = folder.join("volumes").join(name);
            write_volume(world, object::namespace(pod), volume, &at).await?;
            let all = container["volumeMounts"].as_array().into_iter().flatten();
            for mount in all.filter(|mount| mount["name"] == name) {
                let inside = Path::new(&at).join(object::field(mount, "subPath"));
                mounts.push((
                    object::field(mount, "mountPath").trim_end_matches('/').to_owned(),
                    inside,
                ));
            }
        }
        fs::create_dir_all(&folder).map_err(|source| MountError::Write {
            volume: "/".to_owned(),
            source,
        })?;
        if let Some(files) = world.options.images.get(object::field(container, "image")) {
            mounts.extend(files.iter().map(|(inside, here)| (inside.clone(), here.clone())));
        }
        // The longest prefix wins, so that a mount inside another one is found.
        mounts.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        Ok(Self {
            container: object::field(container, "name").to_owned(),
            environment: environment(world, pod, container, &folder, address),
            folder,
            address,
            mounts,
            began: AtomicBool::new(false),
            ended: CancellationToken::new(),
        })
    }

    pub(crate) fn container(&self) -> &str {
        &self.container
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub(crate) fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a path of the container is on this machine; unchanged if nothing is mounted there.
    pub(crate) fn resolve(&self, path: &str) -> PathBuf {
        let inside = |mount: &str| {
            let rest = path.strip_prefix(mount)?;
            (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_start_matches('/'))
        };
        for (mount, here) in &self.mounts {
            match inside(mount) {
                Some("") => return here.clone(),
                Some(rest) => return here.join(rest),
                None => {}
            }
        }
        PathBuf::from(path)
    }

    pub(crate) fn begin(&self) {
        self.began.store(true, Ordering::Release);
    }

    pub(crate) fn end(&self) {
        self.ended.cancel();
    }

    pub(crate) fn is_running(&self) -> bool {
        self.began.load(Ordering::Acquire) && !self.ended.is_cancelled()
    }

    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// What the container's process wrote so far.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

async fn write_volume(world: &World, namespace: &str, volume: &Value, at: &Path) -> Result<(), MountError> {
    let name = || object::field(volume, "name").to_owned();
    let failed = |source| MountError::Write {
        volume: name(),
        source,
    };
    let files = if volume["configMap"].is_object() {
        config_map_files(world, namespace, volume)?
    } else {
        Vec::new()
    };
    fs::create_dir_all(at).map_err(failed)?;
    for (file, bytes) in files {
        let path = at.join(file);
        tokio::fs::write(&path, bytes).await.map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    }
    Ok(())
}

/// File names and contents, by `items` if the volume has them.
fn config_map_files(
    world: &World,
    namespace: &str,
    volume: &Value,
) -> Result<Vec<(String, Vec<u8>)>, MountError> {
    let source = &volume["configMap"];
    let name = object::field(source, "name");
    let key = Key::new(Resource::ConfigMap, namespace, name);
    let Some(map) = world.store.get(&key) else {
        if source["optional"] == true {
            return Ok(Vec::new());
        }
        let volume = object::field(volume, "name").to_owned();
        return Err(MountError::NoConfigMap {
            volume,
            name: name.to_owned(),
        });
    };
    let mut files = Vec::new();
    for (key, value) in map["data"].as_object().into_iter().flatten() {
        files.push((
            key.clone(),
            value.as_str().unwrap_or_default().as_bytes().to_vec(),
        ));
    }
    for (key, value) in map["binaryData"].as_object().into_iter().flatten() {
        let bytes =
            STANDARD
                .decode(value.as_str().unwrap_or_default())
                .map_err(|_| MountError::Unreadable {
                    volume: object::field(volume, "name").to_owned(),
                    key: key.clone(),
                })?;
        files.push((key.clone(), bytes));
    }
    if let Some(items) = source["items"].as_array() {
        let path_of = |key: &str| {
            items
                .iter()
                .find(|item| item["key"] == key)
                .map(|item| object::field(item, "path"))
        };
        files = files
            .into_iter()
            .filter_map(|(key, bytes)| Some((path_of(&key)?.to_owned(), bytes)))
            .collect();
    }
    Ok(files)
}

/// The container's own variables, and what the agent needs to live beside others on one machine.
fn environment(
    world: &World,
    pod: &Value,
    container: &Value,
    folder: &Path,
    address: Ipv4Addr,
) -> Vec<(String, String)> {
    let own = container["env"].as_array().into_iter().flatten().map(|entry| {
        let path = object::field(entry, "valueFrom.fieldRef.fieldPath");
        let value = match path {
            "" => object::field(entry, "value").to_owned(),
            "status.podIP" => address.to_string(),
            _ => object::field(pod, path).to_owned(),
        };
        (object::field(entry, "name").to_owned(), value)
    });
    let mut all: Vec<(String, String)> = own.collect();
    let known = |name: &str| {
        all.iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.clone())
    };
    let allowed = match known("TUNNEL_ALLOW_TARGETS").filter(|list| !list.is_empty()) {
        Some(list) => format!("{list},{}", world.options.allow_targets),
        None => world.options.allow_targets.clone(),
    };
    // Only who wants an entrance gets one, at the address that its port-forward takes for the pod's loopback.
    let entrance = known("TUNNEL_ENTRANCE").map(|_| ("TUNNEL_ENTRANCE", loopback_of(address).to_string()));
    let hosts = world.hosts_file(object::namespace(pod));
    let overrides = [
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ),
        ("HOSTNAME", object::name(pod).to_owned()),
        ("TUNNEL_SOCKET", folder.join("agent.sock").display().to_string()),
        ("TUNNEL_BIND", address.to_string()),
        ("TUNNEL_HOSTS", hosts.display().to_string()),
        ("TUNNEL_ALLOW_TARGETS", allowed),
    ];
    for (name, value) in overrides.into_iter().chain(entrance) {
        all.retain(|(other, _)| other != name);
        all.push((name.to_owned(), value));
    }
    all
}
