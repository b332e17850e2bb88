//! The manifest of Krew: rendered from `krew/plugin.yaml`, and read back.
//!
//! The template is krew-release-bot's own (`{{ .TagName }}`, `{{addURIAndSha "URI" .TagName }}`) with one variable more,
//! `{{ .Name }}`: the plugin's name. Filled in, that is `.krew.yaml`, which the bot renders after a release; with all of
//! them filled in it is the manifest.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Error;

/// The template that both are rendered from.
pub const TEMPLATE: &str = include_str!("../plugin.yaml");

const NAME: &str = "{{ .Name }}";
const TAG: &str = "{{ .TagName }}";
const ADD_URI: &str = "{{addURIAndSha \"";
const ADD_URI_END: &str = "\" .TagName }}";

/// `.krew.yaml`: the template with the plugin's name.
#[must_use]
pub fn for_bot(name: &str) -> String {
    TEMPLATE.replace(NAME, name)
}

/// Where archives will be fetched from.
#[derive(Debug, Clone, Copy)]
pub enum Base<'a> {
    /// Where the template says.
    Release,
    /// From a server that holds them all in one folder, such as `http://127.0.0.1:4711`.
    Server(&'a str),
}

/// The manifest. `sum_of` tells the SHA-256 of the archive with this file name.
///
/// # Errors
/// What `sum_of` fails with, or a template that uses anything else.
pub fn render(
    name: &str,
    tag: &str,
    base: Base<'_>,
    mut sum_of: impl FnMut(&str) -> Result<String, Error>,
) -> Result<String, Error> {
    let mut lines = Vec::new();
    for line in for_bot(name).lines() {
        let line = line.trim_end();
        let indent = &line[..line.len() - line.trim_start().len()];
        let uri = line
            .trim_start()
            .strip_prefix(ADD_URI)
            .and_then(|rest| rest.strip_suffix(ADD_URI_END));
        if let Some(uri) = uri {
            let uri = uri.replace(TAG, tag);
            let file = uri.rsplit('/').next().unwrap_or_default();
            let sum = sum_of(file)?;
            let uri = match base {
                Base::Release => uri.clone(),
                Base::Server(server) => format!("{server}/{file}"),
            };
            lines.push(format!("{indent}uri: {uri}"));
            lines.push(format!("{indent}sha256: {sum}"));
        } else {
            lines.push(line.replace(TAG, tag));
        }
    }
    let manifest = lines.join("\n") + "\n";
    if manifest.contains("{{") {
        return Err(Error::malformed(
            "krew/plugin.yaml",
            "it uses a variable unknown here",
        ));
    }
    Ok(manifest)
}

/// A manifest as Krew reads it: what it does not know it ignores.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Manifest {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata`.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: Spec,
}

/// `metadata`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// The plugin's name.
    pub name: String,
}

/// `spec`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// With its `v`.
    pub version: String,
    /// In `kubectl krew search`.
    pub short_description: String,
    /// In `kubectl krew info`.
    pub description: String,
    /// Printed after the installation.
    pub caveats: String,
    /// Printed after the installation.
    pub homepage: String,
    /// One for each archive.
    pub platforms: Vec<PlatformSpec>,
}

/// An archive and who it is for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PlatformSpec {
    /// Which systems it is for.
    pub selector: Option<Selector>,
    /// The archive.
    pub uri: String,
    /// Its sum in lower-case hex.
    pub sha256: String,
    /// The program, among the installed files.
    pub bin: String,
    /// What is installed where; without it, everything.
    pub files: Option<Vec<FileOperation>>,
}

/// A label selector of Kubernetes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    /// All of these.
    pub match_labels: Option<BTreeMap<String, String>>,
    /// And all of these.
    pub match_expressions: Option<Vec<Expression>>,
}

/// One condition of a selector.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Expression {
    /// `os` or `arch`.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// For the first two.
    pub values: Vec<String>,
}

/// Which files of the archive are installed where.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct FileOperation {
    /// A path or a pattern of the archive.
    pub from: String,
    /// A folder of the installation.
    pub to: String,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// It is no YAML, or a field has another type.
    pub fn parse(yaml: &str) -> Result<Self, Error> {
        serde_saphyr::from_str(yaml).map_err(|error| Error::malformed("the manifest", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bots_template_in_the_repository_is_this_one() {
        let committed =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../.krew.yaml")).unwrap();
        let name = committed
            .lines()
            .find_map(|line| line.strip_prefix("  name: "))
            .unwrap();
        assert_eq!(
            committed,
            for_bot(name),
            "`make krew-bot KREW_NAME={name}` renders it"
        );
    }

    #[test]
    fn everything_is_filled_in() {
        let sum = |file: &str| Ok(format!("sum-of-{file}"));
        let manifest = render("burrow", "v1.2.3", Base::Release, sum).unwrap();
        let read = Manifest::parse(&manifest).unwrap();
        assert_eq!(
            (read.metadata.name.as_str(), read.spec.version.as_str()),
            ("burrow", "v1.2.3")
        );
        let file = "kubectl-tunnel-v1.2.3-windows-amd64.zip";
        let windows = &read.spec.platforms[4];
        assert!(windows.uri.starts_with(&read.spec.homepage), "{windows:?}");
        assert!(windows.uri.ends_with(&format!("/v1.2.3/{file}")), "{windows:?}");
        assert_eq!(windows.sha256, format!("sum-of-{file}"));

        let local = render("burrow", "v1.2.3", Base::Server("http://127.0.0.1:1"), sum).unwrap();
        let read = Manifest::parse(&local).unwrap();
        assert_eq!(read.spec.platforms[4].uri, format!("http://127.0.0.1:1/{file}"));
    }

    #[test]
    fn an_archive_without_a_sum_fails() {
        let none = |file: &str| Err(Error::malformed(file, "missing"));
        assert!(render("burrow", "v1.2.3", Base::Release, none).is_err());
    }
}
