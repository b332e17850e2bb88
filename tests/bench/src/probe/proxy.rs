//! `proxy`: throughput and new connections by CONNECT and SOCKS5, and requests by Host header.

use tokio::time::{Instant, sleep};
use tunnel_test_target as ports;

use super::bulk::AFTER;
use super::{Effort, Sample};
use crate::contender::Contender;
use crate::dial::{self, Ask};
use crate::failure::Failure;
use crate::flow::{self, Way};
use crate::metric::Metric;
use crate::session::Kind;
use crate::stage::Stage;
use crate::stats;

/// Throughput each way.
pub(super) async fn bulk(
    stage: &mut Stage<'_>,
    contender: Contender,
    effort: Effort,
    ask: Ask,
) -> Result<Sample, Failure> {
    let proxy = stage.session(contender, Kind::Proxy).await?.proxy()?;
    let rows = match ask {
        Ask::Connect => [Metric::ConnectDown, Metric::ConnectUp],
        Ask::Socks5 => [Metric::Socks5Down, Metric::Socks5Up],
    };
    let mut sample = Vec::new();
    for (way, row) in [Way::Down, Way::Up].into_iter().zip(rows) {
        let connection = dial::through(proxy, ask, way.port()).await?;
        let mut flows = [flow::of_connections(way, vec![connection])];
        let measured = flow::measure(&mut flows, stage.window(effort), &[]).await?;
        drop(flows);
        sample.push((row, measured.mib_a_second[0]));
        sleep(AFTER).await;
    }
    Ok(sample)
}

/// New connections by each way of asking, until the first reply.
pub(super) async fn first_replies(
    stage: &mut Stage<'_>,
    contender: Contender,
    effort: Effort,
) -> Result<Sample, Failure> {
    let proxy = stage.session(contender, Kind::Proxy).await?.proxy()?;
    let mut sample = Vec::new();
    let ways = [
        (Some(Ask::Connect), Metric::ConnectFirstReply),
        (Some(Ask::Socks5), Metric::Socks5FirstReply),
        (None, Metric::HostFirstReply),
    ];
    for (ask, row) in ways {
        let mut times = Vec::new();
        for _ in 0..effort.connections {
            let started = Instant::now();
            match ask {
                Some(ask) => {
                    let mut connection = dial::through(proxy, ask, ports::ECHO).await?;
                    dial::request(&mut connection).await?;
                }
                None => dial::by_host(proxy).await?,
            }
            times.push(dial::millis(started));
        }
        sample.extend(stats::median(&times).map(|median| (row, median)));
    }
    Ok(sample)
}
