//! Who may use the local port: the `user:password` lines of `--auth-file`.
//!
//! Only digests are kept, and they are compared in constant time over all lines, so that neither memory
//! nor timing tells a password. How a protocol asks for them is that protocol's matter.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// Longest user name or password SOCKS can carry (RFC 1929: a length byte), in bytes.
const MAX_LENGTH: usize = 255;

/// The users of an auth file.
#[derive(Clone)]
pub struct Credentials {
    entries: Vec<Entry>,
    /// Set when other users of this machine can read the file.
    exposed: Option<PathBuf>,
}

#[derive(Clone)]
struct Entry {
    user: [u8; 32],
    password: [u8; 32],
}

/// Why an auth file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("read the auth file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not `user:password`.
    #[error("the auth file {}, line {line}: expected user:password", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A name or password that SOCKS cannot carry.
    #[error("the auth file {}, line {line}: user and password are at most {MAX_LENGTH} bytes each", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// No user at all: nobody could connect.
    #[error("the auth file {} names no user; it needs lines of user:password", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl Credentials {
    /// Reads an auth file: one `user:password` a line; empty lines and lines that start with `#` are left out.
    /// The password is all behind the first colon.
    ///
    /// # Errors
    /// The file cannot be read, has a line of another form, or names no user.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let text = std::fs::read_to_string(path).map_err(|source| CredentialsError::Read {
            path: path.to_owned(),
            source,
        })?;
        let entries = parse(&text, path)?;
        let exposed = readable_by_others(path).then(|| path.to_owned());
        Ok(Self { entries, exposed })
    }

    /// The file, when other users of this machine can read it.
    pub(super) fn exposed(&self) -> Option<&Path> {
        self.exposed.as_deref()
    }

    /// Whether user and password are a line of the file. Takes the same time for every answer.
    pub(super) fn allow(&self, user: &[u8], password: &[u8]) -> bool {
        let user: [u8; 32] = Sha256::digest(user).into();
        let password: [u8; 32] = Sha256::digest(password).into();
        self.entries.iter().fold(false, |allowed, entry| {
            let same_user = verify_slices_are_equal(&entry.user, &user).is_ok();
            let same_password = verify_slices_are_equal(&entry.password, &password).is_ok();
            allowed || (same_user & same_password)
        })
    }

    /// Whether the value of a `Proxy-Authorization` header (`Basic <base64>`) is a line of the file.
    pub(super) fn allow_basic(&self, value: &[u8]) -> bool {
        let Some((scheme, token)) = std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.split_once(' '))
        else {
            return false;
        };
        if !scheme.eq_ignore_ascii_case("basic") {
            return false;
        }
        let Ok(pair) = STANDARD.decode(token.trim()) else {
            return false;
        };
        let Some(colon) = pair.iter().position(|&b| b == b':') else {
            return false;
        };
        self.allow(&pair[..colon], &pair[colon + 1..])
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("users", &self.entries.len())
            .finish_non_exhaustive()
    }
}

fn parse(text: &str, path: &Path) -> Result<Vec<Entry>, CredentialsError> {
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let line_number = index + 1;
        let wrong = || CredentialsError::Line {
            path: path.to_owned(),
            line: line_number,
        };
        let (user, password) = line.split_once(':').ok_or_else(wrong)?;
        if user.is_empty() || password.is_empty() {
            return Err(wrong());
        }
        if user.len() > MAX_LENGTH || password.len() > MAX_LENGTH {
            return Err(CredentialsError::TooLong {
                path: path.to_owned(),
                line: line_number,
            });
        }
        entries.push(Entry {
            user: Sha256::digest(user).into(),
            password: Sha256::digest(password).into(),
        });
    }
    if entries.is_empty() {
        return Err(CredentialsError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(entries)
}

#[cfg(unix)]
fn readable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o077 != 0)
}

/// Access lists are not read: the user's own directory is private by default there.
#[cfg(not(unix))]
fn readable_by_others(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(text: &str) -> Result<Credentials, CredentialsError> {
        parse(text, Path::new("users")).map(|entries| Credentials {
            entries,
            exposed: None,
        })
    }

    #[test]
    fn allows_the_lines_and_nothing_else() {
        let users = credentials("# team\nann:s3:cret\r\n\nbob:x\n").unwrap();
        assert!(users.allow(b"ann", b"s3:cret"));
        assert!(users.allow(b"bob", b"x"));
        for (user, password) in [
            ("ann", "x"),
            ("bob", "s3:cret"),
            ("", ""),
            ("ann", "s3"),
            ("# team", ""),
        ] {
            assert!(!users.allow(user.as_bytes(), password.as_bytes()), "{user}");
        }
        assert!(!format!("{users:?}").contains("ann"));
    }

    #[test]
    fn reads_basic() {
        let users = credentials("ann:s3:cret").unwrap();
        let token = STANDARD.encode("ann:s3:cret");
        assert!(users.allow_basic(format!("Basic {token}").as_bytes()));
        assert!(users.allow_basic(format!("bASIC  {token} ").as_bytes()));
        for value in [
            token.clone(),
            format!("Bearer {token}"),
            "Basic".into(),
            "Basic ?".into(),
            "Basic YQ==".into(),
        ] {
            assert!(!users.allow_basic(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn names_the_wrong_line() {
        let long = format!("a:b\n{}:c", "x".repeat(256));
        assert!(matches!(
            credentials("a:b\nnonsense"),
            Err(CredentialsError::Line { line: 2, .. })
        ));
        assert!(matches!(
            credentials(":b"),
            Err(CredentialsError::Line { line: 1, .. })
        ));
        assert!(matches!(
            credentials("a:"),
            Err(CredentialsError::Line { line: 1, .. })
        ));
        assert!(matches!(
            credentials(&long),
            Err(CredentialsError::TooLong { line: 2, .. })
        ));
        assert!(matches!(
            credentials("\n# nobody\n"),
            Err(CredentialsError::Empty { .. })
        ));
        assert!(matches!(
            Credentials::read(Path::new("/no/such/file")),
            Err(CredentialsError::Read { .. })
        ));
    }
}
