//! What happens to a session, for programs: JSON events, the ready file, and the ready lines on stdout.
//!
//! The names of events and fields are part of the command line: they grow, they do not change.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// One event, as `-o json` prints it.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Event {
    /// The session stands in another way than before.
    State(State),
    /// Everything asked for works.
    Ready(Ready),
    /// A connection wanted an agent, and it is there (`--on-demand`).
    AgentStarted {
        /// The session's id.
        session: String,
        /// The agent's pod.
        pod: String,
    },
    /// Another agent does the work; connections through the one before were reset.
    AgentReplaced {
        /// The new agent's pod.
        pod: String,
        /// Which Job of the session it belongs to.
        generation: u32,
        /// What became of the one before.
        reason: String,
        /// The Services that lead to it.
        services: Vec<MovedService>,
    },
    /// The session is over although nobody asked for it.
    Lost {
        /// Why.
        reason: String,
    },
    /// The command failed; the last event before `ended`.
    Error {
        /// The exit status that follows.
        code: u8,
        /// What failed.
        message: String,
        /// What caused it, outermost first.
        causes: Vec<String>,
        /// The next command to type.
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
    /// The last event.
    Ended {
        /// The exit status.
        code: u8,
        /// What is still in the cluster, as `kind/name`.
        leftovers: Vec<String>,
    },
}

/// How a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateName {
    /// There is no agent; the first connection starts one (`--on-demand`).
    Idle,
    /// The agent is being started, or attached to for the first time.
    Connecting,
    /// Connections can be made and flow.
    Ready,
    /// The connection to the agent is lost; connections through it wait.
    Reconnecting,
    /// Open connections may end, new ones are refused.
    Draining,
}

impl StateName {
    /// The word of `status`.
    #[must_use]
    pub fn for_status(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connecting => "starting",
            Self::Ready => "ready",
            Self::Reconnecting => "reconnecting",
            Self::Draining => "draining",
        }
    }
}

/// How a session stands, in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// In one word.
    pub state: StateName,
    /// Why there is no connection to the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Which attempt to get one is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Which connection to the present agent it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<u32>,
    /// What carries it: `exec` or `port-forward`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport_kind: Option<&'static str>,
    /// How long there was none, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
}

impl From<StateName> for State {
    fn from(state: StateName) -> Self {
        Self {
            state,
            reason: None,
            attempt: None,
            transport: None,
            transport_kind: None,
            after_ms: None,
        }
    }
}

/// A Service after a change of agents.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MovedService {
    /// Its name.
    pub name: String,
    /// Its address in the cluster.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// Whether it had to be made anew, with another address.
    pub changed: bool,
}

/// What a session offers, in full.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// The session's id; none while there is no session (`--on-demand`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The namespace of its objects.
    pub namespace: String,
    /// The agent's pod; none while there is no session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// This process.
    pub pid: u32,
    /// Local ports.
    pub listeners: Vec<LocalListener>,
    /// Services whose connections come here.
    pub services: Vec<ExposedService>,
    /// How it stands; the ready file follows it.
    pub state: StateName,
    /// Why there is no connection to the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Which attempt to get one is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// What carries the session: `exec` or `port-forward`; none while nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport_kind: Option<&'static str>,
    /// Where metrics are served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
}

/// A local port.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalListener {
    /// What it is for: `proxy` or `forward`.
    pub kind: &'static str,
    /// Where it listens: `127.0.0.1:6080`, or `unix:PATH`.
    pub address: String,
    /// Where its connections go, if that is one target: as typed, such as `svc/web`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The target's port as typed, a number or a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// `tcp` or `udp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

impl LocalListener {
    /// A port that goes anywhere.
    #[must_use]
    pub fn proxy(address: String) -> Self {
        Self {
            kind: "proxy",
            address,
            target: None,
            port: None,
            protocol: None,
        }
    }

    /// What stdout says of it; with its target if the others have other ones.
    fn line(&self, several: bool) -> String {
        let (Some(target), Some(port)) = (&self.target, &self.port) else {
            return format!("Starting to serve on {}", self.address);
        };
        let protocol = match self.protocol.as_deref() {
            None | Some("tcp") => "",
            Some(_) => "/udp",
        };
        let target = if several {
            format!(" ({target})")
        } else {
            String::new()
        };
        format!("Forwarding from {} -> {port}{protocol}{target}", self.address)
    }
}

/// A Service of ours.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExposedService {
    /// Its name.
    pub name: String,
    /// Its address in the cluster.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// Its ports.
    pub ports: Vec<ExposedPort>,
}

/// A port of such a Service.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExposedPort {
    /// The Service's port.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The local program, as `host:port`.
    pub local: String,
    /// What a pod may dial, as `host:port`.
    pub url: String,
}

impl Event {
    /// The event as one line of JSON.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("plain strings and numbers always serialize")
    }

    /// What stdout gets without `-o json`: the lines scripts wait for.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let Self::Ready(ready) = self else {
            return Vec::new();
        };
        let mut targets: Vec<_> = ready
            .listeners
            .iter()
            .filter_map(|listener| listener.target.as_ref())
            .collect();
        targets.dedup();
        let several = targets.len() > 1;
        let listeners = ready.listeners.iter().map(|listener| listener.line(several));
        let services = ready.services.iter().flat_map(|service| {
            service.ports.iter().map(move |port| {
                let protocol = if port.protocol == "tcp" {
                    String::new()
                } else {
                    format!("/{}", port.protocol)
                };
                format!(
                    "Forwarding from {}.{}:{}{protocol} -> {}",
                    service.name, ready.namespace, port.port, port.local
                )
            })
        });
        listeners.chain(services).collect()
    }
}

/// `--ready-file`: the ready event as a file that appears whole and goes when the session does.
#[derive(Debug)]
pub struct ReadyFile {
    path: PathBuf,
}

impl ReadyFile {
    /// Removes what a killed session left: it would say "ready" for one that is only starting.
    pub fn forget(path: &Path) {
        // Mostly there is none; where it cannot be removed, writing it fails and tells why.
        drop(std::fs::remove_file(path));
    }

    /// Writes the file in one step: who sees it sees all of it.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(path: &Path, event: &Event) -> io::Result<Self> {
        replace(path, event)?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Writes it again, in one step as well.
    ///
    /// # Errors
    /// The folder cannot be written any more.
    pub fn rewrite(&self, event: &Event) -> io::Result<()> {
        replace(&self.path, event)
    }
}

fn replace(path: &Path, event: &Event) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    std::fs::write(&temporary, event.json() + "\n")
        .and_then(|()| std::fs::rename(&temporary, path))
        .inspect_err(|_| drop(std::fs::remove_file(&temporary)))
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        // Somebody may have removed it already; there is nothing else to do about a failure here.
        Self::forget(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Event {
        Event::Ready(Ready {
            session: Some("x7k2p9".to_owned()),
            namespace: "dev".to_owned(),
            pod: Some("tunnel-x7k2p9-abcde".to_owned()),
            pid: 42,
            listeners: vec![LocalListener::proxy("127.0.0.1:6080".to_owned())],
            services: vec![ExposedService {
                name: "api".to_owned(),
                cluster_ip: "10.96.0.7".to_owned(),
                ports: vec![
                    ExposedPort {
                        port: 80,
                        protocol: "tcp".to_owned(),
                        local: "localhost:1234".to_owned(),
                        url: "api.dev.svc:80".to_owned(),
                    },
                    ExposedPort {
                        port: 53,
                        protocol: "udp".to_owned(),
                        local: "localhost:5353".to_owned(),
                        url: "api.dev.svc:53".to_owned(),
                    },
                ],
            }],
            state: StateName::Ready,
            reason: None,
            attempt: None,
            transport_kind: Some("exec"),
            metrics: None,
        })
    }

    #[test]
    fn the_ready_event_keeps_its_names() {
        let json: serde_json::Value = serde_json::from_str(&ready().json()).unwrap();
        assert_eq!(json["event"], "ready");
        assert_eq!(json["listeners"][0]["address"], "127.0.0.1:6080");
        assert_eq!(json["services"][0]["clusterIP"], "10.96.0.7");
        assert_eq!(json["services"][0]["ports"][0]["local"], "localhost:1234");
        assert_eq!(json["services"][0]["ports"][1]["protocol"], "udp");
    }

    #[test]
    fn ready_lines_are_kubectls() {
        assert_eq!(
            ready().lines(),
            [
                "Starting to serve on 127.0.0.1:6080",
                "Forwarding from api.dev:80 -> localhost:1234",
                "Forwarding from api.dev:53/udp -> localhost:5353"
            ]
        );
    }

    #[test]
    fn forwards_are_told_in_kubectls_words_and_targets_when_there_are_several() {
        let listener = |address: &str, target: &str, port: &str, protocol: &str| LocalListener {
            kind: "forward",
            address: address.to_owned(),
            target: Some(target.to_owned()),
            port: Some(port.to_owned()),
            protocol: Some(protocol.to_owned()),
        };
        let Event::Ready(mut ready) = ready() else {
            panic!("it is");
        };
        ready.services.clear();
        ready.listeners = vec![
            listener("127.0.0.1:8080", "svc/web", "80", "tcp"),
            listener("[::1]:8080", "svc/web", "80", "tcp"),
        ];
        assert_eq!(
            Event::Ready(ready.clone()).lines(),
            [
                "Forwarding from 127.0.0.1:8080 -> 80",
                "Forwarding from [::1]:8080 -> 80"
            ]
        );
        ready
            .listeners
            .push(listener("127.0.0.1:5353", "svc/dns", "dns", "udp"));
        assert_eq!(
            Event::Ready(ready).lines(),
            [
                "Forwarding from 127.0.0.1:8080 -> 80 (svc/web)",
                "Forwarding from [::1]:8080 -> 80 (svc/web)",
                "Forwarding from 127.0.0.1:5353 -> dns/udp (svc/dns)",
            ]
        );
    }

    #[test]
    fn the_ready_file_goes_with_the_session() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready");
        let file = ReadyFile::write(&path, &ready()).unwrap();
        assert!(
            std::fs::read_to_string(&path)
                .unwrap()
                .contains("\"event\":\"ready\"")
        );
        drop(file);
        assert!(!path.exists());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(ReadyFile::write(&folder.path().join("no/such"), &ready()).is_err());
    }
}
