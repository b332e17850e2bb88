//! `kubectl tunnel stop`: ends sessions from another terminal, through the control socket where they run here, by
//! deleting their objects where they do not.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Context;
use super::attach::ask_agent;
use super::status::{Here, unknown};
use crate::cli::status_args::StopArgs;
use crate::cluster::client::{Access, ApiServer};
use crate::cluster::names::SessionId;
use crate::cluster::sweep::{self, Found, Scope};
use crate::cluster::{end::Ending, identity};
use crate::control;
use crate::error::Error;
use crate::program;
use crate::ui::Output;

/// A drain, a goodbye and the removal, each of which has a bound of its own.
const LIMIT: Duration = Duration::from_secs(20);

/// Ends them one after the other; the first that cannot be ended is the error, once all were tried.
pub(super) async fn run(arguments: &StopArgs, context: &Context) -> Result<(), Error> {
    for id in &arguments.ids {
        if id.parse::<SessionId>().is_err() {
            return Err(Error::Usage(format!(
                "`{id}` is no session's id; `{} status` lists them",
                program::name()
            )));
        }
    }
    let shutdown = context.shutdown.clone();
    tokio::select! {
        result = stop(arguments, context) => result,
        // Who was asked to stop still does.
        () = shutdown.orderly().cancelled() => Ok(()),
    }
}

async fn stop(arguments: &StopArgs, context: &Context) -> Result<(), Error> {
    let here = Here::look(&context.env).await;
    let is_here = |id: &str| {
        here.running
            .iter()
            .find(|running| running.id == id || running.session.as_deref() == Some(id))
    };
    // The cluster is asked only about what does not run here.
    let all_here = arguments.ids.iter().all(|id| is_here(id).is_some());
    let elsewhere = if !arguments.all && all_here {
        None
    } else {
        let server = Access::new(context.kube.overrides(), context.env.clone(), "stop")
            .connect()
            .await?;
        here.warn_of_mute(&context.printer);
        let found = find(&server, &here.killed).await?;
        Some((server, found))
    };
    let mut ids: BTreeSet<String> = arguments
        .ids
        .iter()
        .map(|id| is_here(id).map_or_else(|| id.clone(), |running| running.id.clone()))
        .collect();
    if let (true, Some((server, found))) = (arguments.all, &elsewhere) {
        let running = here
            .running
            .iter()
            .filter(|running| running.namespace == server.namespace() && running.server == server.address());
        ids.extend(running.map(|running| running.id.clone()));
        let others = found.iter().filter(|found| is_here(&found.session).is_none());
        ids.extend(others.map(|found| found.session.clone()));
        if ids.is_empty() {
            context.printer.note(&format!(
                "no sessions of yours in namespace {}",
                server.namespace()
            ));
        }
    }
    let mut failed = None;
    for id in ids {
        let stopped = if is_here(&id).is_some() {
            stop_here(&id, context).await
        } else {
            remove(&id, elsewhere.as_ref(), context).await
        };
        match stopped {
            Ok(how) => tell(&id, how, context),
            Err(error) => {
                if let Some(before) = failed.replace(error) {
                    context.printer.warn(&before.to_string());
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn find(server: &ApiServer, killed: &BTreeSet<String>) -> Result<Vec<Found>, Error> {
    let identity = identity::identify(server).await?;
    let ask = ask_agent(server);
    Ok(sweep::find(server, Some(&identity), Scope::Namespace, &ask, killed).await?)
}

async fn stop_here(id: &str, context: &Context) -> Result<&'static str, Error> {
    match control::stop(&context.env, id, LIMIT).await {
        Ok(()) => Ok("stopped"),
        Err(error) => Err(Error::Session {
            text: format!("session {id} has not ended: {error}"),
            hint: format!("see how it stands: `{} status -o wide`", program::name()),
        }),
    }
}

async fn remove(
    id: &str,
    elsewhere: Option<&(ApiServer, Vec<Found>)>,
    context: &Context,
) -> Result<&'static str, Error> {
    let (server, found) = elsewhere
        .and_then(|(server, all)| Some((server, all.iter().find(|found| found.session == id)?)))
        .ok_or_else(|| unknown(id))?;
    let ending: Ending = sweep::remove(server, found).await;
    if ending.is_clean() && ending.error.is_none() {
        control::bury(&context.env, id);
        return Ok("removed");
    }
    Err(Error::Leftovers(format!(
        "{ending}; remove it with `{}`",
        ending.removal_command()
    )))
}

fn tell(id: &str, how: &str, context: &Context) {
    if context.printer.output() == Output::Json {
        let line = serde_json::json!({ "session": id, "action": how });
        context.printer.data(&line.to_string());
    } else {
        context.printer.data(&format!("session {id} {how}"));
    }
}
