//! kubectl's connection flags, in kubectl's spelling, for every subcommand.
//!
//! Only what was typed: [`KubeFlags::overrides`] turns it into the plain values that `cluster/kubeconfig` resolves.
//! Flags that a kubeconfig can hold as well have no default here.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};

use super::go_duration::parse_timeout;
use crate::cluster::kubeconfig::{Overrides, Token};

const HEADING: &str = "Cluster options (as in kubectl)";

/// `-n`, `--context`, `--kubeconfig` and the others.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = HEADING)]
pub struct KubeFlags {
    /// Namespace to work in
    #[arg(short = 'n', long, global = true, value_name = "NAMESPACE", help_heading = HEADING)]
    pub namespace: Option<String>,

    /// Name of the kubeconfig context to use
    #[arg(long, global = true, value_name = "NAME", help_heading = HEADING)]
    pub context: Option<String>,

    /// Path of the kubeconfig file to use
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = HEADING)]
    pub kubeconfig: Option<PathBuf>,

    /// Name of the kubeconfig cluster to use
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true, help_heading = HEADING)]
    pub cluster: Option<String>,

    /// Name of the kubeconfig user to use
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true, help_heading = HEADING)]
    pub user: Option<String>,

    /// Address and port of the API server
    #[arg(short = 's', long, global = true, value_name = "URL", hide_short_help = true, help_heading = HEADING)]
    pub server: Option<String>,

    /// Bearer token for the API server
    #[arg(long, global = true, value_name = "TOKEN", hide_short_help = true, help_heading = HEADING)]
    pub token: Option<Token>,

    /// User to impersonate: a user or a service account
    #[arg(long = "as", global = true, value_name = "USER", hide_short_help = true, help_heading = HEADING)]
    pub impersonate: Option<String>,

    /// Group to impersonate; may be given several times
    #[arg(long = "as-group", global = true, value_name = "GROUP", hide_short_help = true, help_heading = HEADING)]
    pub impersonate_groups: Vec<String>,

    /// UID to impersonate
    #[arg(long = "as-uid", global = true, value_name = "UID", hide_short_help = true, help_heading = HEADING)]
    pub impersonate_uid: Option<String>,

    /// User extra to impersonate; may be given several times, also for one key
    #[arg(long = "as-user-extra", global = true, value_name = "KEY=VALUE", value_parser = parse_extra,
        hide_short_help = true, help_heading = HEADING)]
    pub impersonate_extra: Vec<(String, String)>,

    /// Path of the certificate authority's certificate
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath, hide_short_help = true,
        help_heading = HEADING)]
    pub certificate_authority: Option<PathBuf>,

    /// Path of the client certificate
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath, hide_short_help = true,
        help_heading = HEADING)]
    pub client_certificate: Option<PathBuf>,

    /// Path of the client certificate's key
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath, hide_short_help = true,
        help_heading = HEADING)]
    pub client_key: Option<PathBuf>,

    /// Do not check the API server's certificate; this makes the connection insecure
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_name = "BOOL", hide_short_help = true, help_heading = HEADING)]
    pub insecure_skip_tls_verify: Option<bool>,

    /// Name to check the API server's certificate against, instead of its host name
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true, help_heading = HEADING)]
    pub tls_server_name: Option<String>,

    /// Time to wait for one answer of the API server: 10s, 2m, plain seconds; 0 is no limit [default: 5s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_timeout, hide_short_help = true,
        help_heading = HEADING)]
    pub request_timeout: Option<Duration>,
}

impl KubeFlags {
    /// The flags as plain values. An empty value is as if the flag was not given, as in kubectl.
    pub fn overrides(&self) -> Overrides {
        let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        let path = |value: &Option<PathBuf>| value.clone().filter(|path| !path.as_os_str().is_empty());
        Overrides {
            kubeconfig: path(&self.kubeconfig),
            context: given(&self.context),
            cluster: given(&self.cluster),
            user: given(&self.user),
            namespace: given(&self.namespace),
            server: given(&self.server),
            token: self.token.clone().filter(|token| !token.is_empty()),
            impersonate: given(&self.impersonate),
            impersonate_groups: self.impersonate_groups.clone(),
            impersonate_uid: given(&self.impersonate_uid),
            impersonate_extra: self.impersonate_extra.clone(),
            certificate_authority: path(&self.certificate_authority),
            client_certificate: path(&self.client_certificate),
            client_key: path(&self.client_key),
            insecure_skip_tls_verify: self.insecure_skip_tls_verify,
            tls_server_name: given(&self.tls_server_name),
            request_timeout: self.request_timeout,
        }
    }
}

fn parse_extra(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must have the form KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Parser, Debug)]
    struct Cli {
        #[command(flatten)]
        kube: KubeFlags,
        #[command(subcommand)]
        verb: Verb,
    }

    #[derive(clap::Subcommand, Debug)]
    enum Verb {
        Proxy,
    }

    fn parse(args: &[&str]) -> Overrides {
        let cli = Cli::try_parse_from(["tunnel", "proxy"].iter().chain(args)).unwrap();
        assert!(matches!(cli.verb, Verb::Proxy));
        cli.kube.overrides()
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_reaches_its_value_after_the_verb() {
        let all = parse(&[
            "-n",
            "dev",
            "--context=c",
            "--kubeconfig",
            "k",
            "--cluster=cl",
            "--user",
            "u",
            "-s",
            "https://h",
            "--token=t",
            "--as",
            "ana",
            "--as-group=g1",
            "--as-group",
            "g2",
            "--as-uid=7",
            "--as-user-extra=a=1",
            "--as-user-extra",
            "a=2=3",
            "--certificate-authority=ca",
            "--client-certificate=cc",
            "--client-key=ck",
            "--insecure-skip-tls-verify",
            "--tls-server-name=sni",
            "--request-timeout=90",
        ]);
        let expected = Overrides {
            kubeconfig: Some("k".into()),
            context: Some("c".into()),
            cluster: Some("cl".into()),
            user: Some("u".into()),
            namespace: Some("dev".into()),
            server: Some("https://h".into()),
            token: Some(Token::from("t".to_owned())),
            impersonate: Some("ana".into()),
            impersonate_groups: vec!["g1".into(), "g2".into()],
            impersonate_uid: Some("7".into()),
            impersonate_extra: vec![("a".into(), "1".into()), ("a".into(), "2=3".into())],
            certificate_authority: Some("ca".into()),
            client_certificate: Some("cc".into()),
            client_key: Some("ck".into()),
            insecure_skip_tls_verify: Some(true),
            tls_server_name: Some("sni".into()),
            request_timeout: Some(Duration::from_secs(90)),
        };
        assert_eq!(all, expected);
    }

    #[test]
    fn flags_may_stand_before_the_verb_and_be_empty() {
        let cli = Cli::try_parse_from(["tunnel", "-n", "dev", "--context=", "--token=", "proxy"]).unwrap();
        let overrides = cli.kube.overrides();
        assert_eq!(overrides.namespace.as_deref(), Some("dev"));
        assert_eq!((overrides.context, overrides.token), (None, None));
    }

    #[test]
    fn booleans_and_durations_as_kubectl_takes_them() {
        assert_eq!(
            parse(&["--insecure-skip-tls-verify=false"]).insecure_skip_tls_verify,
            Some(false)
        );
        assert_eq!(
            parse(&["--request-timeout=0"]).request_timeout,
            Some(Duration::ZERO)
        );
        assert!(Cli::try_parse_from(["tunnel", "proxy", "--request-timeout=soon"]).is_err());
        assert!(Cli::try_parse_from(["tunnel", "proxy", "--as-user-extra=novalue"]).is_err());
    }

    #[test]
    fn debug_hides_the_token() {
        let cli = Cli::try_parse_from(["tunnel", "proxy", "--token=hunter2"]).unwrap();
        assert!(!format!("{cli:?}").contains("hunter2"));
    }
}
