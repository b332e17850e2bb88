//! Services: `EndpointSlices`, the hosts files, and a relay on each Service address.
//!
//! A port of a Service listens only while a ready pod stands behind it, so a Service without
//! endpoints refuses. The relay keeps the caller's address, as kube-proxy does.

mod datagrams;
mod hosts;
mod relay;

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::object;
use crate::resource::Resource;
use crate::store::{Key, random_suffix};
use crate::world::{EventText, World};
use hosts::Hosts;
use relay::Relay;

/// What a port carries; the same number may be one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Protocol {
    Tcp,
    Udp,
}

/// A port of a Service: the Service's uid, the number, the protocol.
type PortKey = (String, u16, Protocol);

#[derive(Debug, Default)]
struct Services {
    /// By port. Dropping one stops its listener; connections go on.
    relays: HashMap<PortKey, Relay>,
    /// Ports that could not be bound, so that each is reported once.
    refused: HashSet<PortKey>,
    /// Addresses to give back when their Service is gone.
    addresses: HashMap<String, Ipv4Addr>,
    hosts: Hosts,
}

/// The TCP ports of Services that listen, for whoever wants to know.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    ports: Mutex<HashSet<(String, u16)>>,
}

impl Listening {
    pub(crate) fn holds(&self, uid: &str, port: u16) -> bool {
        let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.contains(&(uid.to_owned(), port))
    }

    fn set(&self, relays: &HashMap<PortKey, Relay>) {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let tcp = relays
            .keys()
            .filter(|(_, _, protocol)| *protocol == Protocol::Tcp);
        *ports = tcp.map(|(uid, port, _)| (uid.clone(), *port)).collect();
    }
}

pub(crate) async fn run(world: Arc<World>) {
    let mut services = Services::default();
    world.follow(move |world| services.reconcile(world)).await;
}

impl Services {
    fn reconcile(&mut self, world: &Arc<World>) -> Option<Duration> {
        let (_, services) = world.store.list(Resource::Service, None);
        self.drop_absent(world, &services);
        world.listening.set(&self.relays);
        self.hosts.write(world, &services);
        for service in services.iter().filter(|service| !object::is_terminating(service)) {
            if let Some(address) = address_of(service) {
                self.addresses.insert(object::uid(service).to_owned(), address);
                self.listen(world, service, address);
                world.listening.set(&self.relays);
            }
            if service["spec"]["selector"].is_object() {
                write_slice(world, service);
            }
        }
        None
    }

    fn drop_absent(&mut self, world: &World, services: &[Arc<Value>]) {
        let lives = |uid: &str| services.iter().any(|service| object::uid(service) == uid);
        self.relays.retain(|(uid, _, _), _| lives(uid));
        self.refused.retain(|(uid, _, _)| lives(uid));
        self.addresses.retain(|uid, address| {
            let keep = lives(uid);
            if !keep {
                world.addresses.give_back(*address);
            }
            keep
        });
    }

    /// Binds the ports that have endpoints and unbinds the others.
    fn listen(&mut self, world: &Arc<World>, service: &Value, address: Ipv4Addr) {
        let pods = ready_pods(world, service);
        let ports = service["spec"]["ports"].as_array().into_iter().flatten();
        for port in ports {
            let protocol = if port["protocol"] == "UDP" {
                Protocol::Udp
            } else {
                Protocol::Tcp
            };
            let Some(number) = port["port"]
                .as_u64()
                .and_then(|number| u16::try_from(number).ok())
            else {
                continue;
            };
            let key = (object::uid(service).to_owned(), number, protocol);
            let targets: Vec<SocketAddr> = pods.iter().filter_map(|pod| target(pod, port)).collect();
            if targets.is_empty() {
                self.relays.remove(&key);
                continue;
            }
            if let Some(relay) = self.relays.get(&key) {
                relay.set_targets(targets);
                continue;
            }
            match Relay::bind(world, protocol, SocketAddr::from((address, number)), targets) {
                Ok(relay) => {
                    self.refused.remove(&key);
                    self.relays.insert(key, relay);
                }
                Err(error) if self.refused.insert(key) => {
                    let message = format!("cannot listen on {address}:{number}: {error}");
                    tracing::warn!("{message}");
                    let reason = "PlaygroundCannotListen";
                    let event = EventText {
                        warning: true,
                        reason,
                        message: &message,
                        source: "playground",
                        container: "",
                    };
                    world.record_event((Resource::Service, service), &event);
                }
                Err(_) => {}
            }
        }
    }
}

fn address_of(service: &Value) -> Option<Ipv4Addr> {
    service["spec"]["clusterIP"].as_str()?.parse().ok()
}

fn pods_of(world: &World, service: &Value) -> Vec<Arc<Value>> {
    let (_, mut pods) = world.store.list(Resource::Pod, Some(object::namespace(service)));
    pods.retain(|pod| {
        object::matches_selector(pod, &service["spec"]["selector"])
            && pod["status"]["podIP"].is_string()
            && !object::is_finished_pod(pod)
    });
    pods
}

fn is_ready(pod: &Value) -> bool {
    object::has_condition(pod, "Ready") && !object::is_terminating(pod)
}

fn ready_pods(world: &World, service: &Value) -> Vec<Arc<Value>> {
    pods_of(world, service)
        .into_iter()
        .filter(|pod| is_ready(pod))
        .collect()
}

fn target(pod: &Value, port: &Value) -> Option<SocketAddr> {
    let address: Ipv4Addr = pod["status"]["podIP"].as_str()?.parse().ok()?;
    Some(SocketAddr::from((address, target_port(pod, port)?)))
}

/// The number of a target port, looked up in the pod when it is a name.
fn target_port(pod: &Value, port: &Value) -> Option<u16> {
    let number = match port["targetPort"].as_str() {
        Some(name) => {
            let ports = pod["spec"]["containers"][0]["ports"].as_array()?;
            &ports.iter().find(|candidate| candidate["name"] == name)?["containerPort"]
        }
        None => &port["targetPort"],
    };
    u16::try_from(number.as_u64()?).ok()
}

/// Keeps the `EndpointSlice` of a Service equal to its pods.
fn write_slice(world: &World, service: &Value) {
    let pods = pods_of(world, service);
    let endpoints: Vec<Value> = pods.iter().map(|pod| endpoint(pod)).collect();
    let ports: Vec<Value> = service["spec"]["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| {
            let number = pods.first().and_then(|pod| target_port(pod, port));
            json!({"name": port["name"].as_str().unwrap_or(""), "port": number, "protocol": port["protocol"]})
        })
        .collect();
    let (_, slices) = world
        .store
        .list(Resource::EndpointSlice, Some(object::namespace(service)));
    if let Some(slice) = slices
        .iter()
        .find(|slice| object::is_owned_by(slice, object::uid(service)))
    {
        world
            .store
            .update(&Key::of(Resource::EndpointSlice, slice), |slice| {
                slice["endpoints"] = json!(endpoints);
                slice["ports"] = json!(ports);
            });
        return;
    }
    let name = object::name(service);
    let mut metadata = json!({"labels": service["metadata"]["labels"]});
    let labels = object::map_at(&mut metadata, "labels");
    labels.insert("kubernetes.io/service-name".to_owned(), json!(name));
    labels.insert(
        "endpointslice.kubernetes.io/managed-by".to_owned(),
        json!("endpointslice-controller.k8s.io"),
    );
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{name}-{}", random_suffix()), "generateName": format!("{name}-"),
            "namespace": object::namespace(service),
            "labels": metadata["labels"],
            "ownerReferences": [object::controller_reference(Resource::Service, service)],
        },
        "endpoints": endpoints, "ports": ports,
    });
    if world.store.create(Resource::EndpointSlice, slice).is_none() {
        tracing::debug!(
            service = name,
            "the random name of an endpoint slice was taken; the next pass tries again"
        );
    }
}

fn endpoint(pod: &Value) -> Value {
    let ready = is_ready(pod);
    json!({
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": ready, "serving": ready, "terminating": object::is_terminating(pod)},
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": {
            "kind": "Pod", "name": object::name(pod), "namespace": object::namespace(pod), "uid": object::uid(pod),
        },
    })
}
