//! Small requests on a kept connection, alone and beside bulk: what somebody at a keyboard feels.

use std::time::Duration;

use tokio::time::sleep;
use tunnel_test_target as ports;

use super::{Effort, Sample, bulk};
use crate::contender::Contender;
use crate::dial;
use crate::failure::Failure;
use crate::flow::Way;
use crate::metric::Metric::{
    self, RequestDownloadP50, RequestDownloadP99, RequestIdleP50, RequestIdleP99, RequestUploadP50,
    RequestUploadP99,
};
use crate::session::Kind;
use crate::stage::Stage;
use crate::stats;

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(5);

/// p50 and p99 of each case.
pub(super) async fn small(
    stage: &mut Stage<'_>,
    contender: Contender,
    effort: Effort,
) -> Result<Sample, Failure> {
    let cases: [(Option<Way>, [Metric; 2]); 3] = [
        (None, [RequestIdleP50, RequestIdleP99]),
        (Some(Way::Down), [RequestDownloadP50, RequestDownloadP99]),
        (Some(Way::Up), [RequestUploadP50, RequestUploadP99]),
    ];
    let mut sample = Vec::new();
    for (bulk_way, rows) in cases {
        let session = stage.session(contender, Kind::Forward).await?;
        let mut connection = session.connect(ports::ECHO).await?;
        dial::request(&mut connection).await?;
        let mut flows = match bulk_way {
            Some(way) => stage.flows(contender, &[way], 1).await?,
            None => Vec::new(),
        };
        if bulk_way.is_some() {
            sleep(stage.window(effort).warm_up).await;
        }
        let times = dial::requests(&mut connection, effort.requests, PAUSE).await?;
        for (row, share) in rows.into_iter().zip([0.5, 0.99]) {
            sample.extend(stats::percentile(&times, share).map(|time| (row, time)));
        }
        for flow in &mut flows {
            flow.check()?;
        }
        if bulk_way.is_some() {
            drop(flows);
            sleep(bulk::AFTER).await;
        }
    }
    Ok(sample)
}
