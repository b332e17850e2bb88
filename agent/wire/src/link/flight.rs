//! How much a link may have on its way: what the path needs, and little more. Pure: positions and `now`.
//!
//! A path that takes everything at once (an API server's buffers hold megabytes) makes whatever comes later wait
//! behind it. So what is sent and not yet acknowledged is kept to the path's rate times its round trip without a
//! queue, and some headroom: a queue of a few milliseconds, which also keeps every hop busy. The idea, the sampling of
//! the rate and the way to find the round trip again are those of BBR (draft-ietf-ccwg-bbr), without its pacing: below
//! is a TCP connection that paces for itself.
//!
//! ```text
//!   limit = rate * (round trip + headroom)      rate: the most that was delivered of late
//!                                               round trip: the least of the last ten seconds
//! ```
//!
//! While the rate still grows by a quarter from round to round the limit is twice that. Afterwards the headroom alone
//! lets it grow: a path that can do more delivers it sooner than the limit assumes. Where no queue comes of it for some
//! rounds the path can do much more, and the limit doubles again, if nobody waits for short messages.
//!
//! A short queue has its price: each process on the way runs dry and has to be woken for every piece. So it is kept
//! short while somebody waits for short messages, and is longer while there is nothing but bulk.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::frame;

/// Limit before anything is known: a quarter of a second at 1 MiB/s, and the first round of a path of 100 ms.
const FIRST_LIMIT: u64 = 256 * 1024;

/// Never less: two messages of an exec, so that the next one is on its way while one is acknowledged.
const LEAST_LIMIT: u64 = 64 * 1024;

/// On top of half of what the path needs: so much in flight waits for nothing, but on a line so slow that the least
/// limit is a queue. That limit, and the frame that may go beyond it.
const CLEAN: u64 = LEAST_LIMIT + frame::MAX_FRAME as u64;

/// Queue that keeps the path busy: what one process after the other holds while it is being scheduled.
const LEAST_HEADROOM: Duration = Duration::from_millis(3);

/// The same while there is nothing but bulk: what the first keystroke beside it waits longer, below what a person notices.
const BULK_HEADROOM: Duration = Duration::from_millis(15);

/// How long after an interactive message others are expected.
const INTERACTIVE: Duration = Duration::from_secs(2);

/// On a long path the headroom is this part of the round trip.
const HEADROOM_PART: u32 = 8;

/// Where round trips differ (Wi-Fi, a radio) the headroom is larger by twice what they do, at most the least round trip
/// or this: less would shrink the limit round by round, since the rate is what came in the round trips that were.
const MOST_JITTER: Duration = Duration::from_millis(30);

/// While data comes the other way too, acknowledgements wait in its queue, and on two busy lines of processes for their
/// turn: without this the limit would shrink from round to round until nothing is on its way.
const BOTH_WAYS: Duration = Duration::from_millis(25);

/// Data comes the other way when it is at least this part of what goes.
const BOTH_WAYS_PART: u64 = 8;

/// Bytes that go within half a millisecond of others share their mark, if they are few.
const FEW: u64 = 4 * 1024;
const TOGETHER: Duration = Duration::from_micros(500);

/// In a round the limit grows by this part at most once the rate is known.
const GROWTH_PART: u64 = 4;

/// How long the least round trip is believed: BBR's `MinRTTFilterLen`.
const BELIEVED: Duration = Duration::from_secs(10);

/// Rounds in which the limit was reached and no queue was seen after which the rate is searched for again.
const CALM_ROUNDS: u32 = 3;

/// Rounds without growth of a quarter after which the rate is known: BBR's start-up.
const ROUNDS_WITHOUT_GROWTH: u32 = 3;

/// The rate is the most of the last two spans: each at least this long, and five round trips.
const SPAN: Duration = Duration::from_millis(250);
const SPAN_ROUNDS: u32 = 5;

/// An acknowledgement of less may have waited for company and tells nothing about the round trip.
const PROMPT: u64 = 16 * 1024;

/// Bytes sent together, and what was known when they went.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// Position behind them.
    end: u64,
    sent_at: Instant,
    /// How far the other end had come, since when, and when those bytes had been sent.
    delivered: u64,
    delivered_at: Instant,
    delivered_sent_at: Instant,
    in_flight: u64,
    /// There was less to send than the path could have taken.
    starved: bool,
}

/// The most of a span that is over and of the present one, in bytes a second.
#[derive(Debug, Clone, Copy)]
struct Most {
    before: u64,
    now: u64,
    since: Instant,
}

impl Most {
    fn new(now: Instant) -> Self {
        Self {
            before: 0,
            now: 0,
            since: now,
        }
    }

    fn take(&mut self, sample: u64, span: Duration, now: Instant) {
        if now.saturating_duration_since(self.since) >= span {
            *self = Self {
                before: self.now,
                ..Self::new(now)
            };
        }
        self.now = self.now.max(sample);
    }

    fn get(self) -> u64 {
        self.now.max(self.before)
    }
}

/// The least round trip, and when it was seen.
#[derive(Debug, Clone, Copy)]
struct Least {
    round_trip: Duration,
    at: Instant,
}

/// The usual round trip and how far others are from it, smoothed as RFC 6298 does.
#[derive(Debug, Clone, Copy)]
struct Usual {
    round_trip: Duration,
    deviation: Duration,
}

/// What came the other way in the last round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OtherWay {
    /// Next to nothing.
    Quiet,
    /// Less than went.
    Slower,
    /// More than went.
    Faster,
}

/// How the rate grows while it is not known.
#[derive(Debug, Clone, Copy, Default)]
struct Growth {
    best: u64,
    rounds: u32,
}

#[derive(Debug)]
pub(super) struct Flight {
    marks: VecDeque<Mark>,
    delivered: u64,
    delivered_at: Instant,
    delivered_sent_at: Instant,
    /// The round is over when this much is delivered.
    round_end: u64,
    /// Where the round began, and what came the other way in it.
    round_start: u64,
    received: u64,
    other_way: OtherWay,
    /// When an interactive message was sent last.
    interactive_at: Option<Instant>,
    /// Up to here the sender was starved: what goes when all of that has arrived, and nothing more, still is.
    starved_until: Option<u64>,
    rate: Most,
    least: Option<Least>,
    usual: Option<Usual>,
    growth: Option<Growth>,
    /// The rate was found once.
    searched: bool,
    /// Rounds of late in which the limit was reached without a queue.
    calm_rounds: u32,
    limit: u64,
}

impl Flight {
    /// A transport begins at `now`, and everything before `delivered` has arrived.
    pub(super) fn new(delivered: u64, now: Instant) -> Self {
        Self {
            marks: VecDeque::new(),
            delivered,
            delivered_at: now,
            delivered_sent_at: now,
            round_end: delivered,
            round_start: delivered,
            received: 0,
            other_way: OtherWay::Quiet,
            interactive_at: None,
            starved_until: None,
            rate: Most::new(now),
            least: None,
            usual: None,
            growth: Some(Growth::default()),
            searched: false,
            calm_rounds: 0,
            limit: FIRST_LIMIT,
        }
    }

    /// Whether more may be sent when everything before `next` was: a whole frame, lest the rest become small ones.
    pub(super) fn has_room(&self, next: u64) -> bool {
        self.in_flight(next) < self.limit
    }

    /// What is on its way when everything before `next` was sent.
    pub(super) fn in_flight(&self, next: u64) -> u64 {
        next.saturating_sub(self.delivered)
    }

    /// Everything before `end` has been sent; `starved`: there was nothing more, although there was room.
    pub(super) fn on_sent(&mut self, end: u64, starved: bool, now: Instant) {
        let before = self.marks.back().map_or(self.delivered, |mark| mark.end);
        if end <= before {
            return;
        }
        if self.marks.is_empty() {
            // The time without anything to send is not the path's.
            self.delivered_at = now;
            self.delivered_sent_at = now;
        }
        let in_flight = end - self.delivered;
        if let Some(mark) = self.marks.back_mut()
            && end - mark.end < FEW
            && mark.delivered == self.delivered
            && now.saturating_duration_since(mark.sent_at) < TOGETHER
        {
            mark.end = end;
            mark.in_flight = in_flight;
            return;
        }
        self.marks.push_back(Mark {
            end,
            sent_at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            delivered_sent_at: self.delivered_sent_at,
            in_flight,
            starved: self.starved_until.is_some_and(|until| self.delivered <= until),
        });
        if starved {
            self.starved_until = Some(end);
        }
    }

    /// The other end has everything before `position`.
    pub(super) fn on_delivered(&mut self, position: u64, now: Instant) {
        let Some(news) = position.checked_sub(self.delivered).filter(|news| *news > 0) else {
            return;
        };
        self.delivered = position;
        self.delivered_at = now;
        if self.marks.back().is_none_or(|mark| mark.end < position) {
            // Sent on an earlier transport: that tells nothing about this one.
            self.marks.clear();
            return;
        }
        let mut newest = None;
        while let Some(mark) = self.marks.front().filter(|mark| mark.end <= position) {
            newest = Some(*mark);
            self.marks.pop_front();
        }
        let Some(mark) = newest else { return };
        self.delivered_sent_at = mark.sent_at;
        let took = now.saturating_duration_since(mark.sent_at);
        if news >= PROMPT {
            self.on_round_trip(took, mark.in_flight, now);
        }
        self.sample_rate(&mark, now);
        if position >= self.round_end {
            self.on_round(&mark, took, now);
        }
        self.set_limit(news, now);
    }

    /// So many bytes of the other end's stream came.
    pub(super) fn on_received(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// A short message is sent that somebody waits for: the queue is kept short for a while.
    pub(super) fn on_interactive(&mut self, now: Instant) {
        self.interactive_at = Some(now);
        // A search is a queue; the first one is needed all the same.
        if self.searched {
            self.growth = None;
        }
    }

    fn is_interactive(&self, now: Instant) -> bool {
        self.interactive_at
            .is_some_and(|at| now.saturating_duration_since(at) < INTERACTIVE)
    }

    /// Something that went out with `in_flight` bytes on their way was answered at once.
    pub(super) fn on_round_trip(&mut self, sample: Duration, in_flight: u64, now: Instant) {
        self.usual = Some(match self.usual {
            None => Usual {
                round_trip: sample,
                deviation: Duration::ZERO,
            },
            Some(usual) => Usual {
                round_trip: usual.round_trip * 7 / 8 + sample / 8,
                deviation: usual.deviation * 3 / 4 + sample.abs_diff(usual.round_trip) / 4,
            },
        });
        let queued = in_flight > self.needed() / 2 + CLEAN;
        let better = self.least.is_none_or(|least| {
            let old = now.saturating_duration_since(least.at) >= BELIEVED;
            sample <= least.round_trip || (old && !queued)
        });
        if better {
            // Beside data that comes the other way there may be none without that queue in it.
            let most = self
                .least
                .filter(|_| self.other_way != OtherWay::Quiet)
                .map_or(sample, |least| least.round_trip * 5 / 4);
            self.least = Some(Least {
                round_trip: sample.min(most),
                at: now,
            });
        }
    }

    fn sample_rate(&mut self, mark: &Mark, now: Instant) {
        // What was sent in a burst may arrive in one; what was sent slowly cannot arrive faster for long.
        let sent = mark.sent_at.saturating_duration_since(mark.delivered_sent_at);
        let took = now.saturating_duration_since(mark.delivered_at).max(sent);
        let sample = bytes_a_second(self.delivered - mark.delivered, took);
        if mark.starved && sample <= self.rate() {
            return;
        }
        let span = self
            .least
            .map_or(SPAN, |least| SPAN.max(least.round_trip * SPAN_ROUNDS));
        self.rate.take(sample, span, now);
    }

    /// A round is over, with the bytes of `mark`, which took so long.
    fn on_round(&mut self, mark: &Mark, took: Duration, now: Instant) {
        let delivered = self.delivered - self.round_start;
        self.other_way = if self.received > delivered {
            OtherWay::Faster
        } else if self.received > delivered / BOTH_WAYS_PART {
            OtherWay::Slower
        } else {
            OtherWay::Quiet
        };
        self.round_end = self.marks.back().map_or(self.delivered, |mark| mark.end);
        self.round_start = self.delivered;
        self.received = 0;
        if !mark.starved {
            self.search(took, now);
        }
    }

    /// In the round that is over as much was sent as the limit allows: goes on with the search for the rate, or begins one.
    fn search(&mut self, took: Duration, now: Instant) {
        let rate = self.rate();
        let Some(growth) = &mut self.growth else {
            let calm = self.other_way == OtherWay::Quiet
                && !self.is_interactive(now)
                && self
                    .least
                    .is_some_and(|least| took <= least.round_trip + self.headroom(least, now) / 2);
            self.calm_rounds = if calm { self.calm_rounds + 1 } else { 0 };
            if self.calm_rounds >= CALM_ROUNDS {
                self.growth = Some(Growth {
                    best: rate,
                    rounds: 0,
                });
            }
            return;
        };
        self.calm_rounds = 0;
        if rate >= growth.best / 4 * 5 {
            *growth = Growth {
                best: rate,
                rounds: 0,
            };
        } else {
            growth.rounds += 1;
            if growth.rounds >= ROUNDS_WITHOUT_GROWTH {
                self.growth = None;
                self.searched = true;
            }
        }
    }

    /// Bytes a second.
    fn rate(&self) -> u64 {
        self.rate.get()
    }

    /// What the path holds without a queue.
    fn needed(&self) -> u64 {
        self.least
            .map_or(0, |least| bytes_in(self.rate(), least.round_trip))
    }

    /// The queue that is allowed, as the time the last byte in it waits.
    fn headroom(&self, least: Least, now: Instant) -> Duration {
        let jitter = self.usual.map_or(Duration::ZERO, |usual| usual.deviation * 2);
        let interactive = self.is_interactive(now);
        let queue = if interactive {
            LEAST_HEADROOM
        } else {
            BULK_HEADROOM
        };
        // Each direction waits in the other's queue, and the one with the shorter queue would starve.
        let both_ways = match self.other_way {
            OtherWay::Quiet => Duration::ZERO,
            OtherWay::Slower if !interactive => Duration::ZERO,
            OtherWay::Slower | OtherWay::Faster => BOTH_WAYS,
        };
        queue.max(least.round_trip / HEADROOM_PART)
            + both_ways
            + jitter.min(least.round_trip).min(MOST_JITTER)
    }

    /// `news` bytes were delivered. The limit grows by a part of that, so that a little more is sent than arrives and not
    /// all that is missing at once: nothing below spreads a burst. While the rate is not known it may double in a round.
    fn set_limit(&mut self, news: u64, now: Instant) {
        let Some(least) = self.least else { return };
        let headroom = self.headroom(least, now);
        let enough = bytes_in(self.rate(), least.round_trip + headroom);
        let old = now.saturating_duration_since(least.at) >= BELIEVED;
        let limit = if self.growth.is_some() {
            // The long headroom of bulk is a queue already, and need not double.
            let more = if self.is_interactive(now) {
                enough
            } else {
                bytes_in(self.rate(), least.round_trip + LEAST_HEADROOM)
            };
            (enough + more).max(FIRST_LIMIT)
        } else if old {
            // Until a round trip without a queue was seen.
            (self.needed() / 2).max(LEAST_LIMIT)
        } else {
            enough.max(LEAST_LIMIT)
        };
        let step = if self.growth.is_some() {
            news
        } else {
            news / GROWTH_PART
        };
        self.limit = limit.min(self.limit + step);
    }
}

fn bytes_a_second(bytes: u64, time: Duration) -> u64 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1_000_000) / micros
}

fn bytes_in(rate: u64, time: Duration) -> u64 {
    rate.saturating_mul(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)) / 1_000_000
}

#[cfg(test)]
mod tests;
