//! The systems a release is built for, and those Krew knows.

use std::fmt;
use std::str::FromStr;

/// Operating system and architecture as Go, and so Krew, spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Platform {
    /// Such as `darwin`.
    pub os: &'static str,
    /// Such as `amd64`.
    pub arch: &'static str,
}

const fn pair(os: &'static str, arch: &'static str) -> Platform {
    Platform { os, arch }
}

/// What every release has archives for.
pub const RELEASED: [Platform; 5] = [
    pair("linux", "amd64"),
    pair("linux", "arm64"),
    pair("darwin", "amd64"),
    pair("darwin", "arm64"),
    pair("windows", "amd64"),
];

/// All pairs that a manifest of Krew may select.
pub const KREW: [Platform; 11] = [
    pair("windows", "386"),
    pair("windows", "amd64"),
    pair("windows", "arm64"),
    pair("linux", "386"),
    pair("linux", "amd64"),
    pair("linux", "arm"),
    pair("linux", "arm64"),
    pair("linux", "ppc64le"),
    pair("darwin", "386"),
    pair("darwin", "amd64"),
    pair("darwin", "arm64"),
];

impl Platform {
    /// The program's file name.
    #[must_use]
    pub fn binary(self) -> &'static str {
        if self.is_windows() {
            "kubectl-tunnel.exe"
        } else {
            "kubectl-tunnel"
        }
    }

    /// The archive's file name. `tag` is the version with its `v`.
    #[must_use]
    pub fn archive(self, tag: &str) -> String {
        let suffix = if self.is_windows() { "zip" } else { "tar.gz" };
        format!("kubectl-tunnel-{tag}-{self}.{suffix}")
    }

    /// Whether its archive is a zip and its programs end in `.exe`.
    #[must_use]
    pub fn is_windows(self) -> bool {
        self.os == "windows"
    }

    /// The one of this machine, if releases have it.
    #[must_use]
    pub fn of_this_machine() -> Option<Self> {
        let os = match std::env::consts::OS {
            "macos" => "darwin",
            other => other,
        };
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        RELEASED
            .into_iter()
            .find(|platform| (platform.os, platform.arch) == (os, arch))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.os, self.arch)
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = RELEASED.into_iter().find(|platform| platform.to_string() == text);
        found.ok_or_else(|| {
            let known: Vec<String> = RELEASED.iter().map(ToString::to_string).collect();
            format!("not one of {}", known.join(", "))
        })
    }
}
