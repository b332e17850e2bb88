//! Throughput of `forward` and of the bare channels, and the processor time it takes.

use std::time::Duration;

use tokio::time::sleep;

use super::{Effort, Sample};
use crate::contender::Contender;
use crate::failure::Failure;
use crate::flow::{self, Way};
use crate::metric::Metric;
use crate::session::Kind;
use crate::stage::Stage;

/// What an endless flow leaves behind when it is cut, before the next one is measured.
pub(super) const AFTER: Duration = Duration::from_millis(300);

/// The rows of one direction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    throughput: Metric,
    /// Laptop and agent, where they are asked for.
    cpu: Option<[Metric; 2]>,
}

pub(super) const DOWNLOAD: Rows = Rows {
    throughput: Metric::Download,
    cpu: Some([Metric::CpuDownload, Metric::AgentCpuDownload]),
};
pub(super) const UPLOAD: Rows = Rows {
    throughput: Metric::Upload,
    cpu: Some([Metric::CpuUpload, Metric::AgentCpuUpload]),
};
pub(super) const DOWNLOAD_8: Rows = Rows {
    throughput: Metric::Download8,
    cpu: None,
};
pub(super) const UPLOAD_8: Rows = Rows {
    throughput: Metric::Upload8,
    cpu: None,
};

/// One direction with so many streams.
pub(super) async fn one_way(
    stage: &mut Stage<'_>,
    contender: Contender,
    effort: Effort,
    way: Way,
    streams: usize,
    rows: Rows,
) -> Result<Sample, Failure> {
    let mut flows = stage.flows(contender, &[way], streams).await?;
    let pids = match stage.running(contender, &Kind::Forward) {
        Some(session) => [Some(session.program.pid()), session.agent],
        None => [None, None],
    };
    let measured = flow::measure(&mut flows, stage.window(effort), &pids).await?;
    drop(flows);
    sleep(AFTER).await;
    let mut sample = vec![(rows.throughput, measured.mib_a_second[0])];
    // Processor time hardly depends on the line, and on a long one less is moved for it to be measured by.
    if let Some(cpu) = rows.cpu.filter(|_| stage.rtt == 0) {
        let used = cpu.into_iter().zip(measured.cpu_a_gib);
        sample.extend(used.filter_map(|(row, seconds)| Some((row, seconds?))));
    }
    Ok(sample)
}

/// Both directions at once.
pub(super) async fn both_ways(
    stage: &mut Stage<'_>,
    contender: Contender,
    effort: Effort,
) -> Result<Sample, Failure> {
    let mut flows = stage.flows(contender, &[Way::Down, Way::Up], 1).await?;
    let measured = flow::measure(&mut flows, stage.window(effort), &[]).await?;
    drop(flows);
    sleep(AFTER).await;
    let rows = [Metric::BothDown, Metric::BothUp];
    Ok(rows.into_iter().zip(measured.mib_a_second).collect())
}
