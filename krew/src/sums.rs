//! SHA-256 sums, and the file that lists them as `sha256sum --check` reads it.

use std::fmt::Write as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::{Error, read, write};

/// The file's name.
pub const FILE: &str = "SHA256SUMS";

/// The sum in lower-case hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        write!(hex, "{byte:02x}").expect("a string grows");
    }
    hex
}

/// Writes [`FILE`] for every file of the folder whose name starts with `release`, sorted by name.
///
/// # Errors
/// The folder or a file cannot be read or written.
pub fn write_for(folder: &Path, release: &str) -> Result<(), Error> {
    let unreadable = |source| Error::File {
        doing: "list",
        path: folder.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(release) && entry.file_type().map_err(unreadable)?.is_file() {
            names.push(name);
        }
    }
    names.sort();
    let mut lines = Vec::new();
    for name in names {
        let sum = sha256(&read(&folder.join(&name))?);
        lines.push(format!("{sum}  {name}\n"));
    }
    write(&folder.join(FILE), lines.concat().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_the_files_of_one_release() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("x-v2-b", "abc"), ("x-v2-a", ""), ("x-v1-a", "older")] {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        std::fs::create_dir(folder.path().join("x-v2-folder")).unwrap();
        write_for(folder.path(), "x-v2").unwrap();
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert_eq!(
            text,
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  x-v2-a\n\
             ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  x-v2-b\n"
        );
    }
}
