//! `make bench`: how fast the tunnel is on a real cluster, beside the bare channels of the API and kubectl.
//!
//! It owns a namespace, the programs it starts in it, and the figures; it changes nothing else. `probe.rs` lists what
//! is measured, `run.rs` in which order, `goals.rs` what must be reached. How each figure comes about is written down
//! in `RESULTS.md`.

use std::fs;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser as _;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Cli;
use crate::cluster::Cluster;
use crate::failure::{Doing as _, Failure, failure};
use crate::results::Results;
use crate::settings::Settings;
use crate::table::Table;

mod cli;
mod cluster;
mod contender;
mod dial;
mod facts;
mod failure;
mod flow;
mod goals;
mod laptop;
mod metric;
mod objects;
mod probe;
mod process;
mod program;
mod raw;
mod results;
mod run;
mod say;
mod session;
mod settings;
mod stage;
mod stats;
mod table;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(measure(&cli));
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::progress(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The whole run. Whatever ends it, what was measured is told, and what was made is removed.
async fn measure(cli: &Cli) -> Result<(), Failure> {
    let settings = Settings::read()?;
    let cluster = Cluster::connect(&settings).await?;
    let facts = facts::gather(&cluster).await;
    let mut results = Results::default();
    let mut stage = None;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let leave = AtomicBool::new(false);
    let ended = {
        let mut run = pin!(run::run(
            cli,
            &settings,
            &cluster,
            &mut stage,
            &mut results,
            &leave
        ));
        loop {
            tokio::select! {
                ended = &mut run => break ended,
                _ = interrupted.recv() => {}
                _ = terminated.recv() => {}
            }
            if leave.swap(true, Ordering::Relaxed) {
                break failure("interrupted");
            }
            say::progress("ends after this sample; once more ends now");
        }
    };
    if let Some(stage) = &mut stage {
        stage.close().await;
    }
    let removed = cluster.remove().await;
    let reported = report(cli, &results, &facts);
    ended.and(removed).and(reported)
}

fn report(cli: &Cli, results: &Results, facts: &serde_json::Value) -> Result<(), Failure> {
    let verdicts = goals::judge(results);
    let mut tables: Vec<Table> = results
        .rtts()
        .into_iter()
        .map(|rtt| Table::of(results, rtt))
        .collect();
    if !verdicts.is_empty() {
        tables.push(goals::table(&verdicts));
    }
    let line = facts::line(facts);
    say::result(&format!("{line}; medians of {}\n", cli.rounds()));
    for table in &tables {
        say::result(&table.text());
    }
    for words in results.failures() {
        say::result(&format!("failed: {words}"));
    }
    let (cells, failures) = results.json();
    let all = json!({
        "facts": facts, "rounds": cli.rounds(), "quick": cli.quick,
        "results": cells, "goals": goals::json(&verdicts), "failures": failures,
    });
    if let Some(folder) = cli.json.parent() {
        fs::create_dir_all(folder).doing("make the folder for the JSON")?;
    }
    fs::write(&cli.json, format!("{all:#}\n")).doing("write the JSON")?;
    if let Some(path) = &cli.markdown {
        let tables: Vec<String> = tables.iter().map(Table::markdown).collect();
        let text = format!("{line}; medians of {}.\n\n{}", cli.rounds(), tables.join("\n"));
        fs::write(path, text).doing("write the Markdown")?;
    }
    Ok(())
}
