//! `kubectl tunnel status`: the sessions that run here, joined with what the cluster knows.
//!
//! A plugin that runs here is believed about itself; of every other session the cluster is asked, as `cleanup` does, so
//! that both mean the same by dead. How rows are printed is in [`table`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::Context;
use super::attach::ask_agent;
use crate::cli::status_args::StatusArgs;
use crate::cluster::api_error::ApiError;
use crate::cluster::client::{Access, ApiServer};
use crate::cluster::env::Env;
use crate::cluster::identity::{self, Identity};
use crate::cluster::sweep::{self, AgentState, AskAgent, Liveness, Scope, SweepError};
use crate::control::{self, Snapshot};
use crate::error::Error;
use crate::program;
use crate::ui::{Output, Printer};

mod table;

/// Between two looks of `--watch`; each asks the cluster.
const WATCH: Duration = Duration::from_secs(2);

/// Between two looks of `--wait-for`.
const LOOK: Duration = Duration::from_millis(250);

/// One session.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) namespace: String,
    pub(super) command: Option<String>,
    /// The plugin's own word, else `elsewhere`, `dead` or `unknown`.
    pub(super) state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    /// In RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) started_at: Option<String>,
    /// In RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<String>,
    /// What the plugin tells, if it runs here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) running: Option<Box<Snapshot>>,
}

impl Row {
    fn of_running(snapshot: Snapshot) -> Self {
        Self {
            id: snapshot.id.clone(),
            namespace: snapshot.namespace.clone(),
            command: Some(snapshot.command.clone()),
            state: snapshot.state.clone(),
            reason: snapshot.reason.clone(),
            user: None,
            started_at: Some(snapshot.started_at.clone()),
            expires_at: snapshot.expires_at.clone(),
            running: Some(Box::new(snapshot)),
        }
    }

    fn of_found(found: sweep::Found, now: Timestamp) -> Self {
        let (state, reason) = match &found.liveness {
            Liveness::Alive => ("elsewhere", None),
            Liveness::Dead(reason) => ("dead", Some(super::cleanup::dead_text(*reason))),
            Liveness::Unknown(reason) => ("unknown", Some(reason.clone())),
        };
        let started = now.checked_sub(found.age).ok();
        Self {
            id: found.session,
            namespace: found.namespace,
            command: found.command,
            state: state.to_owned(),
            reason,
            user: found.user,
            started_at: started.map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
            expires_at: found.expires_at,
            running: None,
        }
    }

    /// Whether `id` means it: the command's own, or its session's of the moment.
    fn is_called(&self, id: &str) -> bool {
        let session = self
            .running
            .as_ref()
            .and_then(|running| running.session.as_deref());
        self.id == id || session == Some(id)
    }
}

/// What this machine knows without a cluster.
#[derive(Debug, Default)]
pub(super) struct Here {
    pub(super) running: Vec<Snapshot>,
    pub(super) killed: BTreeSet<String>,
    /// Those that do not answer as they should, and what happens instead.
    mute: Vec<(String, String)>,
}

impl Here {
    pub(super) async fn look(env: &Env) -> Self {
        let mut here = Self::default();
        for found in control::list(env).await {
            match found {
                control::Found::Running(snapshot) => here.running.push(*snapshot),
                control::Found::Dead { id } => {
                    here.killed.insert(id);
                }
                control::Found::Mute { id, reason } => here.mute.push((id, reason)),
            }
        }
        here
    }

    pub(super) fn warn_of_mute(&self, printer: &Printer) {
        for (id, reason) in &self.mute {
            printer.warn(&format!("session {id} does not answer: {reason}"));
        }
    }
}

async fn here(context: &Context) -> Here {
    let here = Here::look(&context.env).await;
    here.warn_of_mute(&context.printer);
    here
}

/// Sessions whose plugins ran here and were killed.
pub(super) async fn killed_here(context: &Context) -> BTreeSet<String> {
    here(context).await.killed
}

/// Prints once, or goes on, or waits.
pub(super) async fn run(arguments: &StatusArgs, context: &Context) -> Result<(), Error> {
    let shutdown = context.shutdown.clone();
    tokio::select! {
        result = answer(arguments, context) => result,
        () = shutdown.orderly().cancelled() => Ok(()),
    }
}

async fn answer(arguments: &StatusArgs, context: &Context) -> Result<(), Error> {
    if arguments.wait_for.is_some() {
        return wait(arguments, context).await;
    }
    let looked = async {
        let cluster = Cluster::connect(arguments, context).await?;
        let rows = cluster.rows(arguments, context).await?;
        Ok::<_, Error>((cluster, rows))
    };
    let (cluster, rows) = match looked.await {
        Ok(looked) => looked,
        Err(error) => {
            // What runs here is known without the cluster.
            let known = local_rows(arguments, here(context).await.running, None);
            if !known.is_empty() {
                table::print(&known, arguments, context);
            }
            return Err(error);
        }
    };
    if let Some(id) = arguments.id.as_ref().filter(|_| rows.is_empty()) {
        return Err(unknown(id));
    }
    table::print(&rows, arguments, context);
    if !arguments.watch {
        return Ok(());
    }
    let key = |row: &Row| (row.namespace.clone(), row.id.clone());
    let mut known: BTreeMap<_, _> = rows.into_iter().map(|row| (key(&row), row)).collect();
    loop {
        sleep(WATCH).await;
        let now: BTreeMap<_, _> = cluster
            .rows(arguments, context)
            .await?
            .into_iter()
            .map(|row| (key(&row), row))
            .collect();
        let mut changed: Vec<Row> = now
            .iter()
            .filter(|(key, row)| known.get(*key).is_none_or(|before| table::differ(before, row)))
            .map(|(_, row)| row.clone())
            .collect();
        changed.extend(
            known
                .into_iter()
                .filter(|(key, _)| !now.contains_key(key))
                .map(|(_, mut row)| {
                    "gone".clone_into(&mut row.state);
                    row.running = None;
                    row
                }),
        );
        table::print_changes(&changed, arguments, context);
        known = now;
    }
}

/// What runs here and is asked for; `server` where only one cluster counts.
fn local_rows(arguments: &StatusArgs, running: Vec<Snapshot>, server: Option<&ApiServer>) -> Vec<Row> {
    running
        .into_iter()
        .filter(|snapshot| {
            server.is_none_or(|server| {
                snapshot.server == server.address()
                    && (arguments.all_namespaces || snapshot.namespace == server.namespace())
            })
        })
        .map(Row::of_running)
        .filter(|row| arguments.id.as_deref().is_none_or(|id| row.is_called(id)))
        .collect()
}

/// The cluster that is looked at, as often as the user wants. A credential plugin runs once, and again when the
/// server takes its credentials no more.
struct Cluster {
    server: ApiServer,
    access: Access,
    /// Whose sessions; everybody's without.
    identity: Option<Identity>,
    scope: Scope,
}

impl Cluster {
    async fn connect(arguments: &StatusArgs, context: &Context) -> Result<Self, Error> {
        let access = Access::new(context.kube.overrides(), context.env.clone(), "status");
        let server = access.connect().await?;
        let identity = if arguments.all_users {
            None
        } else {
            Some(identity::identify(&server).await?)
        };
        Ok(Self {
            access: access.pinned_to(&server),
            server,
            identity,
            scope: if arguments.all_namespaces {
                Scope::AllNamespaces
            } else {
                Scope::Namespace
            },
        })
    }

    /// All that is known, oldest first.
    async fn rows(&self, arguments: &StatusArgs, context: &Context) -> Result<Vec<Row>, Error> {
        let here = here(context).await;
        let found = match self.find(&here).await {
            Err(SweepError::Api(ApiError::Unauthenticated { .. })) => {
                self.server.renew(&self.access).await?;
                self.find(&here).await?
            }
            found => found?,
        };
        let now = self.server.server_now().unwrap_or_else(Timestamp::now);
        for id in &here.killed {
            // Nothing of it is left to be told dead from alive.
            if !found.iter().any(|found| found.session == *id) {
                control::bury(&context.env, id);
            }
        }
        let mut rows = local_rows(arguments, here.running, Some(&self.server));
        let others = found.into_iter().map(|found| Row::of_found(found, now));
        for other in others.filter(|row| arguments.id.as_deref().is_none_or(|id| row.is_called(id))) {
            match rows.iter_mut().find(|row| row.is_called(&other.id)) {
                Some(row) => row.user = other.user,
                None => rows.push(other),
            }
        }
        rows.sort_by(|one, other| (&one.started_at, &one.id).cmp(&(&other.started_at, &other.id)));
        Ok(rows)
    }

    async fn find(&self, here: &Here) -> Result<Vec<sweep::Found>, SweepError> {
        let pods: BTreeSet<String> = here
            .running
            .iter()
            .filter_map(|running| running.pod.clone())
            .collect();
        let ask = ask_others(ask_agent(&self.server), pods);
        sweep::find(
            &self.server,
            self.identity.as_ref(),
            self.scope,
            &ask,
            &here.killed,
        )
        .await
    }
}

/// Asks agents, but not those whose plugins have told already.
fn ask_others(ask: AskAgent, known: BTreeSet<String>) -> AskAgent {
    Arc::new(move |pod| {
        if known.contains(&pod.pod_name) {
            let attached = AgentState {
                attached: true,
                seconds: 0,
                streams: 0,
            };
            return Box::pin(std::future::ready(Ok(attached)));
        }
        ask(pod)
    })
}

/// Waits for readiness: of the one session, or of all that run here in this namespace, at least one.
async fn wait(arguments: &StatusArgs, context: &Context) -> Result<(), Error> {
    let deadline = Instant::now() + arguments.timeout;
    // Which namespace and cluster are meant is known without asking them.
    let server = Access::new(context.kube.overrides(), context.env.clone(), "status")
        .connect()
        .await?;
    let what = arguments
        .id
        .as_ref()
        .map_or_else(|| "a session here".to_owned(), |id| format!("session {id}"));
    loop {
        let running = here(context).await.running;
        let scope = arguments.id.is_none().then_some(&server);
        let rows = local_rows(arguments, running, scope);
        let waiting = rows
            .iter()
            .find(|row| !matches!(row.state.as_str(), "ready" | "idle"));
        if waiting.is_none() && !rows.is_empty() {
            table::print(&rows, arguments, context);
            return Ok(());
        }
        if Instant::now() + LOOK > deadline {
            let state = waiting.map_or_else(
                || "it does not run here".to_owned(),
                |row| match &row.reason {
                    Some(reason) => format!("it is {} ({reason})", row.state),
                    None => format!("it is {}", row.state),
                },
            );
            return Err(Error::Session {
                text: format!(
                    "{what} is not ready after {} (--timeout): {state}",
                    humantime::format_duration(arguments.timeout)
                ),
                hint: format!("see what there is: `{} status`", program::name()),
            });
        }
        sleep(LOOK).await;
    }
}

/// The error about an id that nobody knows.
pub(super) fn unknown(id: &str) -> Error {
    Error::Session {
        text: format!("there is no session {id} of yours, neither here nor in this namespace"),
        hint: format!("see which there are: `{} status`", program::name()),
    }
}

/// Whether stdout is for programs.
fn is_text(output: Output) -> bool {
    matches!(output, Output::Text | Output::Wide)
}
