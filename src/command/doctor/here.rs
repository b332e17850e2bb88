//! What can be told without a cluster: the plugin itself, PATH, the kubeconfig.

use std::path::{Path, PathBuf};

use super::report::Check;
use crate::cluster::agents::AgentBinaries;
use crate::cluster::env::Env;
use crate::cluster::kubeconfig::{self, Overrides};
use crate::cluster::options::{AgentOptions, AgentSource, Architecture};
use crate::command::completion::on_path;
use crate::error::Error;
use crate::program;

/// The version, and which agents there are to start; `unusable` is why there is none.
pub(super) fn plugin(unusable: Option<&Error>) -> Check {
    let version = tunnel_wire::version::SOFTWARE_VERSION;
    if let Some(error) = unusable {
        let check = Check::failed("plugin", error, "");
        return Check {
            message: format!("v{version}: {}", check.message),
            ..check
        };
    }
    let Ok(agents) = AgentBinaries::embedded() else {
        return Check::ok("plugin", format!("v{version}, with the agent of its flags"));
    };
    let there = Architecture::ALL
        .into_iter()
        .filter(|architecture| agents.get(*architecture).is_some());
    let names: Vec<&str> = there.map(Architecture::as_str).collect();
    Check::ok(
        "plugin",
        format!("v{version}, with agents for {}", names.join(" and ")),
    )
}

/// Which program kubectl would run.
pub(super) fn path(env: &Env) -> Check {
    let this = std::env::current_exe().and_then(|path| path.canonicalize());
    let found = on_path(program::file(), env);
    path_check(program::file(), this.ok().as_deref(), &found)
}

fn path_check(file: &str, this: Option<&Path>, found: &[PathBuf]) -> Check {
    let same = |path: &PathBuf| path.canonicalize().ok().as_deref() == this;
    match found {
        [] => Check::warning("path", format!("no {file} is on PATH: kubectl does not find it"))
            .with_hint("put the program into a folder of PATH"),
        [first, ..] if !same(first) => {
            let this = this.map_or_else(|| "another one".to_owned(), |path| path.display().to_string());
            Check::warning(
                "path",
                format!("{} is found first, but this is {this}", first.display()),
            )
            .with_hint("see all of them: `kubectl plugin list`")
        }
        [first, others @ ..] if others.iter().all(same) => Check::ok("path", first.display().to_string()),
        [first, others @ ..] => {
            let others = others.iter().filter(|path| !same(path));
            let others: Vec<_> = others.map(|path| path.display().to_string()).collect();
            Check::ok(
                "path",
                format!("{}, before {}", first.display(), others.join(", ")),
            )
        }
    }
}

/// Files, context, user and namespace; with `Err` there is no cluster to ask.
pub(super) fn kubeconfig(overrides: &Overrides, env: &Env) -> Result<Check, Check> {
    let resolved = kubeconfig::resolve(overrides, env)
        .map_err(|error| Check::failed("kubeconfig", &Error::Access(error.into()), ""))?;
    let files = kubeconfig::files_in_use(overrides, env);
    let files: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
    let mut parts = Vec::new();
    match resolved.context {
        Some(context) => parts.push(format!("context {context} of {}", files.join(", "))),
        None => parts.push("no context: the flags or the pod's service account decide".to_owned()),
    }
    if let Some(user) = resolved.user {
        parts.push(format!("user {user}"));
    }
    parts.push(format!("namespace {}", resolved.config.default_namespace));
    Ok(Check::ok("kubeconfig", parts.join(", ")))
}

/// The image is pulled by a node, which only a session shows.
pub(super) fn image(options: &AgentOptions) -> Check {
    let image = options.source.image();
    let role = match options.source {
        AgentSource::ConfigMap { .. } => "base image",
        AgentSource::Image(_) => "agent image",
    };
    Check::ok(
        "image",
        format!("{role} {image}; whether the nodes can pull it shows at the first start"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::report::State;

    #[test]
    #[cfg(unix)]
    fn the_first_on_path_is_what_kubectl_runs() {
        // Two files that are certainly there and differ.
        let this = std::env::current_exe().unwrap().canonicalize().unwrap();
        let other = PathBuf::from("/bin/sh");
        let check = |found: &[PathBuf]| path_check("kubectl-tunnel", Some(&this), found);
        let none = check(&[]);
        assert_eq!(
            (none.state, none.message.as_str()),
            (
                State::Warning,
                "no kubectl-tunnel is on PATH: kubectl does not find it"
            )
        );
        assert_eq!(
            check(std::slice::from_ref(&this)).message,
            this.display().to_string()
        );
        let hidden = check(&[other.clone(), this.clone()]);
        assert_eq!(hidden.state, State::Warning);
        assert_eq!(
            hidden.message,
            format!("/bin/sh is found first, but this is {}", this.display())
        );
        let first = check(&[this.clone(), other]);
        assert_eq!(first.state, State::Ok);
        assert_eq!(first.message, format!("{}, before /bin/sh", this.display()));
    }

    #[test]
    fn no_kubeconfig_is_a_failure_that_says_what_to_type() {
        let env = Env::from_vars([("KUBECONFIG", "/nonexistent/config")]);
        let check = kubeconfig(&Overrides::default(), &env).unwrap_err();
        assert_eq!(
            check.message,
            "no configuration has been provided: no kubeconfig at /nonexistent/config"
        );
        let hint = "name a kubeconfig with `--kubeconfig` or the variable KUBECONFIG";
        assert_eq!((check.state, check.hint.as_deref()), (State::Failure, Some(hint)));
    }
}
