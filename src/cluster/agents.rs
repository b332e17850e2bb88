//! The agent's binaries: those built into the plugin, or one the user gave.
//!
//! Knows sizes and ELF headers, nothing of Kubernetes objects. `cli/agent_flags.rs` chooses,
//! `upload.rs` sends.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::options::Architecture;

/// Most bytes the values of one ConfigMap may have together (measured: one byte more is a 422).
pub const CONFIG_MAP_LIMIT: usize = 1_048_576;

#[cfg(agent_amd64)]
const EMBEDDED_AMD64: Option<&[u8]> = Some(include_bytes!(env!("TUNNEL_AGENT_AMD64")));
#[cfg(not(agent_amd64))]
const EMBEDDED_AMD64: Option<&[u8]> = None;

#[cfg(agent_arm64)]
const EMBEDDED_ARM64: Option<&[u8]> = Some(include_bytes!(env!("TUNNEL_AGENT_ARM64")));
#[cfg(not(agent_arm64))]
const EMBEDDED_ARM64: Option<&[u8]> = None;

/// Why no agent binary can be used.
#[derive(Debug, thiserror::Error)]
pub enum AgentBinaryError {
    /// The plugin was built without `make agent`.
    #[error("this plugin was built without the agent")]
    NotEmbedded,
    /// The plugin holds the agent, but not for this architecture.
    #[error("this plugin holds no agent for {0}")]
    NotEmbeddedFor(Architecture),
    #[error("read agent binary {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// No 64-bit ELF executable for amd64 or arm64.
    #[error("agent binary {} is no linux executable for amd64 or arm64", path.display())]
    NotExecutable { path: PathBuf },
    #[error("agent binary {} is for {found}, but --arch says {wanted}", path.display())]
    WrongArchitecture {
        path: PathBuf,
        found: Architecture,
        wanted: Architecture,
    },
    #[error("agent binary {} has {size} bytes, a ConfigMap takes at most {CONFIG_MAP_LIMIT}", path.display())]
    TooLarge { path: PathBuf, size: usize },
}

/// Agent binaries by architecture; at least one is there.
#[derive(Clone)]
pub struct AgentBinaries {
    amd64: Option<Bytes>,
    arm64: Option<Bytes>,
}

impl AgentBinaries {
    /// What this plugin was built with.
    pub fn embedded() -> Result<Self, AgentBinaryError> {
        let binaries = Self {
            amd64: EMBEDDED_AMD64.map(Bytes::from_static),
            arm64: EMBEDDED_ARM64.map(Bytes::from_static),
        };
        if binaries.amd64.is_none() && binaries.arm64.is_none() {
            return Err(AgentBinaryError::NotEmbedded);
        }
        Ok(binaries)
    }

    /// The file of `--agent-binary`; its ELF header tells the architecture.
    pub fn from_file(path: &Path) -> Result<Self, AgentBinaryError> {
        let bytes = fs::read(path).map_err(|source| AgentBinaryError::Read {
            path: path.to_owned(),
            source,
        })?;
        if bytes.len() > CONFIG_MAP_LIMIT {
            return Err(AgentBinaryError::TooLarge {
                path: path.to_owned(),
                size: bytes.len(),
            });
        }
        let architecture = elf_architecture(&bytes).ok_or_else(|| AgentBinaryError::NotExecutable {
            path: path.to_owned(),
        })?;
        let bytes = Some(Bytes::from(bytes));
        Ok(match architecture {
            Architecture::Amd64 => Self {
                amd64: bytes,
                arm64: None,
            },
            Architecture::Arm64 => Self {
                amd64: None,
                arm64: bytes,
            },
        })
    }

    /// Some bytes for both architectures.
    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        let bytes = Some(Bytes::from_static(b"agent"));
        Self {
            amd64: bytes.clone(),
            arm64: bytes,
        }
    }

    pub fn get(&self, architecture: Architecture) -> Option<&Bytes> {
        match architecture {
            Architecture::Amd64 => self.amd64.as_ref(),
            Architecture::Arm64 => self.arm64.as_ref(),
        }
    }

    /// The only architecture there is, if there is only one.
    pub fn only(&self) -> Option<Architecture> {
        match (&self.amd64, &self.arm64) {
            (Some(_), None) => Some(Architecture::Amd64),
            (None, Some(_)) => Some(Architecture::Arm64),
            (Some(_), Some(_)) | (None, None) => None,
        }
    }
}

impl std::fmt::Debug for AgentBinaries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentBinaries")
            .field("amd64", &self.amd64.as_ref().map(Bytes::len))
            .field("arm64", &self.arm64.as_ref().map(Bytes::len))
            .finish()
    }
}

/// The machine of a 64-bit little-endian ELF file, if it is one of ours.
fn elf_architecture(bytes: &[u8]) -> Option<Architecture> {
    let header = bytes.get(..20)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    match u16::from_le_bytes([header[18], header[19]]) {
        0x3e => Some(Architecture::Amd64),
        0xb7 => Some(Architecture::Arm64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(machine: u16) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(18, 0);
        bytes.extend(machine.to_le_bytes());
        bytes.resize(64, 0);
        bytes
    }

    #[test]
    fn elf_header_tells_the_architecture() {
        assert_eq!(elf_architecture(&elf(0x3e)), Some(Architecture::Amd64));
        assert_eq!(elf_architecture(&elf(0xb7)), Some(Architecture::Arm64));
        assert_eq!(elf_architecture(&elf(0x28)), None);
        assert_eq!(elf_architecture(b"#!/bin/sh\n"), None);
        assert_eq!(elf_architecture(b"\x7fELF\x02\x01"), None);
    }

    #[test]
    fn file_decides_which_architectures_there_are() {
        let path = std::env::temp_dir().join(format!("tunnel-agent-elf-{}", std::process::id()));
        fs::write(&path, elf(0xb7)).unwrap();
        let binaries = AgentBinaries::from_file(&path).unwrap();
        assert_eq!(binaries.only(), Some(Architecture::Arm64));
        assert!(binaries.get(Architecture::Amd64).is_none());

        let mut large = elf(0x3e);
        large.resize(CONFIG_MAP_LIMIT + 1, 0);
        fs::write(&path, large).unwrap();
        assert!(matches!(
            AgentBinaries::from_file(&path),
            Err(AgentBinaryError::TooLarge { .. })
        ));
        fs::remove_file(&path).unwrap();
        assert!(matches!(
            AgentBinaries::from_file(&path),
            Err(AgentBinaryError::Read { .. })
        ));
    }
}
