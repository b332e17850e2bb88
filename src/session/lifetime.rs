//! How old may a transport become here? Pure: ages at which transports ended go in.
//!
//! Load balancers and API servers cut connections at an age. When one has been seen to, the next transport is
//! made before that age, and nobody notices the cut.

use std::time::Duration;

/// Ages at which well-known parts cut a connection: a load balancer's idle-independent limit of four minutes,
/// gateways and proxies at one hour.
const KNOWN: [Duration; 2] = [Duration::from_secs(240), Duration::from_secs(3600)];

/// Younger ends are accidents.
const LEAST: Duration = Duration::from_secs(30);

/// How far two ends at the same limit may lie apart: the larger of this and a fiftieth.
const SLACK: Duration = Duration::from_secs(3);

/// What is known about limits on this path.
#[derive(Debug)]
pub(super) struct Lifetimes {
    /// `--transport-max-age`.
    chosen: Option<Duration>,
    learned: Option<Duration>,
    /// Ends that no other has confirmed, the newest last.
    seen: Vec<Duration>,
}

/// Ends that are remembered.
const MEMORY: usize = 16;

impl Lifetimes {
    pub(super) fn new(chosen: Option<Duration>) -> Self {
        Self {
            chosen,
            learned: None,
            seen: Vec::new(),
        }
    }

    /// A transport that worked was ended by something on the way when it was this old.
    pub(super) fn ended_at(&mut self, age: Duration) {
        if age < LEAST {
            return;
        }
        let confirmed = KNOWN.iter().chain(&self.seen).any(|other| near(age, *other));
        if confirmed {
            self.learned = Some(self.learned.map_or(age, |learned| learned.min(age)));
        }
        if self.seen.len() == MEMORY {
            self.seen.remove(0);
        }
        self.seen.push(age);
    }

    /// The age at which the next transport is made: what the user chose, or nine tenths of what was learned.
    pub(super) fn renew_at(&self) -> Option<Duration> {
        let learned = self.learned.map(|age| age * 9 / 10);
        match (self.chosen, learned) {
            (Some(chosen), Some(learned)) => Some(chosen.min(learned)),
            (chosen, learned) => chosen.or(learned),
        }
    }
}

fn near(one: Duration, other: Duration) -> bool {
    one.abs_diff(other) <= SLACK.max(other / 50)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn one_end_at_a_well_known_age_is_enough() {
        let mut lifetimes = Lifetimes::new(None);
        lifetimes.ended_at(seconds(241));
        assert_eq!(lifetimes.renew_at(), Some(seconds(241) * 9 / 10));
    }

    #[test]
    fn other_ages_must_be_seen_twice() {
        let mut lifetimes = Lifetimes::new(None);
        lifetimes.ended_at(seconds(900));
        lifetimes.ended_at(seconds(77));
        assert_eq!(lifetimes.renew_at(), None);
        lifetimes.ended_at(seconds(910));
        assert_eq!(lifetimes.renew_at(), Some(seconds(819)));
        lifetimes.ended_at(seconds(78));
        assert_eq!(lifetimes.renew_at(), Some(seconds(78) * 9 / 10));
    }

    #[test]
    fn accidents_teach_nothing_and_the_users_word_counts() {
        let mut lifetimes = Lifetimes::new(Some(seconds(600)));
        lifetimes.ended_at(seconds(5));
        lifetimes.ended_at(seconds(5));
        assert_eq!(lifetimes.renew_at(), Some(seconds(600)));
        lifetimes.ended_at(seconds(3600));
        assert_eq!(lifetimes.renew_at(), Some(seconds(600)));
        lifetimes.ended_at(seconds(240));
        assert_eq!(lifetimes.renew_at(), Some(seconds(216)));
    }
}
