//! What is said once everything works: the ready event and the notes for people. Pure.

use super::expose::ExposePlan;
use crate::cli::port::Protocol;
use crate::cluster::agent::Agent;
use crate::ui::Event;
use crate::ui::event::{ExposedPort, ExposedService, LocalListener, MovedService, Ready, StateName};

/// What a session offers, for its ready event; without an agent yet if it starts on demand.
pub(super) fn event(
    namespace: &str,
    agent: Option<&Agent>,
    expose: Option<&ExposePlan>,
    listeners: Vec<LocalListener>,
) -> Ready {
    Ready {
        session: agent.map(|agent| agent.session.to_string()),
        namespace: namespace.to_owned(),
        pod: agent.map(|agent| agent.pod_name.clone()),
        pid: std::process::id(),
        listeners,
        services: agent.map(|agent| services(agent, expose)).unwrap_or_default(),
        state: if agent.is_some() {
            StateName::Ready
        } else {
            StateName::Idle
        },
        reason: None,
        attempt: None,
        transport_kind: None,
        metrics: None,
    }
}

/// The same with another agent, or none.
pub(super) fn renew(ready: &mut Ready, agent: Option<&Agent>, expose: Option<&ExposePlan>) {
    ready.session = agent.map(|agent| agent.session.to_string());
    ready.pod = agent.map(|agent| agent.pod_name.clone());
    ready.services = agent.map(|agent| services(agent, expose)).unwrap_or_default();
}

fn services(agent: &Agent, expose: Option<&ExposePlan>) -> Vec<ExposedService> {
    let services = agent.service.iter().zip(expose);
    services
        .map(|(service, plan)| ExposedService {
            name: service.name.clone(),
            cluster_ip: service.cluster_ip.clone(),
            ports: plan
                .ports
                .iter()
                .map(|port| ExposedPort {
                    port: port.service,
                    protocol: port.protocol.to_string(),
                    local: port.local_address(),
                    url: format!("{}.{}.svc:{}", service.name, agent.namespace, port.service),
                })
                .collect(),
        })
        .collect()
}

/// What a change of agents changed.
pub(super) struct Replacement {
    pub(super) event: Event,
    pub(super) warnings: Vec<String>,
}

/// Another agent does the work of the one before.
pub(super) fn replacement(previous: &Agent, agent: &Agent, reason: &str) -> Replacement {
    let address = |agent: &Agent| agent.service.as_ref().map(|service| service.cluster_ip.clone());
    let changed = address(previous) != address(agent);
    let mut warnings = vec![format!(
        "pod {} took the place of {} ({reason}); connections through it were reset",
        agent.pod_name, previous.pod_name
    )];
    let moved = agent.service.iter().map(|service| MovedService {
        name: service.name.clone(),
        cluster_ip: service.cluster_ip.clone(),
        changed,
    });
    let services: Vec<_> = moved.collect();
    warnings.extend(services.iter().filter(|service| service.changed).map(|service| {
        format!(
            "service {} was made anew: its ClusterIP is {} now; its name is the same",
            service.name, service.cluster_ip
        )
    }));
    Replacement {
        event: Event::AgentReplaced {
            pod: agent.pod_name.clone(),
            generation: agent.generation,
            reason: reason.to_owned(),
            services,
        },
        warnings,
    }
}

/// What people should know beside it.
pub(super) fn notes(agent: &Agent, expose: Option<&ExposePlan>) -> Vec<String> {
    let mut notes = Vec::new();
    if let (Some(service), Some(plan)) = (&agent.service, expose) {
        for port in plan.ports.iter() {
            let number = port.service;
            let address = |name: &str| match port.protocol {
                Protocol::Tcp => format!("http://{name}:{number}/"),
                Protocol::Udp => format!("udp {name}:{number}"),
            };
            let (here, elsewhere) = (&service.name, format!("{}.{}", service.name, agent.namespace));
            notes.push(format!(
                "in the cluster: {} (from other namespaces {})",
                address(here),
                address(&elsewhere)
            ));
        }
        let programs: Vec<String> = plan
            .ports
            .iter()
            .map(crate::cli::port::PortSpec::local_address)
            .collect();
        notes.push(reach(agent, &plan.allow_from(), &programs.join(", ")));
    }
    notes.push(format!(
        "session {} in namespace {}; Ctrl-C ends it",
        agent.session, agent.namespace
    ));
    notes
}

/// Who may connect now.
fn reach(agent: &Agent, allow_from: &[String], programs: &str) -> String {
    if allow_from.is_empty() {
        return format!(
            "every pod that may reach namespace {} is now connected to {programs}",
            agent.namespace
        );
    }
    format!(
        "networkpolicy/{} lets only {} connect to {programs}; it works only where the cluster's network enforces \
         NetworkPolicy",
        agent.job_name,
        allow_from.join(" and ")
    )
}
