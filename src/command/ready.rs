//! What is said once everything works: the ready event and the notes for people. Pure.

use std::net::SocketAddr;

use super::expose::ExposePlan;
use crate::cluster::agent::Agent;
use crate::ui::Event;
use crate::ui::event::{ExposedPort, ExposedService, LocalListener, Ready};

/// The ready event of a session.
pub(super) fn event(agent: &Agent, expose: Option<&ExposePlan>, addresses: &[SocketAddr]) -> Event {
    let services = agent
        .service
        .iter()
        .zip(expose)
        .map(|(service, plan)| ExposedService {
            name: service.name.clone(),
            cluster_ip: service.cluster_ip.clone(),
            ports: plan
                .ports
                .iter()
                .map(|port| ExposedPort {
                    port: port.service,
                    local: port.local_address(),
                    url: format!("{}.{}.svc:{}", service.name, agent.namespace, port.service),
                })
                .collect(),
        });
    Event::Ready(Ready {
        session: agent.session.to_string(),
        namespace: agent.namespace.clone(),
        pod: agent.pod_name.clone(),
        pid: std::process::id(),
        listeners: addresses
            .iter()
            .map(|address| LocalListener {
                kind: "proxy",
                address: *address,
            })
            .collect(),
        services: services.collect(),
    })
}

/// What people should know beside it.
pub(super) fn notes(agent: &Agent, expose: Option<&ExposePlan>) -> Vec<String> {
    let mut notes = Vec::new();
    if let (Some(service), Some(plan)) = (&agent.service, expose) {
        for port in plan.ports.iter() {
            notes.push(format!(
                "in the cluster: http://{name}:{number}/ (from other namespaces http://{name}.{namespace}:{number}/)",
                name = service.name,
                number = port.service,
                namespace = agent.namespace,
            ));
        }
        let programs: Vec<String> = plan
            .ports
            .iter()
            .map(crate::cli::port::PortSpec::local_address)
            .collect();
        notes.push(format!(
            "every pod that may reach namespace {} is now connected to {}",
            agent.namespace,
            programs.join(", ")
        ));
    }
    notes.push(format!(
        "session {} in namespace {}; Ctrl-C ends it",
        agent.session, agent.namespace
    ));
    notes
}
