//! The far end of a paced exchange: what a transfer looks like that spans a fault and can be asked about later.
//!
//! The near end (a test) leads: it says how fast this end sends, sends the pattern itself and decides the end by
//! ending its direction. This end then sends a trailer that tells what both directions carried. How an exchange went
//! is kept under the number that the near end gave it, because the near end may not live to read the trailer.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tunnel_test_target::exchange::{ACKNOWLEDGED, Order, TRAILER};
use tunnel_test_target::pattern::{Pattern, hex};

use crate::serve::BLOCK;

/// The sender's tick.
const TICK: Duration = Duration::from_millis(10);

/// What is known of each exchange, by its number.
static VERDICTS: Mutex<BTreeMap<u64, String>> = Mutex::new(BTreeMap::new());

/// How an exchange goes: `running`, what its trailer says, or `error KIND TEXT`; empty when it never began.
pub(crate) fn verdict(number: u64) -> String {
    VERDICTS
        .lock()
        .ok()
        .and_then(|all| all.get(&number).cloned())
        .unwrap_or_default()
}

fn note(number: u64, verdict: String) {
    if let Ok(mut all) = VERDICTS.lock() {
        all.insert(number, verdict);
    }
}

/// Connects to the near end and follows it, in the background: what a pod does that uses an exposed Service.
pub(crate) fn call(number: u64, authority: String) -> io::Result<()> {
    thread::Builder::new().stack_size(256 << 10).spawn(move || {
        let connected = crate::call::connect(&authority);
        match connected.and_then(|connection| connection.set_read_timeout(None).map(|()| connection)) {
            Ok(connection) => drop(follow(&connection)),
            Err(error) => note(number, failure(&error)),
        }
    })?;
    Ok(())
}

/// Follows the near end of an accepted or opened connection to the end.
pub(crate) fn follow(mut connection: &TcpStream) -> io::Result<()> {
    let mut order = [0; Order::LENGTH];
    connection.read_exact(&mut order)?;
    let order = Order::decode(order);
    note(order.number, "running".to_owned());
    let exchange = Exchange::default();
    let sent = thread::scope(|scope| {
        let sender = scope.spawn(|| exchange.send(connection, order.rate));
        let received = exchange.receive(connection);
        exchange.over.store(true, Ordering::Release);
        if received.is_err() {
            drop(connection.shutdown(Shutdown::Both));
        }
        let sent = sender.join().map_err(|_| io::Error::other("the sender panicked"));
        received.and_then(|received| sent?.map(|sent| format!("sent {sent} received {received}")))
    });
    match sent {
        Ok(summary) => {
            note(order.number, summary.clone());
            connection.write_all(format!("{summary:<TRAILER$}").as_bytes())?;
            connection.shutdown(Shutdown::Write)
        }
        Err(error) => {
            note(order.number, failure(&error));
            Err(error)
        }
    }
}

/// What the two directions tell each other.
#[derive(Default)]
struct Exchange {
    received: AtomicU64,
    /// The near end has ended its direction, or the connection broke.
    over: AtomicBool,
}

impl Exchange {
    /// Reads the pattern to the end; returns `COUNT SHA256`.
    fn receive(&self, mut connection: &TcpStream) -> io::Result<String> {
        let mut pattern = Pattern::default();
        let mut hash = Sha256::new();
        let mut block = vec![0; BLOCK];
        loop {
            let count = connection.read(&mut block)?;
            if count == 0 {
                return Ok(format!("{} {}", pattern.position(), hex(&hash.finalize())));
            }
            pattern.check(&block[..count]).map_err(io::Error::other)?;
            hash.update(&block[..count]);
            self.received.store(pattern.position(), Ordering::Release);
        }
    }

    /// Sends the pattern at this rate, or as acknowledgement, until the exchange is over; returns `COUNT SHA256`.
    fn send(&self, mut connection: &TcpStream, rate: u64) -> io::Result<String> {
        let mut pattern = Pattern::default();
        let mut hash = Sha256::new();
        let mut block = vec![0; BLOCK];
        while !self.over.load(Ordering::Acquire) {
            let owed = match rate {
                0 => self.received.load(Ordering::Acquire) / ACKNOWLEDGED - pattern.position(),
                rate => rate * u64::try_from(TICK.as_millis()).unwrap_or(0) / 1000,
            };
            let part = BLOCK.min(usize::try_from(owed).unwrap_or(BLOCK));
            pattern.fill(&mut block[..part]);
            hash.update(&block[..part]);
            connection.write_all(&block[..part])?;
            thread::park_timeout(TICK);
        }
        Ok(format!("{} {}", pattern.position(), hex(&hash.finalize())))
    }
}

fn failure(error: &io::Error) -> String {
    format!("error {:?} {error}", error.kind())
}
