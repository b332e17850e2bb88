//! `--on-demand`: local ports at once, an agent only while somebody uses them.
//!
//! ```text
//!   idle --a connection wants a stream--> starting --> ready --no stream for --idle-timeout--> idle
//!     ^                                      |           |
//!     '--- it does not start, or is lost ----'-----------'
//! ```
//!
//! Each agent is a session of its own, with another id, secret and Job. While idle nothing exists in the cluster. A
//! start that fails is said, and fails the connections that wait for it; the next connection tries again.

use std::time::Duration;

use tokio::time::{Instant, interval, sleep};
use tunnel_wire::Session;

use super::doors::Doors;
use super::{End, Serving, Stage, Tunnel};
use crate::error::Error;
use crate::session::{Phase, StandingTx};
use crate::ui::Event;

/// Between two starts, when the first has failed: a program that connects in a loop must not make Jobs as fast.
const START_PAUSE: Duration = Duration::from_secs(1);

/// Between two looks at whether a session is in use: a twentieth of the time it may be idle, in these bounds.
const LOOKS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long an open that began before the door was shut may take to show.
const SETTLE: Duration = Duration::from_millis(50);

/// Runs until the user ends it, or another process takes a session over.
pub(super) async fn run(stage: &Stage<'_>, doors: Doors, idle_timeout: Duration) -> Result<(), Error> {
    let orderly = stage.context.shutdown.orderly();
    let mut serving = Serving::new();
    stage.standing_tx.rest(None);
    stage.open_doors(doors, &mut serving, None)?;
    loop {
        tokio::select! {
            () = orderly.cancelled() => break,
            () = stage.standing_tx.wanted() => {}
        }
        stage.standing_tx.set_phase(Phase::Connecting);
        stage.standing_tx.granted();
        let tunnel = Tunnel::new(stage);
        let ended = tunnel.live_while_used(&mut serving).await;
        stage.context.printer.steps_done();
        let asked = matches!(ended, Ok(End::Asked));
        match tunnel.remove(ended.map(drop)).await {
            Ok(()) if asked => return Ok(()),
            Ok(()) => stage.context.printer.note(&format!(
                "no connection for {}: the agent is removed; the next connection starts another one",
                humantime::format_duration(idle_timeout)
            )),
            Err(error @ (Error::SecondSignal | Error::TakenOver)) => return Err(error),
            Err(_) if orderly.is_cancelled() => return Ok(()),
            Err(error) => failed(stage, &error).await,
        }
        stage.narrator.agent(None, None);
    }
    stage.standing_tx.set_phase(Phase::Draining);
    serving.drain().await;
    Ok(())
}

/// Says why there is no agent, to people and to the connections that wait.
async fn failed(stage: &Stage<'_>, error: &Error) {
    let report = error.report(stage.server.namespace());
    let causes = report
        .causes
        .first()
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default();
    let text = format!("{}{causes}", report.summary);
    let hint = report.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
    stage
        .context
        .printer
        .warn(&format!("{text}; the next connection tries again{hint}"));
    stage.standing_tx.rest(Some(&text));
    sleep(START_PAUSE).await;
}

impl Tunnel<'_> {
    /// From nothing to the end of one session: the user asked for it, or nobody uses it any more.
    async fn live_while_used(&self, serving: &mut Serving) -> Result<End, Error> {
        let orderly = self.stage.context.shutdown.orderly();
        let live = tokio::select! {
            live = self.come_up() => live?,
            () = orderly.cancelled() => return Ok(End::Asked),
        };
        self.stage.standing_tx.complete(Duration::ZERO);
        self.stage.standing_tx.granted();
        let printer = &self.stage.context.printer;
        printer.steps_done();
        printer.event(&Event::AgentStarted {
            session: live.agent.session.to_string(),
            pod: live.agent.pod_name.clone(),
        });
        self.stage.narrator.agent(Some(&live.agent), None);
        self.watch_over(live, serving).await
    }
}

/// Resolves when the session has carried no stream for so long; never without a limit.
pub(super) async fn unused(session: &Session, idle_timeout: Option<Duration>) {
    let Some(idle_timeout) = idle_timeout else {
        return std::future::pending().await;
    };
    let mut looks = interval((idle_timeout / 20).clamp(LOOKS.0, LOOKS.1));
    let mut since = (Instant::now(), session.begun());
    loop {
        let now = looks.tick().await;
        let begun = session.begun();
        if session.streams() > 0 || begun != since.1 {
            since = (now, begun);
        } else if now - since.0 >= idle_timeout {
            return;
        }
    }
}

/// Shuts the door: new streams wait for the next session. `false` when somebody came in before that, and the session
/// goes on.
pub(super) async fn retire(standing_tx: &StandingTx, session: Session) -> bool {
    let before = standing_tx.rest(None);
    sleep(SETTLE).await;
    if session.streams() == 0 {
        return true;
    }
    standing_tx.wake(session, before);
    standing_tx.granted();
    false
}
