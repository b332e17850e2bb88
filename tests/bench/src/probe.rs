//! What can be measured: which contenders can do it, at which round-trip times it is usual, and one sample of it.
//!
//! The samples themselves are taken in `probe/`, by what they have in common.

use std::time::Duration;

use clap::ValueEnum;

use crate::contender::Contender;
use crate::dial::Ask;
use crate::failure::Failure;
use crate::flow::Way;
use crate::metric::Metric;
use crate::stage::Stage;

mod bulk;
mod connections;
mod endings;
mod expose;
mod proxy;
mod requests;
mod start;

/// One sample of each row that a probe fills.
pub(crate) type Sample = Vec<(Metric, f64)>;

/// What is done once for one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Probe {
    Download,
    Upload,
    #[value(name = "download-8")]
    Download8,
    #[value(name = "upload-8")]
    Upload8,
    Both,
    FirstReply,
    ConnectionsServerEnds,
    ConnectionsClientEnds,
    /// A small request on a kept connection: idle, beside a bulk download, beside a bulk upload.
    Requests,
    HalfClose,
    StalledReader,
    ClosedEarly,
    EndOfStream,
    Expose,
    /// Throughput through the proxy by CONNECT.
    Connect,
    /// Throughput through the proxy by SOCKS5.
    Socks5,
    /// New connections through the proxy by CONNECT, SOCKS5 and Host header.
    ProxyFirstReply,
    /// Command to ready, and to first reply.
    Start,
    /// Resident memory after all the others.
    Memory,
}

/// How much is done for one sample.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// How long a flow counts.
    pub(crate) window: Duration,
    /// How long a flow runs before, without what the round-trip time asks for.
    pub(crate) warm_up: Duration,
    /// How long small requests are sent.
    pub(crate) requests: Duration,
    /// New connections one after the other.
    pub(crate) connections: usize,
}

impl Effort {
    pub(crate) const USUAL: Self = Self {
        window: Duration::from_millis(1500),
        warm_up: Duration::from_millis(500),
        requests: Duration::from_secs(2),
        connections: 20,
    };
    pub(crate) const QUICK: Self = Self {
        window: Duration::from_millis(700),
        warm_up: Duration::from_millis(300),
        requests: Duration::from_millis(700),
        connections: 6,
    };
}

impl Probe {
    /// As on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The round-trip times it runs at unless it is asked for by name.
    pub(crate) fn usual_rtts(self) -> &'static [u32] {
        match self {
            Self::Download | Self::Upload | Self::Requests | Self::EndOfStream => &[0, 20, 100],
            Self::Download8
            | Self::Upload8
            | Self::Both
            | Self::HalfClose
            | Self::StalledReader
            | Self::ClosedEarly
            | Self::Expose
            | Self::Connect
            | Self::Socks5 => &[0, 100],
            Self::FirstReply | Self::ProxyFirstReply => &[0, 20, 50, 100],
            // What counts here is processor time, and memory after all the rest.
            Self::ConnectionsServerEnds | Self::ConnectionsClientEnds | Self::Memory => &[0],
            Self::Start => &[0, 50],
        }
    }

    /// Whether the contender can do it at all.
    pub(crate) fn takes(self, contender: Contender) -> bool {
        match self {
            Self::Download | Self::Upload | Self::Download8 | Self::Upload8 | Self::Both => true,
            Self::Expose | Self::Connect | Self::Socks5 | Self::ProxyFirstReply => contender.is_tunnel(),
            Self::FirstReply
            | Self::ConnectionsServerEnds
            | Self::ConnectionsClientEnds
            | Self::Requests
            | Self::HalfClose
            | Self::StalledReader
            | Self::ClosedEarly
            | Self::EndOfStream
            | Self::Start
            | Self::Memory => !contender.is_raw(),
        }
    }

    /// Takes one sample.
    pub(crate) async fn sample(
        self,
        stage: &mut Stage<'_>,
        contender: Contender,
        effort: Effort,
    ) -> Result<Sample, Failure> {
        match self {
            Self::Download => bulk::one_way(stage, contender, effort, Way::Down, 1, bulk::DOWNLOAD).await,
            Self::Upload => bulk::one_way(stage, contender, effort, Way::Up, 1, bulk::UPLOAD).await,
            Self::Download8 => bulk::one_way(stage, contender, effort, Way::Down, 8, bulk::DOWNLOAD_8).await,
            Self::Upload8 => bulk::one_way(stage, contender, effort, Way::Up, 8, bulk::UPLOAD_8).await,
            Self::Both => bulk::both_ways(stage, contender, effort).await,
            Self::FirstReply => connections::first_reply(stage, contender, effort).await,
            Self::ConnectionsServerEnds => connections::a_second(stage, contender, effort, true).await,
            Self::ConnectionsClientEnds => connections::a_second(stage, contender, effort, false).await,
            Self::Requests => requests::small(stage, contender, effort).await,
            Self::HalfClose => endings::half_close(stage, contender).await,
            Self::StalledReader => endings::stalled_reader(stage, contender).await,
            Self::ClosedEarly => endings::closed_early(stage, contender).await,
            Self::EndOfStream => endings::end_of_stream(stage, contender).await,
            Self::Expose => expose::all(stage, contender, effort).await,
            Self::Connect => proxy::bulk(stage, contender, effort, Ask::Connect).await,
            Self::Socks5 => proxy::bulk(stage, contender, effort, Ask::Socks5).await,
            Self::ProxyFirstReply => proxy::first_replies(stage, contender, effort).await,
            Self::Start => start::command(stage, contender).await,
            Self::Memory => Ok(start::memory(stage, contender)),
        }
    }
}

impl Stage<'_> {
    /// How flows are measured here: the windows of TCP and of the tunnel grow by the round trip.
    fn window(&self, effort: Effort) -> crate::flow::Window {
        crate::flow::Window {
            warm_up: effort.warm_up + 10 * self.round_trip(),
            length: effort.window,
        }
    }

    fn round_trip(&self) -> Duration {
        Duration::from_millis(u64::from(self.rtt))
    }
}
