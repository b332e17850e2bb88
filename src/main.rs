//! The process: what was typed, logging, the runtime, the command, one error, the exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use kubectl_tunnel::cli::Command;
use kubectl_tunnel::cluster::env::Env;
use kubectl_tunnel::command::{self, Context, complete};
use kubectl_tunnel::config::{self, Stop};
use kubectl_tunnel::error::{Error, ExitStatus};
use kubectl_tunnel::logging::{self, LineWriter};
use kubectl_tunnel::program::{self, Program};
use kubectl_tunnel::shutdown::Shutdown;
use kubectl_tunnel::ui::{self, Event, Output, Printer};

fn main() -> ExitCode {
    let env = Env::process();
    let words: Vec<OsString> = std::env::args_os().collect();
    let program = Program::called(words.first().map(OsString::as_os_str), &env);
    let asked = complete::asked(program.completes(), &words);
    program::set(program);
    if let Some(words) = asked {
        ui::mute();
        Printer::new(Output::Text, 0).data(&complete::answer(&words, &env));
        return ExitCode::SUCCESS;
    }
    let parsed = match config::parse(words, &env) {
        Ok(parsed) => parsed,
        Err(Stop::Clap(error)) => {
            // clap prints help to stdout and usage errors to stderr; a closed one is nobody's fault.
            drop(error.print());
            let done = !error.use_stderr();
            return ExitCode::from(if done { ExitStatus::Done } else { ExitStatus::Usage } as u8);
        }
        Err(Stop::Config(error)) => {
            let printer = Printer::new(Output::Text, 0);
            return fail(&printer, &error.into(), "NAMESPACE", Vec::new());
        }
    };
    let output = &parsed.cli.output;
    let printer = Printer::new(output.output, output.quiet);
    let log = printer.clone();
    let filter = env
        .any_var(&["KUBECTL_TUNNEL_LOG", "RUST_LOG"])
        .map(str::to_owned);
    logging::init(
        output.verbosity,
        output.log_format,
        filter.as_deref(),
        move || {
            let log = log.clone();
            LineWriter(move |bytes: &[u8]| log.log(bytes))
        },
    );
    kubectl_tunnel::raise_file_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            let error = Error::Io {
                doing: "start the runtime".to_owned(),
                source,
            };
            return fail(&printer, &error, "NAMESPACE", Vec::new());
        }
    };
    let shutdown = Shutdown::default();
    let (command, context) = Context::new(parsed, printer.clone(), shutdown.clone(), env);
    let is_session = matches!(
        command,
        Command::Proxy(_) | Command::Expose(_) | Command::Forward(_)
    );
    let result = runtime.block_on(async {
        let signals = shutdown.listen().map_err(signals_error)?;
        tokio::select! {
            biased;
            result = command::run(command, &context) => result,
            source = signals => Err(signals_error(source)),
        }
    });
    // Tasks that block (a credential plugin, a name look-up) are not waited for.
    runtime.shutdown_background();
    let leftovers = context.last_words.leftovers();
    match result {
        Ok(()) => {
            if is_session && !context.last_words.handed_over() {
                printer.event(&Event::Ended { code: 0, leftovers });
            }
            ExitCode::SUCCESS
        }
        Err(error) => fail(&printer, &error, context.last_words.namespace(), leftovers),
    }
}

fn signals_error(source: std::io::Error) -> Error {
    Error::Io {
        doing: "listen to signals".to_owned(),
        source,
    }
}

fn fail(printer: &Printer, error: &Error, namespace: &str, leftovers: Vec<String>) -> ExitCode {
    let code = error.status() as u8;
    let report = error.report(namespace);
    printer.error(&report.summary, &report.causes, report.hint.as_deref());
    // What failed is in the one object that it printed.
    if matches!(error, Error::Checks(_)) {
        return ExitCode::from(code);
    }
    printer.event(&Event::Error {
        code,
        message: report.summary,
        causes: report.causes,
        hint: report.hint,
    });
    printer.event(&Event::Ended { code, leftovers });
    ExitCode::from(code)
}
