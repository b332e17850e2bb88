//! A running contender that has local ports: `kubectl port-forward`, or the plugin's `forward`, `proxy` and `expose`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::contender::Contender;
use crate::failure::{Doing, Failure, failure};
use crate::objects::{NAME, POD, PORTS};
use crate::process;
use crate::program::Program;
use crate::settings::Settings;

/// From command to ready at most; more is a failure.
const READY: Duration = Duration::from_secs(30);

/// How long `auto` may take to choose its transport once it is ready.
const SETTLED: Duration = Duration::from_secs(3);

/// What a session is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Local ports for the target's.
    Forward,
    /// One local port for everything.
    Proxy,
    /// The cluster calls these ports of the laptop, by the same numbers as the target's.
    Expose(Vec<(u16, SocketAddr)>),
}

/// A session that is ready.
pub(crate) struct Session {
    pub(crate) program: Program,
    /// Local addresses by the port of the target; the proxy's is 0.
    addresses: BTreeMap<u16, SocketAddr>,
    /// The agent's process, if there is one on this machine.
    pub(crate) agent: Option<u32>,
    /// The agent's memory in MiB before anything was done.
    pub(crate) idle_agent_mib: Option<f64>,
    /// The Service of `expose`.
    pub(crate) service: String,
    /// Seconds from the command to its being ready.
    pub(crate) ready_after: f64,
}

impl Session {
    /// Starts one and waits until it is ready; nothing else, because this is measured.
    pub(crate) async fn start(
        settings: &Settings,
        kubeconfig: &Path,
        contender: Contender,
        kind: &Kind,
    ) -> Result<(Self, String), Failure> {
        if contender == Contender::Kubectl {
            return kubectl(kubeconfig, kind).await;
        }
        let service = format!("bench-{}", contender.name());
        let mut command = Command::new(&settings.plugin);
        command.env("KUBECONFIG", kubeconfig);
        match kind {
            Kind::Forward => {
                command.args(["forward", "--address", "127.0.0.1", &format!("svc/{NAME}")]);
                command.args(PORTS.map(|port| format!(":{port}")));
            }
            Kind::Proxy => {
                command.args(["proxy", "--listen", "127.0.0.1:0"]);
            }
            Kind::Expose(ports) => {
                command.args(["expose", &service]);
                command.args(ports.iter().map(|(port, local)| format!("{port}:{local}")));
            }
        }
        command.args(["-o", "json"]);
        if let Some(transport) = contender.transport() {
            command.arg(format!("--transport={transport}"));
        }
        let mut program = Program::start(command)?;
        let ready = program.find(READY, |line| {
            let event: Value = serde_json::from_str(line).ok()?;
            (event["event"] == "ready").then_some(event)
        });
        let ready = match ready.await {
            Ok(ready) => ready,
            Err(error) => {
                program.stop().await;
                return Err(error).doing(contender.name());
            }
        };
        let session = Self {
            ready_after: program.age(),
            program,
            addresses: listeners(&ready),
            agent: None,
            idle_agent_mib: None,
            service,
        };
        let pod = ready["pod"].as_str().unwrap_or_default().to_owned();
        Ok((session, pod))
    }

    /// The same, and waits until nothing of the start is under way any more.
    pub(crate) async fn settle(
        settings: &Settings,
        cluster: &Cluster,
        kubeconfig: &Path,
        contender: Contender,
        kind: &Kind,
    ) -> Result<Self, Failure> {
        let (mut session, pod) = Self::start(settings, kubeconfig, contender, kind).await?;
        if matches!(contender, Contender::TunnelAuto | Contender::TunnelPortForward) {
            session.moved().await;
        }
        if contender.is_tunnel() {
            sleep(Duration::from_millis(500)).await;
            session.agent = cluster.agent_process(&pod).await;
            session.idle_agent_mib = session.agent.and_then(process::resident_mib);
        }
        Ok(session)
    }

    /// Waits until `auto` has moved to port-forward: until the plugin says so, or long enough.
    async fn moved(&mut self) {
        let says = |line: &str| {
            let event: Value = serde_json::from_str(line).ok()?;
            (event["event"] == "state" && event["transportKind"] == "port-forward").then_some(())
        };
        // Whether it moves at all depends on the cluster; staying where it is, is `auto` too.
        drop(self.program.find(SETTLED, says).await);
    }

    /// A new connection to this port of the target.
    pub(crate) async fn connect(&self, port: u16) -> Result<TcpStream, Failure> {
        let connection = TcpStream::connect(self.address(port)?).await?;
        connection.set_nodelay(true)?;
        Ok(connection)
    }

    /// The local address for this port of the target.
    pub(crate) fn address(&self, port: u16) -> Result<SocketAddr, Failure> {
        let address = self.addresses.get(&port).copied();
        address.ok_or_else(|| format!("no local port for {port}").into())
    }

    /// The proxy's own address.
    pub(crate) fn proxy(&self) -> Result<SocketAddr, Failure> {
        self.address(0)
    }
}

/// The local addresses in a ready event.
fn listeners(ready: &Value) -> BTreeMap<u16, SocketAddr> {
    let all = ready["listeners"].as_array().into_iter().flatten();
    all.filter_map(|listener| {
        let port = listener["port"]
            .as_str()
            .map_or(Some(0), |port| port.parse().ok())?;
        Some((port, listener["address"].as_str()?.parse().ok()?))
    })
    .collect()
}

async fn kubectl(kubeconfig: &Path, kind: &Kind) -> Result<(Session, String), Failure> {
    if *kind != Kind::Forward {
        return failure("kubectl has only port-forward");
    }
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(kubeconfig);
    command.args(["port-forward", "--address", "127.0.0.1", &format!("pod/{POD}")]);
    command.args(PORTS.map(|port| format!(":{port}")));
    let mut program = Program::start(command)?;
    let mut addresses = BTreeMap::new();
    let ready = program.find(READY, |line| {
        addresses.extend(forwarding(line));
        (addresses.len() == PORTS.len()).then_some(())
    });
    if let Err(error) = ready.await {
        program.stop().await;
        return Err(error).doing("kubectl port-forward");
    }
    let session = Session {
        ready_after: program.age(),
        program,
        addresses,
        agent: None,
        idle_agent_mib: None,
        service: String::new(),
    };
    Ok((session, String::new()))
}

/// `Forwarding from 127.0.0.1:40001 -> 7007`.
fn forwarding(line: &str) -> Option<(u16, SocketAddr)> {
    let (address, port) = line.strip_prefix("Forwarding from ")?.split_once(" -> ")?;
    Some((port.parse().ok()?, address.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_local_ports_of_both_programs_are_read() {
        let expected = (7007, "127.0.0.1:40001".parse().unwrap());
        assert_eq!(
            forwarding("Forwarding from 127.0.0.1:40001 -> 7007"),
            Some(expected)
        );
        assert_eq!(forwarding("Handling connection for 40001"), None);
        let ready = json!({"event": "ready", "listeners": [
            {"kind": "forward", "address": "127.0.0.1:40001", "target": "svc/target", "port": "7007"},
            {"kind": "proxy", "address": "127.0.0.1:6080"},
        ]});
        let listeners = listeners(&ready);
        assert_eq!(listeners.get(&7007), Some(&expected.1));
        assert_eq!(listeners.get(&0), "127.0.0.1:6080".parse().ok().as_ref());
    }
}
