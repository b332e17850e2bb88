//! A sender over a simulated path: one bottleneck with an endless queue, a round trip, acknowledgements in lumps.

use super::*;

const STEP: Duration = Duration::from_micros(100);
const STEPS_A_SECOND: u64 = 10_000;
const MIB: u64 = 1024 * 1024;
/// What is written to a transport at once.
const BURST: u64 = 128 * 1024;
/// What is acknowledged at once, and what after a pause: as `inbound` does it.
const LUMP: u64 = 128 * 1024;
const SOME: u64 = 16 * 1024;
const PAUSE: Duration = Duration::from_millis(2);

struct Path {
    now: Instant,
    flight: Flight,
    sent: u64,
    /// Position and when it arrives at the bottleneck.
    coming: VecDeque<(u64, Instant)>,
    /// How far the bottleneck has got.
    through: u64,
    /// Acknowledgements on their way back.
    acks: VecDeque<(u64, Instant)>,
    acknowledged: u64,
    acknowledged_at: Instant,
    round_trip: Duration,
    /// How much later acknowledgements may come than they should.
    jitter: Duration,
    random: u64,
    rate: u64,
    /// Bytes a second that come the other way, and how long acknowledgements wait behind them.
    other_way: u64,
    behind: Duration,
    /// Whether somebody waits for short messages all the time.
    interactive: bool,
}

impl Path {
    fn new(rate: u64, round_trip: Duration) -> Self {
        let now = Instant::now();
        Self {
            now,
            flight: Flight::new(0, now),
            sent: 0,
            coming: VecDeque::new(),
            through: 0,
            acks: VecDeque::new(),
            acknowledged: 0,
            acknowledged_at: now,
            round_trip,
            jitter: Duration::ZERO,
            random: 1,
            rate,
            other_way: 0,
            behind: Duration::ZERO,
            interactive: true,
        }
    }

    /// Up to the jitter, by Knuth's generator.
    fn late(&mut self) -> Duration {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.jitter * u32::try_from(self.random >> 48).unwrap() / (1 << 16)
    }

    /// Sends as much as the flight allows for so long; returns bytes a second and the largest queue, as the time the
    /// last byte in it waits, of the second half.
    fn saturate(&mut self, time: Duration) -> (u64, Duration) {
        let (end, half) = (self.now + time, self.now + time / 2);
        let mut queue = 0;
        let mut at_half = 0;
        while self.now < end {
            self.step(u64::MAX);
            if self.now <= half {
                at_half = self.through;
            } else {
                queue = queue.max(self.arrived() - self.through);
            }
        }
        let micros = u64::try_from((time / 2).as_micros()).unwrap();
        let rate = (self.through - at_half) * 1_000_000 / micros;
        (rate, self.takes(queue))
    }

    /// How long the bottleneck needs for so many bytes.
    fn takes(&self, bytes: u64) -> Duration {
        Duration::from_micros(bytes * 1_000_000 / self.rate)
    }

    fn arrived(&self) -> u64 {
        self.coming
            .iter()
            .rev()
            .find(|(_, at)| *at <= self.now)
            .map_or(self.through, |(position, _)| *position)
    }

    fn step(&mut self, available: u64) {
        self.now += STEP;
        let came = self.other_way / STEPS_A_SECOND;
        self.flight.on_received(usize::try_from(came).unwrap());
        if self.interactive {
            self.flight.on_interactive(self.now);
        }
        let goal = self.sent.saturating_add(available);
        let before = self.sent;
        while self.sent < goal && self.flight.has_room(self.sent) && self.sent - before < BURST {
            self.sent = goal.min(self.sent + 32 * 1024);
        }
        let starved = self.sent == goal;
        if self.sent > before {
            self.flight.on_sent(self.sent, starved, self.now);
            self.coming.push_back((self.sent, self.now + self.round_trip / 2));
        }
        let arrived = self.arrived();
        self.through = arrived.min(self.through + self.rate / STEPS_A_SECOND);
        while self
            .coming
            .front()
            .is_some_and(|(position, _)| *position <= self.through)
        {
            self.coming.pop_front();
        }
        let through = self.through;
        let owed = through - self.acknowledged;
        let rested = self.now >= self.acknowledged_at + PAUSE;
        if owed >= LUMP || (owed >= SOME && rested) || (owed > 0 && through == self.sent) {
            self.acknowledged = through;
            self.acknowledged_at = self.now;
            let late = self.late() + self.behind;
            self.acks
                .push_back((through, self.now + self.round_trip / 2 + late));
        }
        while let Some((position, _)) = self.acks.front().filter(|(_, at)| *at <= self.now) {
            self.flight.on_delivered(*position, self.now);
            self.acks.pop_front();
        }
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[tokio::test(start_paused = true)]
async fn a_path_is_used_whole_and_its_queue_stays_short() {
    for round_trip in [Duration::from_micros(500), millis(5), millis(20), millis(100)] {
        for rate in [10 * MIB, 140 * MIB, 800 * MIB] {
            let mut path = Path::new(rate, round_trip);
            let (reached, queue) = path.saturate(Duration::from_secs(4));
            assert!(
                reached * 100 >= rate * 95,
                "{round_trip:?} {rate}: {reached} with {queue:?}"
            );
            // What one lump of acknowledgements and one write weigh.
            let grain = path.takes(LUMP + BURST);
            // And what a queue of its own that comes and goes looks like: jitter.
            let jitter = round_trip.min(millis(6));
            let most = LEAST_HEADROOM.max(round_trip / HEADROOM_PART) + jitter + grain;
            assert!(queue <= most, "{round_trip:?} {rate}: {queue:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bulk_alone_may_queue_more_until_somebody_waits() {
    for round_trip in [Duration::from_micros(500), millis(20), millis(100)] {
        let mut path = Path::new(100 * MIB, round_trip);
        path.interactive = false;
        let (_, queue) = path.saturate(Duration::from_secs(4));
        let most = BULK_HEADROOM + MOST_JITTER;
        assert!(
            queue >= BULK_HEADROOM / 2 && queue <= most,
            "{round_trip:?}: {queue:?} alone"
        );
        path.interactive = true;
        path.saturate(round_trip * 2 + queue);
        let (reached, queue) = path.saturate(millis(500));
        assert!(reached >= 90 * MIB, "{round_trip:?}: {reached}");
        assert!(
            queue <= millis(12) + round_trip / HEADROOM_PART,
            "{round_trip:?}: {queue:?} beside a message"
        );
        path.interactive = false;
        path.saturate(INTERACTIVE);
        let (_, queue) = path.saturate(Duration::from_secs(2));
        assert!(
            queue >= BULK_HEADROOM / 2,
            "{round_trip:?}: {queue:?} alone again"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_line_has_little_on_its_way() {
    let mut path = Path::new(MIB, millis(50));
    path.saturate(Duration::from_secs(5));
    assert!(path.flight.limit <= 256 * 1024, "{}", path.flight.limit);
}

#[tokio::test(start_paused = true)]
async fn a_path_that_becomes_slower_or_faster_is_followed() {
    let mut path = Path::new(140 * MIB, millis(20));
    path.saturate(Duration::from_secs(2));
    path.rate = 20 * MIB;
    let (_, queue) = path.saturate(Duration::from_secs(4));
    assert!(queue <= millis(25), "{queue:?}");
    path.rate = 200 * MIB;
    let (reached, _) = path.saturate(Duration::from_secs(6));
    assert!(reached >= 190 * MIB, "{reached}");
}

#[tokio::test(start_paused = true)]
async fn a_round_trip_that_grows_is_found_out() {
    let mut path = Path::new(100 * MIB, millis(5));
    path.saturate(Duration::from_secs(2));
    path.round_trip = millis(60);
    path.saturate(BELIEVED + Duration::from_secs(2));
    let (reached, _) = path.saturate(Duration::from_secs(2));
    assert!(reached >= 90 * MIB, "{reached}");
}

#[tokio::test(start_paused = true)]
async fn the_search_for_the_round_trip_costs_little_and_does_not_drift() {
    for round_trip in [Duration::from_micros(500), millis(100)] {
        let mut path = Path::new(100 * MIB, round_trip);
        path.saturate(Duration::from_secs(5));
        let (reached, queue) = path.saturate(Duration::from_secs(120));
        assert!(reached >= 95 * MIB, "{round_trip:?}: {reached}");
        // Twice the headroom: once more right after each search.
        assert!(queue <= millis(25), "{round_trip:?}: {queue:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_trickle_does_not_make_the_limit_large_or_small() {
    let mut path = Path::new(100 * MIB, millis(10));
    path.saturate(Duration::from_secs(2));
    let limit = path.flight.limit;
    let quiet = path.now + Duration::from_secs(30);
    while path.now < quiet {
        path.step(100);
    }
    let (reached, _) = path.saturate(millis(400));
    assert!(reached >= 90 * MIB, "{reached} with {limit}");
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_transport_delivered_is_no_sample() {
    let now = Instant::now();
    let mut flight = Flight::new(0, now);
    flight.on_sent(32 * 1024, false, now);
    flight.on_delivered(100 * MIB, now + millis(1));
    assert_eq!((flight.rate(), flight.limit), (0, FIRST_LIMIT));
    assert!(flight.has_room(100 * MIB));
}

#[tokio::test(start_paused = true)]
async fn a_path_whose_round_trips_differ_is_used_all_the_same() {
    for rate in [10 * MIB, 100 * MIB] {
        let mut path = Path::new(rate, millis(20));
        path.jitter = millis(20);
        path.saturate(Duration::from_secs(5));
        let (reached, _) = path.saturate(Duration::from_secs(20));
        assert!(reached * 100 >= rate * 75, "{rate}: {reached}");
    }
}

#[tokio::test(start_paused = true)]
async fn single_messages_are_no_measure_of_the_path() {
    let mut path = Path::new(100 * MIB, millis(100));
    path.saturate(Duration::from_secs(2));
    path.flight.on_delivered(path.sent, path.now + millis(100));
    let rate = path.flight.rate();
    // Each arrives before the next one goes, and there is never more to send.
    for count in 1..=100 {
        let sent_at = path.now + millis(250) * count;
        path.sent += 100;
        path.flight.on_sent(path.sent, true, sent_at);
        path.flight.on_delivered(path.sent, sent_at + millis(100));
    }
    assert_eq!(path.flight.rate(), rate);
}

#[tokio::test(start_paused = true)]
async fn a_path_that_becomes_much_faster_is_found_out_soon() {
    let mut path = Path::new(MIB, millis(100));
    path.saturate(Duration::from_secs(4));
    path.rate = 100 * MIB;
    path.interactive = false;
    path.saturate(Duration::from_secs(3));
    let (reached, _) = path.saturate(Duration::from_secs(2));
    assert!(reached >= 90 * MIB, "{reached}");
}

#[tokio::test(start_paused = true)]
async fn both_ways_at_once_neither_shrinks_to_nothing_nor_grows_without_end() {
    for round_trip in [Duration::from_micros(500), millis(20), millis(100)] {
        let mut path = Path::new(60 * MIB, round_trip);
        path.saturate(Duration::from_secs(2));
        path.other_way = 60 * MIB;
        path.behind = millis(15);
        path.saturate(Duration::from_secs(2));
        let (reached, queue) = path.saturate(Duration::from_secs(30));
        assert!(reached >= 55 * MIB, "{round_trip:?}: {reached}");
        assert!(queue <= millis(50), "{round_trip:?}: {queue:?}");
        // The other way is quiet again, and the queue goes.
        (path.other_way, path.behind) = (0, Duration::ZERO);
        path.saturate(Duration::from_secs(1));
        let (_, queue) = path.saturate(Duration::from_secs(2));
        assert!(
            queue <= millis(25) + round_trip / 4,
            "{round_trip:?}: {queue:?} afterwards"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_slower_of_two_directions_may_queue_more() {
    let queue_beside = |other_way| {
        let mut path = Path::new(40 * MIB, millis(5));
        path.interactive = false;
        path.other_way = other_way;
        path.saturate(Duration::from_secs(4)).1
    };
    let (slower, faster) = (queue_beside(60 * MIB), queue_beside(20 * MIB));
    assert!(slower >= faster + BOTH_WAYS / 2, "{slower:?} {faster:?}");
    assert!(slower <= BULK_HEADROOM + BOTH_WAYS * 2, "{slower:?}");
}

#[tokio::test(start_paused = true)]
async fn many_small_writes_share_a_mark() {
    let now = Instant::now();
    let mut flight = Flight::new(0, now);
    for write in 1..=1_000 {
        flight.on_sent(write * 12, true, now);
    }
    assert_eq!(flight.marks.len(), 1);
    flight.on_delivered(12_000, now + millis(1));
    assert!(flight.marks.is_empty());
}
