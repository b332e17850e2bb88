//! What a playground is started with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;

use crate::auth::{Rights, User};

/// Container path to a file on this machine.
pub type ImageFiles = BTreeMap<String, PathBuf>;

/// Options of `Playground::start`; the default is what most tests want.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces there are from the start; the first is the kubeconfig's.
    pub namespaces: Vec<String>,
    /// The table of bearer tokens. Each user is a context of the kubeconfig, the first one the current.
    pub users: Vec<User>,
    /// Where to write the kubeconfig; in the playground's temporary folder if `None`.
    pub kubeconfig: Option<PathBuf>,
    /// The `platform` of `/version`.
    pub platform: String,
    /// The node's label `kubernetes.io/arch`.
    pub node_arch: String,
    /// Answer exec with v4.channel.k8s.io even when v5 is offered.
    pub exec_v4_only: bool,
    /// How far the API server's clock is ahead of this machine's.
    pub clock_offset: SignedDuration,
    /// From a pod's schedule to its container's start. Measured on a real node: 0.5 s.
    pub start_delay: Duration,
    /// From the `Started` event to `Running` in the status. A real kubelet looks once a second.
    pub running_delay: Duration,
    /// What the agent may dial in spite of being loopback, comma separated: pods and Services live there.
    pub allow_targets: String,
    /// Whether the first namespace gets the sample Services (`web`, `echo`...) and the second one `web`.
    pub samples: bool,
    /// Files of images, for containers whose command is not in a volume.
    pub images: BTreeMap<String, ImageFiles>,
}

impl Default for Options {
    fn default() -> Self {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            namespaces: vec!["dev".to_owned(), "open".to_owned()],
            users: vec![
                User::new("developer", Rights::edit(&["dev", "open"])),
                User::new("admin", Rights::Admin),
                User::new("nobody", Rights::None),
            ],
            kubeconfig: None,
            platform: format!("linux/{arch}"),
            node_arch: arch.to_owned(),
            exec_v4_only: false,
            clock_offset: SignedDuration::ZERO,
            start_delay: Duration::from_millis(50),
            running_delay: Duration::from_millis(300),
            allow_targets: "127.0.0.0/8".to_owned(),
            samples: true,
            images: BTreeMap::new(),
        }
    }
}
