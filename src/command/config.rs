//! `config view`: what options are set to, and by what.

use super::Context;
use crate::cli::config_args::{ConfigArgs, ConfigCommand, ViewArgs};
use crate::config::view;
use crate::error::Error;
use crate::ui::Output;

/// Prints YAML, or with `-o json` one object.
pub(super) fn run(arguments: &ConfigArgs, context: &Context) -> Result<(), Error> {
    let ConfigCommand::View(ViewArgs { show_origin }) = &arguments.command;
    let view = view::view(&context.settings)?;
    for warning in &view.warnings {
        context.printer.warn(warning);
    }
    let text = if context.printer.output() == Output::Json {
        view.json(*show_origin).to_string()
    } else {
        view.yaml(*show_origin)
    };
    context.printer.data(&text);
    Ok(())
}
