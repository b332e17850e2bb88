//! Does the path leave bytes alone? Pure: how each transport ended goes in, a verdict comes out.
//!
//! A path that alters or cuts what passes through exec is repaired by a new transport, as long as each gets a
//! little further. Three that fail at the same position show that the bytes there never pass.

use std::fmt;

use tunnel_wire::link::{Progress, TransportEnd};

/// Transports with evidence against the path, at one position.
const STRIKES: u32 = 3;

/// Transports that merely ended without having moved anything: each alone is an accident.
const ENDS: u32 = 10;

/// Where the path fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first byte.
    Hello,
    /// In the bytes sent to find such a path.
    Probe,
    ToAgent(u64),
    FromAgent(u64),
}

/// The path does not carry what it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadPath {
    place: Place,
    connections: u32,
}

impl fmt::Display for BadPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the path to the agent alters or cuts what passes through exec: {} connections in a row failed ",
            self.connections
        )?;
        match self.place {
            Place::Hello => f.write_str("in the first bytes"),
            Place::Probe => f.write_str("in the bytes sent to check it"),
            Place::ToAgent(position) => write!(f, "at byte {position} to the agent"),
            Place::FromAgent(position) => write!(f, "at byte {position} from the agent"),
        }
    }
}

impl std::error::Error for BadPath {}

/// A transport that is over: how it ended, and how far the link had come before and after.
#[derive(Debug)]
pub(super) struct Trial<'a> {
    /// `None`: given up because it did not answer, although it just had.
    pub(super) end: Option<&'a TransportEnd>,
    pub(super) before: Progress,
    pub(super) after: Progress,
    /// The bytes that check the path were sent and have not come back.
    pub(super) probe_open: bool,
}

/// Whether a link has moved: bytes that only wait to be sent are no progress.
pub(super) fn moved(before: Progress, after: Progress) -> bool {
    (before.received, before.acknowledged) != (after.received, after.acknowledged)
}

/// Counts.
#[derive(Debug, Default)]
pub(super) struct PathJudge {
    place: Option<Place>,
    strikes: u32,
    ends: u32,
}

impl PathJudge {
    /// The first bytes of a transport were not the agent's.
    pub(super) fn on_bad_hello(&mut self) -> Result<(), BadPath> {
        self.strike(Place::Hello)
    }

    /// The first bytes of a transport were the agent's.
    pub(super) fn on_good_hello(&mut self) {
        if self.place == Some(Place::Hello) {
            *self = Self::default();
        }
    }

    /// A transport is over.
    pub(super) fn on_transport(&mut self, trial: &Trial<'_>) -> Result<(), BadPath> {
        let (before, after) = (trial.before, trial.after);
        let to_agent = Place::ToAgent(after.acknowledged);
        let unheard = after.written > after.acknowledged && after.acknowledged == before.acknowledged;
        match trial.end {
            Some(TransportEnd::Altered { position, .. } | TransportEnd::Gap { position, .. }) => {
                self.strike(Place::FromAgent(*position))
            }
            Some(TransportEnd::PeerFault { position, .. }) => self.strike(Place::ToAgent(*position)),
            Some(TransportEnd::ProbeAltered { .. }) => self.strike(Place::Probe),
            Some(TransportEnd::Deaf) | None if unheard => self.strike(to_agent),
            Some(TransportEnd::Ended | TransportEnd::Failed(_))
                if trial.probe_open && !moved(before, after) =>
            {
                self.strike(Place::Probe)
            }
            Some(TransportEnd::Ended | TransportEnd::Failed(_)) if unheard && !moved(before, after) => {
                self.ends += 1;
                if self.ends >= ENDS {
                    return Err(BadPath {
                        place: to_agent,
                        connections: self.ends,
                    });
                }
                Ok(())
            }
            Some(_) | None => {
                if moved(before, after) {
                    *self = Self::default();
                }
                Ok(())
            }
        }
    }

    fn strike(&mut self, place: Place) -> Result<(), BadPath> {
        if self.place != Some(place) {
            self.place = Some(place);
            self.strikes = 0;
            self.ends = 0;
        }
        self.strikes += 1;
        if self.strikes >= STRIKES {
            return Err(BadPath {
                place,
                connections: self.strikes,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tunnel_wire::error::DecodeError;

    use super::*;

    fn at(acknowledged: u64, received: u64) -> Progress {
        Progress {
            received,
            acknowledged,
            written: 1000,
        }
    }

    fn altered(position: u64) -> TransportEnd {
        TransportEnd::Altered {
            position,
            error: DecodeError::BadChecksum,
        }
    }

    fn trial(judge: &mut PathJudge, end: Option<&TransportEnd>, before: Progress, after: Progress) -> bool {
        let trial = Trial {
            end,
            before,
            after,
            probe_open: false,
        };
        judge.on_transport(&trial).is_err()
    }

    #[test]
    fn three_faults_at_one_position_are_the_paths() {
        let mut judge = PathJudge::default();
        assert!(!trial(&mut judge, Some(&altered(7)), at(0, 0), at(0, 7)));
        assert!(!trial(&mut judge, Some(&altered(7)), at(0, 7), at(5, 7)));
        let verdict = judge.on_transport(&Trial {
            end: Some(&altered(7)),
            before: at(5, 7),
            after: at(5, 7),
            probe_open: false,
        });
        assert!(verdict.unwrap_err().to_string().contains("byte 7 from the agent"));
    }

    #[test]
    fn faults_that_each_get_further_are_repaired_for_ever() {
        let mut judge = PathJudge::default();
        for step in 0..100 {
            let (before, after) = (at(0, step), at(0, step + 1));
            assert!(!trial(&mut judge, Some(&altered(step + 1)), before, after));
        }
    }

    #[test]
    fn a_path_that_swallows_what_we_say_is_found() {
        let mut judge = PathJudge::default();
        assert!(!trial(&mut judge, None, at(9, 0), at(9, 50)));
        assert!(!trial(
            &mut judge,
            Some(&TransportEnd::Deaf),
            at(9, 50),
            at(9, 90)
        ));
        assert!(trial(&mut judge, None, at(9, 90), at(9, 95)));
    }

    #[test]
    fn plain_ends_need_ten_without_any_movement() {
        let mut judge = PathJudge::default();
        let end = TransportEnd::Ended;
        for _ in 0..9 {
            assert!(!trial(&mut judge, Some(&end), at(9, 9), at(9, 9)));
        }
        assert!(!trial(&mut judge, Some(&end), at(9, 9), at(10, 9)));
        for _ in 0..9 {
            assert!(!trial(&mut judge, Some(&end), at(10, 9), at(10, 9)));
        }
        assert!(trial(&mut judge, Some(&end), at(10, 9), at(10, 9)));
    }

    #[test]
    fn a_path_that_cuts_each_probe_is_found_on_an_idle_link() {
        let mut judge = PathJudge::default();
        let idle = Progress {
            received: 0,
            acknowledged: 0,
            written: 0,
        };
        let mut cut = || {
            judge.on_transport(&Trial {
                end: Some(&TransportEnd::Ended),
                before: idle,
                after: idle,
                probe_open: true,
            })
        };
        assert!(cut().is_ok() && cut().is_ok());
        assert!(cut().unwrap_err().to_string().contains("sent to check it"));
    }

    #[test]
    fn strange_first_bytes_count_only_in_a_row() {
        let mut judge = PathJudge::default();
        for _ in 0..5 {
            assert!(judge.on_bad_hello().is_ok() && judge.on_bad_hello().is_ok());
            judge.on_good_hello();
        }
    }

    #[test]
    fn a_black_hole_is_nobodys_fault() {
        let mut judge = PathJudge::default();
        for _ in 0..50 {
            assert!(!trial(
                &mut judge,
                Some(&TransportEnd::Silent),
                at(9, 9),
                at(9, 9)
            ));
        }
    }
}
