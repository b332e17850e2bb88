//! A command line that is not finished yet, read as far as it goes. Pure.
//!
//! clap parses only lines that are complete. This reader knows less: which command, which flags with which values,
//! which other words, and what is being typed.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, Command};

/// What the last word is.
#[derive(Debug)]
pub(super) enum Cursor<'a> {
    /// A flag's value, without the flag.
    Value(&'a Arg, &'a str),
    /// A flag.
    Flag(&'a str),
    /// Something else.
    Word(&'a str),
}

/// The words so far.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) root: &'a Command,
    /// The innermost command that was named.
    pub(super) command: &'a Command,
    /// How it was named.
    pub(super) path: Vec<String>,
    /// Flags by their long names, with their values.
    pub(super) typed: BTreeMap<&'a str, Vec<&'a str>>,
    /// What is neither command nor flag.
    pub(super) positionals: Vec<&'a str>,
    pub(super) cursor: Cursor<'a>,
}

/// What a word that begins with a dash says.
enum Dashed<'a> {
    /// A flag, and all there is to it.
    Done,
    /// A flag whose value is the next word.
    Wants(&'a Arg),
    /// A flag and its value in one word.
    Glued(&'a Arg, &'a str),
}

impl<'a> Line<'a> {
    /// `root` is built; the last word is what is being typed.
    pub(super) fn read(root: &'a Command, words: &'a [String]) -> Self {
        let (last, before) = words
            .split_last()
            .map_or(("", &[][..]), |(last, rest)| (last, rest));
        let mut line = Self {
            root,
            command: root,
            path: Vec::new(),
            typed: BTreeMap::new(),
            positionals: Vec::new(),
            cursor: Cursor::Word(last),
        };
        let (mut wanting, mut only_words) = (None, false);
        for word in before {
            if let Some(arg) = wanting.take() {
                line.set(arg, word);
            } else if only_words {
                line.positionals.push(word);
            } else if word == "--" {
                only_words = true;
            } else if is_dashed(word) {
                match line.dashed(word) {
                    Dashed::Done => {}
                    Dashed::Wants(arg) => wanting = Some(arg),
                    Dashed::Glued(arg, value) => line.set(arg, value),
                }
            } else if let Some(sub) = line.subcommand(word) {
                line.command = sub;
                line.path.push(sub.get_name().to_owned());
            } else {
                line.positionals.push(word);
            }
        }
        line.cursor = match wanting {
            Some(arg) => Cursor::Value(arg, last),
            None if only_words || !last.starts_with('-') => Cursor::Word(last),
            None => match line.long(last) {
                Some((arg, Some(value))) => Cursor::Value(arg, value),
                Some((_, None)) | None => Cursor::Flag(last),
            },
        };
        line
    }

    fn subcommand(&self, word: &str) -> Option<&'a Command> {
        let is_first = self.positionals.is_empty();
        self.command.find_subcommand(word).filter(|_| is_first)
    }

    fn dashed(&mut self, word: &'a str) -> Dashed<'a> {
        if word.starts_with("--") {
            return match self.long(word) {
                Some((arg, Some(value))) => Dashed::Glued(arg, value),
                Some((arg, None)) => self.bare(arg),
                None => Dashed::Done,
            };
        }
        for (at, short) in word.char_indices().skip(1) {
            let Some(arg) = self.find(|arg| arg.get_short() == Some(short)) else {
                return Dashed::Done;
            };
            let rest = &word[at + short.len_utf8()..];
            let is_alone = arg.is_require_equals_set() && !rest.starts_with('=');
            if arg.get_action().takes_values() && !is_alone {
                return match rest.strip_prefix('=').or((!rest.is_empty()).then_some(rest)) {
                    Some(value) => Dashed::Glued(arg, value),
                    None => self.bare(arg),
                };
            }
            self.mark(arg);
        }
        Dashed::Done
    }

    /// A flag that stands alone: with nothing, or with the next word.
    fn bare(&mut self, arg: &'a Arg) -> Dashed<'a> {
        let needs_word = arg.get_action().takes_values() && !arg.is_require_equals_set();
        if needs_word {
            return Dashed::Wants(arg);
        }
        self.mark(arg);
        Dashed::Done
    }

    /// `--name` or `--name=value`.
    fn long(&self, word: &'a str) -> Option<(&'a Arg, Option<&'a str>)> {
        let word = word.strip_prefix("--")?;
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let arg = self.find(|arg| arg.get_long() == Some(name))?;
        Some((arg, value))
    }

    fn find(&self, is_it: impl Fn(&Arg) -> bool) -> Option<&'a Arg> {
        self.command.get_arguments().find(|arg| is_it(arg))
    }

    fn mark(&mut self, arg: &'a Arg) {
        if let Some(long) = arg.get_long() {
            self.typed.entry(long).or_default();
        }
    }

    fn set(&mut self, arg: &'a Arg, value: &'a str) {
        if let Some(long) = arg.get_long() {
            let values = self.typed.entry(long).or_default();
            if !matches!(arg.get_action(), ArgAction::Append) {
                values.clear();
            }
            values.push(value);
        }
    }
}

/// `-` alone is a word: stdin.
fn is_dashed(word: &str) -> bool {
    word.starts_with('-') && word.len() > 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(words: &[&str], test: impl Fn(&Line<'_>)) {
        let mut root = crate::cli::command();
        root.build();
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        test(&Line::read(&root, &words));
    }

    #[test]
    fn flags_take_their_values_in_every_form() {
        for words in [
            &["-n", "foo", "forward", ""][..],
            &["forward", "-nfoo", ""],
            &["forward", "-n=foo", ""],
            &["forward", "-qvn", "foo", ""],
            &["forward", "--namespace=foo", ""],
            &["--namespace", "foo", "forward", ""],
        ] {
            read(words, |line| {
                assert_eq!(line.path, ["forward"], "{words:?}");
                assert_eq!(line.typed.get("namespace"), Some(&vec!["foo"]), "{words:?}");
                assert!(matches!(line.cursor, Cursor::Word("")), "{words:?}");
                assert!(line.positionals.is_empty(), "{words:?}");
            });
        }
    }

    #[test]
    fn a_flag_without_a_value_takes_none() {
        read(&["forward", "--on-demand", "svc/web", "-v", "80", ""], |line| {
            assert_eq!(line.positionals, ["svc/web", "80"]);
            assert!(line.typed.contains_key("on-demand"));
        });
        read(&["expose", "80", "--proxy-protocol", "x"], |line| {
            assert!(matches!(line.cursor, Cursor::Word("x")));
        });
    }

    #[test]
    fn behind_two_dashes_are_only_words() {
        read(&["forward", "--", "-n", "--x"], |line| {
            assert_eq!(line.positionals, ["-n"]);
            assert!(matches!(line.cursor, Cursor::Word("--x")));
        });
    }

    #[test]
    fn the_last_word_is_what_is_typed() {
        read(&["proxy", "--transport=e"], |line| {
            assert!(matches!(&line.cursor, Cursor::Value(arg, "e") if arg.get_id() == "transport"));
        });
        read(&["proxy", "--listen", ""], |line| {
            assert!(matches!(&line.cursor, Cursor::Value(arg, "") if arg.get_id() == "listen"));
        });
        read(&["proxy", "--li"], |line| {
            assert!(matches!(line.cursor, Cursor::Flag("--li")));
        });
        read(&["config", "view", ""], |line| {
            assert_eq!(line.path, ["config", "view"]);
        });
    }

    proptest! {
        #[test]
        fn nothing_panics(words in proptest::collection::vec("(-|--|=|n|v|q|forward|namespace|svc/a|é){0,4}", 0..6)) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            read(&words, |_| {});
        }
    }
}
