//! What this machine's kernel says about processes: memory, processor time, and the agent's if its node is this one.

use std::fs;

/// The kernel's unit of processor time for programs, the same on every architecture.
const TICKS_A_SECOND: f64 = 100.0;

/// The memory a process has resident, in MiB; `None` once it has ended.
pub(crate) fn resident_mib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u32 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(f64::from(kib) / 1024.0)
}

/// Seconds of processor time a process has used so far, in user and kernel.
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    parse_cpu_seconds(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name may hold anything, so fields are counted behind its closing parenthesis: the 12th and 13th.
fn parse_cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u32>);
    let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
    Some(f64::from(user + system) / TICKS_A_SECOND)
}

/// The agent's `serve` process in the pod with this UID.
pub(crate) fn agent_of(pod_uid: &str) -> Option<u32> {
    let forms = [pod_uid.to_owned(), pod_uid.replace('-', "_")];
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid: &u32| {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let cgroup = read("cgroup");
        forms.iter().any(|uid| cgroup.contains(uid))
            && read("cmdline").split('\0').any(|word| word == "serve")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 1000 9 9";
        assert_eq!(parse_cpu_seconds(stat), Some(3.0));
        assert_eq!(parse_cpu_seconds("7 (x) S 1"), None);
    }

    #[test]
    fn the_test_itself_has_memory_and_used_the_processor() {
        let pid = std::process::id();
        assert!(resident_mib(pid).is_some_and(|mib| mib > 0.5));
        assert!(cpu_seconds(pid).is_some());
    }
}
