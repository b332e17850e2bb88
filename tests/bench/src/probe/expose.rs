//! `expose`: a program in the cluster calls one on the laptop.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tunnel_test_target as ports;

use super::{Effort, Sample, bulk};
use crate::contender::Contender;
use crate::failure::{Doing, Failure, failure};
use crate::flow::{self, Way};
use crate::metric::Metric;
use crate::raw;
use crate::session::Kind;
use crate::stage::Stage;
use crate::stats;

/// How long the call of the program in the cluster may take to arrive.
const ARRIVES: Duration = Duration::from_secs(10);

/// Throughput each way, and new connections.
pub(super) async fn all(
    stage: &mut Stage<'_>,
    contender: Contender,
    effort: Effort,
) -> Result<Sample, Failure> {
    let kind = Kind::Expose(stage.laptop.ports()?);
    let service = stage.session(contender, kind).await?.service.clone();
    let mut sample = Vec::new();
    // Blocks from the cluster are a download of the laptop's.
    for (way, row) in [(Way::Down, Metric::ExposeDown), (Way::Up, Metric::ExposeUp)] {
        sample.push((row, throughput(stage, effort, &service, way).await?));
        sleep(bulk::AFTER).await;
    }
    let (port, count) = (ports::ECHO.to_string(), effort.connections.to_string());
    let words = ["call", "first-replies", service.as_str(), &port, &count];
    let said = raw::run(&stage.cluster.admin, stage.cluster.pod(), &words).await?;
    let micros: Vec<f64> = said.lines().filter_map(|line| line.parse().ok()).collect();
    match stats::median(&micros) {
        Some(median) if micros.len() == effort.connections => {
            sample.push((Metric::ExposeFirstReply, median / 1000.0));
        }
        _ => return failure(format!("the calls said: {said}")),
    }
    Ok(sample)
}

async fn throughput(stage: &Stage<'_>, effort: Effort, service: &str, way: Way) -> Result<f64, Failure> {
    let port = ports::BLOCKS.to_string();
    let words = ["call", way.word(), service, &port];
    let call = raw::run(&stage.cluster.admin, stage.cluster.pod(), &words);
    let measured = async {
        let connection = timeout(ARRIVES, stage.laptop.accept())
            .await
            .doing("the call")??;
        let mut flows = [flow::of_connections(way, vec![connection])];
        flow::measure(&mut flows, stage.window(effort), &[]).await
    };
    tokio::select! {
        measured = measured => Ok(measured?.mib_a_second[0]),
        said = call => failure(format!("the call ended: {said:?}")),
    }
}
