//! The playground as a program: the stage of `make demo`.
//!
//! `playground` runs the API server until SIGTERM, SIGINT or the end of its stdin. `playground web`
//! is the local program that the demo exposes; `playground fetch` a tiny HTTP request for machines
//! without curl. Everything else is in the library and in `fetch`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for a terminal"
)]

mod fetch;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tunnel_playground::{Options, Playground};

/// A small Kubernetes API server on loopback, for demos and tests of kubectl tunnel
#[derive(Debug, Parser)]
#[command(name = "playground")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// Where to write the kubeconfig [default: in a temporary folder]
    #[arg(long)]
    kubeconfig: Option<PathBuf>,

    /// Written once everything answers: one line of JSON
    #[arg(long, global = true)]
    ready_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a small web page on this machine until a signal or the end of stdin
    Web {
        /// Address to listen on
        #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))]
        listen: SocketAddr,

        /// Each answer begins with `hello from GREETING`
        #[arg(long, default_value = "the laptop")]
        greeting: String,
    },
    /// Make one HTTP request, plain or through a proxy, and print the body
    Fetch(fetch::Fetch),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match Runtime::new() {
        Ok(runtime) => {
            let done = runtime.block_on(run(arguments));
            // Not a plain drop: that would wait for the read of stdin that is still going on.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> io::Result<()> {
    let ready_file = arguments.ready_file.as_deref();
    match arguments.command {
        None => serve(arguments.kubeconfig, ready_file).await,
        Some(Command::Web { listen, greeting }) => web(listen, greeting, ready_file).await,
        Some(Command::Fetch(fetch)) => {
            let body = fetch.run().await.map_err(io::Error::other)?;
            print!("{body}");
            Ok(())
        }
    }
}

async fn serve(kubeconfig: Option<PathBuf>, ready_file: Option<&Path>) -> io::Result<()> {
    let options = Options {
        kubeconfig,
        ..Options::default()
    };
    let playground = Playground::start(options).await.map_err(io::Error::other)?;
    let web_port = playground.service_ports("dev", "web").first().copied();
    let ready = json!({
        "kubeconfig": playground.kubeconfig_path(), "address": playground.address(),
        "webPort": web_port,
    });
    announce(ready_file, &ready)?;
    println!("export KUBECONFIG={}", playground.kubeconfig_path().display());
    until_told_to_end().await?;
    playground.stop().await;
    Ok(())
}

async fn web(listen: SocketAddr, greeting: String, ready_file: Option<&Path>) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    announce(ready_file, &json!({"address": address, "port": address.port()}))?;
    println!("listening on {address}");
    tokio::select! {
        () = tunnel_playground::serve_web(listener, greeting) => Ok(()),
        ended = until_told_to_end() => ended,
    }
}

/// Writes the ready file whole: its reader may look at any moment.
fn announce(path: Option<&Path>, ready: &Value) -> io::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let new = path.with_extension("new");
    fs::write(&new, format!("{ready}\n"))?;
    fs::rename(&new, path)
}

/// SIGINT, SIGTERM, or the end of stdin: whoever holds the other end of it is gone.
async fn until_told_to_end() -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stdin_ends = async {
        let mut buffer = [0; 1024];
        let mut stdin = tokio::io::stdin();
        while matches!(stdin.read(&mut buffer).await, Ok(1..)) {}
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = stdin_ends => {}
    }
    Ok(())
}

/// The error with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}
