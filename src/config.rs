//! Where the value of an option comes from: the command line, else a `KUBECTL_TUNNEL_*` variable, else the
//! configuration file, else the default. One layer for all options of all commands.
//!
//! It knows no option by name: it walks clap's definition of the command line, so that a new flag takes part by itself.
//!
//! ```text
//! words --clap--> what was typed, and which command
//!                      |
//!                Layers::load      file (file.rs) and variables, checked against the definition
//!                      |
//!                layers::effective value and origin of each option of that command
//!                      |
//! words --clap, with these as defaults--> Cli
//! ```
//!
//! Values from the layers are clap's defaults, so they never collide with a flag (`conflicts_with`) nor count as
//! typed (`requires`); what excludes a flag gives way to it. Which flags were typed is kept in [`Settings`], for
//! commands that answer a flag which would do nothing. Options that take no part are in [`excluded`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, FromArgMatches as _};

use crate::cli::{self, Cli};
use crate::cluster::env::Env;

mod excluded;
mod file;
mod layers;
#[cfg(test)]
mod tests;
pub mod view;

pub use self::file::ConfigError;
pub(crate) use self::file::is_path;
pub use self::layers::{Layers, Origin};

/// What the process was told, from all sides.
#[derive(Debug)]
pub struct Parsed {
    /// The command and its options.
    pub cli: Cli,
    /// Where they came from.
    pub settings: Settings,
}

/// Why there is nothing to run.
#[derive(Debug)]
pub enum Stop {
    /// Help, the version, or words that do not fit: clap prints them.
    Clap(clap::Error),
    /// The configuration file or a variable.
    Config(ConfigError),
}

impl From<clap::Error> for Stop {
    fn from(error: clap::Error) -> Self {
        Self::Clap(error)
    }
}

impl From<ConfigError> for Stop {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

/// What the layers hold, and what was typed.
#[derive(Debug, Default)]
pub struct Settings {
    typed: BTreeMap<String, Vec<String>>,
    layers: Layers,
}

impl Settings {
    /// Whether this option, named without its dashes, stood on the command line.
    #[must_use]
    pub fn typed(&self, option: &str) -> bool {
        self.typed.contains_key(option)
    }
}

/// Parses a command line, program's name first, with everything else that sets options.
///
/// # Errors
/// Also when there is only help to print.
pub fn parse(words: impl IntoIterator<Item = OsString>, env: &Env) -> Result<Parsed, Stop> {
    let words: Vec<OsString> = words.into_iter().collect();
    let command = layers::with_kubectls_booleans(cli::command());
    let mut matches = match command.clone().try_get_matches_from(&words) {
        Ok(matches) => matches,
        // The definition as written has the better help: `--keep` rather than `--keep[=<BOOL>]`.
        Err(error) if !error.use_stderr() => return Err(better_help(&words, error).into()),
        Err(error) => return Err(error.into()),
    };
    let (path, _) = chosen(&matches);
    let mut built = command.clone();
    built.build();
    let typed = typed(&matches, &built);
    let first = |option: &str| typed.get(option).and_then(|values| values.first()).cloned();
    let layers = Layers::load(
        first(excluded::CONFIG).map(PathBuf::from),
        first(excluded::PROFILE),
        env,
        &built,
    )?;
    let effective = layers::effective(&layers, &typed, &built, &path)?;
    // Without a value from a layer the words mean what they meant before.
    if effective.iter().any(|one| one.origin.is_layer()) {
        let command = layers::with_defaults(command, &path, &effective);
        matches = command.try_get_matches_from(&words)?;
    }
    let cli = Cli::from_arg_matches_mut(&mut matches)?;
    Ok(Parsed {
        cli,
        settings: Settings { typed, layers },
    })
}

/// The layers alone, for who completes a line that cannot be parsed yet; what cannot be read is as if it were not
/// there.
#[must_use]
pub fn lenient(config: Option<&Path>, profile: Option<&str>, env: &Env) -> Layers {
    let mut built = layers::with_kubectls_booleans(cli::command());
    built.build();
    let (config, profile) = (config.map(Path::to_owned), profile.map(str::to_owned));
    Layers::load(config, profile, env, &built).unwrap_or_default()
}

fn better_help(words: &[OsString], error: clap::Error) -> clap::Error {
    match cli::command().try_get_matches_from(words) {
        Err(help) if !help.use_stderr() => help,
        Err(_) | Ok(_) => error,
    }
}

/// The command that was typed, as the names of subcommands, and its matches.
fn chosen(matches: &ArgMatches) -> (Vec<String>, &ArgMatches) {
    let (mut path, mut leaf) = (Vec::new(), matches);
    while let Some((name, inner)) = leaf.subcommand() {
        path.push(name.to_owned());
        leaf = inner;
    }
    (path, leaf)
}

/// What stood on the command line, by [`layers::key`], with its values.
fn typed(matches: &ArgMatches, built: &Command) -> BTreeMap<String, Vec<String>> {
    let (path, leaf) = chosen(matches);
    let Some(command) = layers::find(built, &path) else {
        return BTreeMap::new();
    };
    let ids: BTreeSet<&str> = leaf.ids().map(clap::Id::as_str).collect();
    let typed = command.get_arguments().filter_map(|arg| {
        let id = arg.get_id().as_str();
        if !ids.contains(id) || leaf.value_source(id) != Some(ValueSource::CommandLine) {
            return None;
        }
        let values = leaf.get_raw(id).into_iter().flatten();
        Some((
            layers::key(arg),
            values.map(|value| value.to_string_lossy().into_owned()).collect(),
        ))
    });
    typed.collect()
}
