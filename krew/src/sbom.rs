//! The bill of materials: every crate that is compiled into a release, as `CycloneDX` 1.5.
//!
//! Read from `cargo metadata`: what the plugin and the agent, which it carries, reach without dev-dependencies, on any
//! system. Crates that run during the build only (macros, build scripts) are listed too, with the scope `excluded`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Error, VERSION};

/// The packages a release consists of.
const ROOTS: [&str; 2] = ["kubectl-tunnel", "tunnel-agent"];

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    description: Option<String>,
    license: Option<String>,
    repository: Option<String>,
    source: Option<String>,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    kind: Option<String>,
}

impl Package {
    fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version.replace('+', "%2B"))
    }

    /// A macro: it runs in the compiler.
    fn is_macro(&self) -> bool {
        let mut kinds = self.targets.iter().flat_map(|target| &target.kind);
        kinds.any(|kind| kind == "proc-macro")
    }
}

/// The document. `metadata` is the output of `cargo metadata --format-version 1`, `time` in seconds since 1970.
///
/// # Errors
/// `metadata` is something else.
pub fn cyclone_dx(metadata: &str, time: u32) -> Result<String, Error> {
    let malformed = |why: &dyn std::fmt::Display| Error::malformed("the output of cargo metadata", why);
    let metadata: Metadata = serde_json::from_str(metadata).map_err(|error| malformed(&error))?;
    let packages: BTreeMap<&str, &Package> = metadata.packages.iter().map(|p| (p.id.as_str(), p)).collect();
    let nodes: BTreeMap<&str, &Node> = metadata
        .resolve
        .nodes
        .iter()
        .map(|n| (n.id.as_str(), n))
        .collect();
    let roots: Vec<&str> = ROOTS
        .iter()
        .filter_map(|root| {
            metadata
                .packages
                .iter()
                .find(|package| package.name == *root && package.source.is_none())
        })
        .map(|package| package.id.as_str())
        .collect();
    if roots.len() != ROOTS.len() {
        return Err(malformed(&"it has neither plugin nor agent"));
    }

    let compiled = reached(&nodes, &roots, |id, kind| {
        kind == Edge::Normal && !packages.get(id).is_some_and(|package| package.is_macro())
    });
    let all = reached(&nodes, &roots, |_, kind| kind != Edge::Development);
    let moment = jiff::Timestamp::from_second(time.into()).map_err(|error| malformed(&error))?;
    let mut components = Vec::new();
    let mut dependencies = Vec::new();
    for id in &all {
        let (Some(package), Some(node)) = (packages.get(id), nodes.get(id)) else {
            return Err(malformed(&format!("it does not describe {id}")));
        };
        if *id != roots[0] {
            components.push(component(package, compiled.contains(id)));
        }
        let on: BTreeSet<String> = node
            .deps
            .iter()
            .filter(|dependency| edge(dependency) != Edge::Development)
            .filter_map(|dependency| Some(packages.get(dependency.pkg.as_str())?.purl()))
            .collect();
        dependencies.push(json!({"ref": package.purl(), "dependsOn": on}));
    }
    let by_ref = |value: &Value| (value["bom-ref"].to_string(), value["ref"].to_string());
    components.sort_by_key(by_ref);
    dependencies.sort_by_key(by_ref);
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": moment.to_string(),
            "tools": {"components": [{"type": "application", "name": "tunnel-dist", "version": VERSION}]},
            "component": component(packages[roots[0]], true),
        },
        "components": components,
        "dependencies": dependencies,
    });
    Ok(format!("{document:#}\n"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    Normal,
    Build,
    Development,
}

fn edge(dependency: &Dependency) -> Edge {
    let is = |wanted: Option<&str>| {
        dependency
            .dep_kinds
            .iter()
            .any(|kind| kind.kind.as_deref() == wanted)
    };
    if is(None) {
        Edge::Normal
    } else if is(Some("build")) {
        Edge::Build
    } else {
        Edge::Development
    }
}

/// Everything that is reached from the roots by dependencies of which `follow` says yes.
fn reached<'a>(
    nodes: &BTreeMap<&'a str, &'a Node>,
    roots: &[&'a str],
    follow: impl Fn(&str, Edge) -> bool,
) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut waiting = roots.to_vec();
    while let Some(id) = waiting.pop() {
        if !reached.insert(id) {
            continue;
        }
        let dependencies = nodes.get(id).into_iter().flat_map(|node| &node.deps);
        waiting.extend(
            dependencies
                .filter(|dependency| follow(&dependency.pkg, edge(dependency)))
                .map(|dependency| dependency.pkg.as_str()),
        );
    }
    reached
}

fn component(package: &Package, compiled: bool) -> Value {
    let mut component = json!({
        "type": if ROOTS.contains(&package.name.as_str()) { "application" } else { "library" },
        "bom-ref": package.purl(),
        "name": package.name,
        "version": package.version,
        "purl": package.purl(),
        "scope": if compiled { "required" } else { "excluded" },
    });
    if let Some(description) = &package.description {
        component["description"] = description.trim().into();
    }
    if let Some(license) = &package.license {
        // Some old crates write `/` for `OR`.
        component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
    }
    if let Some(repository) = &package.repository {
        component["externalReferences"] = json!([{"type": "vcs", "url": repository}]);
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, kind: &str) -> Value {
        json!({
            "id": format!("id-{name}"), "name": name, "version": "1.0.0+x", "license": "MIT/Apache-2.0",
            "description": null, "repository": null, "source": null, "targets": [{"kind": [kind]}],
        })
    }

    fn node(name: &str, deps: &[(&str, Option<&str>)]) -> Value {
        let deps: Vec<Value> = deps
            .iter()
            .map(|(name, kind)| json!({"pkg": format!("id-{name}"), "dep_kinds": [{"kind": kind}]}))
            .collect();
        json!({"id": format!("id-{name}"), "deps": deps})
    }

    #[test]
    fn lists_what_is_compiled_in_and_what_only_built() {
        let metadata = json!({
            "packages": [
                package("kubectl-tunnel", "bin"), package("tunnel-agent", "bin"), package("lib", "lib"),
                package("derive", "proc-macro"), package("syn", "lib"), package("cc", "lib"),
                package("proptest", "lib"),
            ],
            "resolve": {"nodes": [
                node("kubectl-tunnel", &[("lib", None), ("cc", Some("build")), ("proptest", Some("dev"))]),
                node("tunnel-agent", &[("lib", None)]),
                node("lib", &[("derive", None)]),
                node("derive", &[("syn", None)]),
                node("syn", &[]), node("cc", &[]), node("proptest", &[]),
            ]},
        });
        let text = cyclone_dx(&metadata.to_string(), 1_700_000_000).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        let scopes: Vec<(&str, &str)> = document["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| (c["name"].as_str().unwrap(), c["scope"].as_str().unwrap()))
            .collect();
        let expected = [
            ("cc", "excluded"),
            ("derive", "excluded"),
            ("lib", "required"),
            ("syn", "excluded"),
            ("tunnel-agent", "required"),
        ];
        assert_eq!(scopes, expected);
        assert_eq!(document["metadata"]["component"]["name"], "kubectl-tunnel");
        assert_eq!(document["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
        let lib = &document["components"][2];
        assert_eq!(lib["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(lib["purl"], "pkg:cargo/lib@1.0.0%2Bx");
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(cyclone_dx("{}", 0).is_err());
        assert!(cyclone_dx(r#"{"packages": [], "resolve": {"nodes": []}}"#, 0).is_err());
    }
}
