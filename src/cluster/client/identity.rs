//! Who we say we are to the API server: the headers with which audit logs group our requests (KEP-859).

use http::header::{HeaderName, HeaderValue, USER_AGENT};

/// The headers of one run.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    command: String,
    session: String,
}

impl Identity {
    pub(super) fn new(verb: &str) -> Self {
        Self {
            command: format!("{} {verb}", crate::program::PRODUCT),
            session: uuid(rand::random()),
        }
    }

    pub(super) fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let agent = format!("kubectl-tunnel/{} ({})", env!("CARGO_PKG_VERSION"), platform());
        [
            (USER_AGENT, agent.as_str()),
            (HeaderName::from_static("kubectl-command"), &self.command),
            (HeaderName::from_static("kubectl-session"), &self.session),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, HeaderValue::from_str(value).ok()?)))
        .collect()
    }
}

/// This machine in Go's words, as client-go's user agents have it.
fn platform() -> String {
    let os = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        other => other,
    };
    format!("{os}/{arch}")
}

/// A random (version 4) UUID.
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let n = u128::from_be_bytes(bytes);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        n >> 96,
        n >> 80 & 0xffff,
        n >> 64 & 0xffff,
        n >> 48 & 0xffff,
        n & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_version_and_variant() {
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(
            uuid(std::array::from_fn(|i| u8::try_from(i).unwrap())),
            "00010203-0405-4607-8809-0a0b0c0d0e0f"
        );
    }

    #[test]
    fn one_session_for_all_clients_of_a_run() {
        let identity = Identity::new("proxy");
        assert_eq!(identity.headers(), identity.clone().headers());
        assert_eq!(identity.headers().len(), 3);
        assert_ne!(Identity::new("proxy").session, identity.session);
    }
}
