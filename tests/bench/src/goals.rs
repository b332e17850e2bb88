//! What the tunnel must reach, as ratios of one run, and whether it did.

use serde_json::{Value, json};

use crate::contender::Contender::{self, Kubectl, RawExec, RawPortForward, Tunnel, TunnelAuto, TunnelExec};
#[allow(
    clippy::enum_glob_use,
    reason = "names most rows; and clippy says nothing of it in tests"
)]
use crate::metric::Metric::{self, *};
use crate::results::Results;
use crate::table::{Table, number};

/// One goal, judged for one contender at one round-trip time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    rtt: u32,
    line: Metric,
    contender: Contender,
    /// What is compared, such as `0.93 of raw-exec`.
    reached: String,
    goal: String,
    pub(crate) met: bool,
}

/// Judges all that was measured; goals whose figures are missing are left out.
pub(crate) fn judge(results: &Results) -> Vec<Verdict> {
    let mut judge = Judge {
        results,
        verdicts: Vec::new(),
    };
    let (exec, auto) = ([Tunnel, TunnelExec], [Tunnel, TunnelAuto]);
    for line in [Download, Upload, Download8, Upload8] {
        judge.at_least(0, line, &exec, 0.90, RawExec);
        judge.at_least(0, line, &auto, 1.0, Kubectl);
        judge.at_least(0, line, &auto, 0.85, RawPortForward);
    }
    for line in [BothDown, BothUp] {
        judge.at_least(0, line, &[Tunnel, TunnelExec, TunnelAuto], 1.2, Kubectl);
    }
    for rtt in [20, 50, 100] {
        judge.round_trips(rtt, FirstReply, 1.15);
        judge.round_trips(rtt, HostFirstReply, 1.15);
        judge.round_trips(rtt, ConnectFirstReply, 2.15);
        judge.round_trips(rtt, Socks5FirstReply, 2.15);
    }
    for line in [ConnectionsServerEnds, ConnectionsClientEnds] {
        judge.figure(0, line, |value| value >= 2000.0, "2,000/s");
    }
    for (p50, p99) in [
        (RequestDownloadP50, RequestDownloadP99),
        (RequestUploadP50, RequestUploadP99),
    ] {
        judge.beside(0, p50, RequestIdleP50, 1.0, 5.0);
        for rtt in [20, 100] {
            judge.beside(rtt, p50, RequestIdleP50, 1.3, 0.0);
        }
        for rtt in [0, 20, 100] {
            judge.beside(rtt, p99, RequestIdleP50, 3.0, 10.0);
        }
    }
    for rtt in [0, 100] {
        judge.figure(rtt, HalfClose, |value| value >= 1024.0, "1,024 KiB");
        // "As fast as idle", with the room that noise needs.
        judge.beside(rtt, StalledReader, FirstReply, 1.3, 2.0);
        judge.beside(rtt, ClosedEarly, FirstReply, 1.3, 2.0);
    }
    judge.beside(0, EndOfStream, RequestIdleP50, 1.15, 0.0);
    for rtt in [20, 100] {
        judge.round_trips(rtt, EndOfStream, 1.15);
    }
    judge.figure(0, Ready, |value| value <= 1.0, "1.0 s");
    judge.figure(50, Ready, |value| value <= 1.4, "1.0 s and 8 round trips");
    judge.figure(0, Memory, |value| value <= 30.0, "30 MiB");
    judge.figure(0, AgentMemory, |value| value <= 20.0, "20 MiB");
    judge.figure(0, IdleAgentMemory, |value| value <= 5.0, "5 MiB");
    for line in [CpuDownload, CpuUpload] {
        judge.at_most(0, line, 1.0, Kubectl);
    }
    judge.verdicts
}

struct Judge<'a> {
    results: &'a Results,
    verdicts: Vec<Verdict>,
}

impl Judge<'_> {
    /// Our contenders with a figure in this row.
    fn ours(&self, rtt: u32, line: Metric) -> Vec<(Contender, f64)> {
        let all = self
            .results
            .contenders(rtt)
            .into_iter()
            .filter(|one| one.is_tunnel());
        all.filter_map(|one| Some((one, self.results.median(rtt, line, one)?)))
            .collect()
    }

    fn push(
        &mut self,
        rtt: u32,
        line: Metric,
        contender: Contender,
        reached: String,
        goal: String,
        met: bool,
    ) {
        self.verdicts.push(Verdict {
            rtt,
            line,
            contender,
            reached,
            goal,
            met,
        });
    }

    /// So much of what another reaches.
    fn at_least(&mut self, rtt: u32, line: Metric, contenders: &[Contender], ratio: f64, base: Contender) {
        self.ratio(
            rtt,
            line,
            base,
            |one| contenders.contains(&one),
            |value| value >= ratio,
            &format!(">= {ratio:.2}"),
        );
    }

    /// Not more than so much of what another needs.
    fn at_most(&mut self, rtt: u32, line: Metric, ratio: f64, base: Contender) {
        self.ratio(
            rtt,
            line,
            base,
            |_| true,
            |value| value <= ratio,
            &format!("<= {ratio:.2}"),
        );
    }

    fn ratio(
        &mut self,
        rtt: u32,
        line: Metric,
        base: Contender,
        concerns: impl Fn(Contender) -> bool,
        meets: impl Fn(f64) -> bool,
        goal: &str,
    ) {
        let Some(base_value) = self.results.median(rtt, line, base) else {
            return;
        };
        for (contender, value) in self.ours(rtt, line) {
            if concerns(contender) {
                let ratio = value / base_value;
                let goal = format!("{goal} of {}", base.name());
                self.push(rtt, line, contender, format!("{ratio:.2}"), goal, meets(ratio));
            }
        }
    }

    /// A figure by itself.
    fn figure(&mut self, rtt: u32, line: Metric, meets: impl Fn(f64) -> bool, goal: &str) {
        for (contender, value) in self.ours(rtt, line) {
            let reached = format!("{} {}", number(value), line.about().unit);
            self.push(rtt, line, contender, reached, goal.to_owned(), meets(value));
        }
    }

    /// Milliseconds in round trips of the line.
    fn round_trips(&mut self, rtt: u32, line: Metric, most: f64) {
        for (contender, value) in self.ours(rtt, line) {
            let trips = value / f64::from(rtt);
            let goal = format!("<= {most:.2} round trips");
            self.push(rtt, line, contender, format!("{trips:.2}"), goal, trips <= most);
        }
    }

    /// Milliseconds beside those of an undisturbed line of the same contender.
    fn beside(&mut self, rtt: u32, line: Metric, idle: Metric, times: f64, more: f64) {
        for (contender, value) in self.ours(rtt, line) {
            let Some(idle) = self.results.median(rtt, idle, contender) else {
                continue;
            };
            let limit = idle * times + more;
            let reached = format!("{} ms", number(value));
            let goal = format!(
                "<= {times:.2} x {} + {more:.0} = {} ms",
                number(idle),
                number(limit)
            );
            self.push(rtt, line, contender, reached, goal, value <= limit);
        }
    }
}

/// The verdicts for people.
pub(crate) fn table(verdicts: &[Verdict]) -> Table {
    let header = ["goal for", "RTT", "contender", "reached", "goal", "met"];
    let row = |verdict: &Verdict| {
        vec![
            verdict.line.about().title.to_owned(),
            verdict.rtt.to_string(),
            verdict.contender.name().to_owned(),
            verdict.reached.clone(),
            verdict.goal.clone(),
            if verdict.met { "yes" } else { "NO" }.to_owned(),
        ]
    };
    Table {
        header: header.map(str::to_owned).to_vec(),
        rows: verdicts.iter().map(row).collect(),
    }
}

/// The verdicts for programs.
pub(crate) fn json(verdicts: &[Verdict]) -> Value {
    let one = |verdict: &Verdict| {
        json!({
            "line": verdict.line.about().name, "rttMs": verdict.rtt, "contender": verdict.contender.name(),
            "reached": verdict.reached, "goal": verdict.goal, "met": verdict.met,
        })
    };
    verdicts.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(cells: &[(u32, Metric, Contender, f64)]) -> Vec<(Contender, String, bool)> {
        let mut results = Results::default();
        for (rtt, metric, contender, value) in cells {
            results.add((*rtt, *metric, *contender), *value);
        }
        let verdicts = judge(&results).into_iter();
        verdicts
            .map(|verdict| (verdict.contender, verdict.reached, verdict.met))
            .collect()
    }

    #[test]
    fn throughput_is_judged_by_its_own_way() {
        let cells = [
            (0, Download, RawExec, 100.0),
            (0, Download, Kubectl, 200.0),
            (0, Download, TunnelExec, 90.0),
            (0, Download, TunnelAuto, 190.0),
        ];
        let expected = [
            (TunnelExec, "0.90".to_owned(), true),
            (TunnelAuto, "0.95".to_owned(), false),
        ];
        assert_eq!(judged(&cells), expected);
    }

    #[test]
    fn times_are_judged_by_round_trips_and_by_idle() {
        let cells = [
            (20, FirstReply, Tunnel, 22.0),
            (20, RequestIdleP50, Tunnel, 20.0),
            (20, RequestUploadP50, Tunnel, 30.0),
            (20, RequestUploadP99, Tunnel, f64::INFINITY),
        ];
        let expected = [
            (Tunnel, "1.10".to_owned(), true),
            (Tunnel, "30.0 ms".to_owned(), false),
            (Tunnel, "never ms".to_owned(), false),
        ];
        assert_eq!(judged(&cells), expected);
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert_eq!(judged(&[(0, Download, Tunnel, 90.0)]), []);
        assert_eq!(judged(&[(0, Ready, Kubectl, 9.0)]), []);
    }
}
