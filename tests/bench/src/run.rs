//! The order of a run: each round-trip time, each line, each round, each contender.
//!
//! Contenders take turns within a round, so that what else the machine does meets them alike.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::cli::Cli;
use crate::cluster::{self, Cluster};
use crate::contender::Contender;
use crate::failure::{Failure, failure};
use crate::probe::{Probe, Sample};
use crate::results::Results;
use crate::say;
use crate::settings::Settings;
use crate::stage::Stage;
use crate::table::number;

/// A sample that takes longer has failed.
const SAMPLE: Duration = Duration::from_secs(60);

/// Measures everything that was asked for, or until `leave` is set: a sample that has begun is finished, so that it
/// ends its programs itself. What stands in `stage` when this is dropped is its caller's to close.
pub(crate) async fn run<'a>(
    cli: &Cli,
    settings: &'a Settings,
    cluster: &'a Cluster,
    stage: &mut Option<Stage<'a>>,
    results: &mut Results,
    leave: &AtomicBool,
) -> Result<(), Failure> {
    say::progress(&format!("preparing namespace {}", cluster.namespace));
    cluster.fill(settings).await?;
    let contenders = if cli.contenders.is_empty() {
        Contender::usual(knows_transport(settings).await?)
    } else {
        cli.contenders.clone()
    };
    for rtt in cli.rtts() {
        let stage = stage.insert(Stage::set(settings, cluster, rtt).await?);
        for probe in cli.probes_at(rtt) {
            for round in 1..=cli.rounds() {
                for contender in contenders.iter().copied().filter(|one| probe.takes(*one)) {
                    if leave.load(Ordering::Relaxed) {
                        return failure("interrupted");
                    }
                    let label = format!("RTT {rtt}, {}, round {round}, {}", probe.name(), contender.name());
                    match sample(stage, probe, contender, cli).await {
                        Ok(sample) => {
                            let figures = sample.iter().map(|(metric, value)| {
                                format!(
                                    "{} {} {}",
                                    metric.about().name,
                                    number(*value),
                                    metric.about().unit
                                )
                            });
                            say::progress(&format!("{label}: {}", figures.collect::<Vec<_>>().join(", ")));
                            for (metric, value) in sample {
                                results.add((rtt, metric, contender), value);
                            }
                        }
                        Err(error) => {
                            let words = format!("{label}: {error}");
                            say::progress(&words);
                            results.add_failure(words);
                            stage.forget(contender).await;
                        }
                    }
                }
            }
        }
        stage.close().await;
    }
    Ok(())
}

async fn sample(
    stage: &mut Stage<'_>,
    probe: Probe,
    contender: Contender,
    cli: &Cli,
) -> Result<Sample, Failure> {
    match timeout(SAMPLE, probe.sample(stage, contender, cli.effort())).await {
        Ok(sample) => sample,
        Err(_) => failure(format!("not done within {SAMPLE:?}")),
    }
}

/// Asks the plugin's help.
async fn knows_transport(settings: &Settings) -> Result<bool, Failure> {
    let mut command = Command::new(&settings.plugin);
    command.args(["forward", "--help"]);
    let help = cluster::output(command).await?;
    // Another flag begins with the same letters.
    Ok(["--transport ", "--transport="]
        .iter()
        .any(|flag| help.contains(flag)))
}
