//! Tables for people: aligned text, or Markdown.

use crate::metric::Metric;
use crate::results::Results;

/// Rows of cells under a header.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) header: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// The medians at one round-trip time: a row for each line, a column for each contender.
    pub(crate) fn of(results: &Results, rtt: u32) -> Self {
        let contenders = results.contenders(rtt);
        let mut header = vec![format!("RTT {rtt} ms"), "unit".to_owned()];
        header.extend(contenders.iter().map(|contender| contender.name().to_owned()));
        let mut rows = Vec::new();
        for &metric in Metric::ALL {
            let medians: Vec<Option<f64>> = contenders
                .iter()
                .map(|one| results.median(rtt, metric, *one))
                .collect();
            if medians.iter().all(Option::is_none) {
                continue;
            }
            let about = metric.about();
            let mut row = vec![about.title.to_owned(), about.unit.to_owned()];
            row.extend(
                medians
                    .into_iter()
                    .map(|median| median.map_or("-".to_owned(), number)),
            );
            rows.push(row);
        }
        Self { header, rows }
    }

    /// Columns as wide as their widest cell; numbers to the right.
    pub(crate) fn text(&self) -> String {
        let lines: Vec<&Vec<String>> = std::iter::once(&self.header).chain(&self.rows).collect();
        let width = |column: usize| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let mut text = String::new();
        for line in lines {
            let cells = line.iter().zip(&widths).map(|(cell, width)| {
                if is_number(cell) {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// The same as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = line(&self.header);
        text.push_str(&line(&vec!["---".to_owned(); self.header.len()]));
        for row in &self.rows {
            text.push_str(&line(row));
        }
        text
    }
}

/// Three digits that count; infinity is what never came.
pub(crate) fn number(value: f64) -> String {
    match value {
        _ if value.is_infinite() => "never".to_owned(),
        _ if value.abs() >= 100.0 => format!("{value:.0}"),
        _ if value.abs() >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn is_number(cell: &str) -> bool {
    cell.parse::<f64>().is_ok() || matches!(cell, "never" | "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::Contender;

    fn results() -> Results {
        let mut results = Results::default();
        results.add((0, Metric::Upload, Contender::Kubectl), 163.7);
        results.add((0, Metric::Upload, Contender::Tunnel), 9.0);
        results.add((0, Metric::StalledReader, Contender::Kubectl), f64::INFINITY);
        results
    }

    #[test]
    fn lines_nobody_measured_are_left_out() {
        let text = Table::of(&results(), 0).text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], format!("{:39}  unit   kubectl  tunnel", "RTT 0 ms"));
        assert_eq!(
            lines[1],
            format!("{:39}  MiB/s      164    9.00", "upload, 1 stream")
        );
        assert_eq!(
            lines[2],
            "next connection beside a stalled reader  ms       never       -"
        );
    }

    #[test]
    fn markdown_has_a_rule_under_its_header() {
        let markdown = Table::of(&results(), 0).markdown();
        let lines: Vec<&str> = markdown.lines().collect();
        assert_eq!(lines[0], "| RTT 0 ms | unit | kubectl | tunnel |");
        assert_eq!(lines[1], "| --- | --- | --- | --- |");
        assert_eq!(lines[2], "| upload, 1 stream | MiB/s | 164 | 9.00 |");
        assert_eq!(Table::of(&results(), 20).rows, Vec::<Vec<String>>::new());
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        let shown = [0.456, 12.34, 1234.5, f64::INFINITY].map(number);
        assert_eq!(shown, ["0.46", "12.3", "1234", "never"]);
    }
}
