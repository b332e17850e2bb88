//! How `status` prints its rows: a table like kubectl's, JSON, YAML or names. Pure but for the printing.

use jiff::Timestamp;

use super::{Row, is_text};
use crate::cli::status_args::StatusArgs;
use crate::command::Context;
use crate::ui::Output;

/// Longest command in a narrow table, in characters.
const COMMAND: usize = 40;

pub(super) fn print(rows: &[Row], arguments: &StatusArgs, context: &Context) {
    let output = context.printer.output();
    if rows.is_empty() && is_text(output) {
        return context.printer.note("no sessions found");
    }
    if let Some(text) = text(rows, output, arguments, true) {
        context.printer.data(&text);
    }
}

/// The rows alone, for `--watch`.
pub(super) fn print_changes(rows: &[Row], arguments: &StatusArgs, context: &Context) {
    if rows.is_empty() {
        return;
    }
    if let Some(text) = text(rows, context.printer.output(), arguments, false) {
        context.printer.data(&text);
    }
}

/// Whether a change is one to print: traffic alone is not.
pub(super) fn differ(before: &Row, now: &Row) -> bool {
    let seen = |row: &Row| {
        let pod = row
            .running
            .as_ref()
            .map(|running| (running.pod.clone(), running.streams));
        (row.state.clone(), row.reason.clone(), pod)
    };
    seen(before) != seen(now)
}

fn text(rows: &[Row], output: Output, arguments: &StatusArgs, whole: bool) -> Option<String> {
    let sessions = || serde_json::json!({ "sessions": rows });
    match output {
        Output::Text | Output::Wide => Some(table(
            rows,
            output == Output::Wide,
            arguments,
            whole,
            Timestamp::now(),
        )),
        Output::Json => Some(sessions().to_string()),
        Output::Yaml => serde_saphyr::to_string(&sessions())
            .ok()
            .map(|text| format!("---\n{}", text.trim_end())),
        Output::Name => {
            let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
            (!ids.is_empty()).then(|| ids.join("\n"))
        }
    }
}

fn table(rows: &[Row], wide: bool, arguments: &StatusArgs, header: bool, now: Timestamp) -> String {
    let mut lines: Vec<Vec<String>> = Vec::new();
    if header {
        let mut names = Vec::new();
        names.extend(arguments.all_namespaces.then_some("NAMESPACE"));
        names.extend(["ID", "STATE", "STREAMS", "AGE", "EXPIRES"]);
        names.extend(arguments.all_users.then_some("USER"));
        if wide {
            names.extend([
                "PID",
                "SENT",
                "RECEIVED",
                "RTT",
                "RECONNECTS",
                "TRANSPORT",
                "OPEN AT",
                "REASON",
            ]);
        }
        names.push("COMMAND");
        lines.push(names.into_iter().map(str::to_owned).collect());
    }
    lines.extend(rows.iter().map(|row| cells(row, wide, arguments, now)));
    let columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            lines
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let lines: Vec<String> = lines
        .iter()
        .map(|line| {
            let cells = line
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

fn cells(row: &Row, wide: bool, arguments: &StatusArgs, now: Timestamp) -> Vec<String> {
    let none = || "-".to_owned();
    let running = row.running.as_deref();
    let mut cells = Vec::new();
    if arguments.all_namespaces {
        cells.push(row.namespace.clone());
    }
    cells.push(row.id.clone());
    cells.push(row.state.clone());
    cells.push(running.map_or_else(none, |running| running.streams.to_string()));
    cells.push(
        row.started_at
            .as_deref()
            .map_or_else(none, |time| between(time, now, -1)),
    );
    cells.push(
        row.expires_at
            .as_deref()
            .map_or_else(none, |time| between(time, now, 1)),
    );
    if arguments.all_users {
        cells.push(row.user.clone().unwrap_or_else(none));
    }
    if wide {
        cells.push(running.map_or_else(none, |running| running.pid.to_string()));
        cells.push(running.map_or_else(none, |running| bytes(running.sent_bytes)));
        cells.push(running.map_or_else(none, |running| bytes(running.received_bytes)));
        let trip = running.and_then(|running| running.round_trip_ms);
        cells.push(trip.map_or_else(none, |trip| format!("{trip}ms")));
        cells.push(running.map_or_else(none, |running| running.reconnects.to_string()));
        cells.push(
            running
                .and_then(|running| running.transport.clone())
                .unwrap_or_else(none),
        );
        cells.push(running.map_or_else(none, |running| open_at(&running.listeners, &running.services)));
        cells.push(row.reason.clone().unwrap_or_else(none));
    }
    let command = row.command.as_deref().map_or_else(none, short_command);
    cells.push(if wide || command.chars().count() <= COMMAND {
        command
    } else {
        command.chars().take(COMMAND - 3).chain("...".chars()).collect()
    });
    cells
}

/// The command without the folder of its program.
fn short_command(command: &str) -> String {
    match command.split_once(' ') {
        Some((_, words)) => words.to_owned(),
        None => command.to_owned(),
    }
}

fn open_at(listeners: &[serde_json::Value], services: &[serde_json::Value]) -> String {
    let listeners = listeners
        .iter()
        .filter_map(|listener| listener["address"].as_str());
    let services = services.iter().filter_map(|service| service["name"].as_str());
    let all: Vec<String> = listeners
        .map(str::to_owned)
        .chain(services.map(|name| format!("svc/{name}")))
        .collect();
    match all.len() {
        0 => "-".to_owned(),
        1..=3 => all.join(","),
        more => format!("{},... ({more})", all[0]),
    }
}

/// From a time to now, or from now to it, in kubectl's two largest units.
fn between(time: &str, now: Timestamp, sign: i64) -> String {
    let Ok(time) = time.parse::<Timestamp>() else {
        return "-".to_owned();
    };
    let seconds = (sign * (time.as_second() - now.as_second())).max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600, seconds / 60);
    match () {
        () if days >= 2 => format!("{days}d"),
        () if hours >= 10 => format!("{hours}h"),
        () if hours >= 1 => format!("{hours}h{}m", minutes % 60),
        () if minutes >= 10 => format!("{minutes}m"),
        () if minutes >= 2 => format!("{minutes}m{}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    let (mut whole, mut tenths, mut unit) = (count / 1024, (count % 1024) * 10 / 1024, 0);
    while whole >= 1024 && unit + 1 < UNITS.len() {
        tenths = (whole % 1024) * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    format!("{whole}.{tenths}{}", UNITS[unit])
}

#[cfg(all(test, unix))]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: StatusArgs,
    }

    fn rows() -> Vec<Row> {
        let mut dead = Row::of_running(crate::control::snapshot_for_tests("dead42"));
        dead.running = None;
        "dead".clone_into(&mut dead.state);
        dead.expires_at = Some("2026-01-03T03:04:05Z".to_owned());
        vec![
            Row::of_running(crate::control::snapshot_for_tests("abc123")),
            dead,
        ]
    }

    fn table_of(words: &[&str], wide: bool) -> String {
        let line = Line::parse_from([&["status"], words].concat());
        let now = "2026-01-02T03:05:05Z".parse().expect("a time");
        table(&rows(), wide, &line.arguments, true, now)
    }

    #[test]
    fn the_table_is_aligned_and_tells_who_is_dead() {
        assert_eq!(
            table_of(&[], false),
            "ID       STATE   STREAMS   AGE   EXPIRES   COMMAND\n\
             abc123   ready   1         60s   -         proxy\n\
             dead42   dead    -         60s   23h       proxy"
        );
        assert!(table_of(&["-A"], false).starts_with("NAMESPACE   ID"));
        assert!(table_of(&[], true).contains("1.5ms"));
    }

    #[test]
    fn amounts_are_for_people() {
        assert_eq!(bytes(0), "0B");
        assert_eq!(bytes(1536), "1.5KiB");
        assert_eq!(bytes(5 * 1024 * 1024 * 1024), "5.0GiB");
    }

    #[test]
    fn traffic_alone_is_no_change() {
        let before = rows();
        let mut now = rows();
        now[0].running.as_mut().unwrap().sent_bytes += 1;
        assert!(!differ(&before[0], &now[0]));
        now[0].state = "reconnecting".to_owned();
        assert!(differ(&before[0], &now[0]));
    }
}
