//! `completion`: a shell's script, and the shim that kubectl asks.
//!
//! The scripts for bash, zsh and fish ask the program each time (`complete`), so they offer what kubectl's completion
//! does. PowerShell's comes from clap and knows commands and flags only.

use std::path::{Path, PathBuf};

use super::Context;
use crate::cli::completion_args::{CompletionArgs, CompletionCommand, InstallArgs};
use crate::cluster::env::Env;
use crate::error::Error;
use crate::program;

const BASH: &str = include_str!("completion/bash.sh");
const ZSH: &str = include_str!("completion/zsh.sh");
const FISH: &str = include_str!("completion/fish.fish");

/// In the second line of a shim: what makes it ours.
const MARK: &str = "# completes the plugin beside it; written by `completion install`";

/// Prints the script, or writes the shim and says where.
pub(super) fn run(arguments: &CompletionArgs, context: &Context) -> Result<(), Error> {
    let file = program::file();
    let script = match &arguments.command {
        CompletionCommand::Install(arguments) => return install(arguments, context),
        CompletionCommand::Bash => script(BASH, file),
        CompletionCommand::Zsh => script(ZSH, file),
        CompletionCommand::Fish => script(FISH, file),
        CompletionCommand::PowerShell => powershell(file),
    };
    context.printer.data(script.trim_end());
    Ok(())
}

fn script(template: &str, file: &str) -> String {
    let word: String = file
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    template.replace("FUNCTION", &word).replace("FILE", file)
}

fn powershell(file: &str) -> String {
    let mut script = Vec::new();
    let mut command = crate::cli::command();
    clap_complete::generate(clap_complete::Shell::PowerShell, &mut command, file, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes the shim where kubectl looks: beside the plugin that it would call.
fn install(arguments: &InstallArgs, context: &Context) -> Result<(), Error> {
    let file = program::file();
    let Some(plugin) = program::plugin() else {
        return Err(Error::Usage(format!(
            "kubectl completes only plugins, and `{file}` is not named like one (kubectl-NAME); \
             for the program itself type `{file} completion bash`"
        )));
    };
    let folder = match &arguments.folder {
        Some(folder) => folder.clone(),
        None => folder_of(file, &context.env).ok_or_else(|| {
            Error::Usage(format!(
                "{file} is not on PATH, where kubectl looks; put it there, or name a folder of PATH with `--folder`"
            ))
        })?,
    };
    let path = folder.join(shim_name(plugin));
    let text = shim(file);
    match std::fs::read_to_string(&path) {
        Ok(there) if there == text => {}
        Ok(there) if !there.contains(MARK) => return Err(foreign(&path)),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Err(foreign(&path)),
        // What else is wrong with it, writing tells.
        Ok(_) | Err(_) => {}
    }
    write(&path, &text).map_err(|source| Error::Io {
        doing: format!("write {}", path.display()),
        source,
    })?;
    context.printer.data(&path.display().to_string());
    context.printer.note(&format!(
        "kubectl asks it what may follow `{}`, once kubectl's own completion is set up: `kubectl completion --help`",
        program::name()
    ));
    Ok(())
}

fn foreign(path: &Path) -> Error {
    Error::Usage(format!(
        "{} is there, and not ours: remove it first, or name another folder of PATH with `--folder`",
        path.display()
    ))
}

/// The first folder of PATH with the plugin in it.
fn folder_of(file: &str, env: &Env) -> Option<PathBuf> {
    let first = on_path(file, env).into_iter().next()?;
    first.parent().map(Path::to_owned)
}

/// Every program of this name on PATH, in its order.
pub(super) fn on_path(file: &str, env: &Env) -> Vec<PathBuf> {
    let name = format!("{file}{}", std::env::consts::EXE_SUFFIX);
    let folders = env.os_var("PATH").map(std::env::split_paths);
    let programs = folders.into_iter().flatten().map(|folder| folder.join(&name));
    programs.filter(|path| is_program(path)).collect()
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.is_file()
}

fn shim_name(plugin: &str) -> String {
    let suffix = if cfg!(windows) { ".cmd" } else { "" };
    format!("kubectl_complete-{plugin}{suffix}")
}

/// Beside the plugin whatever PATH is when it runs.
fn shim(file: &str) -> String {
    if cfg!(windows) {
        format!("@\"%~dp0{file}.exe\" __complete %*\r\n@rem {MARK}\r\n")
    } else {
        format!("#!/bin/sh\nexec \"${{0%/*}}/{file}\" __complete \"$@\" {MARK}\n")
    }
}

/// All at once, for kubectl may ask meanwhile.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))?;
    }
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_named_after_the_program() {
        for template in [BASH, ZSH, FISH] {
            let script = script(template, "kubectl-burrow");
            assert!(
                script.contains("kubectl_burrow") && script.contains("kubectl-burrow"),
                "{script}"
            );
            assert!(
                !script.contains("FILE") && !script.contains("FUNCTION"),
                "{script}"
            );
        }
        assert!(powershell("burrow").contains("burrow"));
    }

    #[test]
    #[cfg(unix)]
    fn a_shim_has_two_lines_and_our_mark() {
        let text = shim("kubectl-burrow");
        assert_eq!(text.lines().count(), 2);
        assert!(
            text.contains("/kubectl-burrow\" __complete \"$@\"") && text.contains(MARK),
            "{text}"
        );
    }

    #[test]
    #[cfg(unix)]
    fn the_first_program_on_path_counts() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(one.path().join("kubectl-x"), "").unwrap();
        write(&two.path().join("kubectl-x"), "").unwrap();
        let path = std::env::join_paths([one.path(), two.path()]).unwrap();
        let env = Env::from_vars([("PATH", path)]);
        assert_eq!(folder_of("kubectl-x", &env).as_deref(), Some(two.path()));
        assert_eq!(folder_of("kubectl-y", &env), None);
    }
}
