//! `--print-env`: the lines that make a shell's programs use the proxy.
//!
//! Both spellings of each variable, since curl reads `http_proxy` in lower case only and others the upper
//! case. Pure: the addresses come in, text goes out, the caller prints it.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Names that must never go through the proxy: its own machine. Some programs read `127.0.0.0/8`, others
/// only the address itself.
const LOOPBACK: [&str; 4] = ["localhost", "127.0.0.1", "127.0.0.0/8", "::1"];

/// The language to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    /// `export NAME='value'`, for bash, zsh, dash and their kin.
    #[value(alias = "sh", alias = "zsh")]
    Bash,
    /// `set -gx NAME 'value'`.
    Fish,
    /// `$env:NAME = 'value'`.
    #[value(name = "powershell", alias = "pwsh")]
    PowerShell,
}

impl Shell {
    fn quote(self, value: &str) -> String {
        match self {
            Self::Bash => format!("'{}'", value.replace('\'', r"'\''")),
            Self::Fish => format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'")),
            Self::PowerShell => {
                // PowerShell takes typographic quotes for quotes as well.
                let doubled = value.chars().fold(String::new(), |mut out, c| {
                    if matches!(c, '\'' | '\u{2018}'..='\u{201b}') {
                        out.push(c);
                    }
                    out.push(c);
                    out
                });
                format!("'{doubled}'")
            }
        }
    }

    /// The line that sets a variable, exported to programs.
    pub fn assign(self, name: &str, value: &str) -> String {
        let value = self.quote(value);
        match self {
            Self::Bash => format!("export {name}={value}"),
            Self::Fish => format!("set -gx {name} {value};"),
            Self::PowerShell => format!("$env:{name} = {value}"),
        }
    }
}

/// The assignments for a proxy that listens on `listen`.
///
/// `api_server` is the host (no port) that kubectl talks to: without it in `no_proxy` the next kubectl
/// would go through the session it wants to manage. `existing` is the user's own `no_proxy`, kept.
///
/// `all_proxy` names the HTTP proxy too, not SOCKS: several programs stop with an error when they meet a
/// `socks5h` address and lack an optional package, while all that read the variable know CONNECT.
pub fn environment(
    shell: Shell,
    listen: SocketAddr,
    api_server: Option<&str>,
    existing: Option<&str>,
) -> String {
    let proxy = format!("http://{}", reachable(listen));
    let no_proxy = no_proxy(api_server, existing);
    let mut out = String::new();
    for (name, value) in [
        ("http_proxy", &proxy),
        ("https_proxy", &proxy),
        ("all_proxy", &proxy),
        ("no_proxy", &no_proxy),
    ] {
        for name in [name.to_owned(), name.to_ascii_uppercase()] {
            writeln!(out, "{}", shell.assign(&name, value)).expect("writing to a string cannot fail");
        }
    }
    out
}

/// The address to connect to for one that is listened on.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn no_proxy(api_server: Option<&str>, existing: Option<&str>) -> String {
    let api_server = api_server.map(|host| host.trim_start_matches('[').trim_end_matches(']'));
    let mut entries: Vec<&str> = Vec::new();
    let own = existing.unwrap_or_default().split(',').map(str::trim);
    for entry in LOOPBACK.into_iter().chain(api_server).chain(own) {
        if !entry.is_empty() && !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    entries.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(shell: Shell) -> Vec<String> {
        let listen = "127.0.0.1:6080".parse().unwrap();
        environment(
            shell,
            listen,
            Some("api.example"),
            Some("corp.example, localhost"),
        )
        .lines()
        .map(ToOwned::to_owned)
        .collect()
    }

    #[test]
    fn prints_both_spellings() {
        assert_eq!(
            lines(Shell::Bash),
            [
                "export http_proxy='http://127.0.0.1:6080'",
                "export HTTP_PROXY='http://127.0.0.1:6080'",
                "export https_proxy='http://127.0.0.1:6080'",
                "export HTTPS_PROXY='http://127.0.0.1:6080'",
                "export all_proxy='http://127.0.0.1:6080'",
                "export ALL_PROXY='http://127.0.0.1:6080'",
                "export no_proxy='localhost,127.0.0.1,127.0.0.0/8,::1,api.example,corp.example'",
                "export NO_PROXY='localhost,127.0.0.1,127.0.0.0/8,::1,api.example,corp.example'",
            ]
        );
        assert_eq!(
            lines(Shell::Fish)[1],
            "set -gx HTTP_PROXY 'http://127.0.0.1:6080';"
        );
        assert_eq!(
            lines(Shell::PowerShell)[0],
            "$env:http_proxy = 'http://127.0.0.1:6080'"
        );
    }

    #[test]
    fn quotes_for_each_shell() {
        assert_eq!(Shell::Bash.quote(r"a'$(b)\"), r"'a'\''$(b)\'");
        assert_eq!(Shell::Fish.quote(r"a'$(b)\"), r"'a\'$(b)\\'");
        assert_eq!(
            Shell::PowerShell.quote("a'$(b)\u{2019}"),
            "'a''$(b)\u{2019}\u{2019}'"
        );
    }

    #[test]
    fn bash_reads_back_what_was_printed() {
        let nasty = "a'b\"c$(exit 3)`exit 4`\\ *,d";
        let listen = "[::]:6080".parse().unwrap();
        let script = environment(Shell::Bash, listen, Some("[fd00::1]"), Some(nasty))
            + "echo \"$no_proxy|$HTTP_PROXY\"";
        let Ok(output) = std::process::Command::new("sh").args(["-c", &script]).output() else {
            return;
        };
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim_end(),
            format!("localhost,127.0.0.1,127.0.0.0/8,::1,fd00::1,{nasty}|http://[::1]:6080")
        );
    }
}
