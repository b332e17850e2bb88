//! The machine and the cluster a run was made on: figures mean nothing without them.

use std::fs;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::cluster::{self, Cluster};

/// Everything worth telling, as JSON. What cannot be found out is empty.
pub(crate) async fn gather(cluster: &Cluster) -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kubernetes = cluster.admin.apiserver_version().await;
    json!({
        "date": jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
        "commit": said("git", &["describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]).await,
        "cpu": field(&read("/proc/cpuinfo"), "model name"),
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "kubernetes": kubernetes.map_or_else(|_| String::new(), |version| version.git_version),
        "kubectl": said("kubectl", &["version", "--client", "-o", "json"]).await
            .parse().map_or(Value::Null, |version: Value| version["clientVersion"]["gitVersion"].clone()),
        "loadBefore": read("/proc/loadavg").trim(),
    })
}

/// One line for people.
pub(crate) fn line(facts: &Value) -> String {
    let text = |name: &str| facts[name].as_str().unwrap_or_default().to_owned();
    format!(
        "{}, commit {}; {} x {}, {}; Linux {}; Kubernetes {}, kubectl {}; load before {}",
        text("date"),
        text("commit"),
        facts["cores"],
        text("cpu"),
        text("memory"),
        text("kernel"),
        text("kubernetes"),
        text("kubectl"),
        text("loadBefore"),
    )
}

async fn said(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    cluster::output(command).await.unwrap_or_default()
}

/// The value behind the first `name : value`.
fn field(text: &str, name: &str) -> String {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(field, _)| field.trim() == name);
    found.map_or_else(String::new, |(_, value)| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_field_of_a_name_counts() {
        let text = "processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nmodel name\t: other\n";
        assert_eq!(field(text, "model name"), "A CPU @ 2 GHz");
        assert_eq!(field(text, "MemTotal"), "");
    }
}
