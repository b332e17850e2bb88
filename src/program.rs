//! What this program is called: in usage, help, hints and errors.
//!
//! One archive is installed under several names (`kubectl-tunnel`, `kubectl-burrow`, `burrow`), and kubectl calls the
//! first two as `kubectl tunnel` and `kubectl burrow`. Only words to people follow the name. Labels and annotations in
//! the cluster, `KUBECTL_TUNNEL_*` and the places of files do not: they must be found again under any name.
//!
//! Measured with kubectl 1.35: it executes the path it found on PATH, which is absolute unless PATH has relative
//! folders; a shell that is given a bare name passes the bare name on. kubectl leaves the environment alone, so a
//! shell's `_` still names kubectl, but only where a shell started it that sets `_` (dash does not).

use std::ffi::OsStr;
use std::path::Path;
use std::sync::OnceLock;

use crate::cluster::env::Env;

/// How texts in the source call the program.
pub const PRODUCT: &str = "kubectl tunnel";

/// What kubectl finds plugins by.
const PLUGIN: &str = "kubectl-";
/// What kubectl finds their completions by.
const COMPLETER: &str = "kubectl_complete-";

static CALLED: OnceLock<Program> = OnceLock::new();

/// What people type to get this program, such as `kubectl tunnel` or `burrow`.
#[must_use]
pub fn name() -> &'static str {
    CALLED.get().map_or(PRODUCT, Program::name)
}

/// The name of the program's file, such as `kubectl-tunnel`.
#[must_use]
pub fn file() -> &'static str {
    CALLED.get().map_or("kubectl-tunnel", Program::file)
}

/// The part of the file's name by which kubectl knows the plugin; `None` for a file that is not named like one.
#[must_use]
pub fn plugin() -> Option<&'static str> {
    file().strip_prefix(PLUGIN).filter(|rest| !rest.is_empty())
}

/// `text` with the program's name for that of the product.
#[must_use]
pub fn named(text: &str) -> String {
    text.replace(PRODUCT, name())
}

/// `text` with the file's name for that of the product's file.
#[must_use]
pub fn named_file(text: &str) -> String {
    let text = text.replace("kubectl-tunnel", file());
    match plugin() {
        Some(plugin) => text.replace("kubectl_complete-tunnel", &format!("{COMPLETER}{plugin}")),
        None => text,
    }
}

/// The name of this process, once and for all.
pub fn set(program: Program) {
    CALLED.get_or_init(|| program);
}

/// How a process was called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    name: String,
    file: String,
    completes: bool,
}

impl Program {
    /// From a process's first argument and its surroundings.
    #[must_use]
    pub fn called(first: Option<&OsStr>, env: &Env) -> Self {
        let path = Path::new(first.unwrap_or_default());
        let stem = if path
            .extension()
            .is_some_and(|end| end.eq_ignore_ascii_case("exe"))
        {
            path.file_stem()
        } else {
            path.file_name()
        };
        let file = stem.unwrap_or_default().to_string_lossy().into_owned();
        if let Some(plugin) = file.strip_prefix(COMPLETER).filter(|rest| !rest.is_empty()) {
            return Self {
                name: plugin_name(plugin),
                file: format!("{PLUGIN}{plugin}"),
                completes: true,
            };
        }
        let name = match file.strip_prefix(PLUGIN).filter(|rest| !rest.is_empty()) {
            Some(plugin) if by_kubectl(path, env) => plugin_name(plugin),
            None if file.is_empty() => PRODUCT.to_owned(),
            Some(_) | None => file.clone(),
        };
        Self {
            name,
            file,
            completes: false,
        }
    }

    /// What people type.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file's name, without `.exe`.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Whether kubectl asks what may follow on a command line: it was called `kubectl_complete-NAME`.
    #[must_use]
    pub fn completes(&self) -> bool {
        self.completes
    }
}

/// `foo-bar_baz` is what `kubectl foo bar-baz` runs.
fn plugin_name(file: &str) -> String {
    format!("kubectl {}", file.replace('-', " ").replace('_', "-"))
}

/// Whether a file named like a plugin was called as one. Somebody who types its absolute path counts as kubectl.
fn by_kubectl(path: &Path, env: &Env) -> bool {
    let is_kubectl = |path: &OsStr| Path::new(path).file_stem() == Some(OsStr::new("kubectl"));
    let has_folder = path.parent().is_some_and(|folder| !folder.as_os_str().is_empty());
    path.is_absolute() || (has_folder && env.os_var("_").is_some_and(is_kubectl))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(first: &str, vars: &[(&str, &str)]) -> Program {
        Program::called(Some(OsStr::new(first)), &Env::from_vars(vars.iter().copied()))
    }

    #[test]
    #[cfg(unix)]
    fn kubectl_passes_a_path_and_a_shell_the_word() {
        let kubectl = [("_", "/usr/local/bin/kubectl")];
        for (first, vars, name) in [
            ("/home/me/bin/kubectl-tunnel", &[][..], "kubectl tunnel"),
            ("/home/me/bin/kubectl-tunnel", &kubectl[..], "kubectl tunnel"),
            ("/home/me/bin/kubectl-burrow", &[], "kubectl burrow"),
            ("/home/me/bin/kubectl-net-go_far", &[], "kubectl net go-far"),
            ("bin/kubectl-tunnel", &kubectl, "kubectl tunnel"),
            (
                "bin/kubectl-tunnel",
                &[("_", "bin/kubectl-tunnel")],
                "kubectl-tunnel",
            ),
            ("./kubectl-tunnel", &[], "kubectl-tunnel"),
            (
                "kubectl-tunnel",
                &[("_", "/bin/kubectl-tunnel")],
                "kubectl-tunnel",
            ),
            ("kubectl-tunnel", &kubectl, "kubectl-tunnel"),
            ("/home/me/bin/burrow", &kubectl, "burrow"),
            ("burrow", &[], "burrow"),
            ("kubectl-", &[], "kubectl-"),
            ("", &[], "kubectl tunnel"),
        ] {
            assert_eq!(called(first, vars).name(), name, "{first} {vars:?}");
        }
    }

    #[test]
    fn an_ending_of_windows_is_no_part_of_the_name() {
        assert_eq!(called("burrow.exe", &[]).name(), "burrow");
        assert_eq!(called("burrow.EXE", &[]).file(), "burrow");
        assert_eq!(called("kubectl-tunnel.old", &[]).file(), "kubectl-tunnel.old");
    }

    #[test]
    fn a_completer_speaks_for_its_plugin() {
        let program = called("/home/me/bin/kubectl_complete-go_far", &[]);
        assert!(program.completes());
        assert_eq!(
            (program.name(), program.file()),
            ("kubectl go-far", "kubectl-go_far")
        );
    }

    #[test]
    fn texts_follow_the_name_and_default_to_the_products() {
        assert_eq!(
            named("type `kubectl tunnel proxy`"),
            "type `kubectl tunnel proxy`"
        );
    }
}
