//! How the command is seen from outside: what `status`, `stop` and the metrics get to know of it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::narrate::{SharedFacts, facts_of, state_of};
use super::super::{Context, detach};
use crate::cluster::client::ApiServer;
use crate::control::{Seen, Server, Snapshot, folders, is_available};
use crate::metrics::Metrics;
use crate::program;
use crate::session::{Standing, StandingTx};
use crate::shutdown::Shutdown;
use crate::ui::Event;

/// What does not change while the command runs, and where the rest is read.
pub(super) struct Running {
    fixed: Snapshot,
    standing_tx: StandingTx,
    standing_rx: watch::Receiver<Standing>,
    facts: SharedFacts,
    shutdown: Shutdown,
}

/// The doors for those who look from outside, open while it lives.
#[derive(Debug)]
pub(super) struct Windows {
    _server: Option<Server>,
    _metrics: JoinSet<()>,
}

impl Running {
    pub(super) fn new(
        id: &str,
        server: &ApiServer,
        context: &Context,
        max_lifetime: Option<Duration>,
        standing_tx: StandingTx,
        facts: SharedFacts,
    ) -> Self {
        let now = Timestamp::now();
        let expires = max_lifetime.and_then(|age| now.checked_add(age).ok());
        let log = detach::detached_as(context).and_then(|_| folders::log_file(&context.env, id).ok());
        Self {
            fixed: Snapshot {
                id: id.to_owned(),
                session: None,
                namespace: server.namespace().to_owned(),
                server: server.address(),
                context: server.context(),
                command: context.command_line.clone(),
                pid: std::process::id(),
                state: String::new(),
                reason: None,
                transport: None,
                pod: None,
                listeners: Vec::new(),
                services: Vec::new(),
                ready_lines: Vec::new(),
                metrics: None,
                streams: 0,
                streams_total: 0,
                sent_bytes: 0,
                received_bytes: 0,
                round_trip_ms: None,
                reconnects: 0,
                dropped_datagrams: 0,
                errors: std::collections::BTreeMap::new(),
                started_at: whole_seconds(now),
                expires_at: expires.map(whole_seconds),
                log: log.map(|path| path.display().to_string()),
            },
            standing_rx: standing_tx.reader(),
            standing_tx,
            facts,
            shutdown: context.shutdown.clone(),
        }
    }

    /// Opens the control socket and serves the metrics. Without a socket the session works as well: that it cannot be
    /// seen is said.
    pub(super) fn open(mut self, metrics: Option<Metrics>, context: &Context) -> Windows {
        self.fixed.metrics = metrics
            .as_ref()
            .map(|metrics| format!("http://{}/metrics", metrics.address()));
        let id = self.fixed.id.clone();
        let seen = Arc::new(self);
        let server = if is_available() {
            Server::start(&context.env, &id, Arc::clone(&seen))
                .inspect_err(|error| {
                    let program = program::name();
                    let text = format!("`{program} status` cannot see inside this session: {error}");
                    context.printer.warn(&text);
                })
                .ok()
        } else {
            None
        };
        let mut serving = JoinSet::new();
        if let Some(metrics) = metrics {
            serving.spawn(metrics.serve(seen));
        }
        Windows {
            _server: server,
            _metrics: serving,
        }
    }
}

fn whole_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Seen for Running {
    fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.fixed.clone();
        let phase = self.standing_rx.borrow().phase.clone();
        "draining".clone_into(&mut snapshot.state);
        if let Some(state) = state_of(&phase) {
            state.state.for_status().clone_into(&mut snapshot.state);
            snapshot.reason = state.reason;
            snapshot.transport = state.transport_kind.map(str::to_owned);
        }
        if let Some(ready) = facts_of(&self.facts) {
            let json = |value| serde_json::to_value(value).unwrap_or_default();
            snapshot.listeners = ready.listeners.iter().map(json).collect();
            let json = |value| serde_json::to_value(value).unwrap_or_default();
            snapshot.services = ready.services.iter().map(json).collect();
            snapshot.session.clone_from(&ready.session);
            snapshot.pod.clone_from(&ready.pod);
            snapshot.ready_lines = Event::Ready(ready).lines();
        } else if snapshot.state == "ready" {
            // The transport is there, what belongs to the session not yet.
            "starting".clone_into(&mut snapshot.state);
        }
        let totals = self.standing_tx.traffic().totals();
        snapshot.streams = totals.open;
        snapshot.streams_total = totals.begun;
        snapshot.sent_bytes = totals.to_cluster;
        snapshot.received_bytes = totals.from_cluster;
        snapshot.reconnects = totals.reconnects;
        snapshot.dropped_datagrams = totals.dropped;
        snapshot.errors = totals
            .errors
            .into_iter()
            .map(|(kind, count)| (kind.to_owned(), count))
            .collect();
        snapshot.round_trip_ms = self
            .standing_tx
            .round_trip()
            .map(|trip| (trip.as_secs_f64() * 100_000.0).round() / 100.0);
        snapshot
    }

    fn stop(&self) {
        // A second one must not skip the drain, as a second signal does.
        if !self.shutdown.orderly().is_cancelled() {
            self.shutdown.signal();
        }
    }
}
