//! What is to be exposed, as what, and to whom: the words and flags of `expose`, checked. Pure.
//!
//! Nothing has been asked of the cluster yet, so everything wrong here is a usage error.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::cli::expose_flags::ExposeFlags;
use crate::cli::port::{PortSpec, Protocol};
use crate::cluster::agent::AgentService;
use crate::cluster::label;
use crate::cluster::manifest::{ServicePortRequest, ServiceRequest};
use crate::cluster::peer::Peer;
use crate::error::Error;
use crate::program;
use crate::reverse::{Accepts, Header, ProxyProtocol, Route};

/// Longest Service name (RFC 1035 label).
const MAX_NAME: usize = 63;

/// Least `--udp-idle`: with less, an answer that takes its time would find its flow gone.
const LEAST_IDLE: Duration = Duration::from_secs(1);

/// What is to be exposed, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExposePlan {
    pub(crate) ports: Arc<[PortSpec]>,
    service: Arc<ServiceRequest>,
    header: Option<ProxyProtocol>,
    udp_idle: Duration,
}

impl ExposePlan {
    pub(super) fn parse(words: &[String], flags: &ExposeFlags) -> Result<Self, Error> {
        let (name, ports) = name_and_ports(words)?;
        if flags.udp_idle < LEAST_IDLE {
            return Err(Error::Usage("--udp-idle must be at least 1s".to_owned()));
        }
        let peer = |text: &String| {
            text.parse::<Peer>()
                .map_err(|error| Error::Usage(format!("--allow-from: {error}")))
        };
        let service = ServiceRequest {
            name,
            ports: ports.iter().map(service_port).collect(),
            labels: label::labels(&flags.service_label)
                .map_err(|error| Error::Usage(format!("--service-label: {error}")))?,
            annotations: label::annotations(&flags.service_annotation)
                .map_err(|error| Error::Usage(format!("--service-annotation: {error}")))?,
            allow_from: flags.allow_from.iter().map(peer).collect::<Result<_, _>>()?,
        };
        Ok(Self {
            ports: ports.into(),
            service: Arc::new(service),
            header: flags.proxy_protocol,
            udp_idle: flags.udp_idle,
        })
    }

    /// The Service to make.
    pub(crate) fn service(&self) -> Arc<ServiceRequest> {
        Arc::clone(&self.service)
    }

    /// Who may connect, as it may be typed; empty is everybody.
    pub(crate) fn allow_from(&self) -> Vec<String> {
        self.service.allow_from.iter().map(ToString::to_string).collect()
    }

    /// Where the connections of each listener go, once `service` leads to them.
    pub(crate) fn routes(&self, service: &AgentService) -> Arc<[Route]> {
        let address: Option<IpAddr> = service.cluster_ip.parse().ok();
        let header = |port: &PortSpec, version| Header {
            version,
            called: address.map(|address| SocketAddr::new(address, port.service)),
        };
        let route = |port: &PortSpec| Route {
            program: port.program.clone(),
            accepts: match port.protocol {
                Protocol::Tcp => Accepts::Connections {
                    header: self.header.map(|version| header(port, version)),
                },
                Protocol::Udp => Accepts::Flows { idle: self.udp_idle },
            },
        };
        self.ports.iter().map(route).collect()
    }
}

/// The port names are only there because several ports need some, which differ.
fn service_port(spec: &PortSpec) -> ServicePortRequest {
    ServicePortRequest {
        name: match spec.protocol {
            Protocol::Tcp => format!("port-{}", spec.service),
            Protocol::Udp => format!("port-{}-udp", spec.service),
        },
        port: spec.service,
        protocol: spec.protocol,
    }
}

fn name_and_ports(words: &[String]) -> Result<(String, Vec<PortSpec>), Error> {
    let (name, ports) = match words {
        [first, rest @ ..] if !rest.is_empty() && is_service_name(first) => (Some(first.clone()), rest),
        [only] if is_service_name(only) => {
            return Err(Error::Usage(format!(
                "which local port? type `{} expose {only} PORT`",
                program::name()
            )));
        }
        // With a colon or a slash it was meant as a port, and is told what is wrong with it as one.
        [first, _, ..] if !first.contains([':', '/']) && first.parse::<PortSpec>().is_err() => {
            return Err(Error::Usage(format!(
                "`{first}` is no port and no service name (lower-case letters, digits and dashes)"
            )));
        }
        all => (None, all),
    };
    let ports = ports
        .iter()
        .map(|text| {
            text.parse::<PortSpec>()
                .map_err(|error| Error::Usage(error.to_string()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    for (index, port) in ports.iter().enumerate() {
        let same = |other: &PortSpec| (other.service, other.protocol) == (port.service, port.protocol);
        if ports[..index].iter().any(same) {
            return Err(Error::Usage(format!(
                "service port {}/{} is named twice",
                port.service, port.protocol
            )));
        }
    }
    let Some(first) = ports.first() else {
        return Err(Error::Usage(format!(
            "which local port? type `{} expose PORT`",
            program::name()
        )));
    };
    let name = name.unwrap_or_else(|| format!("tunnel-{}", first.service));
    Ok((name, ports))
}

/// RFC 1035: lower-case letters, digits and dashes, beginning with a letter, not ending with a dash.
fn is_service_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &[&str], flags: &ExposeFlags) -> Result<ExposePlan, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        ExposePlan::parse(&words, flags).map_err(|error| error.to_string())
    }

    /// As they are when none is typed.
    fn flags() -> ExposeFlags {
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            flags: ExposeFlags,
        }
        <Command as clap::Parser>::parse_from(["test"]).flags
    }

    fn parse(words: &[&str]) -> Result<ExposePlan, String> {
        plan(words, &flags())
    }

    fn name(plan: &ExposePlan) -> &str {
        &plan.service.name
    }

    #[test]
    fn the_name_is_optional() {
        let plan = parse(&["1234"]).unwrap();
        assert_eq!((name(&plan), plan.ports.len()), ("tunnel-1234", 1));
        let plan = parse(&["api", "80:1234", "443:8443"]).unwrap();
        assert_eq!((name(&plan), plan.ports.len()), ("api", 2));
        assert_eq!(name(&parse(&["8080:1234"]).unwrap()), "tunnel-8080");
        assert_eq!(
            plan.service().ports[1],
            ServicePortRequest {
                name: "port-443".to_owned(),
                port: 443,
                protocol: Protocol::Tcp,
            }
        );
    }

    #[test]
    fn a_number_may_be_used_once_a_protocol() {
        let plan = parse(&["53:5353/udp", "53:5353/tcp"]).unwrap();
        assert_eq!(name(&plan), "tunnel-53");
        let service = plan.service();
        let ports = &service.ports;
        assert_eq!(
            ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(),
            ["port-53-udp", "port-53"]
        );
        assert_eq!(ports[0].protocol, Protocol::Udp);
        assert_eq!(name(&parse(&["5353/udp"]).unwrap()), "tunnel-5353");
        let twice = parse(&["53/udp", "53:1/udp"]).unwrap_err();
        assert!(twice.contains("53/udp is named twice"), "{twice}");
    }

    #[test]
    fn what_is_missing_or_double_is_said() {
        assert!(parse(&["api"]).unwrap_err().contains("which local port"));
        assert!(parse(&["80:1", "80:2"]).unwrap_err().contains("named twice"));
        assert!(parse(&["Api", "80"]).unwrap_err().contains("no service name"));
        assert!(parse(&["80", "api"]).is_err());
        let unix = parse(&["unix:/run/app.sock", "80"]).unwrap_err();
        assert!(unix.contains("80:unix:/run/app.sock"), "{unix}");
    }

    #[test]
    fn flags_that_cannot_be_used_are_named() {
        let list = |text: &str| vec![text.to_owned()];
        let allow_from = ExposeFlags {
            allow_from: list("everybody"),
            ..flags()
        };
        let label = ExposeFlags {
            service_label: list("app.kubernetes.io/name=x"),
            ..flags()
        };
        let annotation = ExposeFlags {
            service_annotation: list("x"),
            ..flags()
        };
        let udp_idle = ExposeFlags {
            udp_idle: Duration::from_millis(999),
            ..flags()
        };
        for (flags, flag) in [
            (udp_idle, "--udp-idle must be at least 1s"),
            (allow_from, "--allow-from: `everybody`"),
            (label, "--service-label: app.kubernetes.io/name"),
            (annotation, "--service-annotation: `x` is not KEY=VALUE"),
        ] {
            let error = plan(&["80"], &flags).unwrap_err();
            assert!(error.contains(flag), "{error}");
        }
    }

    #[test]
    fn only_tcp_ports_get_the_header_with_the_services_address() {
        let flags = ExposeFlags {
            proxy_protocol: Some(ProxyProtocol::V1),
            ..flags()
        };
        let plan = plan(&["80:1234", "53/udp"], &flags).unwrap();
        let mut service = AgentService {
            name: "x".to_owned(),
            cluster_ip: "10.96.0.1".to_owned(),
            ports: Vec::new(),
        };
        let header = |called: Option<&str>| Accepts::Connections {
            header: Some(Header {
                version: ProxyProtocol::V1,
                called: called.map(|text| text.parse().unwrap()),
            }),
        };
        let flows = Accepts::Flows {
            idle: Duration::from_secs(60),
        };
        let accepts = |service: &AgentService| -> Vec<Accepts> {
            plan.routes(service).iter().map(|route| route.accepts).collect()
        };
        assert_eq!(accepts(&service), [header(Some("10.96.0.1:80")), flows]);
        service.cluster_ip.clear();
        assert_eq!(accepts(&service), [header(None), flows]);
    }
}
