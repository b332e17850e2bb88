//! What may follow on a command line, asked by a shell: by kubectl's completion, or by our own scripts.
//!
//! Who asks passes the words behind the program's name; the last one is the one to complete, and empty for a new one.
//! The answer is cobra's: one candidate a line, a tab and a few words about it, and at the end `:` and a number of
//! [`Hint`] bits. There is an answer within two seconds, without an error text, and nobody is asked anything: a shell
//! waits for it with half a line on the screen.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Arg, Command, ValueHint};

use self::line::{Cursor, Line};
use crate::cluster::env::Env;

mod line;
mod names;

/// How long the cluster is asked. What remains of two seconds is for the process and for who prints.
const PATIENCE: Duration = Duration::from_millis(1700);

/// The word after the program's name with which scripts ask.
const ASKED: &str = "__complete";

/// What a shell shall do beside the candidates, as cobra's shells know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hint {
    /// Offer files, if there are no candidates.
    Files = 0,
    /// Offer nothing else.
    Nothing = 4,
    /// The same, and the word goes on behind the candidate.
    GoesOn = 6,
    /// Offer folders.
    Folders = 16,
}

/// The answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    offers: Vec<Offer>,
    hint: Hint,
}

/// One candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Offer {
    word: String,
    about: String,
}

impl Offer {
    fn new(word: impl Into<String>, about: impl Into<String>) -> Self {
        Self {
            word: word.into(),
            about: about.into(),
        }
    }
}

impl Answer {
    fn new(offers: Vec<Offer>) -> Self {
        let hint = Hint::Nothing;
        Self { offers, hint }
    }

    /// Without those that do not begin like the word.
    fn beginning(mut self, word: &str) -> Self {
        self.offers.retain(|offer| offer.word.starts_with(word));
        self
    }

    fn text(&self) -> String {
        let mut lines: Vec<String> = self
            .offers
            .iter()
            .map(|offer| match offer.about.lines().next() {
                Some(about) => format!("{}\t{about}", offer.word),
                None => offer.word.clone(),
            })
            .collect();
        lines.push(format!(":{}", self.hint as u8));
        lines.join("\n")
    }
}

/// The words to complete, if this call asks for that: as `kubectl_complete-NAME`, or by the first word.
#[must_use]
pub fn asked(completes: bool, words: &[OsString]) -> Option<Vec<String>> {
    let words = match words {
        [_, rest @ ..] if completes => rest,
        [_, first, rest @ ..] if first == ASKED => rest,
        _ => return None,
    };
    Some(
        words
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect(),
    )
}

/// The answer's text. Reads the kubeconfig and asks the cluster, if the word calls for that.
#[must_use]
pub fn answer(words: &[String], env: &Env) -> String {
    let mut root = crate::cli::command();
    root.build();
    let line = Line::read(&root, words);
    let answer = at_hand(&line).unwrap_or_else(|| names::ask(&line, env, PATIENCE));
    answer.text()
}

/// What needs no cluster; `None` for names.
fn at_hand(line: &Line<'_>) -> Option<Answer> {
    match &line.cursor {
        Cursor::Flag(word) => Some(flags(line).beginning(word)),
        Cursor::Value(arg, word) => values(arg).map(|answer| answer.beginning(word)),
        Cursor::Word(word) => {
            if line.command.has_subcommands() {
                return Some(subcommands(line.command).beginning(word));
            }
            let next = line.command.get_positionals().find(|arg| {
                let more = arg.get_num_args().is_some_and(|range| range.max_values() > 1);
                more || arg
                    .get_index()
                    .is_some_and(|index| index > line.positionals.len())
            });
            let Some(next) = next else {
                return Some(Answer::new(Vec::new()));
            };
            values(next).map(|answer| answer.beginning(word))
        }
    }
}

fn subcommands(command: &Command) -> Answer {
    let visible = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let offer = |sub: &Command| Offer::new(sub.get_name(), text(sub.get_about()));
    Answer::new(visible.map(offer).collect())
}

/// Those that can still be typed.
fn flags(line: &Line<'_>) -> Answer {
    let offers = line.command.get_arguments().filter(|arg| !arg.is_hide_set());
    let offers = offers.filter_map(|arg| {
        let long = arg.get_long()?;
        let again = matches!(arg.get_action(), clap::ArgAction::Append | clap::ArgAction::Count);
        let is_free = again || !line.typed.contains_key(long);
        is_free.then(|| Offer::new(format!("--{long}"), text(arg.get_help())))
    });
    Answer::new(offers.collect())
}

/// The values that the definition knows: a list, or files.
fn values(arg: &Arg) -> Option<Answer> {
    let possible = arg.get_possible_values();
    if !possible.is_empty() {
        let visible = possible.iter().filter(|value| !value.is_hide_set());
        let offer =
            |value: &clap::builder::PossibleValue| Offer::new(value.get_name(), text(value.get_help()));
        return Some(Answer::new(visible.map(offer).collect()));
    }
    let hint = arg.get_value_hint();
    let hint = if hint == ValueHint::DirPath {
        Hint::Folders
    } else if crate::config::is_path(arg) {
        Hint::Files
    } else {
        return None;
    };
    Some(Answer {
        offers: Vec::new(),
        hint,
    })
}

fn text(styled: Option<&clap::builder::StyledStr>) -> String {
    styled.map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(words: &[&str]) -> String {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        // No home directory, no kubeconfig: the cluster has no answer.
        answer(&words, &Env::from_vars([("HOME", "/nonexistent")]))
    }

    fn words_of(answer: &str) -> Vec<&str> {
        let mut lines: Vec<&str> = answer.lines().collect();
        assert!(lines.pop().is_some_and(|last| last.starts_with(':')), "{answer}");
        lines.iter().filter_map(|line| line.split('\t').next()).collect()
    }

    #[test]
    fn commands_come_with_what_they_do() {
        let answer = complete(&["pro"]);
        assert!(answer.starts_with("proxy\tOne local port"), "{answer}");
        assert!(answer.ends_with("\n:4"), "{answer}");
        assert!(words_of(&complete(&[""])).contains(&"forward"));
        assert_eq!(words_of(&complete(&["completion", "fi"])), ["fish"]);
        assert_eq!(complete(&["nothing-like-it"]), ":4");
    }

    #[test]
    fn flags_are_those_of_the_command_and_of_all() {
        let flags = complete(&["forward", "svc/web", "--"]);
        let flags = words_of(&flags);
        assert!(
            flags.contains(&"--on-demand") && flags.contains(&"--namespace"),
            "{flags:?}"
        );
        assert!(!flags.contains(&"--listen"), "{flags:?}");
        assert_eq!(words_of(&complete(&["proxy", "--reco"])), ["--reconnect-max"]);
    }

    #[test]
    fn a_flag_that_was_typed_is_offered_again_only_if_it_repeats() {
        let flags = complete(&["proxy", "--hold", "1s", "--listen", "x", "--"]);
        let flags = words_of(&flags);
        assert!(
            !flags.contains(&"--hold") && flags.contains(&"--listen"),
            "{flags:?}"
        );
    }

    #[test]
    fn values_come_bare_whether_glued_or_not() {
        for words in [
            &["proxy", "--transport", "po"][..],
            &["proxy", "--transport=po"],
            &["--transport=po", "proxy", "--transport=po"],
        ] {
            assert_eq!(words_of(&complete(words)), ["port-forward"], "{words:?}");
        }
        assert!(words_of(&complete(&["version", "-o", ""])).contains(&"json"));
        assert!(words_of(&complete(&["version", "-o="])).is_empty());
    }

    #[test]
    fn paths_are_left_to_the_shell() {
        assert_eq!(complete(&["proxy", "--kubeconfig", "a"]), ":0");
        assert_eq!(complete(&["completion", "install", "--folder", ""]), ":16");
    }

    #[test]
    fn without_a_cluster_there_is_silence() {
        for words in [
            &["forward", "svc/"][..],
            &["forward", "svc/web", ""],
            &["proxy", "-n", ""],
            &["proxy", "--context="],
            &["expose", ""],
            &["cleanup", "x"],
            &["forward", "--", "x"],
            &["--nope", "x"],
            &[],
        ] {
            assert!(complete(words).ends_with(":4"), "{words:?}: {}", complete(words));
        }
    }

    #[test]
    fn types_of_targets_go_on() {
        let answer = complete(&["forward", "s"]);
        assert_eq!(
            (words_of(&answer), answer.ends_with(":6")),
            (vec!["svc/", "sts/"], true)
        );
    }

    #[test]
    fn who_asks_is_told_from_who_runs() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(asked(false, &words(&["x", "proxy"])), None);
        assert_eq!(
            asked(false, &words(&["x", "__complete", "a", ""])).unwrap(),
            ["a", ""]
        );
        assert_eq!(asked(true, &words(&["x", "-n", ""])).unwrap(), ["-n", ""]);
    }
}
