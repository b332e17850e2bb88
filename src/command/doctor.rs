//! `kubectl tunnel doctor`: what a session would meet, found out without starting one; with `--deep` in one.
//!
//! ```text
//! here.rs    plugin, PATH, kubeconfig
//! server.rs  server, version, clock -> who we are -> namespace, rights, WebSocket -> dry run, leftovers
//! deep.rs    start -> probe, round trip, DNS, throughput -> removal
//! report.rs  the lines, or one JSON object
//! ```
//!
//! A check that needs one which failed says so; all others are made nevertheless. Without `--deep` nothing is created.
//! Nothing needs a right beyond those of a session: what may not be seen is said to be so.

use super::Context;
use super::attach::ask_agent;
use super::status;
use crate::cli::agent_flags::AgentFlagsError;
use crate::cli::doctor_args::DoctorArgs;
use crate::cluster::client::{Access, AccessError, ApiServer};
use crate::cluster::identity::{self, Identity};
use crate::cluster::options::AgentOptions;
use crate::cluster::sweep::{self, Found, Liveness, Scope, SweepError};
use crate::error::Error;
use crate::program;
use crate::ui::Output;

mod deep;
mod here;
mod report;
mod server;

use self::report::{Check, State};

/// What only a server can tell, once it has said who we are.
const OF_A_USER: [&str; 7] = [
    "namespace",
    "rights",
    "features",
    "websocket",
    "job",
    "pod",
    "leftovers",
];

/// Checks, prints, and fails when a check did.
pub(super) async fn run(arguments: &DoctorArgs, context: &Context) -> Result<(), Error> {
    // Without an agent to start, which is a check of its own, the rest is still worth knowing.
    let options = match arguments.agent.validate() {
        Ok(options) => Ok(options),
        Err(error @ AgentFlagsError::Binary(_)) => Err(Error::AgentFlags(error)),
        Err(error) => return Err(Error::AgentFlags(error)),
    };
    let shutdown = context.shutdown.clone();
    let (mut checks, reached) = tokio::select! {
        examined = examine(options.as_ref(), context) => examined,
        () = shutdown.orderly().cancelled() => return Ok(()),
    };
    if arguments.deep {
        match deep::run(&checks, options.ok(), reached, arguments, context).await? {
            Some(deep) => checks.extend(deep),
            // The user has asked for the end; the session is removed.
            None => return Ok(()),
        }
    }
    context.printer.steps_done();
    context.printer.data(&match context.printer.output() {
        Output::Json => report::json(&checks).to_string(),
        Output::Text | Output::Wide | Output::Yaml | Output::Name => report::text(&checks),
    });
    match report::failures(&checks) {
        0 => Ok(()),
        failed => Err(Error::Checks(failed)),
    }
}

/// The server that was asked, and how.
type Reached = (Access, ApiServer);

async fn examine(options: Result<&AgentOptions, &Error>, context: &Context) -> (Vec<Check>, Option<Reached>) {
    let mut checks = vec![here::plugin(options.err()), here::path(&context.env)];
    let options = options.ok();
    checks.extend(options.map(here::image));
    let overrides = context.kube.overrides();
    match here::kubeconfig(&overrides, &context.env) {
        Ok(check) => checks.push(check),
        Err(check) => {
            checks.push(check);
            let of_a_server = ["server", "version", "clock", "credentials"];
            checks.extend(not_checked(&of_a_server, "there is no server to ask"));
            checks.extend(not_checked(&OF_A_USER, "there is no server to ask"));
            return (checks, None);
        }
    }
    // A credential plugin may ask something: no line may move until it is done.
    let access = Access::new(overrides, context.env.clone(), "doctor");
    match access.connect().await {
        Ok(server) => {
            context.last_words.in_namespace(server.namespace());
            checks.extend(ask(&server, options, context).await);
            return (checks, Some((access, server)));
        }
        Err(error) => {
            let name = match error {
                AccessError::Credentials(_) => "credentials",
                AccessError::Kubeconfig(_) | AccessError::Tls { .. } => "server",
            };
            let reason = "there are no credentials to ask with";
            let others = ["server", "version", "clock", "credentials"];
            let others = others.into_iter().filter(|other| *other != name);
            checks.extend(others.map(|other| Check::not_checked(other, reason)));
            checks.push(Check::failed(name, &Error::Access(error), ""));
            checks.extend(not_checked(&OF_A_USER, reason));
        }
    }
    (checks, None)
}

fn not_checked(names: &[&'static str], reason: &str) -> Vec<Check> {
    let check = |name: &&'static str| Check::not_checked(name, reason);
    names.iter().map(check).collect()
}

/// Everything that the server tells.
async fn ask(server: &ApiServer, options: Option<&AgentOptions>, context: &Context) -> Vec<Check> {
    context.printer.step(&format!("asking {}", server.address()));
    let (mut checks, version) = server::reach(server).await;
    let Ok(version) = version else {
        let reason = "the server does not answer";
        checks.extend(not_checked(&["version", "clock", "credentials"], reason));
        checks.extend(not_checked(&OF_A_USER, reason));
        return checks;
    };
    checks.extend(server::clock(server));
    let identity = match identity::whoami(server).await {
        Ok(Some(name)) => {
            checks.push(Check::ok(
                "credentials",
                format!("the server knows you as {name}"),
            ));
            Identity::from_name(name)
        }
        Ok(None) => {
            let unsaid = "who you are to the server; it takes your credentials";
            checks.push(Check::not_allowed("credentials", unsaid));
            Identity::of_kubeconfig(server)
        }
        Err(error) => {
            checks.push(Check::failed(
                "credentials",
                &Error::Api(error),
                server.namespace(),
            ));
            checks.extend(not_checked(&OF_A_USER, "the server does not know who you are"));
            return checks;
        }
    };
    let (namespace, (rights, survey), websocket, leftovers) = tokio::join!(
        server::namespace(server),
        server::rights(server, &identity),
        server::websocket(server),
        leftovers(server, &identity, context),
    );
    let fit = namespace.state != State::Failure;
    checks.push(namespace);
    checks.extend(rights);
    checks.push(websocket);
    checks.extend(match options {
        Some(_) if !fit => not_checked(&["job", "pod"], "the namespace takes nothing"),
        Some(options) => {
            let architecture = server::architecture(options, version.as_ref());
            server::rehearse(server, options, &identity, architecture, survey.as_ref()).await
        }
        None => not_checked(&["job", "pod"], "there is no agent to start"),
    });
    checks.push(leftovers);
    checks
}

/// What dead sessions of this user left in the namespace.
async fn leftovers(server: &ApiServer, identity: &Identity, context: &Context) -> Check {
    let killed = status::killed_here(context).await;
    let ask = ask_agent(server);
    match sweep::find(server, Some(identity), Scope::Namespace, &ask, &killed).await {
        Ok(found) => leftovers_check(server.namespace(), &found),
        Err(SweepError::Api(error)) if error.code() == Some(403) => Check::not_allowed(
            "leftovers",
            &format!("the jobs of namespace {}", server.namespace()),
        ),
        Err(error) => Check::failed("leftovers", &Error::Sweep(error), server.namespace()),
    }
}

fn leftovers_check(namespace: &str, found: &[Found]) -> Check {
    let dead: Vec<&str> = found
        .iter()
        .filter(|found| matches!(found.liveness, Liveness::Dead(_)))
        .map(|found| found.session.as_str())
        .collect();
    if dead.is_empty() {
        return Check::ok(
            "leftovers",
            format!("nothing of dead sessions in namespace {namespace}"),
        );
    }
    Check::warning(
        "leftovers",
        format!("dead sessions in namespace {namespace}: {}", dead.join(", ")),
    )
    .with_hint(format!(
        "remove them with `{} cleanup -n {namespace}`",
        program::name()
    ))
}
