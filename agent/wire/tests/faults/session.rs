//! Schedules through yamux: whole sessions, hello included, over in-memory transports that fail.
//!
//! Both programs are here in small. The plugin redials until a transport works, sometimes while the old one
//! still does; the agent lets the newest transport that says a hello take over. Time is tokio's, paused: it
//! jumps whenever everybody waits.

use std::pin::Pin;
use std::time::Duration;

use futures::future::{OptionFuture, join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tunnel_wire::hello::{self, Hello, HelloError, Secret, SessionId, Verdict};
use tunnel_wire::link::io::channel_over;
use tunnel_wire::link::{Link, LinkHandle, TransportEnd};
use tunnel_wire::session::{self, Accepted, Driver, End, Incoming, Session};
use tunnel_wire::{Open, Protocol, Stream};

use crate::io::{Faults, FaultyIo};
use crate::seed::{Seed, byte_at, bytes_at};

/// Streams of a schedule, half of them opened by each end.
const STREAMS: u16 = 64;

/// Virtual time no schedule needs.
const HANG: Duration = Duration::from_secs(3600);

/// No hello is longer.
const HELLO: u64 = 128;

const LINK: u64 = 7;

/// One end: a session whose link has the limit of the schedule.
struct Side {
    link: LinkHandle,
    session: Session,
    incoming: Incoming,
}

fn side(end: End, limit: usize) -> (Side, Driver) {
    let (link, stream) = channel_over(Link::with_limit(Instant::now(), limit));
    let (session, incoming, driver) = session::start(end, link.clone(), stream);
    (
        Side {
            link,
            session,
            incoming,
        },
        driver,
    )
}

/// Plays one schedule to its end.
pub(crate) fn schedule(number: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        timeout(HANG, play(Seed::new(number))).await.expect("a hang");
    });
}

async fn play(mut seed: Seed) {
    let limit = seed.pick(&[4096, 65_536, 1 << 20, 8 << 20]);
    let (plugin, plugin_driver) = side(End::Plugin, limit);
    let (agent, agent_driver) = side(End::Agent, limit);
    let (dial_tx, dial_rx) = mpsc::channel(4);
    let mut tasks = JoinSet::new();
    tasks.spawn(plugin_driver.run());
    tasks.spawn(agent_driver.run());
    tasks.spawn(serve(agent.link.clone(), dial_rx));
    // A few are longer than a window.
    let mut length = || {
        let most = if seed.percent(3) { 150_000 } else { 10_000 };
        seed.skewed(most)
    };
    let lengths: Vec<[u64; 2]> = (0..STREAMS).map(|_| [length(), length()]).collect();
    let mut dialler = Dialler {
        link: plugin.link.clone(),
        dial_tx,
        transport: 0,
        faulty: seed.of(0..10),
        seed,
        limit,
    };
    let transports = tasks.spawn(async move { dialler.run().await });
    tokio::join!(
        speak(End::Plugin, plugin.session, plugin.incoming, &lengths),
        speak(End::Agent, agent.session, agent.incoming, &lengths),
    );
    plugin.link.goodbye();
    while !transports.is_finished() {
        // The other tasks last as long as their sessions; none may fail before.
        if let Some(Err(failed)) = tasks.join_next().await {
            std::panic::resume_unwind(failed.into_panic());
        }
    }
}

/// Everything one end opens and accepts, all streams at once: each sends its bytes, ends, and reads the other's.
async fn speak(end: End, session: Session, mut incoming: Incoming, lengths: &[[u64; 2]]) {
    let opened = (0..STREAMS / 2).map(|number| {
        let number = if end == End::Plugin {
            number
        } else {
            number + STREAMS / 2
        };
        let session = &session;
        async move {
            let mut stream = session.open(&open(end, number)).await.unwrap();
            stream.opened().await.unwrap();
            carry(stream, number, true, lengths).await;
        }
    });
    let accepted = async {
        let mut carried = FuturesUnordered::new();
        let mut rest = STREAMS / 2;
        while rest > 0 || !carried.is_empty() {
            tokio::select! {
                Accepted { open, mut stream } = async { incoming.accept().await.unwrap() } => {
                    rest -= 1;
                    carried.push(async move {
                        stream.accept().await.unwrap();
                        carry(stream, numbered(&open), false, lengths).await;
                    });
                }
                Some(()) = carried.next() => {}
            }
        }
    };
    tokio::join!(join_all(opened), accepted);
}

fn open(end: End, number: u16) -> Open {
    match end {
        End::Plugin => Open::Dial {
            protocol: Protocol::Tcp,
            patience_ms: 0,
            host: "x".to_owned(),
            port: number,
        },
        End::Agent => Open::Accepted {
            protocol: Protocol::Tcp,
            listener: 0,
            peer: ([10, 0, 0, 1], number).into(),
        },
    }
}

fn numbered(open: &Open) -> u16 {
    match open {
        Open::Dial { port, .. } | Open::Listen { port, .. } => *port,
        Open::Accepted { peer, .. } => peer.port(),
    }
}

async fn carry(stream: Stream, number: u16, opener: bool, lengths: &[[u64; 2]]) {
    let (mut reader, mut writer) = split(stream);
    let lengths = lengths[usize::from(number)];
    let (own, other) = if opener { (0, 1) } else { (1, 0) };
    let stream = |direction: usize| u64::from(number) * 2 + direction as u64;
    // Every other stream takes its time, so that there is always something for the next transport.
    let mut pace = Seed::new(stream(own) ^ lengths[own]);
    let patient = number.is_multiple_of(2);
    let send = async {
        let mut sent = 0;
        while sent < lengths[own] {
            let length = (lengths[own] - sent).min(if patient { 1 + pace.skewed(2000) } else { u64::MAX });
            writer
                .write_all(&bytes_at(stream(own), sent, usize::try_from(length).unwrap()))
                .await
                .unwrap();
            sent += length;
            if patient {
                sleep(pace.millis(2000)).await;
            }
        }
        writer.shutdown().await.unwrap();
    };
    let receive = async {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes.len() as u64, lengths[other], "stream {number}");
        let wrong = (0..)
            .zip(&bytes)
            .find(|(position, byte)| byte_at(stream(other), *position) != **byte);
        assert_eq!(wrong, None, "stream {number}");
    };
    tokio::join!(send, receive);
}

fn identity() -> (SessionId, Secret) {
    ("faults".parse().unwrap(), Secret::new([3; 32]))
}

type Reader = ReadHalf<DuplexStream>;
type Writer = WriteHalf<DuplexStream>;

/// The agent's transports: the newest that proves the secret takes over.
async fn serve(link: LinkHandle, mut dial_rx: mpsc::Receiver<DuplexStream>) {
    let (id, secret) = identity();
    let digest = secret.digest();
    let greet = async |transport: DuplexStream| {
        let (mut reader, mut writer) = split(transport);
        let hello = hello::accept(&mut reader, &mut writer, &id, &digest).await.ok()?;
        Some((hello, reader, writer))
    };
    let mut greeting = FuturesUnordered::new();
    let mut running: Option<Pin<Box<dyn Future<Output = TransportEnd> + Send>>> = None;
    let mut newest = 0;
    let mut over = false;
    loop {
        tokio::select! {
            transport = dial_rx.recv() => match transport {
                Some(transport) => greeting.push(greet(transport)),
                None => return,
            },
            Some(greeted) = greeting.next() => {
                let Some((hello, reader, mut writer)) = greeted else { continue };
                if over || hello.transport <= newest {
                    let verdict = if over { Verdict::Over } else { Verdict::Stale };
                    drop(hello.answer(id.clone(), verdict, 0).write(&mut writer).await);
                    continue;
                }
                newest = hello.transport;
                // The old one ends here, so that the position in the answer is final.
                drop(running.take());
                let answer = hello.answer(id.clone(), Verdict::Accepted, link.progress().received);
                running = Some(Box::pin(attach(link.clone(), answer, hello.received, reader, writer)));
            }
            Some(end) = OptionFuture::from(running.as_mut()) => {
                running = None;
                over |= matches!(end, TransportEnd::Goodbye);
                assert!(over || !end.is_final(), "at the agent: {end}");
            }
        }
    }
}

async fn attach(
    link: LinkHandle,
    answer: Hello,
    received: u64,
    reader: Reader,
    mut writer: Writer,
) -> TransportEnd {
    match answer.write(&mut writer).await {
        Ok(()) => link.run(reader, writer, received).await,
        Err(_) => TransportEnd::Ended,
    }
}

/// The plugin's transports.
struct Dialler {
    link: LinkHandle,
    dial_tx: mpsc::Sender<DuplexStream>,
    transport: u32,
    /// How many more transports have faults.
    faulty: u64,
    seed: Seed,
    limit: usize,
}

type Dialled = (
    Hello,
    ReadHalf<FaultyIo<DuplexStream>>,
    WriteHalf<FaultyIo<DuplexStream>>,
);

impl Dialler {
    /// Until both ends have said goodbye.
    async fn run(&mut self) {
        let link = self.link.clone();
        let mut next = None;
        loop {
            let (answer, reader, writer) = match next.take() {
                Some(dialled) => dialled,
                None => match self.dial().await {
                    Ok(dialled) => dialled,
                    // The agent had the goodbye, and its own was lost.
                    Err(HelloError::Refused(Verdict::Over)) => return,
                    Err(_) => {
                        sleep(self.seed.millis(1000)).await;
                        continue;
                    }
                },
            };
            let mut running = Box::pin(link.run(reader, writer, answer.received));
            let patience = if self.faulty > 0 {
                self.seed.millis(20_000)
            } else {
                HANG
            };
            let end = tokio::select! {
                end = &mut running => end,
                () = sleep(patience) => {
                    // Another transport while this one may still work.
                    tokio::select! {
                        end = &mut running => end,
                        dialled = self.dial() => {
                            next = dialled.ok();
                            TransportEnd::Closed
                        }
                    }
                }
            };
            if matches!(end, TransportEnd::Goodbye) {
                return;
            }
            assert!(!end.is_final(), "at the plugin: {end}");
            let progress = link.progress();
            assert!(progress.written - progress.acknowledged <= self.limit as u64);
        }
    }

    async fn dial(&mut self) -> Result<Dialled, HelloError> {
        let (near, far) = tokio::io::duplex(self.seed.pick(&[100, 4096, 64 * 1024, 1 << 20]));
        let [reading, writing] = [0, 1].map(|_| {
            let spared = self.seed.pick(&[0, HELLO, HELLO, HELLO]);
            if self.faulty > 0 {
                Faults::random(&mut self.seed, spared, 40_000)
            } else {
                Faults::none()
            }
        });
        self.faulty = self.faulty.saturating_sub(1);
        self.transport += 1;
        let (id, secret) = identity();
        let hello = Hello::plugin(id, secret, LINK, self.transport, self.link.progress().received);
        self.dial_tx.send(far).await.unwrap();
        let (mut reader, mut writer) = split(FaultyIo::new(near, reading, writing));
        let answer = hello::connect(&mut reader, &mut writer, &hello).await?;
        Ok((answer, reader, writer))
    }
}
