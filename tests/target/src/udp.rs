//! UDP, both ends: an echo, and callers that know what must come back. Blocking; each result is a line of JSON.
//!
//! The program runs both in pods; tests may also call the functions themselves, beside a tunnel on this machine.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::CALL_TIMEOUT;
use crate::datagram::{Counts, Numbered, Tally};
use crate::pattern::Pattern;

/// How long one answer is waited for: a tunnel that resumes takes a second or two.
const ANSWER: Duration = Duration::from_secs(5);

/// How long there must be silence after the last datagram before the missing ones are lost.
const QUIET: Duration = Duration::from_secs(2);

/// How long what must not come is waited for once all has come.
const AFTER: Duration = Duration::from_millis(200);

/// The sender's tick.
const TICK: Duration = Duration::from_millis(1);

/// Less cannot be slept.
const LEAST_SLEEP: Duration = Duration::from_micros(100);

/// Room for any datagram.
const ROOM: usize = 1 << 16;

/// Sends back what comes, to whoever it came from, until the socket fails for good.
pub fn echo(socket: &UdpSocket) -> io::Result<()> {
    let mut room = vec![0; ROOM];
    loop {
        match socket.recv_from(&mut room) {
            // An answer that cannot be sent is the caller's finding.
            Ok((length, peer)) => drop(socket.send_to(&room[..length], peer)),
            // About an answer sent before.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        }
    }
}

/// How datagrams of several sizes came back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sizes {
    /// As they were sent.
    pub equal: Vec<usize>,
    /// Something else came instead.
    pub altered: Vec<usize>,
    /// Nothing came, or the port was said to be closed.
    pub lost: Vec<usize>,
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { equal, altered, lost } = self;
        write!(
            f,
            r#"{{"equal":{equal:?},"altered":{altered:?},"lost":{lost:?}}}"#
        )
    }
}

/// Sends one datagram of each size, one after the other, and waits for its answer.
pub fn sizes(target: SocketAddr, sizes: &[usize]) -> io::Result<Sizes> {
    let deadline = SystemTime::now() + CALL_TIMEOUT;
    let socket = connect(target)?;
    let mut room = vec![0; ROOM];
    let mut result = Sizes::default();
    for (index, &size) in sizes.iter().enumerate() {
        let mut datagram = vec![0; size];
        // Another part of the pattern each time: a late answer is not taken for this one's.
        Pattern::at((index as u64) << 17).fill(&mut datagram);
        let answer = socket
            .send(&datagram)
            .and_then(|_| receive(&socket, &mut room, deadline.min(SystemTime::now() + ANSWER)));
        match answer {
            Ok(length) if room[..length] == datagram => result.equal.push(size),
            Ok(_) => result.altered.push(size),
            Err(_) => result.lost.push(size),
        }
    }
    Ok(result)
}

/// How rows of numbered datagrams came back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// Sockets.
    pub peers: usize,
    /// Datagrams that were sent by all of them.
    pub sent: usize,
    /// Different ones that came back.
    pub received: usize,
    /// What else came.
    pub counts: Counts,
    /// How often the network said that the port is closed.
    pub refused: usize,
    /// Peers to which nothing came back.
    pub silent: usize,
    /// From the first to the last datagram sent.
    pub elapsed: Duration,
}

impl Rows {
    /// Datagrams that did not come back.
    pub fn lost(&self) -> usize {
        self.sent - self.received
    }

    fn add(&mut self, tally: &Tally) {
        self.peers += 1;
        self.received += tally.received();
        self.counts.duplicated += tally.counts().duplicated;
        self.counts.altered += tally.counts().altered;
        self.counts.foreign += tally.counts().foreign;
        self.silent += usize::from(tally.received() == 0);
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            peers,
            sent,
            received,
            counts:
                Counts {
                    duplicated,
                    altered,
                    foreign,
                },
            refused,
            silent,
            elapsed,
        } = self;
        let (lost, millis) = (self.lost(), elapsed.as_millis());
        write!(
            f,
            r#"{{"peers":{peers},"sent":{sent},"received":{received},"lost":{lost},"duplicated":{duplicated},"altered":{altered},"foreign":{foreign},"refused":{refused},"silent":{silent},"millis":{millis}}}"#
        )
    }
}

/// Sends `count` datagrams of `size` bytes from one socket, `rate` a second, whatever comes back meanwhile.
pub fn rate(target: SocketAddr, count: usize, rate: usize, size: usize) -> io::Result<Rows> {
    let pace = Pace {
        count: number(count)?,
        rate: number(rate.max(1))?,
        size,
    };
    let socket = connect(target)?;
    let started = SystemTime::now();
    let deadline = started + pace.due(pace.count) + CALL_TIMEOUT;
    let (over, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut rows = Rows::default();
    let received = thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut tally = Tally::new(0, count, size);
            let mut room = vec![0; ROOM];
            while SystemTime::now() < deadline {
                let patience = if tally.is_complete() { AFTER } else { QUIET };
                match receive(&socket, &mut room, deadline.min(SystemTime::now() + patience)) {
                    Ok(length) => drop(tally.take(&room[..length])),
                    Err(error) if is_silence(&error) => {
                        if over.load(Ordering::Acquire) {
                            break;
                        }
                    }
                    Err(_) => count_one(&refused),
                }
            }
            tally
        });
        rows.sent = pace.send(&socket, deadline, &refused);
        rows.elapsed = elapsed(started);
        over.store(true, Ordering::Release);
        receiver.join()
    });
    rows.add(&received.map_err(|_| io::Error::other("the receiver panicked"))?);
    rows.refused = refused.into_inner();
    Ok(rows)
}

/// How one row is sent.
#[derive(Clone, Copy)]
struct Pace {
    count: u32,
    /// A second.
    rate: u32,
    size: usize,
}

impl Pace {
    /// When the datagram of this number is due.
    fn due(self, number: u32) -> Duration {
        Duration::from_secs(number.into()) / self.rate
    }

    /// Sends the row and returns how many that were.
    fn send(self, socket: &UdpSocket, deadline: SystemTime, refused: &AtomicUsize) -> usize {
        let started = SystemTime::now();
        let mut sent = 0;
        for number in 0..self.count {
            while let Some(early) = self.due(number).checked_sub(elapsed(started)) {
                thread::park_timeout(early.clamp(LEAST_SLEEP, TICK));
            }
            if SystemTime::now() > deadline {
                break;
            }
            let datagram = Numbered { peer: 0, number }.encode(self.size);
            // An error may be the news of an earlier one; then this one was not sent.
            if socket.send(&datagram).is_err() {
                count_one(refused);
                drop(socket.send(&datagram));
            }
            sent += 1;
        }
        sent
    }
}

fn count_one(count: &AtomicUsize) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// Opens `peers` sockets that send `count` datagrams each at the same time, the next when the one before has been
/// answered or given up.
pub fn peers(target: SocketAddr, peers: usize, count: usize, size: usize) -> io::Result<Rows> {
    let (numbers, started) = (number(count)?, SystemTime::now());
    let deadline = started + CALL_TIMEOUT;
    let sockets = (0..peers)
        .map(|_| connect(target))
        .collect::<io::Result<Vec<_>>>()?;
    let all = Arc::new(Barrier::new(peers));
    let rows = Arc::new(Mutex::new(Rows::default()));
    let mut callers = Vec::new();
    for (peer, socket) in (0..number(peers)?).zip(sockets) {
        let (all, rows) = (Arc::clone(&all), Arc::clone(&rows));
        callers.push(thread::Builder::new().stack_size(128 << 10).spawn(move || {
            all.wait();
            let (tally, sent, refused) = row(&socket, peer, numbers, size, deadline);
            if let Ok(mut rows) = rows.lock() {
                rows.add(&tally);
                rows.sent += sent;
                rows.refused += refused;
            }
        })?);
    }
    for caller in callers {
        caller.join().map_err(|_| io::Error::other("a peer panicked"))?;
    }
    let mut rows = rows
        .lock()
        .map_err(|_| io::Error::other("a peer panicked"))?
        .clone();
    rows.elapsed = elapsed(started);
    Ok(rows)
}

/// One peer's datagrams, how many it sent, and how often the port was said to be closed.
fn row(
    socket: &UdpSocket,
    peer: u32,
    numbers: u32,
    size: usize,
    deadline: SystemTime,
) -> (Tally, usize, usize) {
    let mut tally = Tally::new(peer, usize::try_from(numbers).unwrap_or(usize::MAX), size);
    let mut room = vec![0; ROOM];
    let (mut sent, mut refused) = (0, 0);
    for number in 0..numbers {
        let answered_until = deadline.min(SystemTime::now() + ANSWER);
        if SystemTime::now() >= deadline {
            break;
        }
        sent += 1;
        if socket.send(&Numbered { peer, number }.encode(size)).is_err() {
            refused += 1;
        }
        loop {
            match receive(socket, &mut room, answered_until) {
                Ok(length) if tally.take(&room[..length]) == usize::try_from(number).ok() => break,
                Ok(_) => {}
                Err(error) => {
                    refused += usize::from(!is_silence(&error));
                    break;
                }
            }
        }
    }
    while let Ok(length) = receive(socket, &mut room, SystemTime::now() + AFTER) {
        tally.take(&room[..length]);
        if SystemTime::now() > deadline {
            break;
        }
    }
    (tally, sent, refused)
}

fn connect(target: SocketAddr) -> io::Result<UdpSocket> {
    let socket = match target {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }?;
    socket.connect(target)?;
    Ok(socket)
}

/// The length of the next datagram that comes before `until`.
fn receive(socket: &UdpSocket, room: &mut [u8], until: SystemTime) -> io::Result<usize> {
    let left = until.duration_since(SystemTime::now()).unwrap_or_default();
    // Zero would be no limit.
    socket.set_read_timeout(Some(left.max(TICK)))?;
    socket.recv(room)
}

/// Whether nothing came, as against the news that nothing will.
fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn elapsed(since: SystemTime) -> Duration {
    since.elapsed().unwrap_or_default()
}

fn number(count: usize) -> io::Result<u32> {
    u32::try_from(count).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo on loopback that spoils what `spoil` says: `None` swallows. It lives as long as the test's process.
    fn echo_that(spoil: impl Fn(usize, Vec<u8>) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut room = vec![0; ROOM];
            for count in 0.. {
                let (length, peer) = socket.recv_from(&mut room).unwrap();
                for answer in spoil(count, room[..length].to_vec()) {
                    socket.send_to(&answer, peer).unwrap();
                }
            }
        });
        address
    }

    #[test]
    fn an_echo_sends_every_size_back() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || echo(&socket));
        let result = sizes(address, &[0, 1, 64, 9_000, 65_507]).unwrap();
        assert_eq!(
            result.to_string(),
            r#"{"equal":[0, 1, 64, 9000, 65507],"altered":[],"lost":[]}"#
        );
        let rows = peers(address, 20, 3, 100).unwrap();
        assert_eq!((rows.peers, rows.sent, rows.received), (20, 60, 60), "{rows}");
        assert_eq!((rows.counts, rows.silent), (Counts::default(), 0), "{rows}");
    }

    #[test]
    fn what_an_echo_spoils_is_counted() {
        let address = echo_that(|count, datagram| match count {
            3 => Vec::new(),
            4 => vec![datagram.clone(), datagram],
            5 => vec![datagram[1..].to_vec()],
            _ => vec![datagram],
        });
        let rows = rate(address, 10, 1_000, 64).unwrap();
        let counts = Counts {
            duplicated: 1,
            altered: 1,
            foreign: 0,
        };
        assert_eq!((rows.sent, rows.received, rows.lost()), (10, 8, 2), "{rows}");
        assert_eq!(rows.counts, counts, "{rows}");
        assert!(
            rows.to_string()
                .starts_with(r#"{"peers":1,"sent":10,"received":8,"lost":2,"duplicated":1,"altered":1,"#),
            "{rows}"
        );
    }

    #[test]
    fn answers_of_another_peer_are_foreign() {
        let previous = Mutex::new(Vec::new());
        let address = echo_that(move |_, datagram| {
            let mut previous = previous.lock().unwrap();
            vec![std::mem::replace(&mut *previous, datagram.clone()), datagram]
        });
        let rows = peers(address, 4, 1, 64).unwrap();
        assert_eq!((rows.received, rows.silent), (4, 0), "{rows}");
        assert_eq!(rows.counts.foreign, 3, "{rows}");
        assert_eq!(rows.counts.altered, 1, "the first one's: {rows}");
    }

    #[test]
    fn a_closed_port_is_told_from_silence() {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let started = SystemTime::now();
        let result = sizes(closed, &[64]).unwrap();
        assert_eq!(result.lost, [64]);
        assert!(elapsed(started) < ANSWER);
        let rows = peers(closed, 2, 2, 64).unwrap();
        assert_eq!((rows.received, rows.silent), (0, 2), "{rows}");
        assert!(rows.refused >= 2, "{rows}");
    }
}
