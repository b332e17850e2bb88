//! The manual: one page for each command, from the same definition as `--help`.
//!
//! A hidden command, since packages are who needs it: `make man` runs it.

use std::io;
use std::path::Path;

use clap::builder::Resettable;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::Context;
use crate::cli::ManArgs;
use crate::error::Error;

/// Writes `NAME.1`, `NAME-COMMAND.1` and so on.
pub(super) fn run(arguments: &ManArgs, context: &Context) -> Result<(), Error> {
    let folder = &arguments.folder;
    let mut command = crate::cli::command().name(crate::program::file());
    command.build();
    let wrote = std::fs::create_dir_all(folder).and_then(|()| pages(&command, folder));
    let count = wrote.map_err(|source| Error::Io {
        doing: format!("write the manual to {}", folder.display()),
        source,
    })?;
    context
        .printer
        .note(&format!("{count} pages in {}", folder.display()));
    Ok(())
}

fn pages(command: &clap::Command, folder: &Path) -> io::Result<usize> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    std::fs::write(folder.join(format!("{name}.1")), page(command)?)?;
    let mut count = 1;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        count += pages(sub, folder)?;
    }
    Ok(count)
}

fn page(command: &clap::Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    // What stands behind the options has lines of its own, which the library would run together.
    let man = Man::new(command.clone().after_help(Resettable::Reset));
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    let after = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let (words, examples) = after.split_once("Examples:\n").unwrap_or((&after, ""));
    prose(words).to_writer(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    literal(examples).to_writer(&mut page)?;
    Ok(page)
}

fn prose(text: &str) -> Roff {
    let mut roff = Roff::new();
    for paragraph in text.split("\n\n").map(str::trim).filter(|text| !text.is_empty()) {
        roff.control("PP", []);
        for line in paragraph.lines() {
            roff.text([roman(line)]);
            if line.ends_with('.') {
                roff.control("br", []);
            }
        }
    }
    roff
}

/// Comments in bold, commands as they are typed.
fn literal(text: &str) -> Roff {
    let mut roff = Roff::new();
    if text.is_empty() {
        return roff;
    }
    roff.control("SH", ["EXAMPLES"]);
    roff.control("nf", []);
    for line in text.lines() {
        let comment = line.trim_start().starts_with('#');
        roff.text([if comment { bold(line) } else { roman(line) }]);
    }
    roff.control("fi", []);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_examples() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = crate::cli::command();
        command.build();
        let count = pages(&command, folder.path()).unwrap();
        assert_eq!(count, std::fs::read_dir(folder.path()).unwrap().count());
        for name in [
            "kubectl-tunnel",
            "kubectl-tunnel-proxy",
            "kubectl-tunnel-config-view",
        ] {
            let page = std::fs::read_to_string(folder.path().join(format!("{name}.1"))).unwrap();
            for part in [".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS", ".SH EXAMPLES\n.nf\n"] {
                assert!(page.contains(part), "{name}: {part}\n{page}");
            }
        }
    }
}
