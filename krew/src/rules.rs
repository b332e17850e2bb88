//! What a manifest must be: the rules that `kubectl krew` and the CI of its index enforce, and those reviewers ask for.
//!
//! It looks at the manifest alone; what is in the archives is `install`'s.

use std::collections::BTreeMap;

use crate::manifest::{Expression, Manifest, PlatformSpec, Selector};
use crate::platform::{KREW, Platform};

/// Names that are devices on Windows.
const DEVICES: [&str; 22] = [
    "CON", "PRN", "AUX", "NUL", "COM1", "COM2", "COM3", "COM4", "COM5", "COM6", "COM7", "COM8", "COM9",
    "LPT1", "LPT2", "LPT3", "LPT4", "LPT5", "LPT6", "LPT7", "LPT8", "LPT9",
];

/// Acronyms of resources, which reviewers refuse in a name.
const ACRONYMS: [&str; 12] = [
    "po", "svc", "deploy", "ds", "sts", "rs", "cm", "ns", "pv", "pvc", "sa", "ing",
];

/// Reads the manifest in a file of this name, and says which rules it breaks.
#[must_use]
pub fn broken(file: &str, manifest: &Manifest) -> Vec<String> {
    let mut broken = Vec::new();
    let mut rule = |holds: bool, text: &str| {
        if !holds {
            broken.push(text.to_owned());
        }
    };
    let version = "krew.googlecontainertools.github.com/v1alpha2";
    rule(
        manifest.api_version == version,
        "apiVersion is krew.googlecontainertools.github.com/v1alpha2",
    );
    rule(manifest.kind == "Plugin", "kind is Plugin");
    name(file, &manifest.metadata.name, &mut rule);

    let spec = &manifest.spec;
    let semantic = spec.version.strip_prefix('v').map(semver::Version::parse);
    rule(
        matches!(semantic, Some(Ok(_))),
        "spec.version is a v and a semantic version",
    );
    description(&spec.short_description, &spec.description, &mut rule);
    rule(
        spec.homepage.starts_with("https://"),
        "spec.homepage is the repository's address",
    );
    rule(!spec.platforms.is_empty(), "spec.platforms has at least one");
    for (index, platform) in spec.platforms.iter().enumerate() {
        for text in broken_by(platform) {
            rule(false, &format!("spec.platforms[{index}]: {text}"));
        }
    }
    for pair in KREW {
        let selected = spec.platforms.iter().filter(|platform| selects(platform, pair));
        rule(
            selected.count() <= 1,
            &format!("only one of spec.platforms selects {pair}"),
        );
    }
    broken
}

fn name(file: &str, name: &str, rule: &mut impl FnMut(bool, &str)) {
    rule(
        file.strip_suffix(".yaml") == Some(name),
        "the file is metadata.name with .yaml behind it",
    );
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    rule(
        !name.is_empty() && name.chars().all(safe),
        "metadata.name is made of letters, digits, _ and -",
    );
    rule(
        !DEVICES.iter().any(|device| device.eq_ignore_ascii_case(name)),
        "metadata.name is no device of Windows",
    );
    let kebab =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    rule(
        name.split('-').all(kebab),
        "metadata.name is lower-case words with - between them",
    );
    rule(
        !name.starts_with("kube"),
        "metadata.name does not start with kube: it follows kubectl",
    );
    rule(
        !name.split('-').any(|word| ACRONYMS.contains(&word)),
        "metadata.name has no acronym of a resource",
    );
}

fn description(short: &str, long: &str, rule: &mut impl FnMut(bool, &str)) {
    rule(!short.is_empty(), "spec.shortDescription is there");
    rule(!short.contains(['\r', '\n']), "spec.shortDescription is one line");
    rule(
        short.chars().count() <= 50,
        "spec.shortDescription has at most 50 characters",
    );
    rule(!short.ends_with('.'), "spec.shortDescription has no full stop");
    rule(
        !short.to_lowercase().contains("kubectl plugin"),
        "spec.shortDescription does not say kubectl plugin",
    );
    rule(!long.trim().is_empty(), "spec.description is there");
    rule(
        long.lines().all(|line| line.chars().count() <= 80),
        "spec.description is wrapped at 80 characters",
    );
    let usage = |line: &str| {
        let line = line.trim_start();
        line.starts_with(['$', '#']) || line.contains("kubectl ") || line.contains(" --")
    };
    rule(
        !long.lines().any(usage),
        "spec.description has no examples of usage and no flags",
    );
    rule(
        !long.contains("kubernetes"),
        "spec.description writes Kubernetes with a capital",
    );
}

fn broken_by(platform: &PlatformSpec) -> Vec<&'static str> {
    let mut broken = Vec::new();
    let mut rule = |holds: bool, text| {
        if !holds {
            broken.push(text);
        }
    };
    rule(!platform.uri.is_empty(), "uri is there");
    let hex = |c: char| c.is_ascii_digit() || matches!(c, 'a'..='f');
    rule(
        platform.sha256.len() == 64 && platform.sha256.chars().all(hex),
        "sha256 is 64 digits of lower-case hex",
    );
    rule(!platform.bin.is_empty(), "bin is there");
    if let Some(files) = &platform.files {
        rule(!files.is_empty(), "files is left out, or has at least one");
        rule(
            files
                .iter()
                .all(|file| !file.from.is_empty() && !file.to.is_empty()),
            "each of files has from and to",
        );
    }
    rule(
        KREW.into_iter().any(|pair| selects(platform, pair)),
        "selector selects a system that Krew knows",
    );
    let Some(selector) = &platform.selector else {
        rule(false, "selector is there");
        return broken;
    };
    let labels = selector.match_labels.as_ref();
    let expressions = selector.match_expressions.as_ref();
    rule(
        labels.is_some() || expressions.is_some(),
        "selector has matchLabels or matchExpressions",
    );
    rule(
        labels.is_none_or(|labels| !labels.is_empty()),
        "matchLabels is left out, or has at least one",
    );
    rule(
        expressions.is_none_or(|expressions| !expressions.is_empty()),
        "matchExpressions is left out, or has at least one",
    );
    let keys = labels.into_iter().flat_map(BTreeMap::keys);
    let mut keys = keys.chain(
        expressions
            .into_iter()
            .flatten()
            .map(|expression| &expression.key),
    );
    rule(
        keys.all(|key| key == "os" || key == "arch"),
        "selector looks at os and arch only",
    );
    broken
}

/// Whether this archive is the one for that system.
#[must_use]
pub fn selects(platform: &PlatformSpec, pair: Platform) -> bool {
    let Some(Selector {
        match_labels,
        match_expressions,
    }) = &platform.selector
    else {
        return false;
    };
    let value = |key: &str| match key {
        "os" => Some(pair.os),
        "arch" => Some(pair.arch),
        _ => None,
    };
    let labels = match_labels.iter().flatten();
    let expressions = match_expressions.iter().flatten();
    labels
        .map(|(key, wanted)| value(key) == Some(wanted))
        .chain(expressions.map(|expression| fulfils(expression, value(&expression.key))))
        .all(|holds| holds)
}

fn fulfils(Expression { operator, values, .. }: &Expression, value: Option<&str>) -> bool {
    let listed = value.is_some_and(|value| values.iter().any(|one| one == value));
    match operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Base, render};

    fn rendered(name: &str) -> String {
        render(name, "v1.2.3", Base::Release, |_| Ok("a1".repeat(32))).unwrap()
    }

    #[test]
    fn our_manifest_keeps_every_rule_under_any_good_name() {
        for name in ["tunnel", "burrow", "pod-tunnel"] {
            let manifest = Manifest::parse(&rendered(name)).unwrap();
            assert_eq!(broken(&format!("{name}.yaml"), &manifest), Vec::<String>::new());
        }
    }

    /// Each row of what Krew and its index enforce or ask for: text to replace, its replacement, words of the rule.
    #[test]
    fn each_broken_rule_is_named() {
        let sum = "a1".repeat(32);
        let linux = "os: linux\n        arch: arm64";
        let rows = [
            ("v1alpha2", "v1alpha3", "apiVersion"),
            ("kind: Plugin", "kind: plugin", "kind"),
            ("name: tunnel", "name: tunnels", "file"),
            ("name: tunnel", "name: tun.nel", "letters"),
            ("name: tunnel", "name: Lpt1", "device"),
            ("name: tunnel", "name: Tunnel_It", "lower-case"),
            ("name: tunnel", "name: kube-tunnel", "kube"),
            ("name: tunnel", "name: svc-tunnel", "acronym"),
            ("version: v1.2.3", "version: 1.2.3", "spec.version"),
            ("version: v1.2.3", "version: v1.2", "spec.version"),
            ("version: v1.2.3", "version: v1.02.3", "spec.version"),
            ("reach you\n", "reach you.\n", "full stop"),
            ("reach you\n", "reach you, whatever lies between\n", "50"),
            ("Reach a", "A kubectl plugin to reach a", "kubectl plugin"),
            (
                "shortDescription: Reach",
                "shortDescription: \"Reach\\n\" #",
                "one line",
            ),
            ("shortDescription", "short", "shortDescription is there"),
            ("    Gives a", "    kubectl tunnel proxy\n    Gives a", "examples"),
            ("    Gives a", "    Use --proxy\n    Gives a", "examples"),
            (
                "    Gives a",
                &format!("    {}\n    Gives a", "word ".repeat(20)),
                "80",
            ),
            ("a Kubernetes", "a kubernetes", "capital"),
            ("homepage: https://", "homepage: ftp://", "homepage"),
            (&sum, &sum.to_uppercase(), "sha256"),
            (&sum, &sum[1..], "sha256"),
            ("    uri:", "    url:", "uri is there"),
            ("    bin:", "    binary:", "bin is there"),
            ("    bin:", "    files: []\n    bin:", "files is left out"),
            ("    bin:", "    files: [{from: x}]\n    bin:", "from and to"),
            (linux, "os: linux\n        arch: amd64", "only one"),
            (linux, "os: linux", "only one"),
            (linux, "os: linux\n        arch: s390x", "Krew knows"),
            (
                linux,
                "os: linux\n        arch: arm64\n        libc: musl",
                "os and arch",
            ),
            ("matchLabels:", "labels:", "matchLabels or"),
            ("  - selector:", "  - select:", "selector is there"),
        ];
        for (from, to, words) in rows {
            let changed = rendered("tunnel").replacen(from, to, 1);
            let manifest = Manifest::parse(&changed).unwrap();
            let broken = broken("tunnel.yaml", &manifest);
            assert!(
                broken.iter().any(|rule| rule.contains(words)),
                "{from} -> {to}: {broken:?}"
            );
        }
        let none = "apiVersion: x\nspec: {platforms: []}";
        let broken = broken("tunnel.yml", &Manifest::parse(none).unwrap());
        assert!(
            broken.iter().any(|rule| rule.contains("at least one")),
            "{broken:?}"
        );
        assert!(broken.iter().any(|rule| rule.contains(".yaml")), "{broken:?}");
    }

    #[test]
    fn expressions_select_as_in_kubernetes() {
        let yaml = "{selector: {matchExpressions: [{key: os, operator: In, values: [linux, darwin]}, \
                    {key: arch, operator: NotIn, values: [arm64]}]}}";
        let platform: PlatformSpec = serde_saphyr::from_str(yaml).unwrap();
        let selected: Vec<String> = KREW
            .into_iter()
            .filter(|pair| selects(&platform, *pair))
            .map(|pair| pair.to_string())
            .collect();
        let expected = [
            "linux-386",
            "linux-amd64",
            "linux-arm",
            "linux-ppc64le",
            "darwin-386",
            "darwin-amd64",
        ];
        assert_eq!(selected, expected);
    }
}
