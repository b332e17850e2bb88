//! A program of known answers: what the cluster tests reach through a tunnel, and what calls them back.
//!
//! `serve` listens on all ports of the crate's constants; `call` opens connections at once, as a pod that uses
//! an exposed Service does. It is delivered as a `ConfigMap`, so it is small: threads, no runtime. It trusts its
//! callers, which are tests.

use std::env;
use std::io::{self, Write as _};
use std::process::ExitCode;

mod call;
mod follow;
mod http;
mod load;
mod serve;

const USAGE: &str = "usage: tunnel-test-target
  serve                                        listens on everything
  serve udp ADDRESS:PORT                       only echoes datagrams
  call http METHOD HOST PORT PATH COUNT
  call half-close HOST PORT
  call blocks|count HOST PORT                  as the ports of these names, on a connection of its own
  call first-replies HOST PORT COUNT           new connections to an echo, microseconds until each has answered
  pipe blocks|count|both                       the same through stdin and stdout, totals on stderr
  call udp HOST PORT sizes SIZE[,SIZE...]      one datagram each
  call udp HOST PORT rate COUNT RATE SIZE      COUNT datagrams from one socket, RATE a second
  call udp HOST PORT peers PEERS COUNT SIZE    COUNT datagrams from each of PEERS sockets at once";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["serve"] => serve::run(),
        ["call", "http", method, host, port, path, count] => call::http(method, host, port, path, count),
        ["call", "half-close", host, port] => call::half_close(host, port),
        ["call", what @ ("blocks" | "count"), host, port] => load::call(what, host, port),
        ["call", "first-replies", host, port, count] => load::first_replies(host, port, count),
        ["pipe", what @ ("blocks" | "count" | "both")] => load::pipe(what),
        ["serve", "udp", address] => serve::udp(address),
        ["call", "udp", host, port, words @ ..] => call::by_udp(words, host, port),
        _ => Err(io::Error::other(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when stderr has gone.
            drop(writeln!(io::stderr(), "error: {error}"));
            ExitCode::FAILURE
        }
    }
}
