//! What the cluster code takes from its surroundings: environment variables, the home directory, the terminal and
//! the folder of a pod's service account.
//!
//! Everything under `cluster/` gets this as an argument and reads no environment itself, so tests describe their
//! surroundings instead of changing the process. Credential plugins still inherit the process's own environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

/// Where the kubelet mounts a pod's token, CA and namespace.
const SERVICE_ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The surroundings of one run.
#[derive(Clone)]
pub struct Env {
    vars: BTreeMap<OsString, OsString>,
    home: Option<PathBuf>,
    interactive: bool,
    service_account: PathBuf,
}

impl Env {
    /// The surroundings of this process, as they are at the call.
    pub fn process() -> Self {
        Self {
            vars: std::env::vars_os()
                .map(|(name, value)| (key(&name), value))
                .collect(),
            home: std::env::home_dir().filter(|home| !home.as_os_str().is_empty()),
            interactive: std::io::stdin().is_terminal(),
            service_account: PathBuf::from(SERVICE_ACCOUNT_DIR),
        }
    }

    /// Surroundings with these variables and nothing else: no home directory, no terminal, no service account.
    pub fn from_vars<N, V>(vars: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: AsRef<OsStr>,
        V: Into<OsString>,
    {
        Self {
            vars: vars
                .into_iter()
                .map(|(name, value)| (key(name.as_ref()), value.into()))
                .collect(),
            home: None,
            interactive: false,
            service_account: PathBuf::new(),
        }
    }

    /// The same with this home directory.
    #[must_use]
    pub fn with_home(mut self, home: impl Into<PathBuf>) -> Self {
        self.home = Some(home.into());
        self
    }

    /// The same with this folder as the mounted service account (`token`, `ca.crt`, `namespace`).
    #[must_use]
    pub fn with_service_account(mut self, dir: impl Into<PathBuf>) -> Self {
        self.service_account = dir.into();
        self
    }

    /// The same with stdin being a terminal or not.
    #[must_use]
    pub fn with_terminal(mut self, interactive: bool) -> Self {
        self.interactive = interactive;
        self
    }

    /// A variable that is set and not empty: client-go and Go's proxy rules treat an empty one as not set.
    pub fn os_var(&self, name: &str) -> Option<&OsStr> {
        self.vars
            .get(&key(OsStr::new(name)))
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    /// [`Env::os_var`] as text; a value that is not Unicode counts as not set.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.os_var(name).and_then(OsStr::to_str)
    }

    /// The names of the variables that begin like this and are Unicode.
    pub fn names_from(&self, prefix: &str) -> impl Iterator<Item = &str> {
        let names = self.vars.keys().filter_map(|name| name.to_str());
        names.filter(move |name| name.starts_with(prefix))
    }

    /// The first of these variables that is set and not empty.
    pub fn any_var(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.var(name))
    }

    /// The user's home directory.
    pub fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// Whether stdin is a terminal, so that a credential plugin may ask something.
    pub fn is_interactive(&self) -> bool {
        self.interactive
    }

    /// The folder of the mounted service account, whether it exists or not.
    pub fn service_account(&self) -> &Path {
        &self.service_account
    }
}

/// Names of variables are case-insensitive on Windows (`Path`, `PATH`) and nowhere else.
fn key(name: &OsStr) -> OsString {
    if cfg!(windows) {
        name.to_ascii_uppercase()
    } else {
        name.to_owned()
    }
}

/// Variables may hold secrets, so only their number is shown.
impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env")
            .field("vars", &self.vars.len())
            .field("home", &self.home)
            .field("interactive", &self.interactive)
            .field("service_account", &self.service_account)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let env = Env::from_vars([("HTTPS_PROXY", ""), ("https_proxy", "http://proxy:3128")]);
        assert_eq!(env.var("HTTPS_PROXY"), None);
        assert_eq!(
            env.any_var(&["HTTPS_PROXY", "https_proxy"]),
            Some("http://proxy:3128")
        );
    }

    #[test]
    fn debug_shows_no_values() {
        let env = Env::from_vars([("TOKEN", "hunter2")]);
        assert!(!format!("{env:?}").contains("hunter2"));
    }
}
