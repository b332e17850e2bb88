//! A release of `kubectl tunnel`: its archives, their sums, the SBOM, and the manifest by which Krew installs them.
//!
//! | module | owns |
//! |---|---|
//! | [`platform`] | which systems there are, and what their archives are called |
//! | [`pack`] | entries to archives, the same bytes each time |
//! | [`sums`] | SHA-256, `SHA256SUMS` |
//! | [`sbom`] | what is compiled in, as `CycloneDX` |
//! | [`manifest`] | the template `krew/plugin.yaml`, rendered; the manifest read back |
//! | [`rules`] | what Krew and its index demand of a manifest |
//! | [`program`] | that a program is for its system, and can start there |
//! | [`install`] | an archive installed as Krew does it |
//! | [`release`] | all of it applied to a folder of archives |
//! | [`serve`] | a folder over HTTP on loopback, for installing from |
//!
//! It compiles nothing: `krew/dist.mk` builds the binaries and calls this program for the rest.

pub mod install;
pub mod manifest;
pub mod pack;
pub mod platform;
pub mod program;
pub mod release;
pub mod rules;
pub mod sbom;
pub mod serve;
pub mod sums;

use std::path::{Path, PathBuf};

/// The version of the release: the workspace's.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder cannot be used.
    #[error("{doing} {}", path.display())]
    File {
        /// Such as `read`.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An archive cannot be written.
    #[error("pack {name}")]
    Pack {
        /// Its file name.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// The output of `cargo metadata`, or a manifest, is not what it should be.
    #[error("{what}: {why}")]
    Malformed {
        /// What was read.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The release breaks rules, one a line.
    #[error("{} of the rules are broken:\n  {}", .0.len(), .0.join("\n  "))]
    Rules(Vec<String>),
}

impl Error {
    fn malformed(what: &str, why: impl std::fmt::Display) -> Self {
        Self::Malformed {
            what: what.to_owned(),
            why: why.to_string(),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File {
        doing: "read",
        path: path.to_owned(),
        source,
    })
}

/// Writes a file, and the folder it is in.
fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    path.parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(path, content))
        .map_err(|source| Error::File {
            doing: "write",
            path: path.to_owned(),
            source,
        })
}
