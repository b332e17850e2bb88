//! The local ports of a command: the proxy's and those of `forward`. Bound before anything is made in the cluster,
//! served once there is a session, or at once if that starts on demand.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::Context;
use super::super::forward::ForwardPlan;
use super::Plan;
use crate::cluster::client::ApiServer;
use crate::cluster::rights;
use crate::cluster::upstream::{self, Upstream, Via, Wanted, Watches};
use crate::error::Error;
use crate::forward::bind::{self, BoundPort};
use crate::forward::{self, Route, SessionConnector, Ways};
use crate::listener::{Bound, Listener, LocalAddress};
use crate::session::Door;
use crate::ui::Printer;
use crate::ui::event::LocalListener;

/// The bound ports.
#[derive(Debug)]
pub(super) struct Doors {
    proxy: Option<Bound>,
    forward: Option<Forward>,
    listeners: Vec<LocalListener>,
}

#[derive(Debug)]
struct Forward {
    ports: Vec<BoundPort>,
    watches: Watches,
    udp_idle: Duration,
}

impl Doors {
    /// Looks the targets up and binds the ports. Creates nothing in the cluster; what surprises is said.
    pub(super) async fn open(plan: &Plan<'_>, server: &ApiServer, context: &Context) -> Result<Self, Error> {
        let mut doors = Self {
            proxy: None,
            forward: None,
            listeners: Vec::new(),
        };
        if let Some(proxy) = &plan.proxy {
            let options = proxy
                .flags
                .options(server.namespace())
                .map_err(Error::Credentials)?;
            let bound = Listener::bind(options).await?;
            for warning in bound.warnings() {
                context.printer.warn(&warning.to_string());
            }
            let addresses = bound.addresses().into_iter();
            doors
                .listeners
                .extend(addresses.map(|address| LocalListener::proxy(address.to_string())));
            doors.proxy = Some(bound);
        }
        if let Some(forward) = &plan.forward {
            doors.open_forward(forward, server, &context.printer).await?;
        }
        Ok(doors)
    }

    async fn open_forward(
        &mut self,
        plan: &ForwardPlan,
        server: &ApiServer,
        printer: &Printer,
    ) -> Result<(), Error> {
        printer.step("looking the targets up");
        let wanted: Vec<Wanted> = plan.targets.iter().map(|target| target.wanted.clone()).collect();
        let resolved = upstream::resolve(server, &wanted).await?;
        let mut requests = Vec::with_capacity(wanted.len());
        let mut groups = Vec::new();
        let mut by_port_forward = BTreeSet::new();
        for (target, found) in plan.targets.iter().zip(resolved.targets) {
            if let Upstream::Pods { group, .. } = &found.upstream {
                if target.wanted.via == Via::Pod {
                    by_port_forward.insert(group.namespace().to_owned());
                }
                groups.push(group.clone());
            }
            let route = Route::new(
                target.label(),
                found.upstream,
                target.wanted.protocol,
                target.wanted.via,
                target.is_balanced(),
            );
            requests.push(bind::Request {
                route: Arc::new(route),
                local: target.local,
                same: Some(found.number),
                hosts: target.hosts.clone(),
            });
        }
        for namespace in by_port_forward {
            rights::check_port_forward(server, &namespace)
                .await
                .map_err(|error| Error::Start(error.into()))?;
        }
        let (ports, gave_way) = bind::bind_all(requests, plan.same_port)
            .await
            .map_err(Error::Forward)?;
        printer.steps_done();
        for warning in resolved.warnings.iter().chain(&gave_way) {
            printer.warn(warning);
        }
        for (port, target) in ports.iter().zip(&plan.targets) {
            for address in port.addresses() {
                if !address.ip().to_canonical().is_loopback() {
                    printer.warn(&format!(
                        "{address} can be reached from other machines, and whoever reaches it reaches {}",
                        target.wanted.target
                    ));
                }
                self.listeners.push(LocalListener {
                    kind: "forward",
                    address: address.to_string(),
                    target: Some(target.wanted.target.to_string()),
                    port: Some(target.wanted.port.to_string()),
                    protocol: Some(target.wanted.protocol.to_string()),
                });
            }
        }
        self.forward = Some(Forward {
            ports,
            watches: Watches::start(server, &groups),
            udp_idle: plan.udp_idle,
        });
        Ok(())
    }

    /// What listens, for the ready event.
    pub(super) fn listeners(&self) -> Vec<LocalListener> {
        self.listeners.clone()
    }

    /// The proxy's first TCP address, for the variables of a shell.
    pub(super) fn proxy_address(&self) -> Option<std::net::SocketAddr> {
        let addresses = self.proxy.as_ref().map(Bound::addresses).unwrap_or_default();
        addresses.iter().find_map(LocalAddress::tcp)
    }

    /// Serves the ports until `drain` is cancelled.
    pub(super) fn serve(
        self,
        tasks: &mut JoinSet<()>,
        door: &Door,
        hold: Duration,
        server: &ApiServer,
        printer: &Printer,
        drain: &CancellationToken,
    ) {
        if let Some(proxy) = self.proxy {
            tasks.spawn(proxy.serve(SessionConnector(door.clone()), drain.clone()));
        }
        if let Some(forward) = self.forward {
            let printer = printer.clone();
            let ways = Ways {
                door: door.clone(),
                server: server.clone(),
                hold,
                udp_idle: forward.udp_idle,
                say: Arc::new(move |text| printer.warn(text)),
            };
            let (ports, watches, drain) = (forward.ports, forward.watches, drain.clone());
            tasks.spawn(async move {
                forward::serve(ports, ways, drain).await;
                // Until then each connection chooses its pod by what they tell.
                drop(watches);
            });
        }
    }
}
