//! What ends a transport, in a form people and the plugin's reconnect can judge.

use crate::error::DecodeError;
use crate::frame::Fault;

use super::liveness::DEAD_AFTER;

/// What ended a transport.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportEnd {
    /// Both ends said goodbye.
    #[error("both ends said goodbye")]
    Goodbye,
    /// The transport's bytes ended without a goodbye.
    #[error("the connection to the agent ended")]
    Ended,
    /// The transport reported an error.
    #[error("the connection to the agent failed: {0}")]
    Failed(String),
    /// Nothing arrived for [`DEAD_AFTER`].
    #[error("nothing was heard for {} s", DEAD_AFTER.as_secs())]
    Silent,
    /// Bytes arrive, but none of ours was answered for [`DEAD_AFTER`].
    #[error("what was sent was not answered for {} s", DEAD_AFTER.as_secs())]
    Deaf,
    /// Bytes arrived altered.
    #[error("bytes were altered on the way, behind byte {position} ({error})")]
    Altered {
        /// Position in the link's stream up to which all was well.
        position: u64,
        /// What did not fit.
        error: DecodeError,
    },
    /// Bytes are missing between two frames that arrived.
    #[error("{missing} bytes went missing on the way, at byte {position}")]
    Gap {
        /// Position in the link's stream up to which all was well.
        position: u64,
        /// How many bytes are missing.
        missing: u64,
    },
    /// The other end could not use what it received from us.
    #[error("{} on the way to the agent, behind byte {position}", match .fault {
        Fault::Altered => "bytes were altered",
        Fault::Missing => "bytes went missing",
    })]
    PeerFault {
        /// What is wrong with it.
        fault: Fault,
        /// Position in our stream up to which all was well.
        position: u64,
    },
    /// The probe came back different.
    #[error("the path to the agent alters what passes through exec, first at byte {offset} of a probe")]
    ProbeAltered {
        /// Which byte of the probe.
        offset: u32,
    },
    /// The other end sent more than it was granted, or acknowledged what was never sent.
    #[error("the other end broke the link's rules")]
    Overrun,
    /// The positions of both ends do not fit: one of them does not know this link's past.
    #[error("the other end does not know this session's past")]
    Unresumable,
    /// Another plugin has proven the session's secret.
    #[error("another process has taken the session over")]
    Evicted,
    /// This end gave the transport up.
    #[error("closed at this end")]
    Closed,
}

impl TransportEnd {
    /// What to tell the other end before the transport goes, if it is at fault.
    pub(super) fn fault(&self) -> Option<(Fault, u64)> {
        match self {
            Self::Altered { position, .. } => Some((Fault::Altered, *position)),
            Self::Gap { position, .. } => Some((Fault::Missing, *position)),
            Self::Goodbye
            | Self::Ended
            | Self::Failed(_)
            | Self::Silent
            | Self::Deaf
            | Self::PeerFault { .. }
            | Self::ProbeAltered { .. }
            | Self::Overrun
            | Self::Unresumable
            | Self::Evicted
            | Self::Closed => None,
        }
    }

    /// Whether the path carried bytes but not as they were sent: another transport over the same path may
    /// well fail at the same position.
    #[must_use]
    pub fn blames_path(&self) -> bool {
        match self {
            Self::Altered { .. }
            | Self::Gap { .. }
            | Self::PeerFault { .. }
            | Self::ProbeAltered { .. }
            | Self::Deaf => true,
            Self::Goodbye
            | Self::Ended
            | Self::Failed(_)
            | Self::Silent
            | Self::Overrun
            | Self::Unresumable
            | Self::Evicted
            | Self::Closed => false,
        }
    }

    /// Whether the link is over with the transport: there is nothing to resume, or nobody may.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Goodbye | Self::Overrun | Self::Unresumable | Self::Evicted => true,
            Self::Ended
            | Self::Failed(_)
            | Self::Silent
            | Self::Deaf
            | Self::Altered { .. }
            | Self::Gap { .. }
            | Self::PeerFault { .. }
            | Self::ProbeAltered { .. }
            | Self::Closed => false,
        }
    }
}
