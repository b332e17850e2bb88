//! The two ends of a session's life: from the command to the first reply, and what memory it holds after the work.

use super::{Sample, connections};
use crate::contender::Contender;
use crate::failure::Failure;
use crate::metric::Metric;
use crate::process;
use crate::session::{Kind, Session};
use crate::stage::Stage;

/// From the command until it is ready, and until the first reply has come.
pub(super) async fn command(stage: &mut Stage<'_>, contender: Contender) -> Result<Sample, Failure> {
    let (session, _) = Session::start(stage.settings, &stage.kubeconfig, contender, &Kind::Forward).await?;
    let replied = connections::one(&session).await;
    let replied_after = session.program.age();
    let ready_after = session.ready_after;
    session.program.stop().await;
    replied?;
    Ok(vec![
        (Metric::Ready, ready_after),
        (Metric::ReadyFirstReply, replied_after),
    ])
}

/// What the session that did the work holds now; nothing if none did.
pub(super) fn memory(stage: &Stage<'_>, contender: Contender) -> Sample {
    let Some(session) = stage.running(contender, &Kind::Forward) else {
        return Vec::new();
    };
    let rows = [
        (Metric::Memory, process::resident_mib(session.program.pid())),
        (Metric::AgentMemory, session.agent.and_then(process::resident_mib)),
        (Metric::IdleAgentMemory, session.idle_agent_mib),
    ];
    rows.into_iter()
        .filter_map(|(row, mib)| Some((row, mib?)))
        .collect()
}
