//! Whether a credential plugin may run: kubectl's `credentialPluginPolicy` in the kuberc file (Kubernetes 1.35), and
//! whether it can get the terminal it asks for.
//!
//! kube ignores that file; running a plugin that kubectl would refuse would be a way around a security setting, so a
//! kuberc that cannot be understood refuses too. The rules: `AllowAll` (and nothing) allows, `DenyAll` refuses,
//! `Allowlist` compares each entry as a full path or as a name found in `PATH`. kuberc's other settings (aliases,
//! defaults) do not reach plugins and are left alone.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use kube::config::{ExecConfig, ExecInteractiveMode};
use serde::Deserialize;

use crate::cluster::env::Env;
use crate::cluster::yaml::YamlError;

/// Why a credential plugin may not run.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// `DenyAll`.
    #[error("plugin \"{command}\" not allowed: policy set to \"DenyAll\" in {}", kuberc.display())]
    Denied {
        /// The plugin.
        command: String,
        /// The file that says so.
        kuberc: PathBuf,
    },
    /// Not in the list.
    #[error("plugin path \"{command}\" is not permitted by the credential plugin allowlist in {}", kuberc.display())]
    NotListed {
        /// The plugin.
        command: String,
        /// The file that says so.
        kuberc: PathBuf,
    },
    /// The file contradicts itself.
    #[error("misconfigured credential plugin policy in {}: {problem}", kuberc.display())]
    Misconfigured {
        /// The file.
        kuberc: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// The file cannot be read.
    #[error("read {}", kuberc.display())]
    Read {
        /// The file.
        kuberc: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not YAML of this form.
    #[error("parse {}", kuberc.display())]
    Parse {
        /// The file.
        kuberc: PathBuf,
        /// Where and why.
        source: YamlError,
    },
    /// The plugin wants to ask something, but stdin is no terminal.
    #[error("plugin \"{command}\" needs to be interactive, but standard input is not a terminal")]
    NeedsTerminal {
        /// The plugin.
        command: String,
    },
}

/// The part of kuberc that matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Preference {
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    credential_plugin_policy: Option<String>,
    #[serde(default)]
    credential_plugin_allowlist: Option<Vec<AllowlistEntry>>,
}

/// `name` in Kubernetes 1.35, `command` from 1.36 on. Whatever else an entry demands, we cannot check.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowlistEntry {
    #[serde(alias = "command")]
    name: Option<String>,
}

/// Refuses a plugin that may not run, and fixes how it gets the terminal.
pub(super) fn admit(exec: &mut ExecConfig, env: &Env) -> Result<(), PolicyError> {
    let command = exec.command.clone().unwrap_or_default();
    match exec.interactive_mode {
        Some(ExecInteractiveMode::Always) if !env.is_interactive() => {
            return Err(PolicyError::NeedsTerminal { command });
        }
        // kube would hand the plugin a stdin that is no terminal, such as the rest of a script.
        Some(ExecInteractiveMode::IfAvailable) | None if !env.is_interactive() => {
            exec.interactive_mode = Some(ExecInteractiveMode::Never);
        }
        Some(ExecInteractiveMode::Always | ExecInteractiveMode::IfAvailable | ExecInteractiveMode::Never)
        | None => {}
    }
    match kuberc(env)? {
        Some((kuberc, preference)) => allow(&command, &preference, kuberc, env),
        None => Ok(()),
    }
}

/// The kuberc file in effect. Only one that `KUBERC` names must exist.
fn kuberc(env: &Env) -> Result<Option<(PathBuf, Preference)>, PolicyError> {
    if env.var("KUBERC") == Some("off") || env.var("KUBECTL_KUBERC") == Some("false") {
        return Ok(None);
    }
    let named = env.os_var("KUBERC").map(PathBuf::from);
    let must_exist = named.is_some();
    let Some(kuberc) = named.or_else(|| env.home().map(|home| home.join(".kube").join("kuberc"))) else {
        return Ok(None);
    };
    let text = match std::fs::read_to_string(&kuberc) {
        Ok(text) => text,
        Err(source) if source.kind() == io::ErrorKind::NotFound && !must_exist => return Ok(None),
        Err(source) => return Err(PolicyError::Read { kuberc, source }),
    };
    let documents: Vec<Preference> =
        serde_saphyr::from_multiple(&text).map_err(|source| PolicyError::Parse {
            kuberc: kuberc.clone(),
            source: YamlError::from(source),
        })?;
    let preference = documents
        .into_iter()
        .find(|document| document.kind.as_deref() == Some("Preference"));
    Ok(preference.map(|preference| (kuberc, preference)))
}

fn allow(command: &str, preference: &Preference, kuberc: PathBuf, env: &Env) -> Result<(), PolicyError> {
    let list = preference.credential_plugin_allowlist.as_deref();
    let misconfigured = |problem| {
        Err(PolicyError::Misconfigured {
            kuberc: kuberc.clone(),
            problem,
        })
    };
    match preference.credential_plugin_policy.as_deref().unwrap_or_default() {
        "" | "AllowAll" | "DenyAll" if list.is_some() => {
            misconfigured("credentialPluginAllowlist needs the policy \"Allowlist\"")
        }
        "" | "AllowAll" => Ok(()),
        "DenyAll" => Err(PolicyError::Denied {
            command: command.to_owned(),
            kuberc,
        }),
        "Allowlist" => {
            let entries: Option<Vec<&str>> = list
                .unwrap_or_default()
                .iter()
                .map(|entry| entry.name.as_deref().filter(|name| !name.is_empty()))
                .collect();
            match entries {
                None => misconfigured("an entry of credentialPluginAllowlist names nothing"),
                Some(entries) if entries.is_empty() => misconfigured("credentialPluginAllowlist is empty"),
                Some(entries) if entries.iter().any(|entry| is_same_program(entry, command, env)) => Ok(()),
                Some(_) => Err(PolicyError::NotListed {
                    command: command.to_owned(),
                    kuberc,
                }),
            }
        }
        _ => misconfigured("credentialPluginPolicy must be AllowAll, DenyAll or Allowlist"),
    }
}

fn is_same_program(entry: &str, command: &str, env: &Env) -> bool {
    entry == command || look_path(entry, env).is_some_and(|path| Some(path) == look_path(command, env))
}

/// Go's `exec.LookPath`: a path as it is, a bare name in the folders of `PATH`.
fn look_path(program: &str, env: &Env) -> Option<PathBuf> {
    let mut components = Path::new(program).components();
    let is_bare = matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(_)), None)
    );
    if !is_bare || program.contains('/') {
        return with_extensions(Path::new(program), env).find(|path| is_executable(path));
    }
    std::env::split_paths(env.os_var("PATH")?)
        .filter(|dir| dir.is_absolute())
        .find_map(|dir| with_extensions(&dir.join(program), env).find(|path| is_executable(path)))
}

/// The path itself, and on Windows with each extension of `PATHEXT`.
fn with_extensions<'a>(path: &Path, env: &'a Env) -> impl Iterator<Item = PathBuf> + use<'a> {
    let extensions = if cfg!(windows) {
        env.var("PATHEXT").unwrap_or(".com;.exe;.bat;.cmd")
    } else {
        ""
    };
    let plain = path.to_owned();
    let stem = plain.clone();
    let extended = extensions
        .split(';')
        .filter(|extension| !extension.is_empty())
        .map(move |extension| {
            let mut name = OsString::from(&stem);
            name.push(extension);
            PathBuf::from(name)
        });
    std::iter::once(plain).chain(extended)
}

#[cfg(unix)]
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(path: &Path) -> bool {
    path.is_file()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::cluster::kubeconfig::fixture::Dir;

    /// The outcome for the plugin `command`, with a kuberc of these lines and `bin/` as `PATH`.
    fn outcome(dir: &Dir, rules: &str, command: &str) -> &'static str {
        dir.write(
            ".kube/kuberc",
            &format!("apiVersion: kubectl.config.k8s.io/v1beta1\nkind: Preference\n{rules}"),
        );
        let env = Env::from_vars([("PATH", dir.path("bin"))]).with_home(dir.path(""));
        let mut exec = ExecConfig {
            command: Some(command.to_owned()),
            ..ExecConfig::default()
        };
        match admit(&mut exec, &env) {
            Ok(()) => "runs",
            Err(PolicyError::Denied { .. }) => "denied",
            Err(PolicyError::NotListed { .. }) => "not listed",
            Err(PolicyError::Misconfigured { .. }) => "misconfigured",
            Err(PolicyError::Parse { .. }) => "unparsable",
            Err(other) => panic!("unexpected: {other}"),
        }
    }

    #[test]
    fn kuberc_policies() {
        let dir = Dir::new();
        let login = dir.script("bin/login", "true");
        dir.script("elsewhere/login", "true");
        let elsewhere = dir.path("elsewhere/login");
        let (login, elsewhere) = (login.to_str().unwrap(), elsewhere.to_str().unwrap());
        let list = |entries: &str| {
            format!("credentialPluginPolicy: Allowlist\ncredentialPluginAllowlist: {entries}")
        };
        let cases = [
            ("aliases: []".to_owned(), "login", "runs"),
            ("credentialPluginPolicy: \"\"".to_owned(), "login", "runs"),
            ("credentialPluginPolicy: AllowAll".to_owned(), "login", "runs"),
            ("credentialPluginPolicy: DenyAll".to_owned(), "login", "denied"),
            (
                "credentialPluginPolicy: Sometimes".to_owned(),
                "login",
                "misconfigured",
            ),
            (
                "credentialPluginAllowlist: [{name: login}]".to_owned(),
                "login",
                "misconfigured",
            ),
            (
                "credentialPluginPolicy: Allowlist".to_owned(),
                "login",
                "misconfigured",
            ),
            (list("[]"), "login", "misconfigured"),
            (list("[{name: ''}]"), "login", "misconfigured"),
            (list("[{name: login, sha256: abc}]"), "login", "unparsable"),
            (list("[{name: other}, {name: login}]"), "login", "runs"),
            (list("[{command: login}]"), "login", "runs"),
            (list("[{name: other}]"), "login", "not listed"),
            (list("[{name: login}]"), login, "runs"),
            (list("[{name: login}]"), elsewhere, "not listed"),
            (list(&format!("[{{name: {login}}}]")), "login", "runs"),
            (list(&format!("[{{name: {elsewhere}}}]")), "login", "not listed"),
            (list(&format!("[{{name: {elsewhere}}}]")), elsewhere, "runs"),
            (list("[{name: absent}]"), "absent", "runs"),
            (list("[{name: absent-1}]"), "absent-2", "not listed"),
        ];
        for (rules, command, expected) in &cases {
            assert_eq!(outcome(&dir, rules, command), *expected, "{rules} / {command}");
        }
    }

    #[test]
    fn kuberc_can_be_elsewhere_off_or_missing() {
        let dir = Dir::new();
        let deny = dir.write("deny", "kind: Preference\ncredentialPluginPolicy: DenyAll");
        let check = |vars: &[(&str, &str)]| {
            let mut exec = ExecConfig {
                command: Some("login".to_owned()),
                ..ExecConfig::default()
            };
            admit(
                &mut exec,
                &Env::from_vars(vars.iter().copied()).with_home(dir.path("")),
            )
        };
        let deny = deny.to_str().unwrap();
        assert!(check(&[]).is_ok());
        assert!(matches!(
            check(&[("KUBERC", deny)]),
            Err(PolicyError::Denied { .. })
        ));
        assert!(check(&[("KUBERC", deny), ("KUBECTL_KUBERC", "false")]).is_ok());
        assert!(check(&[("KUBERC", "off")]).is_ok());
        let missing = dir.path("missing");
        assert!(matches!(
            check(&[("KUBERC", missing.to_str().unwrap())]),
            Err(PolicyError::Read { .. })
        ));
    }

    #[test]
    fn the_terminal_goes_only_to_a_plugin_that_gets_a_real_one() {
        use ExecInteractiveMode::{Always, IfAvailable, Never};
        let cases = [
            (Some(Always), true, Some(Some(Always))),
            (Some(Always), false, None),
            (Some(IfAvailable), true, Some(Some(IfAvailable))),
            (Some(IfAvailable), false, Some(Some(Never))),
            (Some(Never), true, Some(Some(Never))),
            (None, true, Some(None)),
            (None, false, Some(Some(Never))),
        ];
        for (mode, terminal, expected) in cases {
            let mut exec = ExecConfig {
                interactive_mode: mode.clone(),
                ..ExecConfig::default()
            };
            let env = Env::from_vars::<&str, &str>([]).with_terminal(terminal);
            let actual = admit(&mut exec, &env).ok().map(|()| exec.interactive_mode);
            assert_eq!(actual, expected, "{mode:?}, terminal: {terminal}");
        }
    }
}
