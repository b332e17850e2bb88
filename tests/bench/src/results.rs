//! Every sample of a run, and their medians.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::contender::Contender;
use crate::metric::Metric;
use crate::stats;

/// What was measured: round-trip time in milliseconds, row, and by whom.
pub(crate) type Cell = (u32, Metric, Contender);

/// All samples so far.
#[derive(Debug, Default)]
pub(crate) struct Results {
    samples: BTreeMap<Cell, Vec<f64>>,
    failures: Vec<String>,
}

impl Results {
    /// Adds one sample.
    pub(crate) fn add(&mut self, cell: Cell, sample: f64) {
        self.samples.entry(cell).or_default().push(sample);
    }

    /// Writes down what could not be measured.
    pub(crate) fn add_failure(&mut self, words: String) {
        self.failures.push(words);
    }

    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// The median of a cell, if there is anything in it.
    pub(crate) fn median(&self, rtt: u32, metric: Metric, contender: Contender) -> Option<f64> {
        stats::median(self.samples.get(&(rtt, metric, contender))?)
    }

    /// Round-trip times with anything in them.
    pub(crate) fn rtts(&self) -> BTreeSet<u32> {
        self.samples.keys().map(|cell| cell.0).collect()
    }

    /// Contenders with anything at this round-trip time.
    pub(crate) fn contenders(&self, rtt: u32) -> BTreeSet<Contender> {
        let there = self.samples.keys().filter(|cell| cell.0 == rtt);
        there.map(|cell| cell.2).collect()
    }

    /// For programs: each cell with all its samples, and the failures.
    pub(crate) fn json(&self) -> (Value, Value) {
        let cells: Vec<Value> = self
            .samples
            .iter()
            .map(|((rtt, metric, contender), samples)| {
                let about = metric.about();
                let (min, max) = stats::range(samples).unzip();
                json!({
                    "rttMs": rtt, "line": about.name, "title": about.title, "unit": about.unit,
                    "contender": contender.name(), "median": number(stats::median(samples)),
                    "min": number(min), "max": number(max),
                    "samples": samples.iter().map(|sample| number(Some(*sample))).collect::<Vec<_>>(),
                })
            })
            .collect();
        (Value::from(cells), Value::from(self.failures.clone()))
    }
}

/// JSON knows no infinity.
fn number(value: Option<f64>) -> Value {
    match value {
        Some(value) if value.is_finite() => Value::from((value * 10_000.0).round() / 10_000.0),
        Some(_) => Value::from("never"),
        None => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_came_has_a_word_in_json() {
        let mut results = Results::default();
        let cell = (20, Metric::StalledReader, Contender::Kubectl);
        for sample in [1.5, f64::INFINITY, f64::INFINITY] {
            results.add(cell, sample);
        }
        let (cells, failures) = results.json();
        assert_eq!(cells[0]["line"], "stalled-reader");
        assert_eq!(cells[0]["median"], "never");
        assert_eq!(cells[0]["min"], 1.5);
        assert_eq!(cells[0]["samples"][1], "never");
        assert_eq!(failures, Value::from(Vec::<Value>::new()));
        assert_eq!(results.contenders(20), [Contender::Kubectl].into());
        assert_eq!(results.median(0, cell.1, cell.2), None);
    }
}
