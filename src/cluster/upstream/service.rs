//! What to dial for a Service's port. Pure.
//!
//! | Service | is dialled | at |
//! |---|---|---|
//! | with a cluster IP | by its name | the port it lists |
//! | headless | by its name, which gives pod addresses | the target port, since nothing translates it |
//! | `ExternalName` | by its name, which leads outside | any number |
//! | any of them with a selector, through the API's port-forward | one of its pods | the target port |

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::group::Pick;
use super::pods::{pick_of_labels, unfit};
use super::{UpstreamError, Wanted};
use crate::cli::port::Protocol;
use crate::cli::target::RemotePort;

/// The label that says whose EndpointSlice it is.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Whether only the EndpointSlices tell the number to dial: a headless Service's port with a name for its target, or
/// with endpoints somebody wrote by hand.
pub(super) fn needs_slices(wanted: &Wanted, service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    let Some(port) = find(spec, wanted) else {
        return false;
    };
    is_headless(spec)
        && (matches!(port.target_port, Some(IntOrString::String(_))) || selector_of(spec).is_none())
}

/// The number of the port that the user named, if the Service lists it or it is one.
pub(super) fn own_number(wanted: &Wanted, service: &Service) -> Option<u16> {
    match &wanted.port {
        RemotePort::Number(number) => Some(*number),
        RemotePort::Name(_) => number(find(service.spec.as_ref()?, wanted)?.port),
    }
}

/// The port to dial at the Service's name.
pub(super) fn port_at_name(
    wanted: &Wanted,
    service: &Service,
    slices: &[EndpointSlice],
) -> Result<u16, UpstreamError> {
    let spec = service.spec.clone().unwrap_or_default();
    let lists_none = spec.ports.as_ref().is_none_or(Vec::is_empty);
    let any_number = is_external(&spec) || (is_headless(&spec) && lists_none);
    if let (RemotePort::Number(number), true) = (&wanted.port, any_number) {
        return Ok(*number);
    }
    let port = find(&spec, wanted).ok_or_else(|| no_port(wanted, &spec))?;
    let own = number(port.port).ok_or_else(|| no_port(wanted, &spec))?;
    if !is_headless(&spec) {
        return Ok(own);
    }
    if let Some(told) = number_in(slices, port) {
        return Ok(told);
    }
    match &port.target_port {
        None => Ok(own),
        Some(IntOrString::Int(target)) => Ok(number(*target).unwrap_or(own)),
        Some(IntOrString::String(name)) => Err(unfit(
            wanted,
            format!(
                "it is headless, and no pod behind it tells which number its target port {name} has; name the workload and a port number"
            ),
        )),
    }
}

/// The pods behind a Service, and the port to dial there.
pub(super) fn pods_behind(wanted: &Wanted, service: &Service) -> Result<(Pick, RemotePort), UpstreamError> {
    let spec = service.spec.clone().unwrap_or_default();
    if is_external(&spec) {
        return Err(unfit(
            wanted,
            "it leads outside the cluster (ExternalName): there are no pods to reach with --via=pod",
        ));
    }
    let Some(selector) = selector_of(&spec) else {
        return Err(unfit(
            wanted,
            "it has no selector, so there are no pods to reach with --via=pod; leave that out",
        ));
    };
    let pick = pick_of_labels(selector);
    let lists_none = spec.ports.as_ref().is_none_or(Vec::is_empty);
    if let (RemotePort::Number(_), true) = (&wanted.port, lists_none) {
        return Ok((pick, wanted.port.clone()));
    }
    let port = find(&spec, wanted).ok_or_else(|| no_port(wanted, &spec))?;
    let target = match &port.target_port {
        Some(IntOrString::String(name)) => Some(RemotePort::Name(name.clone())),
        Some(IntOrString::Int(target)) => number(*target).map(RemotePort::Number),
        None => None,
    };
    let own = || number(port.port).map(RemotePort::Number);
    let target = target.or_else(own).ok_or_else(|| no_port(wanted, &spec))?;
    Ok((pick, target))
}

fn is_headless(spec: &ServiceSpec) -> bool {
    !is_external(spec) && spec.cluster_ip.as_deref() == Some("None")
}

fn is_external(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("ExternalName")
}

fn selector_of(spec: &ServiceSpec) -> Option<&std::collections::BTreeMap<String, String>> {
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// The listed port that is meant.
fn find<'a>(spec: &'a ServiceSpec, wanted: &Wanted) -> Option<&'a ServicePort> {
    spec.ports.iter().flatten().find(|port| {
        let same = match &wanted.port {
            RemotePort::Number(number) => port.port == i32::from(*number),
            RemotePort::Name(name) => port.name.as_ref() == Some(name),
        };
        same && protocol_of(port.protocol.as_deref()) == wanted.protocol.to_string()
    })
}

fn no_port(wanted: &Wanted, spec: &ServiceSpec) -> UpstreamError {
    let listed = spec.ports.iter().flatten().map(|port| {
        let number = format!("{}/{}", port.port, protocol_of(port.protocol.as_deref()));
        match port.name.as_deref() {
            None | Some("") => number,
            Some(name) => format!("{name} ({number})"),
        }
    });
    UpstreamError::NoPort {
        target: wanted.target.to_string(),
        port: wanted.port.clone(),
        protocol: wanted.protocol,
        ports: listed.collect(),
    }
}

/// The number of a Service's port at its endpoints. Pods may differ; the lowest is taken, always the same one.
fn number_in(slices: &[EndpointSlice], port: &ServicePort) -> Option<u16> {
    let ports = slices.iter().flat_map(|slice| slice.ports.iter().flatten());
    let same = ports.filter(|candidate| {
        candidate.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
            && protocol_of(candidate.protocol.as_deref()) == protocol_of(port.protocol.as_deref())
    });
    same.filter_map(|candidate| number(candidate.port?)).min()
}

fn protocol_of(text: Option<&str>) -> String {
    let text = text.filter(|text| !text.is_empty());
    text.map_or_else(|| Protocol::Tcp.to_string(), str::to_ascii_lowercase)
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    use crate::cluster::upstream::Via;

    fn wanted(port: &str) -> Wanted {
        let port: crate::cli::target::ForwardPort = port.parse().unwrap();
        Wanted {
            target: "svc/db".parse().unwrap(),
            port: port.remote,
            protocol: port.protocol,
            via: Via::Auto,
        }
    }

    fn service(spec: &Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": spec})).unwrap()
    }

    fn slices(ports: &Value) -> Vec<EndpointSlice> {
        let slice = json!({"metadata": {}, "addressType": "IPv4", "endpoints": [], "ports": ports});
        vec![serde_json::from_value(slice).unwrap()]
    }

    fn ports() -> Value {
        json!([
            {"name": "sql", "port": 5432, "targetPort": 15432},
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": "dns"},
        ])
    }

    #[test]
    fn a_cluster_ip_is_dialled_at_its_own_ports() {
        let service = service(&json!({"clusterIP": "10.0.0.1", "ports": ports(), "selector": {"a": "b"}}));
        let dial = |port: &str| port_at_name(&wanted(port), &service, &[]);
        assert_eq!(dial("5432"), Ok(5432));
        assert_eq!(dial("sql"), Ok(5432));
        assert_eq!(dial("dns/udp"), Ok(53));
        assert_eq!(dial("53"), Ok(53));
        for port in ["15432", "5432/udp", "dns", "nope"] {
            let error = dial(port).expect_err(port).to_string();
            let ports = "sql (5432/tcp), dns (53/udp), dns-tcp (53/tcp)";
            assert!(error.ends_with(ports), "{error}");
        }
        assert!(!needs_slices(&wanted("dns/udp"), &service));
    }

    #[test]
    fn a_headless_one_at_its_target_ports() {
        let headless = service(&json!({"clusterIP": "None", "ports": ports(), "selector": {"a": "b"}}));
        let dial = |port: &str, slices: &[EndpointSlice]| port_at_name(&wanted(port), &headless, slices);
        assert_eq!(dial("5432", &[]), Ok(15432));
        assert!(!needs_slices(&wanted("5432"), &headless));
        assert!(needs_slices(&wanted("dns/udp"), &headless));
        let told = slices(
            &json!([{"name": "dns", "port": 1053, "protocol": "UDP"}, {"name": "dns-tcp", "port": 2053}]),
        );
        assert_eq!(dial("dns/udp", &told), Ok(1053));
        assert_eq!(dial("dns-tcp", &told), Ok(2053));
        assert!(
            dial("dns/udp", &[])
                .unwrap_err()
                .to_string()
                .contains("no pod behind it")
        );
        assert!(dial("15432", &[]).is_err(), "a listed port is wanted");

        let without = service(&json!({"clusterIP": "None", "selector": {"a": "b"}}));
        assert_eq!(port_at_name(&wanted("7"), &without, &[]), Ok(7));
        let error = port_at_name(&wanted("sql"), &without, &[]).unwrap_err();
        assert!(error.to_string().ends_with("it lists none"), "{error}");
    }

    #[test]
    fn endpoints_by_hand_tell_their_own_number() {
        let by_hand = service(&json!({"clusterIP": "None", "ports": [{"port": 80}]}));
        assert!(needs_slices(&wanted("80"), &by_hand));
        let told = slices(&json!([{"name": "", "port": 8080, "protocol": "TCP"}]));
        assert_eq!(port_at_name(&wanted("80"), &by_hand, &told), Ok(8080));
        assert_eq!(port_at_name(&wanted("80"), &by_hand, &[]), Ok(80));
    }

    #[test]
    fn an_external_name_takes_any_number_and_the_names_it_lists() {
        let outside = service(&json!({
            "type": "ExternalName", "externalName": "db.example", "ports": [{"name": "sql", "port": 5432}],
        }));
        assert_eq!(port_at_name(&wanted("99"), &outside, &[]), Ok(99));
        assert_eq!(port_at_name(&wanted("sql"), &outside, &[]), Ok(5432));
        assert!(port_at_name(&wanted("http"), &outside, &[]).is_err());
        assert!(pods_behind(&wanted("99"), &outside).is_err());
    }

    #[test]
    fn the_pods_behind_have_the_target_port() {
        let plain = service(&json!({"clusterIP": "10.0.0.1", "ports": ports(), "selector": {"app": "db"}}));
        let (pick, port) = pods_behind(&wanted("sql"), &plain).unwrap();
        assert_eq!(port, RemotePort::Number(15432));
        assert!(matches!(pick, Pick::Labels(selector) if selector.to_string() == "app=db"));
        let (_, port) = pods_behind(&wanted("dns-tcp"), &plain).unwrap();
        assert_eq!(port, RemotePort::Name("dns".to_owned()));
        let without = service(&json!({"clusterIP": "10.0.0.1", "ports": ports()}));
        assert!(
            pods_behind(&wanted("sql"), &without)
                .unwrap_err()
                .to_string()
                .contains("selector")
        );
    }
}
