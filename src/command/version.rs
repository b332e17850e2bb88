//! `kubectl tunnel version`: the plugin, its wire, and the agents it carries.

use crate::cluster::agents::AgentBinaries;
use crate::cluster::options::Architecture;
use crate::ui::{Output, Printer};

/// Prints one line for people, or one JSON object.
pub(super) fn run(printer: &Printer) {
    let agents = AgentBinaries::embedded();
    let sizes: Vec<(&str, usize)> = Architecture::ALL
        .into_iter()
        .filter_map(|architecture| {
            let binary = agents.as_ref().ok()?.get(architecture)?;
            Some((architecture.as_str(), binary.len()))
        })
        .collect();
    let version = tunnel_wire::version::SOFTWARE_VERSION;
    let wire = tunnel_wire::version::WIRE_VERSION;
    match printer.output() {
        Output::Json => {
            let agents: serde_json::Map<_, _> = sizes
                .iter()
                .map(|(name, size)| ((*name).to_owned(), (*size).into()))
                .collect();
            let json = serde_json::json!({"client": version, "wire": wire, "agents": agents});
            printer.data(&json.to_string());
        }
        Output::Text => {
            let agents = if sizes.is_empty() {
                "none built in: use --agent-binary or --agent-image".to_owned()
            } else {
                let names: Vec<String> = sizes
                    .iter()
                    .map(|(name, size)| format!("{name} ({size} bytes)"))
                    .collect();
                names.join(", ")
            };
            printer.data(&format!(
                "kubectl-tunnel {version}, wire {wire}, agents: {agents}"
            ));
        }
    }
}
