//! Who a session is and how its plugin proves itself: the id, the secret and the secret's digest.
//!
//! Values and their text forms only; [`crate::hello`] carries them and decides what they prove.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// Longest session id, and its room in a hello, in bytes.
pub(crate) const ID_LENGTH: usize = 16;

/// A session's name: 1 to 16 characters of `[a-z0-9]`, part of the names of its objects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionId(String);

/// The text is not a session id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a session id (1 to 16 characters of a-z and 0-9)")]
pub struct InvalidSessionId(String);

impl SessionId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id in the room it has on the wire, padded with NUL.
    pub(crate) fn padded(&self) -> [u8; ID_LENGTH] {
        let mut id = [0; ID_LENGTH];
        id[..self.0.len()].copy_from_slice(self.0.as_bytes());
        id
    }
}

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = (1..=ID_LENGTH).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidSessionId(text.to_owned()))
        }
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What only the plugin that started a session knows. Never printed, never on a command line.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Wraps 32 bytes of the system's randomness.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the hello, and as the key of [`crate::entrance`].
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What the agent is given instead: the SHA-256.
    #[must_use]
    pub fn digest(&self) -> SecretDigest {
        SecretDigest(Sha256::digest(self.0).into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// SHA-256 of a [`Secret`], as 64 hexadecimal digits in the pod's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretDigest([u8; 32]);

/// The text is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a secret's digest is 64 hexadecimal digits")]
pub struct InvalidDigest;

impl SecretDigest {
    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `secret` is the one. Takes the same time for every wrong secret.
    #[must_use]
    pub fn proves(&self, secret: &Secret) -> bool {
        equal(&self.0, &secret.digest().0)
    }
}

/// Takes the same time wherever the difference is.
pub(crate) fn equal(one: &[u8; 32], other: &[u8]) -> bool {
    let difference = one
        .iter()
        .zip(other)
        .fold(0, |difference, (a, b)| difference | (a ^ b));
    other.len() == one.len() && difference == 0
}

impl FromStr for SecretDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(InvalidDigest);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16).ok_or(InvalidDigest)?;
            let low = char::from(pair[1]).to_digit(16).ok_or(InvalidDigest)?;
            *byte = u8::try_from(high << 4 | low).map_err(|_| InvalidDigest)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ids_are_names_of_objects() {
        for bad in ["", "Abc", "a-b", "12345678901234567", "ä"] {
            assert!(bad.parse::<SessionId>().is_err(), "{bad}");
        }
        assert_eq!("a1".parse::<SessionId>().unwrap().to_string(), "a1");
    }

    #[test]
    fn digests_survive_the_environment() {
        let digest = Secret::new([7; 32]).digest();
        assert_eq!(digest.to_string().parse::<SecretDigest>(), Ok(digest.clone()));
        assert!(!digest.proves(&Secret::new([8; 32])));
        assert!("zz".repeat(32).parse::<SecretDigest>().is_err());
        assert!("00".parse::<SecretDigest>().is_err());
    }
}
