//! An archive installed as Krew installs it, with what the index's CI looks at afterwards.
//!
//! Krew tells an archive by its first bytes, takes regular files and folders only, refuses any `..` in a name, moves
//! what `files` says, and links the program. It neither checks nor mends the program's mode: this does.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::manifest::{FileOperation, Manifest, PlatformSpec};
use crate::sums::sha256;
use crate::{Error, write};

/// Names of a licence that the index's CI accepts, in lower case.
const LICENCES: [&str; 8] = [
    "license",
    "license.txt",
    "license.md",
    "licenses",
    "licenses.txt",
    "licenses.md",
    "copying",
    "copying.txt",
];

/// A file out of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Permission bits.
    pub mode: u32,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// Files by their path, with `/` between its parts.
pub type Files = BTreeMap<String, File>;

/// What would be installed, if no rule speaks against it.
///
/// # Errors
/// The first rule that the archive breaks, in words.
pub fn plan(platform: &PlatformSpec, archive: &[u8]) -> Result<Files, String> {
    let sum = sha256(archive);
    if sum != platform.sha256 {
        return Err(format!("its sum is {sum}, the manifest says {}", platform.sha256));
    }
    let unpacked = unpack(archive)?;
    let everything = [FileOperation {
        from: "*".to_owned(),
        to: ".".to_owned(),
    }];
    let files = moved(&unpacked, platform.files.as_deref().unwrap_or(&everything))?;
    if platform.bin.split('/').any(|part| part == "..") {
        return Err(format!("bin {} leads out of the installation", platform.bin));
    }
    let binary = files
        .get(platform.bin.trim_start_matches("./"))
        .ok_or_else(|| format!("bin {} is not among the installed files", platform.bin))?;
    if binary.mode != 0o755 {
        return Err(format!(
            "bin {} has mode {:o}, not 755",
            platform.bin, binary.mode
        ));
    }
    let is_licence = |path: &String| {
        let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
        LICENCES.contains(&name.as_str())
    };
    if !files.keys().any(is_licence) {
        return Err("no licence is among the installed files".to_owned());
    }
    Ok(files)
}

/// Writes the planned files where Krew would (`store/NAME/VERSION`) and links the program (`bin/kubectl-NAME`). Returns
/// the link.
///
/// # Errors
/// The folder cannot be written.
pub fn install(
    manifest: &Manifest,
    platform: &PlatformSpec,
    files: &Files,
    root: &Path,
) -> Result<PathBuf, Error> {
    let stored = Path::new("store")
        .join(&manifest.metadata.name)
        .join(&manifest.spec.version);
    let store = root.join(&stored);
    for (path, file) in files {
        let path = store.join(path);
        write(&path, &file.content)?;
        let mode = std::fs::Permissions::from_mode(file.mode);
        std::fs::set_permissions(&path, mode).map_err(cannot("set the mode of", &path))?;
    }
    let mut link = PathBuf::from(format!("kubectl-{}", manifest.metadata.name.replace('-', "_")));
    if let Some(extension) = Path::new(&platform.bin).extension() {
        link.set_extension(extension);
    }
    let link = root.join("bin").join(link);
    let folder = root.join("bin");
    std::fs::create_dir_all(&folder).map_err(cannot("make", &folder))?;
    // From the link's own folder: `root` may be relative to another one.
    let target = Path::new("..").join(stored).join(&platform.bin);
    symlink(target, &link).map_err(cannot("link", &link))?;
    Ok(link)
}

fn cannot(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { doing, path, source }
}

/// The archive's files.
fn unpack(archive: &[u8]) -> Result<Files, String> {
    if archive.starts_with(b"\x1f\x8b\x08") {
        unpack_tar(archive)
    } else if archive.starts_with(b"PK\x03\x04") {
        unpack_zip(archive)
    } else {
        Err("it is neither gzip nor zip".to_owned())
    }
}

fn unpack_tar(archive: &[u8]) -> Result<Files, String> {
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let mut files = Files::new();
    for entry in tar.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        harmless(&name)?;
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            continue;
        }
        if !kind.is_file() {
            return Err(format!("{name} is neither a file nor a folder but {kind:?}"));
        }
        let mode = entry.header().mode().map_err(unreadable)?;
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(unreadable)?;
        files.insert(clean(&name), File { mode, content });
    }
    Ok(files)
}

fn unpack_zip(archive: &[u8]) -> Result<Files, String> {
    let mut zip = zip::ZipArchive::new(Cursor::new(archive)).map_err(unreadable)?;
    let mut files = Files::new();
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(unreadable)?;
        let name = entry.name().map_err(unreadable)?.into_owned();
        harmless(&name)?;
        if entry.is_dir() {
            continue;
        }
        if !entry.is_file() {
            return Err(format!("{name} is neither a file nor a folder"));
        }
        let mode = entry.unix_mode().unwrap_or(0o644) & 0o7777;
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(unreadable)?;
        files.insert(clean(&name), File { mode, content });
    }
    Ok(files)
}

fn unreadable(error: impl std::fmt::Display) -> String {
    format!("it cannot be read: {error}")
}

fn harmless(name: &str) -> Result<(), String> {
    if name.contains("..") {
        return Err(format!("{name} has two dots in its name"));
    }
    if name.starts_with(['/', '\\']) {
        return Err(format!("{name} is an absolute name"));
    }
    Ok(())
}

fn clean(path: &str) -> String {
    let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    parts.collect::<Vec<_>>().join("/")
}

/// What `files` moves where: a path that exists is moved to `to` itself, a pattern's matches into the folder `to`.
fn moved(unpacked: &Files, operations: &[FileOperation]) -> Result<Files, String> {
    let mut files = Files::new();
    for FileOperation { from, to } in operations {
        if from.split('/').chain(to.split('/')).any(|part| part == "..") {
            return Err(format!("files: {from} to {to} leads out of the archive"));
        }
        let (from, to) = (clean(from), clean(to));
        let is_path = unpacked.keys().any(|path| below(path, &from).is_some());
        let pattern: Vec<&str> = from.split('/').collect();
        let mut found = false;
        for (path, file) in unpacked {
            let parts: Vec<&str> = path.split('/').collect();
            let target = if is_path {
                let Some(rest) = below(path, &from) else { continue };
                let moved_to = if to.is_empty() {
                    pattern[pattern.len() - 1]
                } else {
                    &to
                };
                format!("{moved_to}/{rest}")
            } else if parts.len() >= pattern.len()
                && pattern.iter().zip(&parts).all(|(p, part)| matches(p, part))
            {
                format!("{to}/{}", parts[pattern.len() - 1..].join("/"))
            } else {
                continue;
            };
            found = true;
            files.insert(clean(&target), file.clone());
        }
        if !found {
            return Err(format!("files: nothing in the archive matches {from}"));
        }
    }
    Ok(files)
}

/// What of the path lies below this one; nothing if it is the same.
fn below<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(folder)?;
    if rest.is_empty() {
        Some(rest)
    } else {
        rest.strip_prefix('/')
    }
}

/// Whether a part of a path is matched by a pattern of `*` and `?`.
fn matches(pattern: &str, part: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => part.is_empty(),
        Some('*') => part
            .char_indices()
            .map(|(at, _)| at)
            .chain([part.len()])
            .any(|at| matches(rest.as_str(), &part[at..])),
        Some(one) => {
            let mut of_part = part.chars();
            let same = of_part.next().is_some_and(|c| one == '?' || one == c);
            same && matches(rest.as_str(), of_part.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: &str = "{bin: kubectl-tunnel}";

    fn spec(yaml: &str, archive: &[u8]) -> PlatformSpec {
        let mut spec: PlatformSpec = serde_saphyr::from_str(yaml).unwrap();
        spec.sha256 = sha256(archive);
        spec
    }

    fn tar(entries: &[(&str, u32, tar::EntryType)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(
            Vec::new(),
            flate2::Compression::fast(),
        ));
        for (name, mode, kind) in entries {
            let mut header = tar::Header::new_ustar();
            // As bytes: the library refuses some of the names that must be tried.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            header.set_size(0);
            header.set_cksum();
            tar.append(&header, io::empty()).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    const BIN: (&str, u32, tar::EntryType) = ("kubectl-tunnel", 0o755, tar::EntryType::Regular);
    const LICENCE: (&str, u32, tar::EntryType) = ("LICENSE", 0o644, tar::EntryType::Regular);

    #[test]
    fn a_plain_archive_is_installed_as_it_is() {
        let archive = tar(&[BIN, LICENCE, ("docs/", 0o755, tar::EntryType::Directory)]);
        let files = plan(&spec(MANY, &archive), &archive).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["LICENSE", "kubectl-tunnel"]);
    }

    #[test]
    fn each_broken_rule_is_named() {
        let regular = tar::EntryType::Regular;
        let with = |entry| tar(&[BIN, LICENCE, entry]);
        let rows = [
            (tar(&[LICENCE]), MANY, "not among"),
            (tar(&[BIN]), MANY, "licence"),
            (tar(&[BIN, ("LICENSE-MIT", 0o644, regular)]), MANY, "licence"),
            (
                tar(&[("kubectl-tunnel", 0o644, regular), LICENCE]),
                MANY,
                "mode 644",
            ),
            (with(("x", 0o777, tar::EntryType::Symlink)), MANY, "Symlink"),
            (with(("x", 0o644, tar::EntryType::Link)), MANY, "Link"),
            (with(("a..b", 0o644, regular)), MANY, "two dots"),
            (with(("/x", 0o644, regular)), MANY, "absolute"),
            (b"\xfd7zXZ\0".to_vec(), MANY, "neither gzip nor zip"),
            (tar(&[BIN, LICENCE]), "{bin: ../kubectl-tunnel}", "leads out"),
            (
                tar(&[BIN, LICENCE]),
                "{bin: x, files: [{from: 'y*', to: .}]}",
                "nothing",
            ),
            (
                tar(&[BIN, LICENCE]),
                "{bin: x, files: [{from: '*', to: ../x}]}",
                "leads out",
            ),
        ];
        for (archive, yaml, words) in rows {
            let error = plan(&spec(yaml, &archive), &archive).unwrap_err();
            assert!(error.contains(words), "{words}: {error}");
        }
        let archive = tar(&[BIN, LICENCE]);
        let mut wrong = spec(MANY, &archive);
        wrong.sha256 = "0".repeat(64);
        assert!(plan(&wrong, &archive).unwrap_err().contains("sum"));
    }

    #[test]
    fn files_choose_and_move() {
        let archive = tar(&[
            ("./top/kubectl-tunnel", 0o755, tar::EntryType::Regular),
            ("./top/COPYING.txt", 0o644, tar::EntryType::Regular),
            ("./top/man/a.1", 0o644, tar::EntryType::Regular),
        ]);
        let installed = |operations: &str, bin: &str| {
            let yaml = format!("{{bin: {bin}, files: {operations}}}");
            let files = plan(&spec(&yaml, &archive), &archive)?;
            Ok::<_, String>(files.into_keys().collect::<Vec<_>>().join(" "))
        };
        assert_eq!(
            installed("[{from: top/*, to: .}]", "kubectl-tunnel").unwrap(),
            "COPYING.txt kubectl-tunnel man/a.1"
        );
        assert_eq!(
            installed("[{from: top, to: x}]", "./x/kubectl-tunnel").unwrap(),
            "x/COPYING.txt x/kubectl-tunnel x/man/a.1"
        );
        assert_eq!(
            installed(
                "[{from: 'top/kubectl-t?nnel', to: b}, {from: '*/COP*', to: .}]",
                "b/kubectl-tunnel"
            )
            .unwrap(),
            "COPYING.txt b/kubectl-tunnel"
        );
    }
}
