//! The only place that writes to the terminal: figures to stdout, progress to stderr.

/// What the run is for.
#[expect(clippy::print_stdout, reason = "the result of the program")]
pub(crate) fn result(text: &str) {
    println!("{text}");
}

/// What happens meanwhile.
#[expect(clippy::print_stderr, reason = "progress, beside the result")]
pub(crate) fn progress(text: &str) {
    eprintln!("{text}");
}
