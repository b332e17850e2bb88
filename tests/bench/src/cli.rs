//! The command line: what to measure, how often, and where the figures go.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::contender::Contender;
use crate::probe::{Effort, Probe};

/// Measures kubectl tunnel beside the alternatives on the cluster of KUBECONFIG
#[derive(Debug, Parser)]
#[command(name = "tunnel-bench")]
pub(crate) struct Cli {
    /// Only these lines; each then runs at every --rtt
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LINE")]
    pub(crate) only: Vec<Probe>,

    /// Round-trip times to the API server, in milliseconds [each line's own, of 0, 20, 50 and 100]
    #[arg(long, value_delimiter = ',', value_name = "MS")]
    pub(crate) rtt: Vec<u32>,

    /// Who is measured
    ///
    /// A plugin that knows --transport is measured with exec and with auto, another as it is.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME")]
    pub(crate) contenders: Vec<Contender>,

    /// Samples of each line and contender, taken in turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,

    /// One short round, to see that everything works
    #[arg(long)]
    pub(crate) quick: bool,

    /// File for all samples
    #[arg(long, value_name = "PATH", default_value = "target/bench/results.json")]
    pub(crate) json: PathBuf,

    /// File for the tables as Markdown, as they stand in RESULTS.md
    #[arg(long, value_name = "PATH")]
    pub(crate) markdown: Option<PathBuf>,
}

impl Cli {
    /// The lines, in the order they run in.
    pub(crate) fn probes(&self) -> Vec<Probe> {
        let all = Probe::value_variants().iter().copied();
        all.filter(|probe| self.only.is_empty() || self.only.contains(probe))
            .collect()
    }

    /// Round-trip times at which anything runs.
    pub(crate) fn rtts(&self) -> Vec<u32> {
        let mut rtts: Vec<u32> = if self.rtt.is_empty() {
            self.probes()
                .iter()
                .flat_map(|probe| probe.usual_rtts())
                .copied()
                .collect()
        } else {
            self.rtt.clone()
        };
        rtts.sort_unstable();
        rtts.dedup();
        rtts
    }

    /// The lines at one of them.
    pub(crate) fn probes_at(&self, rtt: u32) -> Vec<Probe> {
        let named = !self.only.is_empty() && !self.rtt.is_empty();
        let mut probes = self.probes();
        probes.retain(|probe| named || probe.usual_rtts().contains(&rtt));
        probes
    }

    pub(crate) fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds }
    }

    pub(crate) fn effort(&self) -> Effort {
        if self.quick { Effort::QUICK } else { Effort::USUAL }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Cli {
        Cli::try_parse_from([&["bench"], words].concat()).unwrap()
    }

    #[test]
    fn lines_run_where_they_mean_something_unless_named() {
        let all = parse(&[]);
        assert_eq!(all.rtts(), [0, 20, 50, 100]);
        assert!(all.probes_at(0).contains(&Probe::ConnectionsServerEnds));
        assert_eq!(
            all.probes_at(50),
            [Probe::FirstReply, Probe::ProxyFirstReply, Probe::Start]
        );
        let some = parse(&["--rtt", "0,20"]);
        assert!(!some.probes_at(20).contains(&Probe::Memory));
        let named = parse(&["--only", "memory,download", "--rtt", "5"]);
        assert_eq!(named.probes_at(5), [Probe::Download, Probe::Memory]);
        let named = parse(&["--only", "start"]);
        assert_eq!(named.rtts(), [0, 50]);
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [["--only", "uplaod"], ["--rounds", "0"], ["--contenders", "x"]] {
            assert!(Cli::try_parse_from([&["bench"], &words[..]].concat()).is_err());
        }
        assert_eq!(parse(&["--quick"]).rounds(), 1);
    }
}
