//! The layers under the command line, and which of them gives an option its value.
//!
//! All of it works on clap's definition, and names no option.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};

use super::excluded::{self, Reason};
use super::file::{ConfigError, File};
use crate::cluster::env::Env;

/// What variables begin with, whatever the program is called.
pub(super) const PREFIX: &str = "KUBECTL_TUNNEL_";

/// Variables of this form that set no option: the log filter, and what `--print-env` sets for a shell.
const OTHER_VARIABLES: [&str; 2] = ["KUBECTL_TUNNEL_LOG", "KUBECTL_TUNNEL_PID"];

/// The definition, built, in which nothing is required: for asking about one value.
static LENIENT: LazyLock<Command> = LazyLock::new(|| {
    let mut command = each_command(with_kubectls_booleans(crate::cli::command()), &|command| {
        command.subcommand_required(false).mut_args(|arg| {
            let counts = matches!(arg.get_action(), ArgAction::Count);
            let arg = arg.required(false);
            // A number of times is typed as often, and set as a number.
            if counts {
                arg.action(ArgAction::Set).value_parser(clap::value_parser!(u8))
            } else {
                arg
            }
        })
    });
    command.build();
    command
});

/// The variable that sets an option.
pub(super) fn variable(option: &str) -> String {
    format!("{PREFIX}{}", option.to_ascii_uppercase().replace('-', "_"))
}

/// Where a value comes from; what stands first wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// This environment variable.
    Variable(String),
    /// The configuration file.
    File {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// How far it is from the command: 0 is the command's section of the chosen profile.
        distance: usize,
    },
    /// Nobody said anything.
    Default,
}

impl Origin {
    /// Whether both are one place, however far it is.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { path, line, .. }, Self::File { path: p, line: l, .. }) => (path, line) == (p, l),
            _ => self == other,
        }
    }

    /// Whether a variable or the file says it.
    pub(super) fn is_layer(&self) -> bool {
        matches!(self, Self::Variable(_) | Self::File { .. })
    }

    fn rank(&self) -> usize {
        match self {
            Self::Flag => 0,
            Self::Variable(_) => 1,
            Self::File { distance, .. } => 2 + distance,
            Self::Default => usize::MAX,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Variable(name) => f.write_str(name),
            Self::File { path, line, .. } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What an option is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Effective {
    /// Its name, without dashes.
    pub(super) option: String,
    /// Nothing for an option without a default.
    pub(super) values: Vec<String>,
    pub(super) origin: Origin,
    pub(super) kind: Kind,
    /// Whether every command has it.
    pub(super) is_global: bool,
}

/// The form of an option's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    One,
    List,
}

impl Kind {
    pub(super) fn of(arg: &Arg) -> Self {
        // `with_kubectls_booleans` gives flags this default.
        if arg.get_default_values() == ["false"] {
            Self::Bool
        } else if matches!(arg.get_action(), ArgAction::Append) {
            Self::List
        } else {
            Self::One
        }
    }
}

/// Variables and file.
#[derive(Debug, Default)]
pub struct Layers {
    variables: BTreeMap<String, String>,
    file: File,
}

impl Layers {
    /// Reads and checks all there is. `config` and `profile` are what was typed.
    pub(super) fn load(
        config: Option<PathBuf>,
        profile: Option<String>,
        env: &Env,
        root: &Command,
    ) -> Result<Self, ConfigError> {
        let variables: BTreeMap<String, String> = env
            .names_from(PREFIX)
            .filter_map(|name| Some((name.to_owned(), env.var(name)?.to_owned())))
            .collect();
        let chosen = |typed: Option<String>, option| {
            typed
                .filter(|value| !value.is_empty())
                .or_else(|| variables.get(&variable(option)).cloned())
        };
        for name in options(root) {
            if excluded::reason(&name) == Some(Reason::Secret) && variables.contains_key(&variable(&name)) {
                return Err(ConfigError::Variable {
                    name: variable(&name),
                    text: Reason::Secret.answer().to_owned(),
                });
            }
        }
        let config = chosen(
            config.map(|path| path.to_string_lossy().into_owned()),
            excluded::CONFIG,
        );
        let profile = chosen(profile, excluded::PROFILE);
        let file = File::find(config.map(PathBuf::from), profile, env, root)?;
        Ok(Self { variables, file })
    }

    /// The profiles there are.
    pub fn profiles(&self) -> Vec<String> {
        self.file.profiles().map(str::to_owned).collect()
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Variables that look as if they set an option, and set none.
    pub(super) fn idle_variables<'a>(&'a self, root: &Command) -> impl Iterator<Item = &'a str> {
        let mut known: BTreeSet<String> = options(root)
            .iter()
            .filter(|name| !matches!(excluded::reason(name), Some(Reason::Action | Reason::Secret)))
            .map(|name| variable(name))
            .collect();
        known.extend(OTHER_VARIABLES.map(str::to_owned));
        self.variables
            .keys()
            .filter(move |name| !known.contains(*name))
            .map(String::as_str)
    }

    /// The value of an option of a command, from the first layer that has one.
    fn value(&self, path: &[String], arg: &Arg, option: &str) -> Option<(Vec<String>, Origin)> {
        let name = variable(option);
        if let Some(text) = self.variables.get(&name) {
            let values = if Kind::of(arg) == Kind::List {
                text.lines()
                    .filter(|line| !line.is_empty())
                    .map(str::to_owned)
                    .collect()
            } else {
                vec![text.clone()]
            };
            return Some((values, Origin::Variable(name)));
        }
        self.file.value(path, option)
    }

    /// One value, for who completes a line: the options that say which cluster.
    pub fn single(&self, path: &[String], command: &Command, option: &str) -> Option<String> {
        let arg = command
            .get_arguments()
            .find(|arg| arg.get_long() == Some(option))?;
        takes_part(arg)?;
        self.value(path, arg, option)?.0.into_iter().next()
    }
}

/// The name of an option that layers may set.
pub(super) fn takes_part(arg: &Arg) -> Option<&str> {
    let long = arg.get_long()?;
    (!arg.is_hide_set() && excluded::reason(long).is_none()).then_some(long)
}

/// The names of all options of a command and what is below it; hidden ones are nobody's to set.
pub(super) fn options(command: &Command) -> BTreeSet<String> {
    let own = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set())
        .filter_map(Arg::get_long)
        .map(str::to_owned);
    let below = commands(command).flat_map(options);
    own.chain(below).collect()
}

/// The subcommands people are told of.
pub(super) fn commands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|sub| !sub.is_hide_set())
}

/// The command at the end of a path of names.
pub(super) fn find<'a>(root: &'a Command, path: &[String]) -> Option<&'a Command> {
    path.iter()
        .try_fold(root, |command, name| command.find_subcommand(name))
}

/// What the words of a command line are kept by: an option's name, or a positional argument's in brackets.
pub(super) fn key(arg: &Arg) -> String {
    arg.get_long()
        .map_or_else(|| format!("<{}>", arg.get_id()), str::to_owned)
}

/// What each option of a command is set to, checked. `root` is built.
pub(super) fn effective(
    layers: &Layers,
    typed: &BTreeMap<String, Vec<String>>,
    root: &Command,
    path: &[String],
) -> Result<Vec<Effective>, ConfigError> {
    let Some(command) = find(root, path) else {
        return Ok(Vec::new());
    };
    let all = command.get_arguments().filter_map(|arg| {
        let option = takes_part(arg)?;
        let (values, origin) = match typed.get(option) {
            Some(values) => (values.clone(), Origin::Flag),
            None => layers
                .value(path, arg, option)
                .unwrap_or_else(|| (defaults(arg), Origin::Default)),
        };
        Some((
            arg,
            Effective {
                option: option.to_owned(),
                values,
                origin,
                kind: Kind::of(arg),
                is_global: arg.is_global_set(),
            },
        ))
    });
    let mut all: Vec<(&Arg, Effective)> = all.collect();
    give_way_to_words(command, typed, &mut all);
    give_way(command, &mut all)?;
    for (_, one) in &all {
        check(one, path)?;
    }
    Ok(all.into_iter().map(|(_, one)| one).collect())
}

fn defaults(arg: &Arg) -> Vec<String> {
    let values = arg.get_default_values().iter();
    values.map(|value| value.to_string_lossy().into_owned()).collect()
}

/// What a layer sets does not meet the words that it excludes: `all: true` is no matter where names were typed.
fn give_way_to_words(
    command: &Command,
    typed: &BTreeMap<String, Vec<String>>,
    all: &mut [(&Arg, Effective)],
) {
    for word in command
        .get_positionals()
        .filter(|arg| typed.contains_key(&key(arg)))
    {
        for (arg, one) in &mut *all {
            let excludes = |arg: &Arg, other: &Arg| {
                let mut excluded = command.get_arg_conflicts_with(arg).into_iter();
                excluded.any(|excluded| excluded.get_id() == other.get_id())
            };
            if one.origin != Origin::Flag && (excludes(arg, word) || excludes(word, arg)) {
                (one.values, one.origin) = (defaults(arg), Origin::Default);
            }
        }
    }
}

/// Options that exclude each other: the one from the higher layer stays. Of two flags clap speaks itself.
fn give_way(command: &Command, all: &mut [(&Arg, Effective)]) -> Result<(), ConfigError> {
    let mut excluding: Vec<(usize, usize)> = Vec::new();
    for (index, (arg, _)) in all.iter().enumerate() {
        for other in command.get_arg_conflicts_with(arg) {
            if let Some(other) = all.iter().position(|(arg, _)| arg.get_id() == other.get_id()) {
                excluding.push((index, other));
                excluding.push((other, index));
            }
        }
    }
    for (one, other) in excluding {
        let (high, low) = (&all[one].1, &all[other].1);
        if matches!(high.origin, Origin::Default | Origin::Flag) && low.origin == high.origin
            || high.origin == Origin::Default
            || low.origin == Origin::Default
            || is_off(high)
            || is_off(low)
        {
            continue;
        }
        if high.origin.rank() == low.origin.rank() {
            return Err(ConfigError::Excluded {
                origin: low.origin.clone(),
                option: low.option.clone(),
                other: high.option.clone(),
            });
        }
        if high.origin.rank() < low.origin.rank() {
            let (arg, low) = &mut all[other];
            (low.values, low.origin) = (defaults(arg), Origin::Default);
        }
    }
    Ok(())
}

fn is_off(one: &Effective) -> bool {
    one.kind == Kind::Bool && one.values == ["false"]
}

/// Whether clap takes the value, asked as if it had been typed: alone, since a layer's value is beside what was typed.
fn check(one: &Effective, path: &[String]) -> Result<(), ConfigError> {
    if !one.origin.is_layer() {
        return Ok(());
    }
    let mut words = vec!["program".to_owned()];
    words.extend(path.iter().cloned());
    words.extend(one.values.iter().map(|value| format!("--{}={value}", one.option)));
    let Err(error) = LENIENT.clone().try_get_matches_from(words) else {
        return Ok(());
    };
    let is_value = matches!(
        error.kind(),
        ErrorKind::InvalidValue
            | ErrorKind::ValueValidation
            | ErrorKind::ArgumentConflict
            | ErrorKind::TooManyValues
            | ErrorKind::TooFewValues
            | ErrorKind::WrongNumberOfValues
            | ErrorKind::NoEquals
            | ErrorKind::InvalidUtf8
    );
    if !is_value {
        return Ok(());
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    // clap's paragraphs end with the usage and where to find help, which are about what was typed.
    let lines = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .map(str::trim)
        .filter(|line| !line.is_empty());
    Err(ConfigError::Value {
        origin: one.origin.clone(),
        text: lines.collect::<Vec<_>>().join("; "),
    })
}

/// The definition with the values of the layers as its defaults, for the command that runs.
pub(super) fn with_defaults(command: Command, path: &[String], effective: &[Effective]) -> Command {
    let command = command.mut_args(|arg| {
        let set = effective
            .iter()
            .find(|one| Some(one.option.as_str()) == arg.get_long() && one.origin.is_layer());
        match set {
            Some(one) => arg.default_values(one.values.clone()),
            None => arg,
        }
    });
    match path {
        [] => command,
        [name, rest @ ..] => command.mut_subcommand(name, |sub| with_defaults(sub, rest, effective)),
    }
}

/// Flags that take no value take `=true` and `=false` as well, as kubectl's do: what a file switches on a flag can
/// switch off.
pub(super) fn with_kubectls_booleans(command: Command) -> Command {
    each_command(command, &|command| {
        command.mut_args(|arg| {
            if !matches!(arg.get_action(), ArgAction::SetTrue) {
                return arg;
            }
            arg.action(ArgAction::Set)
                .value_parser(BoolishValueParser::new())
                .num_args(0..=1)
                .require_equals(true)
                .default_value("false")
                .default_missing_value("true")
                .value_name("BOOL")
        })
    })
}

fn each_command(command: Command, change: &impl Fn(Command) -> Command) -> Command {
    change(command).mut_subcommands(|sub| each_command(sub, change))
}
