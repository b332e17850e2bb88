//! What every option of every command is set to: `config view`.
//!
//! Its YAML is a configuration file itself: read back, it sets what it shows. Options that nobody set and that have
//! no default are comments.

use clap::Command;
use serde_json::{Map, Value, json};

use super::file::ConfigError;
use super::layers::{self, Effective, Kind, Origin};
use super::{Settings, file};

/// All options, section by section.
#[derive(Debug)]
pub struct View {
    /// Where the file is, or would be, and whether it is.
    place: Option<(String, bool)>,
    profile: Option<String>,
    sections: Vec<Section>,
    /// What may have been meant otherwise, for people.
    pub warnings: Vec<String>,
}

#[derive(Debug)]
struct Section {
    path: Vec<String>,
    options: Vec<Effective>,
}

/// Looks at all commands, and checks the values of all.
///
/// # Errors
/// The first value that its option does not take.
pub fn view(settings: &Settings) -> Result<View, ConfigError> {
    let mut root = layers::with_kubectls_booleans(crate::cli::command());
    root.build();
    let mut sections = Vec::new();
    let global = layers::effective(&settings.layers, &settings.typed, &root, &[])?;
    collect(settings, &root, &root, &mut Vec::new(), &global, &mut sections)?;
    sections.insert(
        0,
        Section {
            path: Vec::new(),
            options: global,
        },
    );
    let known: Vec<String> = layers::options(&root)
        .iter()
        .map(|name| layers::variable(name))
        .collect();
    let warnings = settings.layers.idle_variables(&root).map(|name| {
        let near = file::nearest(name, &known).map(|near| format!("; did you mean {near}?"));
        format!("the variable {name} sets no option{}", near.unwrap_or_default())
    });
    let file = settings.layers.file();
    let place = file.path.as_ref();
    Ok(View {
        place: place.map(|path| (path.display().to_string(), file.exists)),
        profile: file.profile.clone(),
        sections,
        warnings: warnings.collect(),
    })
}

/// The commands below `command`, each with what it does not share with all of them.
fn collect(
    settings: &Settings,
    root: &Command,
    command: &Command,
    path: &mut Vec<String>,
    global: &[Effective],
    sections: &mut Vec<Section>,
) -> Result<(), ConfigError> {
    for sub in layers::commands(command) {
        path.push(sub.get_name().to_owned());
        if sub.has_subcommands() {
            collect(settings, root, sub, path, global, sections)?;
        } else {
            let mut options = layers::effective(&settings.layers, &settings.typed, root, path)?;
            let is_shared = |one: &Effective| {
                let mut all = global.iter();
                all.any(|other| one.option == other.option && one.origin.is(&other.origin))
            };
            options.retain(|one| !is_shared(one));
            // Only flags of every command can have been typed beside this one.
            if !options.is_empty() {
                let path = path.clone();
                sections.push(Section { path, options });
            }
        }
        path.pop();
    }
    Ok(())
}

impl View {
    /// As a configuration file.
    #[must_use]
    pub fn yaml(&self, with_origins: bool) -> String {
        let mut out = String::new();
        if with_origins {
            match &self.place {
                Some((path, true)) => line(&mut out, 0, &format!("# file: {path}")),
                Some((path, false)) => line(&mut out, 0, &format!("# file: {path} (there is none)")),
                None => line(&mut out, 0, "# file: none"),
            }
            if let Some(profile) = &self.profile {
                line(&mut out, 0, &format!("# profile: {profile}"));
            }
        }
        let mut open: &[String] = &[];
        for Section { path, options } in &self.sections {
            let shared = path
                .iter()
                .zip(open)
                .take_while(|(one, other)| one == other)
                .count();
            for (depth, name) in path.iter().enumerate().skip(shared) {
                line(&mut out, depth, &format!("{name}:"));
            }
            open = path;
            for one in options {
                let text = match one.values.as_slice() {
                    [] => format!("# {}:", one.option),
                    values => format!("{}: {}", one.option, yaml_value(values, one.kind)),
                };
                let origin = match (with_origins, one.values.is_empty()) {
                    (true, true) => "  # not set".to_owned(),
                    (true, false) => format!("  # {}", one.origin),
                    (false, _) => String::new(),
                };
                line(&mut out, path.len(), &format!("{text}{origin}"));
            }
        }
        out.truncate(out.trim_end().len());
        out
    }

    /// As one JSON object with the same keys.
    #[must_use]
    pub fn json(&self, with_origins: bool) -> Value {
        let mut root = Map::new();
        for Section { path, options } in &self.sections {
            let mut object = &mut root;
            for name in path {
                let entry = object.entry(name).or_insert_with(|| json!({}));
                let Value::Object(inner) = entry else {
                    // An option of all commands would have to be called like a command.
                    return Value::Null;
                };
                object = inner;
            }
            for one in options {
                let value = json_value(one);
                let value = if with_origins {
                    with_origin(&value, &one.origin)
                } else {
                    value
                };
                object.insert(one.option.clone(), value);
            }
        }
        Value::Object(root)
    }
}

fn line(out: &mut String, depth: usize, text: &str) {
    out.push_str(&"  ".repeat(depth));
    out.push_str(text);
    out.push('\n');
}

fn with_origin(value: &Value, origin: &Origin) -> Value {
    match origin {
        Origin::Flag => json!({"value": value, "origin": "flag"}),
        Origin::Variable(name) => json!({"value": value, "origin": "variable", "variable": name}),
        Origin::File { path, line, .. } => {
            json!({"value": value, "origin": "file", "file": path, "line": line})
        }
        Origin::Default => json!({"value": value, "origin": "default"}),
    }
}

fn json_value(one: &Effective) -> Value {
    match (one.kind, one.values.as_slice()) {
        (Kind::List, values) => json!(values),
        (_, []) => Value::Null,
        (Kind::Bool, [value, ..]) if value == "true" || value == "false" => json!(value == "true"),
        (_, [value, ..]) => json!(value),
    }
}

fn yaml_value(values: &[String], kind: Kind) -> String {
    let words: Vec<String> = values
        .iter()
        .map(|value| {
            if kind == Kind::Bool {
                value.clone()
            } else {
                yaml_word(value)
            }
        })
        .collect();
    match (kind, words.as_slice()) {
        (Kind::Bool | Kind::One, [word, ..]) => word.clone(),
        _ => format!("[{}]", words.join(", ")),
    }
}

/// Plain where every YAML reads the same text, else in quotes, for which JSON's are good.
fn yaml_word(text: &str) -> String {
    const MEAN_SOMETHING: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let is_number = text.len() < 10
        && !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    let is_duration = text.starts_with(|first: char| first.is_ascii_digit())
        && text.ends_with(['s', 'm', 'h'])
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b"numsh".contains(&byte));
    let is_word = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte))
        && !MEAN_SOMETHING.contains(&text.to_ascii_lowercase().as_str());
    if is_number || is_duration || is_word {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}
