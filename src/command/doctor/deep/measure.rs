//! The small measurements in a session: the probe, the round trip, a name.
//!
//! Each has a deadline of its own. A session that is over is not theirs to tell: then they wait a moment for whoever
//! sees that.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tunnel_wire::link::LinkHandle;
use tunnel_wire::{Open, OpenError, Protocol, Session};

use crate::session::{Phase, Standing, StandingTx, Way};

/// How long the probe of 80 KiB may take: 4 KiB/s and a reconnect or two.
pub(super) const PROBE_PATIENCE: Duration = Duration::from_secs(20);

/// How long one answer of the agent, or of the cluster about its pod, may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A session that goes over to port-forward tries that half a second after its start, and compares for a moment.
const MOVE: Duration = Duration::from_secs(2);

/// From the end of a session's streams until it is known why.
const OVER: Duration = Duration::from_secs(10);

/// The name that every cluster has.
pub(super) const NAME: &str = "kubernetes.default.svc";

/// How long the agent may take to resolve it, in milliseconds: two name servers, 5 s each.
const NAME_PATIENCE_MS: u16 = 10_000;

/// Round trips measured at most, and for how long.
const PINGS: usize = 15;
const PINGS_LAST: Duration = Duration::from_secs(3);

/// Round-trip times, sorted; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pings(Vec<Duration>);

impl Pings {
    pub(super) fn new(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        (!times.is_empty()).then_some(Self(times))
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Median, least and most.
    pub(super) fn figures(&self) -> (Duration, Duration, Duration) {
        let at = |index: usize| self.0.get(index).copied().unwrap_or_default();
        (at(self.0.len() / 2), at(0), at(self.0.len() - 1))
    }
}

/// What the pod's resolver said.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) answer: Result<Option<IpAddr>, OpenError>,
    pub(super) took: Duration,
}

/// Whether the probe that every session begins with comes back whole.
pub(super) async fn probe(link: &LinkHandle) -> bool {
    timeout(PROBE_PATIENCE, link.probed()).await.is_ok()
}

/// Waits until port-forward carries the session; not for long, since it may stay on exec.
pub(super) async fn moved(standing: &StandingTx) {
    let mut standing_rx = standing.reader();
    let on_port_forward = |standing: &Standing| {
        matches!(
            standing.phase,
            Phase::Ready {
                way: Way::PortForward,
                ..
            }
        )
    };
    drop(timeout(MOVE, standing_rx.wait_for(on_port_forward)).await);
}

/// Opens a stream again and again that the agent answers by itself: its own loopback is refused at once, and where it is
/// allowed a UDP socket is bound, over which nothing is sent. `Err` says why there is no answer.
pub(super) async fn round_trip(session: &Session) -> Result<Pings, String> {
    let began = Instant::now();
    let mut times = Vec::with_capacity(PINGS);
    while times.len() < PINGS && began.elapsed() < PINGS_LAST {
        let asked = Instant::now();
        match timeout(PATIENCE, open_udp(session, "127.0.0.1", 9, 0)).await {
            Ok(Ok(_) | Err(OpenError::Refused(_))) => times.push(asked.elapsed()),
            Ok(Err(error)) => return Err(unless_over(error).await.to_string()),
            Err(_) => break,
        }
    }
    Pings::new(times).ok_or_else(|| format!("the agent did not answer within {} s", PATIENCE.as_secs()))
}

/// Has the agent resolve [`NAME`]: connecting a UDP socket sends nothing.
pub(super) async fn dns(session: &Session) -> Named {
    let asked = Instant::now();
    let answer = match open_udp(session, NAME, 443, NAME_PATIENCE_MS).await {
        Ok(address) => Ok(address),
        Err(error) => Err(unless_over(error).await),
    };
    Named {
        answer,
        took: asked.elapsed(),
    }
}

async fn open_udp(
    session: &Session,
    host: &str,
    port: u16,
    patience_ms: u16,
) -> Result<Option<IpAddr>, OpenError> {
    let open = Open::Dial {
        protocol: Protocol::Udp,
        host: host.to_owned(),
        port,
        patience_ms,
    };
    let mut stream = session.open(&open).await?;
    stream.opened().await?;
    Ok(stream.upstream().map(|address| address.ip()))
}

/// The error, if it is one of this stream alone: whoever watches the session has a moment to see its end.
pub(super) async fn unless_over(error: OpenError) -> OpenError {
    if matches!(error, OpenError::SessionClosed) {
        sleep(OVER).await;
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let millis = |times: &[u64]| times.iter().copied().map(Duration::from_millis).collect();
        assert_eq!(Pings::new(Vec::new()), None);
        let pings = Pings::new(millis(&[9, 1, 5])).unwrap();
        let [one, five, nine] = [1, 5, 9].map(Duration::from_millis);
        assert_eq!((pings.count(), pings.figures()), (3, (five, one, nine)));
        let one_only = Pings::new(millis(&[5])).unwrap();
        assert_eq!(one_only.figures(), (five, five, five));
    }
}
