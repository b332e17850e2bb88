//! What is measured: the rows of every table, with their units.

/// What people are told of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About {
    /// In the JSON.
    pub(crate) name: &'static str,
    /// In the table.
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
}

/// The rows, each with its words: name, title, unit.
macro_rules! metrics {
    ($($metric:ident: $name:literal, $title:literal, $unit:literal;)*) => {
        /// One row.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum Metric {
            $($metric,)*
        }

        impl Metric {
            /// All of them, in the order of the tables.
            pub(crate) const ALL: &[Self] = &[$(Self::$metric,)*];

            /// Its words.
            pub(crate) fn about(self) -> About {
                let (name, title, unit) = match self {
                    $(Self::$metric => ($name, $title, $unit),)*
                };
                About { name, title, unit }
            }
        }
    };
}

metrics! {
    Download: "download", "download, 1 stream", "MiB/s";
    Upload: "upload", "upload, 1 stream", "MiB/s";
    Download8: "download-8", "download, 8 streams", "MiB/s";
    Upload8: "upload-8", "upload, 8 streams", "MiB/s";
    BothDown: "both-down", "both ways at once, down", "MiB/s";
    BothUp: "both-up", "both ways at once, up", "MiB/s";
    FirstReply: "first-reply", "new connection to first reply", "ms";
    ConnectionsServerEnds: "connections-server-ends", "new connections, server ends first", "1/s";
    ConnectionsClientEnds: "connections-client-ends", "new connections, client ends first", "1/s";
    RequestIdleP50: "request-idle-p50", "small request, idle, p50", "ms";
    RequestIdleP99: "request-idle-p99", "small request, idle, p99", "ms";
    RequestDownloadP50: "request-download-p50", "beside a bulk download, p50", "ms";
    RequestDownloadP99: "request-download-p99", "beside a bulk download, p99", "ms";
    RequestUploadP50: "request-upload-p50", "beside a bulk upload, p50", "ms";
    RequestUploadP99: "request-upload-p99", "beside a bulk upload, p99", "ms";
    HalfClose: "half-close", "half-close: reply that arrives", "KiB";
    StalledReader: "stalled-reader", "next connection beside a stalled reader", "ms";
    ClosedEarly: "closed-early", "next connection after a download closed early", "ms";
    EndOfStream: "end-of-stream", "last byte to end of stream", "ms";
    ExposeDown: "expose-from-cluster", "expose: cluster to laptop", "MiB/s";
    ExposeUp: "expose-to-cluster", "expose: laptop to cluster", "MiB/s";
    ExposeFirstReply: "expose-first-reply", "expose: new connection to first reply", "ms";
    ConnectDown: "connect-download", "proxy, CONNECT: download", "MiB/s";
    ConnectUp: "connect-upload", "proxy, CONNECT: upload", "MiB/s";
    ConnectFirstReply: "connect-first-reply", "proxy, CONNECT: new connection to first reply", "ms";
    Socks5Down: "socks5-download", "proxy, SOCKS5: download", "MiB/s";
    Socks5Up: "socks5-upload", "proxy, SOCKS5: upload", "MiB/s";
    Socks5FirstReply: "socks5-first-reply", "proxy, SOCKS5: new connection to first reply", "ms";
    HostFirstReply: "host-first-reply", "proxy, Host header: new connection to first reply", "ms";
    Ready: "ready", "command to ready", "s";
    ReadyFirstReply: "ready-first-reply", "command to first reply", "s";
    CpuDownload: "cpu-download", "CPU of a download, laptop", "s/GiB";
    CpuUpload: "cpu-upload", "CPU of an upload, laptop", "s/GiB";
    AgentCpuDownload: "agent-cpu-download", "CPU of a download, agent", "s/GiB";
    AgentCpuUpload: "agent-cpu-upload", "CPU of an upload, agent", "s/GiB";
    Memory: "memory", "resident memory after all of it, laptop", "MiB";
    AgentMemory: "agent-memory", "resident memory after all of it, agent", "MiB";
    IdleAgentMemory: "idle-agent-memory", "resident memory of an idle agent", "MiB";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_row_is_in_the_table_once_and_in_order() {
        assert!(Metric::ALL.is_sorted());
        let names: BTreeSet<&str> = Metric::ALL.iter().map(|metric| metric.about().name).collect();
        assert_eq!(names.len(), Metric::ALL.len());
        assert_eq!(Metric::ALL.last(), Some(&Metric::IdleAgentMemory));
    }
}
