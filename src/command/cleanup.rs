//! `kubectl tunnel cleanup`: removes what dead sessions of this user left.

use super::Context;
use super::attach::ask_agent;
use super::status;
use crate::cli::CleanupArgs;
use crate::cluster::client::Access;
use crate::cluster::identity;
use crate::cluster::sweep::{self, DeadReason, Found, Liveness, Scope, SweepOptions, SweepReport};
use crate::control;
use crate::error::Error;
use crate::ui::Output;

/// Looks, removes, and prints one line a session.
pub(super) async fn run(arguments: &CleanupArgs, context: &Context) -> Result<(), Error> {
    let shutdown = context.shutdown.clone();
    tokio::select! {
        result = clean(arguments, context) => result,
        // Whatever was deleted is deleted; running it again does the rest.
        () = shutdown.orderly().cancelled() => Ok(()),
    }
}

async fn clean(arguments: &CleanupArgs, context: &Context) -> Result<(), Error> {
    let server = Access::new(context.kube.overrides(), context.env.clone(), "cleanup")
        .connect()
        .await?;
    let identity = identity::identify(&server).await?;
    let scope = if arguments.all_namespaces {
        Scope::AllNamespaces
    } else {
        Scope::Namespace
    };
    let options = SweepOptions {
        scope,
        dry_run: arguments.dry_run,
        force: arguments.force,
    };
    let killed = status::killed_here(context).await;
    let report = sweep::sweep(&server, &identity, options, &ask_agent(&server), &killed).await?;
    for found in report.removed.iter().filter(|_| !arguments.dry_run) {
        if killed.contains(&found.session) {
            control::bury(&context.env, &found.session);
        }
    }
    let lines = lines(&report, arguments.dry_run);
    if context.printer.output() == Output::Json {
        let sessions: Vec<_> = lines.iter().map(Line::json).collect();
        context
            .printer
            .data(&serde_json::json!({ "sessions": sessions }).to_string());
    } else if lines.is_empty() {
        let place = match scope {
            Scope::Namespace => format!("in namespace {}", server.namespace()),
            Scope::AllNamespaces => "in any namespace".to_owned(),
        };
        context
            .printer
            .data(&format!("no sessions of {} {place}", identity.name));
    } else {
        for line in &lines {
            context.printer.data(&line.text());
        }
    }
    match report.failed.first() {
        None => Ok(()),
        Some((_, ending)) => Err(Error::Leftovers(format!(
            "{ending}; remove it with `{}`",
            ending.removal_command()
        ))),
    }
}

/// How it is known, for people.
pub(super) fn dead_text(reason: DeadReason) -> String {
    match reason {
        DeadReason::Finished => "its job has finished".to_owned(),
        DeadReason::NeverStarted => "it never started".to_owned(),
        DeadReason::Killed => "its plugin was killed".to_owned(),
        DeadReason::Abandoned { seconds } => format!("nobody attached for {seconds} s"),
    }
}

/// One session of the report.
struct Line<'a> {
    found: &'a Found,
    action: &'static str,
    why: String,
}

fn lines(report: &SweepReport, dry_run: bool) -> Vec<Line<'_>> {
    let removed = if dry_run { "would remove" } else { "removed" };
    let line = |found, action| Line {
        found,
        action,
        why: why(found),
    };
    let removed = report.removed.iter().map(|found| line(found, removed));
    let kept = report.kept.iter().map(|found| line(found, "kept"));
    let failed = report.failed.iter().map(|(found, _)| line(found, "not removed"));
    removed.chain(kept).chain(failed).collect()
}

fn why(found: &Found) -> String {
    match &found.liveness {
        Liveness::Dead(reason) => dead_text(*reason),
        Liveness::Alive => "in use".to_owned(),
        Liveness::Unknown(reason) => format!("cannot be decided: {reason}; --force removes it"),
    }
}

impl Line<'_> {
    fn text(&self) -> String {
        let Found {
            namespace,
            session,
            age,
            ..
        } = self.found;
        let age = humantime::format_duration(std::time::Duration::from_secs(age.as_secs()));
        format!(
            "{} session {session} in namespace {namespace} (age {age}): {}",
            self.action, self.why
        )
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "session": self.found.session,
            "namespace": self.found.namespace,
            "job": self.found.job_name,
            "command": self.found.command,
            "ageSeconds": self.found.age.as_secs(),
            "action": self.action.replace(' ', "-"),
            "reason": self.why,
        })
    }
}
