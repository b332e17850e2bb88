//! Why there are no credentials: mostly a credential plugin that is missing or failed.

use std::io::ErrorKind;

use kube::client::AuthError;
use kube::config::ExecConfig;

use super::shorten;

/// The credential plugin of a kubeconfig user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialPlugin {
    /// The program.
    pub command: String,
    /// What to do when it is not there, in the words of who wrote the kubeconfig.
    pub install_hint: Option<String>,
}

impl From<&ExecConfig> for CredentialPlugin {
    fn from(exec: &ExecConfig) -> Self {
        Self {
            command: exec.command.clone().unwrap_or_default(),
            install_hint: exec
                .install_hint
                .as_deref()
                .map(str::trim)
                .filter(|hint| !hint.is_empty())
                .map(str::to_owned),
        }
    }
}

/// Why there are no credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The plugin's program is not there.
    #[error("getting credentials: exec: executable {} not found", plugin.command)]
    PluginMissing {
        /// The plugin, with the hint how to install it.
        plugin: CredentialPlugin,
    },
    /// The plugin's program cannot be started.
    #[error("getting credentials: exec: cannot start {command}: {cause}")]
    PluginStart {
        /// The program.
        command: String,
        /// The system's words.
        cause: String,
    },
    /// The plugin ended with an error.
    #[error("getting credentials: exec: executable {command} failed with {outcome}")]
    PluginFailed {
        /// The program.
        command: String,
        /// Exit code or signal, and what it wrote to stderr if the terminal has not shown that already.
        outcome: String,
    },
    /// The plugin wrote something else than credentials.
    #[error("getting credentials: exec: executable {command} returned no usable credentials: {cause}")]
    PluginAnswer {
        /// The program.
        command: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Credentials of another kind: a token file, an OIDC refresh, an auth provider.
    #[error("getting credentials: {cause}")]
    Other {
        /// What is wrong with them.
        cause: String,
    },
}

impl CredentialError {
    /// How to install the missing plugin, from the kubeconfig; to be shown as it is.
    pub fn install_hint(&self) -> Option<&str> {
        match self {
            Self::PluginMissing { plugin } => plugin.install_hint.as_deref(),
            Self::PluginStart { .. }
            | Self::PluginFailed { .. }
            | Self::PluginAnswer { .. }
            | Self::Other { .. } => None,
        }
    }

    pub(in crate::cluster) fn new(error: &AuthError, plugin: Option<&CredentialPlugin>) -> Self {
        let Some(plugin) = plugin else {
            return Self::Other {
                cause: error.to_string(),
            };
        };
        let command = plugin.command.clone();
        match error {
            AuthError::AuthExecStart(cause) if cause.kind() == ErrorKind::NotFound => Self::PluginMissing {
                plugin: plugin.clone(),
            },
            AuthError::AuthExecStart(cause) => Self::PluginStart {
                command,
                cause: cause.to_string(),
            },
            // kube's own text would show the command line, which may hold secrets.
            AuthError::AuthExecRun { out, .. } => {
                let said = shorten(&String::from_utf8_lossy(&out.stderr));
                let colon = if said.is_empty() { "" } else { ": " };
                Self::PluginFailed {
                    command,
                    outcome: format!("{}{colon}{said}", out.status),
                }
            }
            // The parser's text quotes the plugin's output, which may hold a token.
            AuthError::AuthExecParse(_) => Self::PluginAnswer {
                command,
                cause: "it is not an ExecCredential".to_owned(),
            },
            AuthError::ExecPluginFailed => Self::PluginAnswer {
                command,
                cause: "it has no status".to_owned(),
            },
            AuthError::MalformedTokenExpirationDate(cause) => Self::PluginAnswer {
                command,
                cause: cause.to_string(),
            },
            AuthError::UnrefreshableTokenResponse => Self::PluginAnswer {
                command,
                cause: "a refresh gave no token that expires".to_owned(),
            },
            AuthError::MissingCommand => Self::PluginMissing {
                plugin: plugin.clone(),
            },
            AuthError::InvalidBasicAuth(_)
            | AuthError::InvalidBearerToken(_)
            | AuthError::AuthExecSerialize(_)
            | AuthError::AuthExec(_)
            | AuthError::ReadTokenFile(..)
            | AuthError::ParseTokenKey(_)
            | AuthError::Oidc(_)
            | AuthError::ExecMissingClusterInfo
            | AuthError::NoValidNativeRootCA(_) => Self::Other {
                cause: error.to_string(),
            },
        }
    }
}
