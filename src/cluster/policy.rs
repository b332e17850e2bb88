//! Following a namespace's policy: the requests and limits that a LimitRange or a ResourceQuota
//! asks for, read from its refusal.
//!
//! Pure. `start` follows one refusal of each sort by itself; a second one is an error for the user.

use std::cmp::Ordering;

use super::{
    failure::{Failure, FailureKind},
    options::Resources,
    quantity,
};

/// What we give when a quota wants a value but does not say which: far above what the agent
/// needs when idle, so that it does not throttle a relay.
const DEMANDED: [(&str, &str); 6] = [
    ("limits.cpu", "1"),
    ("limits.memory", "256Mi"),
    ("limits.ephemeral-storage", "64Mi"),
    ("requests.cpu", "10m"),
    ("requests.memory", "16Mi"),
    ("requests.ephemeral-storage", "16Mi"),
];

/// The resources that `failure` asks for, or `None` if it asks for nothing we can give.
pub(super) fn follow(resources: &Resources, failure: &Failure) -> Option<Resources> {
    let mut followed = resources.clone();
    if let FailureKind::QuotaDemands(names) = &failure.kind {
        for name in names {
            add_demanded(&mut followed, name)?;
        }
    } else if failure.kind == FailureKind::LimitRange {
        for bound in bounds(&failure.text) {
            bound.apply(&mut followed);
        }
    }
    (followed != *resources).then_some(followed)
}

/// Adds what a quota calls `name`; a bare `cpu` is a request.
fn add_demanded(resources: &mut Resources, name: &str) -> Option<()> {
    let name = if name.contains('.') {
        name.to_owned()
    } else {
        format!("requests.{name}")
    };
    let (_, value) = DEMANDED.iter().find(|(known, _)| *known == name)?;
    let (side, resource) = name.split_once('.')?;
    let map = if side == "limits" {
        &mut resources.limits
    } else {
        &mut resources.requests
    };
    map.entry(resource.to_owned())
        .or_insert_with(|| (*value).to_owned());
    Some(())
}

struct Bound<'a> {
    minimum: bool,
    resource: &'a str,
    value: &'a str,
}

impl Bound<'_> {
    fn apply(&self, resources: &mut Resources) {
        let (resource, value) = (self.resource, self.value);
        if self.minimum {
            raise(&mut resources.requests, resource, value, true);
            // A limit below its request is refused next.
            raise(&mut resources.limits, resource, value, false);
        } else {
            lower(&mut resources.limits, resource, value, true);
            lower(&mut resources.requests, resource, value, false);
        }
    }
}

type Quantities = std::collections::BTreeMap<String, String>;

fn raise(map: &mut Quantities, resource: &str, value: &str, add: bool) {
    adjust(map, resource, value, add, Ordering::Less);
}

fn lower(map: &mut Quantities, resource: &str, value: &str, add: bool) {
    adjust(map, resource, value, add, Ordering::Greater);
}

/// Sets `resource` to `value` if what is there compares `wrong` to it, or if nothing is and `add`.
fn adjust(map: &mut Quantities, resource: &str, value: &str, add: bool, wrong: Ordering) {
    let set = match map.get(resource) {
        Some(present) => quantity::compare(present, value) == Some(wrong),
        None => add,
    };
    if set {
        map.insert(resource.to_owned(), value.to_owned());
    }
}

/// Reads every `minimum|maximum RESOURCE usage per Container|Pod is VALUE` of a LimitRange's text.
fn bounds(text: &str) -> Vec<Bound<'_>> {
    let words: Vec<&str> = text
        .split_whitespace()
        .map(|word| word.trim_matches(['[', ']', ',', '.']))
        .collect();
    words
        .windows(7)
        .filter_map(|window| match window {
            [
                sort @ ("minimum" | "maximum"),
                resource,
                "usage",
                "per",
                "Container" | "Pod",
                "is",
                value,
            ] if quantity::parse(value).is_some() => Some(Bound {
                minimum: *sort == "minimum",
                resource,
                value,
            }),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::names::ObjectRef;

    fn followed(text: &str) -> Option<String> {
        let failure = Failure::denial(ObjectRef::new("pod", "x"), "Forbidden", text);
        let resources = follow(&Resources::standard(), &failure)?;
        let print = |map: &Quantities| {
            map.iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(",")
        };
        Some(format!(
            "{} / {}",
            print(&resources.requests),
            print(&resources.limits)
        ))
    }

    #[test]
    fn limit_range_minima_and_maxima_are_taken() {
        assert_eq!(
            followed(
                "pods \"p\" is forbidden: [minimum cpu usage per Container is 50m, but request is 10m, minimum memory usage per Container is 32Mi, but request is 16Mi, maximum memory usage per Container is 128Mi, but limit is 256Mi, minimum cpu usage per Pod is 60m, but request is 10m]"
            )
            .as_deref(),
            Some("cpu=60m,memory=32Mi / memory=128Mi")
        );
        assert_eq!(
            followed("pods \"p\" is forbidden: maximum cpu usage per Container is 2.  No limit is specified")
                .as_deref(),
            Some("cpu=10m,memory=16Mi / cpu=2,memory=256Mi")
        );
        assert_eq!(
            followed(
                "pods \"p\" is forbidden: minimum memory usage per Container is 1Gi, but request is 16Mi"
            )
            .as_deref(),
            Some("cpu=10m,memory=1Gi / memory=1Gi")
        );
    }

    #[test]
    fn what_a_quota_demands_is_given() {
        assert_eq!(
            followed("pods \"p\" is forbidden: failed quota: q: must specify limits.cpu for: agent")
                .as_deref(),
            Some("cpu=10m,memory=16Mi / cpu=1,memory=256Mi")
        );
        assert_eq!(
            followed("pods \"p\" is forbidden: failed quota: q: must specify ephemeral-storage").as_deref(),
            Some("cpu=10m,ephemeral-storage=16Mi,memory=16Mi / memory=256Mi")
        );
    }

    #[test]
    fn what_cannot_be_followed_is_left_to_the_user() {
        for text in [
            "pods \"p\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5",
            "pods \"p\" is forbidden: failed quota: q: must specify requests.example.com/gpu for: agent",
            // Sidecars only: our own values are there already.
            "pods \"p\" is forbidden: failed quota: q: must specify requests.cpu for: istio-proxy",
            "pods \"p\" is forbidden: cpu max limit to request ratio per Container is 2, but provided ratio is 10.000000",
            "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": x",
        ] {
            assert_eq!(followed(text), None, "{text}");
        }
    }
}
