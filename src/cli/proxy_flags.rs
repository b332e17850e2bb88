//! The flags of the local port: what was typed, and what it means.
//!
//! Used by every command that opens the port (`proxy`, `expose --proxy`). Reads the auth file, binds nothing.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::go_duration;
use crate::listener::{Credentials, CredentialsError, Limits, ListenAddress, Options, Shell};

/// Flags of the local proxy port.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Proxy options")]
pub struct ProxyFlags {
    /// Address and port to listen on, or unix:PATH for a unix socket; repeatable; port 0 is the next free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = DEFAULT_LISTEN)]
    pub listen: Vec<ListenAddress>,

    /// Let only the users of this file connect (lines of user:password; turns off what has no password: routing by
    /// Host header, TLS name or h2c authority, and SOCKS4)
    #[arg(long, value_name = "FILE")]
    pub auth_file: Option<PathBuf>,

    /// Print the lines that make a shell's programs use the proxy [bash when no shell is named]
    #[arg(
        long,
        value_name = "SHELL",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = DEFAULT_SHELL
    )]
    pub print_env: Option<Shell>,

    /// The cluster's DNS domain, for what is routed by name
    #[arg(long, value_name = "DOMAIN", default_value = DEFAULT_DOMAIN, value_parser = domain)]
    pub cluster_domain: String,

    /// How long a flow of SOCKS5 UDP ASSOCIATE may be idle. `--udp-idle` of the command, which gives it to all its
    /// doors (`ProxyArgs::shared`, `ExposeArgs::shared`): `expose` has UDP ports of its own.
    #[arg(skip = DEFAULT_UDP_IDLE)]
    pub udp_idle: Duration,
}

const DEFAULT_LISTEN: &str = "127.0.0.1:6080";

const DEFAULT_DOMAIN: &str = "cluster.local";

const DEFAULT_UDP_IDLE: Duration = Duration::from_secs(60);

/// A flow that ends sooner would take a stream for each datagram.
const LEAST_UDP_IDLE: Duration = Duration::from_secs(1);

const DEFAULT_SHELL: &str = if cfg!(windows) { "powershell" } else { "bash" };

impl ProxyFlags {
    /// The names of these flags, without their dashes.
    pub fn names() -> impl Iterator<Item = String> {
        let command = Self::augment_args(clap::Command::new("proxy"));
        let names: Vec<String> = command
            .get_arguments()
            .filter_map(|arg| arg.get_long().map(str::to_owned))
            .collect();
        names.into_iter()
    }

    /// What of the flags cannot be had together.
    ///
    /// # Errors
    /// Says what to type instead.
    pub fn check(&self) -> Result<(), String> {
        let only_unix = self
            .listen
            .iter()
            .all(|listen| matches!(listen, ListenAddress::Unix(_)));
        if self.print_env.is_some() && only_unix {
            return Err(
                "--print-env needs a TCP port, no variable can name a unix socket; add --listen 127.0.0.1:0"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// The listener's options, for a session in `namespace`.
    ///
    /// # Errors
    /// The auth file cannot be used.
    pub fn options(&self, namespace: &str) -> Result<Options, CredentialsError> {
        let credentials = self.auth_file.as_deref().map(Credentials::read).transpose()?;
        Ok(Options {
            listen: self.listen.clone(),
            credentials,
            cluster_domain: self.cluster_domain.clone(),
            namespace: namespace.to_owned(),
            limits: Limits {
                udp_idle: self.udp_idle,
                ..Limits::default()
            },
        })
    }
}

/// Parses `--udp-idle`.
pub(super) fn udp_idle(text: &str) -> Result<Duration, String> {
    let idle = go_duration::parse_duration(text).map_err(|error| error.to_string())?;
    if idle < LEAST_UDP_IDLE {
        return Err("must be at least 1s".to_owned());
    }
    Ok(idle)
}

/// A domain that a name can end with.
fn domain(text: &str) -> Result<String, String> {
    let domain = text.trim_matches('.');
    crate::listener::Target::new(domain, 1)
        .map(|target| target.host)
        .map_err(|_| "expected a DNS domain, such as cluster.local".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: ProxyFlags,
    }

    fn flags(arguments: &[&str]) -> Result<ProxyFlags, clap::Error> {
        Line::try_parse_from([&["proxy"], arguments].concat()).map(|line| line.flags)
    }

    #[test]
    fn defaults_to_one_loopback_port() {
        let flags = flags(&[]).unwrap();
        let options = flags.options("dev").unwrap();
        assert_eq!(options.listen, ["127.0.0.1:6080".parse().unwrap()]);
        assert_eq!(
            (options.cluster_domain.as_str(), options.namespace.as_str()),
            ("cluster.local", "dev")
        );
        assert!(options.credentials.is_none() && flags.print_env.is_none());
        assert_eq!(options.limits.udp_idle, Duration::from_secs(60));
    }

    #[test]
    fn reads_what_was_typed() {
        let typed = [
            "--listen",
            "127.0.0.1:0",
            "--listen=[::1]:7",
            "--print-env",
            "--cluster-domain",
            "k8s.example.",
        ];
        let flags = flags(&typed).unwrap();
        assert_eq!(flags.listen.len(), 2);
        assert_eq!(flags.print_env, Some(Shell::Bash));
        assert_eq!(flags.cluster_domain, "k8s.example");
    }

    #[test]
    fn names_shells() {
        for (name, shell) in [
            ("bash", Shell::Bash),
            ("zsh", Shell::Bash),
            ("fish", Shell::Fish),
            ("pwsh", Shell::PowerShell),
        ] {
            assert_eq!(
                flags(&[&format!("--print-env={name}")]).unwrap().print_env,
                Some(shell)
            );
        }
        assert!(flags(&["--print-env=cmd"]).is_err());
        assert!(flags(&["--listen", "web:80"]).is_err());
        assert!(flags(&["--cluster-domain", "a b"]).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn the_environment_cannot_name_a_unix_socket() {
        let check = |arguments: &[&str]| flags(arguments).unwrap().check();
        let error = check(&["--print-env", "--listen", "unix:/tmp/a"]).unwrap_err();
        assert!(error.contains("add --listen 127.0.0.1:0"), "{error}");
        assert_eq!(check(&["--listen", "unix:/tmp/a"]), Ok(()));
        let both = [
            "--print-env",
            "--listen",
            "unix:/tmp/a",
            "--listen",
            "127.0.0.1:0",
        ];
        assert_eq!(check(&both), Ok(()));
    }

    #[test]
    fn an_auth_file_that_is_missing_is_an_error() {
        let flags = flags(&["--auth-file", "/no/such/file"]).unwrap();
        assert!(matches!(flags.options("dev"), Err(CredentialsError::Read { .. })));
    }
}
