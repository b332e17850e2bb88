//! Ways into agents: transports for the session, and the question `state` for a sweep.
//!
//! Joins the cluster's exec and port-forward and the session's [`Transports`], which do not know each other. The agent's
//! log lines end here: warnings are said, the rest goes to the log.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tunnel_wire::hello::HelloError;

use crate::cluster::agent::Agent;
use crate::cluster::api_error::ApiError;
use crate::cluster::client::{Access, ApiServer};
use crate::cluster::exec::{self, Command, ExecEnd, Monitor};
use crate::cluster::port_forward::{self, PortForward};
use crate::cluster::sweep::{AgentPod, AgentState, AskAgent, AskError};
use crate::cluster::watch as agent_watch;
use crate::error::AttachError;
use crate::session::{Transport, Transports};
use crate::ui::Printer;

/// How long reading credentials may take: a plugin asks a cloud. Longer than a person waits, since on a line
/// that is down it may only find that out by itself.
const CREDENTIALS_DEADLINE: Duration = Duration::from_secs(10);

/// How long the end status may come after the end of the data.
const STATUS_WAIT: Duration = Duration::from_millis(500);

/// Log lines kept for an error.
const LAST_LINES: usize = 5;

/// Longest answer to `state`, in bytes.
const STATE_LINE: u64 = 4096;

/// Transports into one agent, by exec and by port-forward. By exec each after the first comes with credentials of its
/// own, and with a look at the agent when it does not lead there.
#[derive(Debug)]
pub(super) struct AgentTransports {
    server: ApiServer,
    access: Access,
    agent: Agent,
    printer: Printer,
    log: AgentLog,
    monitors: JoinSet<()>,
    end_rx: Option<watch::Receiver<Monitored>>,
    attached_before: bool,
}

/// How the exec of the newest transport stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Monitored {
    Running,
    Ended(Option<ExecEnd>),
}

impl AgentTransports {
    /// `access` is what `server` was made of, pinned to its context.
    pub(super) fn new(server: ApiServer, access: Access, agent: Agent, printer: Printer) -> Self {
        Self {
            server,
            access,
            agent,
            printer,
            log: AgentLog::default(),
            monitors: JoinSet::new(),
            end_rx: None,
            attached_before: false,
        }
    }

    /// The agent's last words, now and later.
    pub(super) fn log(&self) -> AgentLog {
        self.log.clone()
    }

    /// How the newest exec ended, if its status comes soon.
    async fn exec_end(&self) -> Option<ExecEnd> {
        let mut end_rx = self.end_rx.clone()?;
        let ended = end_rx.wait_for(|end| *end != Monitored::Running);
        let ended = tokio::time::timeout(STATUS_WAIT, ended).await.ok()?.ok()?;
        match &*ended {
            Monitored::Ended(end) => end.clone(),
            Monitored::Running => None,
        }
    }

    /// A live WebSocket outlives its token, so the next one wants everything read afresh.
    async fn renew(&self) -> Result<(), AttachError> {
        let renewed = tokio::time::timeout(CREDENTIALS_DEADLINE, self.server.renew(&self.access)).await;
        match renewed {
            Ok(renewed) => Ok(renewed?),
            Err(_) => Err(AttachError::Credentials {
                after: CREDENTIALS_DEADLINE,
            }),
        }
    }

    async fn exec(&mut self, patience: Duration) -> Result<Transport, AttachError> {
        let command = self.agent.command("attach");
        let command = command.each_ref().map(String::as_str);
        let client = self.server.client();
        let command = Command {
            namespace: &self.agent.namespace,
            pod: &self.agent.pod_name,
            container: self.agent.container(),
            arguments: &command,
        };
        let exec = exec::exec(&client, &command);
        let exec = self
            .server
            .request_within(patience, ("get", "pods/exec"), exec)
            .await?;
        let (end_tx, end_rx) = watch::channel(Monitored::Running);
        self.end_rx = Some(end_rx);
        self.monitors.spawn(monitor(
            exec.monitor,
            self.log.clone(),
            self.printer.clone(),
            end_tx,
        ));
        while self.monitors.try_join_next().is_some() {}
        Ok(Transport {
            reader: Box::new(exec.stdout),
            writer: Box::new(exec.stdin),
        })
    }

    async fn port_forward(&self, port: u16, patience: Duration) -> Result<PortForward, ApiError> {
        let Agent {
            namespace, pod_name, ..
        } = &self.agent;
        port_forward::connect_within(patience, &self.server, namespace, pod_name, port).await
    }

    /// The failure of an attempt, or the agent's end if that is behind it.
    async fn or_gone(&self, error: AttachError) -> AttachError {
        let answered = match &error {
            AttachError::Api(error) => matches!(error.code(), Some(400 | 404)),
            AttachError::Ended(_) => true,
            AttachError::Access(_)
            | AttachError::Credentials { .. }
            | AttachError::Container(_)
            | AttachError::Gone(_)
            | AttachError::Hello { .. }
            | AttachError::Second(_) => false,
        };
        if !answered || !self.attached_before {
            return error;
        }
        match agent_watch::look(&self.server, &self.agent).await {
            Ok(Some(end)) => AttachError::Gone(end),
            Ok(None) => error,
            Err(failed) => failed.into(),
        }
    }
}

impl Transports for AgentTransports {
    type Error = AttachError;

    async fn next(&mut self, patience: Duration) -> Result<Transport, AttachError> {
        if self.attached_before {
            self.renew().await?;
        }
        match self.exec(patience).await {
            Ok(transport) => Ok(transport),
            Err(error) => Err(self.or_gone(error).await),
        }
    }

    async fn second(&mut self, port: u16, patience: Duration) -> Result<Transport, AttachError> {
        let pipe = match self.port_forward(port, patience).await {
            // Credentials that ran out: a plugin that makes new ones may ask somebody, so only then.
            Err(ApiError::Unauthenticated { .. }) => {
                self.renew().await?;
                self.port_forward(port, patience).await?
            }
            answer => answer?,
        };
        let (reader, writer) = pipe.into_split();
        Ok(Transport {
            reader: Box::new(reader),
            writer: Box::new(writer),
        })
    }

    fn attached(&mut self) {
        self.attached_before = true;
    }

    async fn explain(&mut self, _: &HelloError) -> Option<AttachError> {
        let error = AttachError::Ended(self.exec_end().await?);
        Some(self.or_gone(error).await)
    }
}

/// Follows what an exec tells beside its data until its WebSocket is over.
async fn monitor(mut monitor: Monitor, log: AgentLog, printer: Printer, end_tx: watch::Sender<Monitored>) {
    while let Some(line) = monitor.log_line().await {
        log.push(&line, &printer);
    }
    let end = monitor.ended().await;
    tracing::debug!(?end, "exec ended");
    end_tx.send_replace(Monitored::Ended(end));
}

/// The last lines of an agent's log.
#[derive(Debug, Clone, Default)]
pub(super) struct AgentLog(Arc<Mutex<VecDeque<String>>>);

impl AgentLog {
    fn push(&self, line: &str, printer: &Printer) {
        let (level, text) = sentence(line);
        match level.as_str() {
            "error" | "warn" => {
                printer.warn(&format!("the agent says: {text}"));
                let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() == LAST_LINES {
                    lines.pop_front();
                }
                lines.push_back(text);
            }
            "info" => tracing::info!("agent: {text}"),
            _ => tracing::debug!("agent: {text}"),
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }
}

/// Level and sentence of a log line: a JSON object with `level`, `msg` and fields; anything else, such as a
/// panic, is a warning as it is.
fn sentence(line: &str) -> (String, String) {
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(line) else {
        return ("warn".to_owned(), line.to_owned());
    };
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let level = fields.get("level").map_or_else(|| "warn".to_owned(), text);
    let mut sentence = fields.get("msg").map_or_else(String::new, text);
    for (name, value) in fields
        .iter()
        .filter(|(name, _)| !["level", "msg", "ts"].contains(&name.as_str()))
    {
        sentence = format!("{sentence} {name}={}", text(value));
    }
    (level, sentence)
}

/// Asks agents of other sessions whether they are in use, for a sweep.
pub(super) fn ask_agent(server: &ApiServer) -> AskAgent {
    let server = server.clone();
    Arc::new(move |pod| ask(server.clone(), pod).boxed())
}

async fn ask(server: ApiServer, pod: AgentPod) -> Result<AgentState, AskError> {
    let arguments: Vec<&str> = pod.command.iter().map(String::as_str).collect();
    let client = server.client();
    let command = Command {
        namespace: &pod.namespace,
        pod: &pod.pod_name,
        container: pod.container,
        arguments: &arguments,
    };
    let mut exec = server
        .request(("get", "pods/exec"), exec::exec(&client, &command))
        .await?;
    let mut answer = String::new();
    // Kept until the end: an exec whose stdout nobody reads is given up.
    let mut stdout = exec.stdout.take(STATE_LINE);
    stdout.read_to_string(&mut answer).await?;
    if answer.is_empty() {
        return Err(match exec.monitor.ended().await {
            Some(end) => AttachError::Ended(end).into(),
            None => "the exec ended without an answer".into(),
        });
    }
    Ok(AgentState::parse(&answer)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_become_sentences() {
        let json = r#"{"level":"warn","msg":"hello refused","reason":"wrong secret","seconds":5}"#;
        assert_eq!(
            sentence(json),
            (
                "warn".to_owned(),
                "hello refused reason=wrong secret seconds=5".to_owned()
            )
        );
        assert_eq!(
            sentence("panicked at x"),
            ("warn".to_owned(), "panicked at x".to_owned())
        );
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let log = AgentLog::default();
        let printer = Printer::new(crate::ui::Output::Text, 2);
        for number in 0..10 {
            log.push(&format!("line {number}"), &printer);
        }
        assert_eq!(log.lines(), ["line 5", "line 6", "line 7", "line 8", "line 9"]);
    }
}
