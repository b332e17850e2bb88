//! `kubectl tunnel version`: the plugin, the agents it carries, their wire, and the API server.

use super::Context;
use crate::cli::VersionArgs;
use crate::cluster::agents::AgentBinaries;
use crate::cluster::client::{Access, ServerVersion};
use crate::cluster::options::Architecture;
use crate::error::Error;
use crate::ui::Output;

/// What this program was built for, as Rust names it.
const TARGET: &str = env!("TUNNEL_TARGET");
/// What it was built from; only releases tell.
const COMMIT: Option<&str> = option_env!("TUNNEL_COMMIT");

/// Prints what is known, also when the server does not answer: that fails, as in kubectl, once the rest is said.
pub(super) async fn run(arguments: &VersionArgs, context: &Context) -> Result<(), Error> {
    let server = if arguments.client {
        None
    } else {
        let shutdown = context.shutdown.clone();
        tokio::select! {
            server = ask(context) => Some(server),
            () = shutdown.orderly().cancelled() => None,
        }
    };
    let version = Versions::of_this(server.as_ref().and_then(|server| server.as_ref().ok()));
    context.printer.data(&match context.printer.output() {
        Output::Json => version.json().to_string(),
        Output::Text | Output::Wide | Output::Yaml | Output::Name => version.text(),
    });
    server.map_or(Ok(()), |server| server.map(drop))
}

async fn ask(context: &Context) -> Result<Server, Error> {
    let server = Access::new(context.kube.overrides(), context.env.clone(), "version")
        .connect()
        .await?;
    Ok(Server {
        version: server.version().await?,
        address: server.address(),
    })
}

struct Server {
    version: ServerVersion,
    address: String,
}

struct Versions<'a> {
    commit: Option<&'a str>,
    /// Of the agents that are built in, with their sizes in bytes.
    agents: Vec<(&'static str, usize)>,
    server: Option<&'a Server>,
}

impl<'a> Versions<'a> {
    fn of_this(server: Option<&'a Server>) -> Self {
        let agents = AgentBinaries::embedded().ok();
        let size = |architecture| Some(agents.as_ref()?.get(architecture)?.len());
        Self {
            commit: COMMIT.filter(|commit| !commit.is_empty()),
            agents: Architecture::ALL
                .into_iter()
                .filter_map(|architecture| Some((architecture.as_str(), size(architecture)?)))
                .collect(),
            server,
        }
    }

    fn json(&self) -> serde_json::Value {
        let agents = self
            .agents
            .iter()
            .map(|(name, size)| ((*name).to_owned(), (*size).into()));
        let mut json = serde_json::json!({
            "client": tunnel_wire::version::SOFTWARE_VERSION,
            "commit": self.commit,
            "target": TARGET,
            // One release, so one version.
            "agent": tunnel_wire::version::SOFTWARE_VERSION,
            "agents": agents.collect::<serde_json::Map<_, _>>(),
            "wire": tunnel_wire::version::WIRE_VERSION,
        });
        if let Some(Server { version, address }) = self.server {
            json["server"] = serde_json::json!({
                "version": version.git_version,
                "platform": version.platform,
                "address": address,
            });
        }
        json
    }

    fn text(&self) -> String {
        let version = tunnel_wire::version::SOFTWARE_VERSION;
        let wire = tunnel_wire::version::WIRE_VERSION;
        let commit = self
            .commit
            .map(|commit| format!("commit {commit}, "))
            .unwrap_or_default();
        let agents = if self.agents.is_empty() {
            "none built in: use --agent-binary or --agent-image".to_owned()
        } else {
            let names = self
                .agents
                .iter()
                .map(|(name, size)| format!("{name}, {size} bytes"));
            format!("v{version} ({})", names.collect::<Vec<_>>().join("; "))
        };
        let mut lines = vec![
            format!("Client Version: v{version} ({commit}{TARGET})"),
            format!("Agent Version: {agents}"),
            format!("Wire Version: {wire}"),
        ];
        if let Some(Server { version, address }) = self.server {
            let ServerVersion {
                git_version,
                platform,
            } = version;
            lines.push(format!("Server Version: {git_version} ({platform}, {address})"));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server {
            version: ServerVersion {
                git_version: "v1.35.0".to_owned(),
                platform: "linux/amd64".to_owned(),
            },
            address: "example:6443".to_owned(),
        }
    }

    #[test]
    fn names_everything_that_is_known() {
        let server = server();
        let all = Versions {
            commit: Some("0123456789ab"),
            agents: vec![("amd64", 800_000), ("arm64", 700_000)],
            server: Some(&server),
        };
        let version = env!("CARGO_PKG_VERSION");
        let wire = tunnel_wire::version::WIRE_VERSION;
        assert_eq!(
            all.text(),
            format!(
                "Client Version: v{version} (commit 0123456789ab, {TARGET})\n\
                 Agent Version: v{version} (amd64, 800000 bytes; arm64, 700000 bytes)\n\
                 Wire Version: {wire}\n\
                 Server Version: v1.35.0 (linux/amd64, example:6443)"
            )
        );
        assert_eq!(
            all.json(),
            serde_json::json!({
                "client": version, "commit": "0123456789ab", "target": TARGET, "agent": version,
                "agents": {"amd64": 800_000, "arm64": 700_000}, "wire": wire,
                "server": {"version": "v1.35.0", "platform": "linux/amd64", "address": "example:6443"},
            })
        );
    }

    #[test]
    fn leaves_out_what_is_not() {
        let bare = Versions {
            commit: None,
            agents: Vec::new(),
            server: None,
        };
        assert!(
            bare.text().contains("Agent Version: none built in"),
            "{}",
            bare.text()
        );
        assert!(!bare.text().contains("Server"), "{}", bare.text());
        assert!(bare.json().get("server").is_none());
        assert!(bare.json()["commit"].is_null());
    }
}
