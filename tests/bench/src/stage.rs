//! One round-trip time: the line to the API server, and the contenders that run over it.
//!
//! Sessions are started when first needed and kept, as people keep them, until one fails or the stage is closed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::cluster::{self, Cluster};
use crate::contender::Contender;
use crate::failure::{Doing, Failure, failure};
use crate::flow::{self, Flow, Way};
use crate::laptop::Laptop;
use crate::raw;
use crate::session::{Kind, Session};
use crate::settings::Settings;

/// The contenders at one round-trip time.
pub(crate) struct Stage<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) cluster: &'a Cluster,
    /// Round-trip time to the API server that the line adds, in milliseconds.
    pub(crate) rtt: u32,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) laptop: Laptop,
    client: kube::Client,
    sessions: HashMap<(Contender, &'static str), Session>,
    /// Killed when dropped.
    line: Option<Child>,
}

impl<'a> Stage<'a> {
    /// Puts a line of this length before the API server; none for 0.
    pub(crate) async fn set(settings: &'a Settings, cluster: &'a Cluster, rtt: u32) -> Result<Self, Failure> {
        let (kubeconfig, line) = if rtt == 0 {
            (cluster.kubeconfig(), None)
        } else {
            let (address, line) = line(settings, cluster, rtt).await?;
            let name = format!("developer-{rtt}");
            (cluster.kubeconfig_through(&name, &address).await?, Some(line))
        };
        Ok(Self {
            settings,
            cluster,
            rtt,
            laptop: Laptop::start().await?,
            client: cluster::client(&kubeconfig).await?,
            kubeconfig,
            sessions: HashMap::new(),
            line,
        })
    }

    /// The contender's session of this kind, started if there is none.
    pub(crate) async fn session(&mut self, contender: Contender, kind: Kind) -> Result<&Session, Failure> {
        let key = (contender, kind.name());
        if !self.sessions.contains_key(&key) {
            let session = self.fresh(contender, &kind).await?;
            self.sessions.insert(key, session);
        }
        self.sessions.get(&key).ok_or_else(|| "just inserted".into())
    }

    /// A session that is nobody else's; its caller stops it.
    pub(crate) async fn fresh(&self, contender: Contender, kind: &Kind) -> Result<Session, Failure> {
        Session::settle(self.settings, self.cluster, &self.kubeconfig, contender, kind).await
    }

    /// The contender's session of this kind, if it runs.
    pub(crate) fn running(&self, contender: Contender, kind: &Kind) -> Option<&Session> {
        self.sessions.get(&(contender, kind.name()))
    }

    /// Flows these ways at once, one for each, with so many streams. A raw channel is one stream.
    pub(crate) async fn flows(
        &mut self,
        contender: Contender,
        ways: &[Way],
        streams: usize,
    ) -> Result<Vec<Flow>, Failure> {
        if contender.is_raw() {
            return raw::flows(contender, &self.client, self.cluster.pod(), ways).await;
        }
        let session = self.session(contender, Kind::Forward).await?;
        let mut flows = Vec::new();
        for way in ways {
            let mut connections = Vec::new();
            for _ in 0..streams {
                connections.push(session.connect(way.port()).await?);
            }
            flows.push(flow::of_connections(*way, connections));
        }
        Ok(flows)
    }

    /// Stops what the contender runs: after a failure nothing of it is trusted.
    pub(crate) async fn forget(&mut self, contender: Contender) {
        let keys: Vec<_> = self
            .sessions
            .keys()
            .filter(|key| key.0 == contender)
            .copied()
            .collect();
        for key in keys {
            if let Some(session) = self.sessions.remove(&key) {
                session.program.stop().await;
            }
        }
    }

    /// Stops everything; the line last, because programs end over it.
    pub(crate) async fn close(&mut self) {
        let ends = self.sessions.drain().map(|(_, session)| session.program.stop());
        futures::future::join_all(ends).await;
        if let Some(mut line) = self.line.take() {
            // It may have ended by itself.
            drop(line.kill().await);
        }
    }
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Proxy => "proxy",
            Self::Expose(_) => "expose",
        }
    }
}

/// Starts the relay; returns where it listens.
async fn line(settings: &Settings, cluster: &Cluster, rtt: u32) -> Result<(String, Child), Failure> {
    let Some(wan) = &settings.wan else {
        return failure("no `wan` on PATH, and TUNNEL_TEST_WAN is not set: only --rtt 0 works");
    };
    let port_file = cluster.file(&format!("line-{rtt}"));
    let mut command = Command::new(wan);
    command
        .args([
            "--listen",
            "127.0.0.1:0",
            "--rtt",
            &format!("{rtt}ms"),
            "--to",
            cluster.api_server(),
        ])
        .arg("--port-file")
        .arg(&port_file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    let child = command.spawn().doing("wan")?;
    for _ in 0..100 {
        if let Ok(address) = tokio::fs::read_to_string(&port_file).await
            && address.contains(':')
        {
            return Ok((address.trim().to_owned(), child));
        }
        sleep(Duration::from_millis(50)).await;
    }
    failure("wan does not tell its port")
}
