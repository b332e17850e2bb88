//! Why there is no connection to the API server: which step refused, found by type in the chain of sources.

use std::error::Error as StdError;
use std::io::{self, ErrorKind};

use rustls::{AlertDescription, CertificateError};
use tower::timeout::error::Elapsed;

use super::sources;
use crate::cluster::client::{ProxyFailure, ResolveFailure};

/// The alerts with which a server refuses a client certificate.
const REFUSES_CERTIFICATE: [AlertDescription; 8] = [
    AlertDescription::BadCertificate,
    AlertDescription::CertificateRequired,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
];

/// Who or what refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectFailure {
    /// Nothing listens there.
    #[error("connection refused")]
    Refused,
    /// The name has no address, or no resolver answers.
    #[error("lookup {host}: {reason}")]
    Lookup {
        /// The name.
        host: String,
        /// The system's words.
        reason: String,
    },
    /// No connection in time.
    #[error("timed out while connecting")]
    TimedOut,
    /// No route, or no network at all.
    #[error("{0}")]
    NoRoute(String),
    /// The server's certificate is not signed by a known authority.
    #[error("tls: the certificate is signed by an unknown authority")]
    UnknownAuthority,
    /// The server's certificate is for other names.
    #[error("tls: {0}")]
    WrongName(String),
    /// The server's certificate is too old or too new, or one clock is wrong.
    #[error("tls: {0}")]
    OutsideValidity(String),
    /// The server does not accept our certificate.
    #[error("tls: the server does not accept our client certificate ({0})")]
    ClientCertificate(String),
    /// Any other trouble with TLS, such as a server that speaks plain HTTP.
    #[error("tls: {0}")]
    Tls(String),
    /// The proxy cannot be reached, or does not let us through.
    #[error("proxy {proxy}: {reason}")]
    Proxy {
        /// Scheme, host and port.
        proxy: String,
        /// What it said, or why it cannot be reached.
        reason: String,
    },
    /// The connection broke, or something else.
    #[error("{0}")]
    Broken(String),
}

impl ConnectFailure {
    /// Whether it may be over in a moment. A wrong certificate stays wrong.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused
            | Self::Lookup { .. }
            | Self::TimedOut
            | Self::NoRoute(_)
            | Self::Proxy { .. }
            | Self::Broken(_) => true,
            Self::UnknownAuthority
            | Self::WrongName(_)
            | Self::OutsideValidity(_)
            | Self::ClientCertificate(_)
            | Self::Tls(_) => false,
        }
    }

    /// The outermost cause that says something; the innermost text if none does.
    pub(super) fn find(error: &(dyn StdError + 'static)) -> Self {
        let found = sources(error).find_map(|error| {
            if let Some(failure) = error.downcast_ref::<ProxyFailure>() {
                let reason = Self::find(failure.source.as_ref()).to_string();
                return Some(Self::Proxy {
                    proxy: failure.proxy.to_string(),
                    reason,
                });
            }
            if let Some(failure) = error.downcast_ref::<ResolveFailure>() {
                return Some(Self::Lookup {
                    host: failure.host.clone(),
                    reason: failure.source.to_string(),
                });
            }
            if error.is::<Elapsed>() {
                return Some(Self::TimedOut);
            }
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return Some(Self::from_tls(tls));
            }
            error.downcast_ref::<io::Error>().and_then(Self::from_io)
        });
        found.unwrap_or_else(|| Self::Broken(sources(error).last().unwrap_or(error).to_string()))
    }

    fn from_tls(error: &rustls::Error) -> Self {
        if let rustls::Error::InvalidCertificate(certificate) = error {
            return Self::from_certificate(certificate);
        }
        if let rustls::Error::AlertReceived(alert) = error
            && REFUSES_CERTIFICATE.contains(alert)
        {
            return Self::ClientCertificate(format!("{alert:?}"));
        }
        if matches!(error, rustls::Error::InvalidMessage(_)) {
            return Self::Tls("the server does not speak TLS; is its URL an http:// one?".to_owned());
        }
        Self::Tls(error.to_string())
    }

    fn from_certificate(error: &CertificateError) -> Self {
        use CertificateError as E;
        // Cluster authorities are mostly called the same (`kubernetes`), so that another one's signature is tried.
        if matches!(error, E::UnknownIssuer | E::BadSignature) {
            return Self::UnknownAuthority;
        }
        if matches!(error, E::NotValidForName | E::NotValidForNameContext { .. }) {
            return Self::WrongName(error.to_string());
        }
        if matches!(
            error,
            E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. }
        ) {
            return Self::OutsideValidity(error.to_string());
        }
        Self::Tls(error.to_string())
    }

    /// `None` for errors that only carry another one.
    fn from_io(error: &io::Error) -> Option<Self> {
        let kind = error.kind();
        if kind == ErrorKind::ConnectionRefused {
            return Some(Self::Refused);
        }
        if kind == ErrorKind::TimedOut {
            return Some(Self::TimedOut);
        }
        matches!(
            kind,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown
        )
        .then(|| Self::NoRoute(error.to_string()))
    }
}
