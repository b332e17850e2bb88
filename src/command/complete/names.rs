//! Names that only the kubeconfig and the cluster know: contexts, namespaces, targets of `forward` and their ports.
//!
//! Which cluster is meant is told by the flags on the line, else by the configuration. Whatever goes wrong is
//! silence: no right to list, no cluster, no answer in time, a login that would ask somebody.

use std::time::Duration;

use clap::{Args as _, Command, FromArgMatches as _};

use super::line::{Cursor, Line};
use super::{Answer, Hint, Offer};
use crate::cli::kube_flags::KubeFlags;
use crate::cli::target::{TargetKind, TargetSpec, is_port};
use crate::cluster::client::{Access, ApiServer};
use crate::cluster::env::Env;
use crate::cluster::kubeconfig::{self, Overrides};
use crate::cluster::{offer, offer::PortOffer};
use crate::config;

/// The answer, within this time.
pub(super) fn ask(line: &Line<'_>, env: &Env, patience: Duration) -> Answer {
    let nothing = Answer::new(Vec::new());
    let (wanted, word) = match &line.cursor {
        Cursor::Value(arg, word) => match arg.get_long() {
            Some("namespace") => (Wanted::Namespaces, *word),
            Some("context") => (Wanted::Contexts, *word),
            Some("profile") => (Wanted::Profiles, *word),
            _ => return nothing,
        },
        Cursor::Word(word) if line.path == ["forward"] => match forward(&line.positionals, word) {
            Ok(answer) => return answer,
            Err(wanted) => (wanted, *word),
        },
        Cursor::Word(_) | Cursor::Flag(_) => return nothing,
    };
    // Nobody is at hand to answer a plugin that would log in.
    let env = env.clone().with_terminal(false);
    if wanted == Wanted::Profiles {
        return plain(layers(line, &env).profiles()).beginning(word);
    }
    let Some(overrides) = overrides(line, &env) else {
        return nothing;
    };
    if wanted == Wanted::Contexts {
        return plain(kubeconfig::contexts(&overrides, &env)).beginning(word);
    }
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
    else {
        return nothing;
    };
    let asked = runtime.block_on(async {
        let asking = from_cluster(wanted, word, overrides, env);
        tokio::time::timeout(patience, asking).await
    });
    // A credential plugin that hangs is not waited for.
    runtime.shutdown_background();
    asked
        .ok()
        .flatten()
        .map_or(nothing, |answer| answer.beginning(word))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Contexts,
    Profiles,
    Namespaces,
    /// Objects of a kind, with what was typed in front of their names.
    Targets(TargetKind, String),
    /// The ports of a target, with the local port that was typed in front of them.
    Ports(TargetSpec, String),
}

/// What `forward` wants next: known at once, or a matter of the cluster.
fn forward(before: &[&str], word: &str) -> Result<Answer, Wanted> {
    let types = |word: &str| {
        let offers = TargetKind::ALL.map(|kind| Offer::new(format!("{}/", kind.short()), kind.about()));
        let answer = Answer {
            offers: offers.into(),
            hint: Hint::GoesOn,
        };
        answer.beginning(word)
    };
    // Behind a target stands a port; what has a `/` or is no port is the next target.
    let target = before.iter().rfind(|word| !is_port(word));
    let has_port = before.last().is_some_and(|word| is_port(word));
    if let Some((kind, _)) = word.split_once('/') {
        let is_protocol = kind.bytes().all(|byte| byte.is_ascii_digit());
        return match TargetKind::parse(kind) {
            _ if is_protocol => Ok(Answer::new(Vec::new())),
            Some(kind_of) => Err(Wanted::Targets(kind_of, format!("{kind}/"))),
            None => Ok(Answer::new(Vec::new())),
        };
    }
    match target.and_then(|target| target.parse::<TargetSpec>().ok()) {
        None if word.is_empty() => Ok(types(word)),
        None => {
            let types = types(word);
            if types.offers.is_empty() {
                Err(Wanted::Targets(TargetKind::Pod, String::new()))
            } else {
                Ok(types)
            }
        }
        // The next target, once there is a port.
        Some(_) if has_port && word.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic()) => {
            Ok(types(word))
        }
        Some(target) => {
            let local = word.rsplit_once(':').map_or("", |(local, _)| local);
            let local = if word.contains(':') {
                format!("{local}:")
            } else {
                String::new()
            };
            Err(Wanted::Ports(target, local))
        }
    }
}

async fn from_cluster(wanted: Wanted, word: &str, overrides: Overrides, env: Env) -> Option<Answer> {
    let server = Access::new(overrides, env, "completion").connect().await.ok()?;
    match wanted {
        Wanted::Contexts | Wanted::Profiles => None,
        Wanted::Namespaces => Some(plain(offer::namespaces(&server).await?)),
        Wanted::Targets(kind, lead) => {
            let named = offer::targets(&server, kind).await?;
            let offers = named
                .into_iter()
                .map(|(name, about)| Offer::new(format!("{lead}{name}"), about));
            Some(Answer::new(offers.collect()))
        }
        Wanted::Ports(target, local) => Some(ports(&server, &target, &local, word).await?),
    }
}

/// By number, and by name if that is how the word begins.
async fn ports(server: &ApiServer, target: &TargetSpec, local: &str, word: &str) -> Option<Answer> {
    let ports = offer::ports(server, target).await?;
    let by_name = word[local.len()..].starts_with(|first: char| first.is_ascii_alphabetic());
    let mut offers: Vec<Offer> = Vec::new();
    for PortOffer { number, name, is_udp } in ports {
        let protocol = if is_udp { "/udp" } else { "" };
        offers.push(Offer::new(
            format!("{local}{number}{protocol}"),
            name.clone().unwrap_or_default(),
        ));
        // Both ways of one port side by side would be noise.
        if let Some(name) = name.filter(|_| by_name) {
            offers.push(Offer::new(format!("{local}{name}{protocol}"), number.to_string()));
        }
    }
    Some(Answer::new(offers))
}

fn plain(words: Vec<String>) -> Answer {
    Answer::new(words.into_iter().map(|word| Offer::new(word, "")).collect())
}

fn layers(line: &Line<'_>, env: &Env) -> config::Layers {
    let typed = |option: &str| line.typed.get(option).and_then(|values| values.first()).copied();
    config::lenient(typed("config").map(std::path::Path::new), typed("profile"), env)
}

/// kubectl's flags as they would hold if the line ended here.
fn overrides(line: &Line<'_>, env: &Env) -> Option<Overrides> {
    let layers = layers(line, env);
    let mut words = Vec::new();
    let flags = KubeFlags::augment_args(Command::new("line").no_binary_name(true));
    for long in flags.get_arguments().filter_map(clap::Arg::get_long) {
        match line.typed.get(long) {
            Some(values) if values.is_empty() => words.push(format!("--{long}")),
            Some(values) => words.extend(values.iter().map(|value| format!("--{long}={value}"))),
            None => {
                let value = layers.single(&line.path, line.root, long);
                words.extend(value.map(|value| format!("--{long}={value}")));
            }
        }
    }
    let matches = flags.try_get_matches_from(words).ok()?;
    KubeFlags::from_arg_matches(&matches)
        .ok()
        .map(|flags| flags.overrides())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forward_wants_a_target_and_then_ports() {
        let wants = |before: &[&str], word: &str| forward(before, word).unwrap_err();
        let target = |text: &str| text.parse::<TargetSpec>().unwrap();
        let services = |lead: &str| Wanted::Targets(TargetKind::Service, lead.to_owned());
        assert_eq!(wants(&[], "svc/"), services("svc/"));
        assert_eq!(wants(&[], "services/w"), services("services/"));
        assert_eq!(wants(&["svc/web", "80"], "svc/"), services("svc/"));
        assert_eq!(wants(&[], "zeb"), Wanted::Targets(TargetKind::Pod, String::new()));
        assert_eq!(
            wants(&["svc/web"], ""),
            Wanted::Ports(target("svc/web"), String::new())
        );
        assert_eq!(
            wants(&["svc/web"], "8080:h"),
            Wanted::Ports(target("svc/web"), "8080:".to_owned())
        );
        assert_eq!(
            wants(&["web"], ":"),
            Wanted::Ports(target("pod/web"), ":".to_owned())
        );
        let second = wants(&["svc/a", "80", "deploy/api", ":http"], "9");
        assert_eq!(second, Wanted::Ports(target("deploy/api"), String::new()));
    }

    #[test]
    fn types_are_offered_where_a_target_may_stand() {
        let offers = |before: &[&str], word: &str| {
            let answer = forward(before, word).unwrap();
            answer
                .offers
                .into_iter()
                .map(|offer| offer.word)
                .collect::<Vec<_>>()
        };
        assert!(offers(&[], "").contains(&"deploy/".to_owned()));
        assert_eq!(offers(&["svc/web", "80"], "d"), ["deploy/", "ds/"]);
        assert!(offers(&[], "53/").is_empty());
        assert!(offers(&[], "nope/").is_empty());
    }
}
