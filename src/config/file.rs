//! The configuration file: where it is, what may stand in it, and what it says about an option.
//!
//! ```yaml
//! namespace: dev               # for every command that has --namespace
//! grace: 1m
//! proxy:                       # for one command
//!   listen: [127.0.0.1:8080]
//! profile: work                # in effect, unless --profile names another one
//! profiles:
//!   work:
//!     context: work
//!     forward: {via: pod}
//! ```
//!
//! A profile stands before what is outside of it, and a command's section before its surroundings. Paths are relative
//! to the file, and may begin with `~/`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command, ValueHint};
use serde_saphyr::Spanned;

use super::excluded;
use super::layers::{Kind, Origin, commands, options};
use crate::cluster::env::Env;
use crate::cluster::yaml::YamlError;
use crate::located::Node;

/// The folder under `$XDG_CONFIG_HOME`, or under `.config` in the home directory.
const FOLDER: &str = "kubectl-tunnel";
const NAME: &str = "config.yaml";
const PROFILES: &str = "profiles";

/// Why the file or a variable cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No YAML.
    #[error("{}: {source}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// What the parser said; it knows the line.
        source: YamlError,
    },
    /// YAML that is no configuration.
    #[error("{}:{line}: {text}", path.display())]
    At {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// What is wrong.
        text: String,
    },
    /// A value that its option does not take.
    #[error("{origin}: {text}")]
    Value {
        /// Where it stands.
        origin: Origin,
        /// The option, and what is wrong.
        text: String,
    },
    /// Two options in one place that exclude each other.
    #[error("{origin}: `{option}` cannot be used with `{other}`")]
    Excluded {
        /// Where the first one stands.
        origin: Origin,
        /// The first one.
        option: String,
        /// The second one.
        other: String,
    },
    /// A variable that no option takes.
    #[error("{name} {text}")]
    Variable {
        /// The variable.
        name: String,
        /// Why.
        text: String,
    },
    /// The chosen profile is not there.
    #[error("profile `{profile}` is not in {place}{known}")]
    NoProfile {
        /// The name asked for.
        profile: String,
        /// The file, in words.
        place: String,
        /// Those there are, in words.
        known: String,
    },
}

/// A checked file, or that there is none.
#[derive(Debug, Default)]
pub(super) struct File {
    /// Where it is, or would be.
    pub(super) path: Option<PathBuf>,
    pub(super) exists: bool,
    /// The profile in effect.
    pub(super) profile: Option<String>,
    top: Section,
    profiles: BTreeMap<String, Section>,
}

#[derive(Debug, Default)]
struct Section {
    values: BTreeMap<String, Value>,
    sections: BTreeMap<String, Self>,
}

#[derive(Debug)]
struct Value {
    values: Vec<String>,
    line: u64,
}

struct Problem {
    line: u64,
    text: String,
}

fn problem<T>(node: &Spanned<T>, text: impl Into<String>) -> Problem {
    Problem {
        line: node.referenced.line(),
        text: text.into(),
    }
}

impl File {
    /// Reads the named file, which must be there, or the user's own, if there is one.
    pub(super) fn find(
        named: Option<PathBuf>,
        profile: Option<String>,
        env: &Env,
        root: &Command,
    ) -> Result<Self, ConfigError> {
        let must_exist = named.is_some();
        let Some(path) = named.or_else(|| usual_place(env)) else {
            return Self::default().with_profile(profile);
        };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound && !must_exist => {
                let none = Self {
                    path: Some(path),
                    ..Self::default()
                };
                return none.with_profile(profile);
            }
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        Self::parse(&text, path, env.home(), root)?.with_profile(profile)
    }

    /// Checks a file's text against the definition of the command line, which is built.
    pub(super) fn parse(
        text: &str,
        path: PathBuf,
        home: Option<&Path>,
        root: &Command,
    ) -> Result<Self, ConfigError> {
        let node: Spanned<Node> = serde_saphyr::from_str(text).map_err(|error| ConfigError::Yaml {
            path: path.clone(),
            source: error.into(),
        })?;
        let reader = Reader {
            root,
            folder: path.parent().unwrap_or(Path::new("")),
            home,
        };
        match reader.file(&node) {
            Ok(file) => Ok(Self {
                path: Some(path),
                exists: true,
                ..file
            }),
            Err(Problem { line, text }) => Err(ConfigError::At { path, line, text }),
        }
    }

    /// With the profile that flag or variable name, else the file's own choice.
    fn with_profile(mut self, named: Option<String>) -> Result<Self, ConfigError> {
        let Some(profile) = named.or_else(|| self.profile.take()) else {
            return Ok(self);
        };
        if !self.profiles.contains_key(&profile) {
            let place = match &self.path {
                Some(path) if self.exists => path.display().to_string(),
                Some(path) => format!("{}, which does not exist", path.display()),
                None => "any file: there is no home directory to look in".to_owned(),
            };
            let names: Vec<&str> = self.profiles.keys().map(String::as_str).collect();
            let known = match names.as_slice() {
                [] => String::new(),
                names => format!("; it has {}", names.join(", ")),
            };
            return Err(ConfigError::NoProfile {
                profile,
                place,
                known,
            });
        }
        self.profile = Some(profile);
        Ok(self)
    }

    pub(super) fn profiles(&self) -> impl Iterator<Item = &str> {
        self.profiles.keys().map(String::as_str)
    }

    /// What the file says about an option of a command.
    pub(super) fn value(&self, command: &[String], option: &str) -> Option<(Vec<String>, Origin)> {
        let profile = self.profile.as_ref().and_then(|name| self.profiles.get(name));
        let mut distance = 0;
        for top in profile.into_iter().chain([&self.top]) {
            for section in top.sections_of(command) {
                if let Some(value) = section.and_then(|section| section.values.get(option)) {
                    let origin = Origin::File {
                        path: self.path.clone().unwrap_or_default(),
                        line: value.line,
                        distance,
                    };
                    return Some((value.values.clone(), origin));
                }
                distance += 1;
            }
        }
        None
    }
}

impl Section {
    /// From the command's own section up to the top.
    fn sections_of(&self, command: &[String]) -> Vec<Option<&Self>> {
        let mut found = vec![Some(self)];
        let mut inner = Some(self);
        for name in command {
            inner = inner.and_then(|section| section.sections.get(name));
            found.push(inner);
        }
        found.reverse();
        found
    }
}

fn usual_place(env: &Env) -> Option<PathBuf> {
    let folder = env
        .os_var("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute())
        .or_else(|| Some(env.home()?.join(".config")))?;
    Some(folder.join(FOLDER).join(NAME))
}

struct Reader<'a> {
    root: &'a Command,
    folder: &'a Path,
    home: Option<&'a Path>,
}

type Entry = (Spanned<String>, Spanned<Node>);

impl Reader<'_> {
    fn file(&self, node: &Spanned<Node>) -> Result<File, Problem> {
        let mut file = File::default();
        let mut rest: Vec<&Entry> = Vec::new();
        for entry in entries(node, "the file")? {
            match entry.0.value.as_str() {
                PROFILES => {
                    for (name, profile) in entries(&entry.1, "`profiles`")? {
                        let what = format!("profile `{}`", name.value);
                        let inner: Vec<&Entry> = entries(profile, &what)?.iter().collect();
                        let section = self.section(&inner, self.root)?;
                        file.profiles.insert(name.value.clone(), section);
                    }
                }
                excluded::PROFILE => match &entry.1.value {
                    Node::Word(name) => file.profile = Some(name.clone()),
                    other @ (Node::Map(_) | Node::List(_) | Node::Bool(_) | Node::Other(_)) => {
                        let text = format!("`profile` is {}, not the name of one", other.what());
                        return Err(problem(&entry.1, text));
                    }
                },
                _ => rest.push(entry),
            }
        }
        file.top = self.section(&rest, self.root)?;
        Ok(file)
    }

    /// The options of `command` and of what is below it, and sections for these.
    fn section(&self, entries_of: &[&Entry], command: &Command) -> Result<Section, Problem> {
        let mut section = Section::default();
        for (key, value) in entries_of {
            let name = key.value.as_str();
            let sub = commands(command).find(|sub| sub.get_name() == name);
            let arg = self.option(command, name);
            match (&value.value, sub, arg) {
                (Node::Map(inner), Some(sub), _) => {
                    let inner: Vec<&Entry> = inner.iter().collect();
                    section
                        .sections
                        .insert(name.to_owned(), self.section(&inner, sub)?);
                }
                (Node::Other("empty"), Some(_), None) => {}
                (_, _, Some(_)) if excluded::reason(name).is_some() => {
                    let answer = excluded::reason(name).map_or("", excluded::Reason::answer);
                    return Err(problem(key, format!("`{name}` {answer}")));
                }
                (_, _, Some(arg)) => {
                    let values = self.values(name, value, &arg)?;
                    let line = key.referenced.line();
                    section.values.insert(name.to_owned(), Value { values, line });
                }
                (_, Some(_), None) => {
                    let text = format!("`{name}` is a command: a map of its options is needed here");
                    return Err(problem(value, text));
                }
                (_, None, None) => return Err(problem(key, self.unknown(name, command))),
            }
        }
        Ok(section)
    }

    /// The option of this name that the section of `command` may set.
    fn option(&self, command: &Command, name: &str) -> Option<Arg> {
        let own = command
            .get_arguments()
            .chain(self.root.get_arguments())
            .find(|arg| arg.get_long() == Some(name) && !arg.is_hide_set());
        own.cloned()
            .or_else(|| commands(command).find_map(|sub| self.option(sub, name)))
    }

    fn values(&self, name: &str, node: &Spanned<Node>, arg: &Arg) -> Result<Vec<String>, Problem> {
        let list = match &node.value {
            Node::List(list) if Kind::of(arg) == Kind::List => list.as_slice(),
            Node::List(_) => return Err(problem(node, format!("`{name}` takes one value, not a list"))),
            Node::Map(_) | Node::Word(_) | Node::Bool(_) | Node::Other(_) => std::slice::from_ref(node),
        };
        if list.is_empty() {
            return Err(problem(node, format!("`{name}` is empty: leave it out")));
        }
        list.iter().map(|node| self.word(name, node, arg)).collect()
    }

    fn word(&self, name: &str, node: &Spanned<Node>, arg: &Arg) -> Result<String, Problem> {
        match &node.value {
            Node::Word(word) if is_path(arg) => Ok(self.path(word)),
            Node::Word(word) => Ok(word.clone()),
            Node::Bool(value) => Ok(value.to_string()),
            other @ (Node::Map(_) | Node::List(_) | Node::Other(_)) => {
                let text = format!(
                    "`{name}` is {}: a word is needed here, in quotes if need be",
                    other.what()
                );
                Err(problem(node, text))
            }
        }
    }

    /// Relative to the file; `-` is no path.
    fn path(&self, word: &str) -> String {
        let path = match (word.strip_prefix("~/"), self.home) {
            _ if word == "-" => return word.to_owned(),
            (Some(rest), Some(home)) => home.join(rest),
            (Some(_) | None, _) => self.folder.join(word),
        };
        path.to_string_lossy().into_owned()
    }

    fn unknown(&self, name: &str, command: &Command) -> String {
        let mut known: Vec<String> = options(command).into_iter().collect();
        let of_all = self.root.get_arguments().filter(|arg| !arg.is_hide_set());
        known.extend(of_all.filter_map(Arg::get_long).map(str::to_owned));
        known.extend(commands(command).map(|sub| sub.get_name().to_owned()));
        known.push(PROFILES.to_owned());
        let near = nearest(name, &known);
        if options(self.root).contains(name) {
            let text = format!("`{}` has no option --{name}", command.get_name());
            let owners: Vec<&str> = commands(self.root)
                .filter(|sub| options(sub).contains(name))
                .map(Command::get_name)
                .collect();
            return format!("{text}; these have: {}", owners.join(", "));
        }
        match near {
            Some(near) => format!("unknown key `{name}`; did you mean `{near}`?"),
            None => format!("unknown key `{name}`; keys are the names of options, as `--help` lists them"),
        }
    }
}

/// The closest of the known names, if one is close.
pub(super) fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    known
        .iter()
        .map(|known| (strsim::jaro_winkler(name, known), known.as_str()))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, known)| known)
}

/// Whether an option names a file or a folder.
pub(crate) fn is_path(arg: &Arg) -> bool {
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    takes_value
        && matches!(
            arg.get_value_hint(),
            ValueHint::AnyPath | ValueHint::FilePath | ValueHint::DirPath | ValueHint::ExecutablePath
        )
}

fn entries<'a>(node: &'a Spanned<Node>, what: &str) -> Result<&'a [Entry], Problem> {
    match &node.value {
        Node::Map(map) => Ok(map),
        Node::Other("empty") => Ok(&[]),
        other @ (Node::List(_) | Node::Word(_) | Node::Bool(_) | Node::Other(_)) => Err(problem(
            node,
            format!("{what} is {}, not a map of options", other.what()),
        )),
    }
}
