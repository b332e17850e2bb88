//! `kubectl tunnel forward`: local ports for any target.
//!
//! It reads the targets from the command line and from files; everything else is `tunnel`'s and [`crate::forward`]'s.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Context;
use super::tunnel::{self, Plan};
use crate::cli::forward_args::ForwardArgs;
use crate::cli::target::{
    FileTarget, ForwardPort, LocalPort, TargetKind, TargetSpec, Via, parse_file, parse_words,
};
use crate::cluster::upstream::Wanted;
use crate::error::Error;
use crate::forward::bind::{LocalHost, SamePort};
use crate::program;

/// Least `--udp-idle` and `--idle-timeout`: shorter ones end what has only just begun.
const LEAST_IDLE: Duration = Duration::from_secs(1);

/// What is to be forwarded.
#[derive(Debug)]
pub(super) struct ForwardPlan {
    pub(super) targets: Vec<Forwarded>,
    pub(super) same_port: SamePort,
    pub(super) udp_idle: Duration,
}

/// One port of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Forwarded {
    pub(super) wanted: Wanted,
    pub(super) local: LocalPort,
    pub(super) hosts: Vec<LocalHost>,
}

impl Forwarded {
    /// What messages and the log call it.
    pub(super) fn label(&self) -> String {
        let Wanted {
            target,
            port,
            protocol,
            ..
        } = &self.wanted;
        format!("{target}:{port}/{protocol}")
    }

    /// Whether several upstreams stand behind it, which come and go.
    pub(super) fn is_balanced(&self) -> bool {
        !matches!(self.wanted.target.kind, TargetKind::Host | TargetKind::Ip)
    }
}

/// Runs until the user or the session ends it.
pub(super) async fn run(arguments: &ForwardArgs, context: &Context) -> Result<(), Error> {
    let files = tokio::select! {
        files = read_all(&arguments.filename) => files?,
        () = context.shutdown.orderly().cancelled() => return Ok(()),
    };
    let forward = ForwardPlan {
        targets: targets(arguments, &files)?,
        same_port: arguments.same_port,
        udp_idle: arguments.udp_idle,
    };
    for (flag, given) in [
        ("--udp-idle", arguments.udp_idle),
        ("--idle-timeout", arguments.idle_timeout.unwrap_or(LEAST_IDLE)),
    ] {
        if given < LEAST_IDLE {
            return Err(Error::Usage(format!("{flag} must be at least 1s")));
        }
    }
    if context.settings.typed("idle-timeout") && !arguments.on_demand {
        return Err(Error::Usage(
            "--idle-timeout is for an agent that comes and goes: add `--on-demand`".to_owned(),
        ));
    }
    let plan = Plan {
        verb: "forward",
        proxy: None,
        expose: None,
        forward: Some(forward),
        session: &arguments.session,
        on_demand: arguments.on_demand.then(|| {
            arguments
                .idle_timeout
                .unwrap_or(crate::cli::forward_args::IDLE_TIMEOUT)
        }),
    };
    tunnel::run(plan, context).await
}

fn targets(arguments: &ForwardArgs, files: &[File]) -> Result<Vec<Forwarded>, Error> {
    let typed = if arguments.words.is_empty() {
        Vec::new()
    } else {
        parse_words(&arguments.words).map_err(|error| Error::Usage(error.to_string()))?
    };
    let mut all: Vec<FileTarget> = typed
        .into_iter()
        .map(|(target, ports)| FileTarget {
            target,
            ports,
            via: None,
            address: Vec::new(),
        })
        .collect();
    for File { text, origin } in files {
        all.extend(parse_file(text, origin).map_err(|error| Error::Usage(error.to_string()))?);
    }
    if all.is_empty() {
        return Err(Error::Usage(format!(
            "which target? type `{} forward TYPE/NAME PORT`, such as `forward svc/web 8080:80`",
            program::name()
        )));
    }
    let ports = all.into_iter().flat_map(|target| {
        let FileTarget {
            target,
            ports,
            via,
            address,
        } = target;
        let hosts = if address.is_empty() {
            arguments.address.clone()
        } else {
            address
        };
        let via = via.unwrap_or(arguments.via);
        ports
            .into_iter()
            .map(move |port| one(target.clone(), port, via, hosts.clone()))
    });
    Ok(ports.collect())
}

fn one(target: TargetSpec, port: ForwardPort, via: Via, hosts: Vec<LocalHost>) -> Forwarded {
    Forwarded {
        wanted: Wanted {
            target,
            port: port.remote,
            protocol: port.protocol,
            via,
        },
        local: port.local,
        hosts,
    }
}

/// What was read, and what errors call it.
#[derive(Debug)]
struct File {
    text: String,
    origin: String,
}

/// Reads the files in their order; `-` is stdin, which may be a person who never ends it.
async fn read_all(paths: &[PathBuf]) -> Result<Vec<File>, Error> {
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let is_stdin = path == Path::new("-");
        let origin = if is_stdin {
            "stdin".to_owned()
        } else {
            path.display().to_string()
        };
        let path = path.clone();
        let read = move || {
            if is_stdin {
                std::io::read_to_string(std::io::stdin())
            } else {
                std::fs::read_to_string(path)
            }
        };
        let text = tokio::task::spawn_blocking(read)
            .await
            .map_err(std::io::Error::other)
            .flatten();
        match text {
            Ok(text) => files.push(File { text, origin }),
            Err(source) => {
                return Err(Error::Io {
                    doing: format!("read the targets from {origin}"),
                    source,
                });
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: ForwardArgs,
    }

    async fn parse(words: &[&str]) -> Result<Vec<Forwarded>, String> {
        let line = Line::try_parse_from([&["forward"], words].concat()).map_err(|error| error.to_string())?;
        let files = read_all(&line.arguments.filename)
            .await
            .map_err(|error| error.to_string())?;
        targets(&line.arguments, &files).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn targets_come_from_the_command_line_and_from_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("targets.yaml");
        std::fs::write(
            &file,
            "- svc/db.other 5432\n- {target: deploy/api, ports: [':http'], via: pod, address: 127.0.0.2}\n",
        )
        .unwrap();
        let all = parse(&["svc/web", "8080:80", "53/udp", "-f", file.to_str().unwrap()])
            .await
            .unwrap();
        let labels: Vec<String> = all.iter().map(Forwarded::label).collect();
        assert_eq!(
            labels,
            [
                "svc/web:80/tcp",
                "svc/web:53/udp",
                "svc/db.other:5432/tcp",
                "deploy/api:http/tcp"
            ]
        );
        assert_eq!(all[0].hosts, [LocalHost::Localhost]);
        assert_eq!(all[0].wanted.via, Via::Auto);
        assert_eq!(all[3].hosts, [LocalHost::Ip("127.0.0.2".parse().unwrap())]);
        assert_eq!((all[3].wanted.via, all[3].local), (Via::Pod, LocalPort::Any));
    }

    #[tokio::test]
    async fn what_is_missing_is_said() {
        assert!(parse(&[]).await.unwrap_err().contains("which target?"));
        let missing = parse(&["-f", "/no/such/file"]).await.unwrap_err();
        assert!(missing.contains("/no/such/file"), "{missing}");
    }
}
