//! Schedules on the pure state machine: two links, a network of our own and a clock that only we advance.
//!
//! The plugin's end redials when it has no transport, sometimes while the old one still works, and sometimes
//! an answer gets lost so that the agent's end sits on a transport nobody else is on. Every agent's end of a
//! schedule answers with its final position, as in life; the plugin's position is as old as its hello.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;
use tunnel_wire::link::{Link, TransportEnd};

use crate::io::Faults;
use crate::seed::{Seed, byte_at, bytes_at};

const PLUGIN: usize = 0;
const AGENT: usize = 1;

/// Longer than any schedule's faults and its slowest transfer together.
const HANG: Duration = Duration::from_secs(20 * 60);

/// Said and not answered for so long, a goodbye is tried on another transport: callers bound their drain.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(10);

/// What a transport holds in one direction before its writer must wait.
const LANE_CAPACITY: usize = 256 * 1024;

/// One direction of one transport.
struct Lane {
    faults: Faults,
    on_the_way: VecDeque<(Instant, Vec<u8>)>,
    length: usize,
    newest: Instant,
    /// Nothing more goes in; the other end learns it once it has everything.
    over: bool,
}

impl Lane {
    fn new(faults: Faults, now: Instant) -> Self {
        Self {
            faults,
            on_the_way: VecDeque::new(),
            length: 0,
            newest: now,
            over: false,
        }
    }

    fn send(&mut self, bytes: &[u8], now: Instant) {
        if self.over {
            return;
        }
        let piece = self.faults.piece();
        let passed = self.faults.pass(bytes);
        self.newest = self.newest.max(now + self.faults.delay) + passed.stall;
        self.length += passed.bytes.len();
        // At most a thousand pieces, so that a large write byte by byte does not take for ever.
        let piece = piece.max(passed.bytes.len() / 1000 + 1);
        for piece in passed.bytes.chunks(piece) {
            self.on_the_way.push_back((self.newest, piece.to_vec()));
        }
        self.over |= passed.cut;
    }

    fn arrived(&mut self, now: Instant) -> Option<Vec<u8>> {
        let (at, _) = self.on_the_way.front()?;
        if *at > now {
            return None;
        }
        let (_, bytes) = self.on_the_way.pop_front()?;
        self.length -= bytes.len();
        Some(bytes)
    }
}

/// One end of the link.
struct Side {
    link: Link,
    /// Which transport it is on.
    on: Option<usize>,
    /// Bytes it wants to send in all.
    wants: u64,
    /// Bytes of the other end it has read.
    read: u64,
    limit: u64,
}

/// A hello that the agent has answered and whose answer is on its way to the plugin.
struct Answer {
    transport: usize,
    received: u64,
    at: Instant,
}

struct World {
    seed: Seed,
    now: Instant,
    sides: [Side; 2],
    /// Lanes of each transport, by who sends.
    transports: Vec<[Lane; 2]>,
    /// Transports that still have faults.
    faulty: usize,
    redial_at: Option<Instant>,
    answer: Option<Answer>,
    /// Whether the plugin leaves without waiting for what the agent still has to say.
    rude: bool,
    goodbye_at: Option<Instant>,
    moved: bool,
}

/// Plays one schedule to its end.
pub(crate) fn schedule(number: u64) {
    let mut seed = Seed::new(number);
    let now = Instant::now();
    let side = |seed: &mut Seed| {
        let limit = seed.pick(&[1, 100, 4096, 65_536, 8 << 20]);
        let limit_bytes = u64::try_from(limit).unwrap();
        Side {
            link: Link::with_limit(now, limit),
            on: None,
            wants: seed.skewed(120_000).min(limit_bytes * 100),
            read: 0,
            limit: limit_bytes,
        }
    };
    let sides = [side(&mut seed), side(&mut seed)];
    let faulty = seed.size(12);
    let rude = seed.percent(30);
    let mut world = World {
        seed,
        now,
        sides,
        transports: Vec::new(),
        faulty,
        redial_at: Some(now),
        answer: None,
        rude,
        goodbye_at: None,
        moved: false,
    };
    world.play();
}

impl World {
    fn play(&mut self) {
        let start = self.now;
        while !self.sides.iter().all(|side| side.link.is_over()) {
            assert!(self.now - start < HANG, "a hang: {self:?}");
            self.moved = false;
            self.connect();
            let first = self.seed.pick(&[PLUGIN, AGENT]);
            for end in [first, 1 - first] {
                self.turn(end);
            }
            self.say_goodbye();
            if !self.moved {
                self.wait();
            } else if self.seed.percent(20) {
                self.now += Duration::from_millis(self.seed.skewed(20));
            }
        }
        for end in [PLUGIN, AGENT] {
            self.consume(end, usize::MAX);
            assert_eq!(
                self.sides[end].read,
                self.sides[1 - end].link.progress().written,
                "{self:?}"
            );
        }
    }

    /// Everything one end does at an instant.
    fn turn(&mut self, end: usize) {
        let length = self.seed.size(40_000);
        self.produce(end, length);
        if let Some(transport) = self.sides[end].on
            && let Err(fault) = self.exchange(end, transport)
        {
            self.leave(end, transport, &fault);
        }
        let length = self.seed.size(80_000);
        self.consume(end, length);
        let side = &self.sides[end];
        let progress = side.link.progress();
        assert!(
            progress.written - progress.acknowledged <= side.limit,
            "more kept than allowed: {self:?}"
        );
    }

    fn exchange(&mut self, end: usize, transport: usize) -> Result<(), TransportEnd> {
        let link = &mut self.sides[end].link;
        let [plugins, agents] = &mut self.transports[transport];
        let (outgoing, incoming) = if end == PLUGIN {
            (plugins, agents)
        } else {
            (agents, plugins)
        };
        link.on_tick(self.now)?;
        let mut out = BytesMut::new();
        if outgoing.length < LANE_CAPACITY {
            link.take_frames(&mut out, self.seed.size(100_000), self.now);
        }
        self.moved |= !out.is_empty();
        outgoing.send(&out, self.now);
        for _ in 0..self.seed.of(1..300) {
            let Some(bytes) = incoming.arrived(self.now) else {
                break;
            };
            self.moved = true;
            link.on_bytes(&mut BytesMut::from(&bytes[..]), self.now)?;
        }
        if (incoming.over && incoming.on_the_way.is_empty()) || outgoing.over {
            return Err(TransportEnd::Ended);
        }
        Ok(())
    }

    /// One end gives its transport up, and says why if it can.
    fn leave(&mut self, end: usize, transport: usize, fault: &TransportEnd) {
        assert!(!fault.is_final(), "{fault}: {self:?}");
        let mut last_words = BytesMut::new();
        let side = &mut self.sides[end];
        if fault.blames_path() {
            side.link.take_frames(&mut last_words, 1, self.now);
        }
        side.on = None;
        let lane = &mut self.transports[transport][end];
        lane.send(&last_words, self.now);
        lane.over = true;
        self.moved = true;
        if end == PLUGIN && self.answer.is_none() {
            self.redial_at = Some(self.now + self.seed.millis(1000));
        }
    }

    /// The plugin's dials, and the answers to them.
    fn connect(&mut self) {
        if let Some(answer) = self.answer.take_if(|answer| answer.at <= self.now) {
            self.moved = true;
            // Now and then the answer is lost; the agent does not know.
            if self.faulty > 0 && self.seed.percent(15) {
                self.redial_at = Some(self.now + self.seed.millis(5000));
            } else {
                self.sides[PLUGIN].link.attach(answer.received, self.now).unwrap();
                self.sides[PLUGIN].on = Some(answer.transport);
                self.redial_at = None;
            }
        }
        let works = self.sides[PLUGIN].on.is_some();
        let planned = works && self.answer.is_none() && self.faulty > 0 && self.seed.percent(1);
        if planned || self.redial_at.is_some_and(|at| at <= self.now) {
            self.dial();
        }
    }

    /// A hello arrives at the agent, which retires what it had and answers.
    fn dial(&mut self) {
        self.moved = true;
        self.redial_at = None;
        let lanes = if self.faulty > 0 {
            self.faulty -= 1;
            [0, 1].map(|_| Lane::new(Faults::random(&mut self.seed, 0, 100_000), self.now))
        } else {
            [0, 1].map(|_| Lane::new(Faults::none(), self.now))
        };
        self.transports.push(lanes);
        let transport = self.transports.len() - 1;
        // As old as the hello: what arrives until the answer comes is not in it.
        let stale = self.sides[PLUGIN].link.progress().received;
        let agent = &mut self.sides[AGENT];
        if let Some(old) = agent.on.replace(transport) {
            self.transports[old][AGENT].over = true;
        }
        let received = agent.link.progress().received;
        agent.link.attach(stale, self.now).unwrap();
        let at = self.now + self.seed.millis(300);
        self.answer = Some(Answer {
            transport,
            received,
            at,
        });
    }

    fn produce(&mut self, end: usize, length: usize) {
        let side = &mut self.sides[end];
        let written = side.link.progress().written;
        let rest = usize::try_from(side.wants - written).unwrap().min(length);
        let taken = side.link.write(&bytes_at(end as u64, written, rest));
        self.moved |= taken > 0;
    }

    fn consume(&mut self, end: usize, length: usize) {
        let side = &mut self.sides[end];
        let mut out = vec![0; length.min(200_000)];
        let length = side.link.read(&mut out);
        for byte in &out[..length] {
            assert_eq!(
                *byte,
                byte_at(1 - end as u64, side.read),
                "byte {} of end {end}",
                side.read
            );
            side.read += 1;
        }
        self.moved |= length > 0;
    }

    /// The plugin leaves once everything has been read; a rude one once it has said everything.
    fn say_goodbye(&mut self) {
        let plugin = &mut self.sides[PLUGIN];
        if plugin.link.progress().written < plugin.wants {
            return;
        }
        match self.goodbye_at {
            None => {
                let all_read = [PLUGIN, AGENT]
                    .iter()
                    .all(|end| self.sides[*end].read == self.sides[1 - *end].wants);
                if self.rude || all_read {
                    self.sides[PLUGIN].link.start_goodbye();
                    self.goodbye_at = Some(self.now);
                }
            }
            Some(at) if self.now > at + GOODBYE_PATIENCE => {
                self.goodbye_at = Some(self.now);
                if let Some(transport) = self.sides[PLUGIN].on {
                    self.leave(PLUGIN, transport, &TransportEnd::Ended);
                }
            }
            Some(_) => {}
        }
    }

    /// Nothing can happen before the next of these.
    fn wait(&mut self) {
        let mut next: Vec<Instant> = self.redial_at.into_iter().collect();
        next.extend(self.answer.as_ref().map(|answer| answer.at));
        next.extend(
            self.goodbye_at
                .map(|at| at + GOODBYE_PATIENCE + Duration::from_millis(1)),
        );
        for (end, side) in self.sides.iter().enumerate() {
            let Some(transport) = side.on else { continue };
            next.extend(side.link.next_tick(self.now));
            next.extend(
                self.transports[transport][1 - end]
                    .on_the_way
                    .front()
                    .map(|(at, _)| *at),
            );
        }
        let next = next.into_iter().min();
        self.now = next.unwrap().max(self.now + Duration::from_millis(1));
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for side in &self.sides {
            write!(
                f,
                "[on {:?}, wants {}, read {}, {:?}] ",
                side.on,
                side.wants,
                side.read,
                side.link.progress()
            )?;
        }
        write!(
            f,
            "transports {}, faulty left {}",
            self.transports.len(),
            self.faulty
        )
    }
}
