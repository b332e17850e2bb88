//! Sets up `tracing`: from `-v`, `KUBECTL_TUNNEL_LOG` or `RUST_LOG`, on stderr, as text or JSON.
//!
//! `-v` is kubectl's number: 0 warn, 1-2 info, 3-4 debug, 5 and more trace. The libraries below stay one
//! step quieter: kube logs a failed request as an error that we tell in our own words, yamux a peer's
//! fault.

use std::io::Write;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The filter that `-v` stands for.
fn directives(verbosity: u8) -> &'static str {
    match verbosity {
        0 => "off,kubectl_tunnel=warn,tunnel_wire=warn",
        1 | 2 => "off,kubectl_tunnel=info,tunnel_wire=info",
        3 | 4 => "warn,kubectl_tunnel=debug,tunnel_wire=debug,kube_client=off,yamux=off",
        5 => "info,kubectl_tunnel=trace,tunnel_wire=trace",
        _ => "debug,kubectl_tunnel=trace,tunnel_wire=trace,h2=off",
    }
}

/// Installs the subscriber for the process. `writer` makes a line's writer, so that log lines and a
/// spinner do not write over each other.
pub fn init<W>(verbosity: u8, format: LogFormat, filter: Option<&str>, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = match filter {
        Some(text) if !text.is_empty() => EnvFilter::new(text),
        _ => EnvFilter::new(directives(verbosity)),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(false);
    // A second call in one process (tests) keeps the first subscriber.
    drop(match format {
        LogFormat::Text => builder.with_target(verbosity >= 5).compact().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    });
}

/// A writer of log lines that calls `line` with each piece; see [`init`].
pub struct LineWriter<F: Fn(&[u8])>(pub F);

impl<F: Fn(&[u8])> std::fmt::Debug for LineWriter<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineWriter").finish_non_exhaustive()
    }
}

impl<F: Fn(&[u8])> Write for LineWriter<F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        (self.0)(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_a_valid_filter() {
        for verbosity in 0..=10 {
            assert!(directives(verbosity).parse::<EnvFilter>().is_ok());
        }
    }
}
