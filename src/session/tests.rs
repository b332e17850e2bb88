//! The plugin's end of a session over transports in memory that are cut, frozen, altered and refused. The second way
//! has tests of its own.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf, duplex};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tunnel_wire::entrance::{self, Key};
use tunnel_wire::hello::{self, Hello, SecretDigest};
use tunnel_wire::{Open, Protocol, Stream};

use super::*;

mod asleep;
mod second;

/// Of the entrance.
const PORT: u16 = 40_000;

const ID: &str = "x7k2p9";

fn secret() -> Secret {
    Secret::new([7; 32])
}

/// The other end: echoes each stream, over as many transports as come.
struct Echo {
    link: LinkHandle,
    pipes_rx: mpsc::Receiver<(Reader, Writer, Way)>,
    digest: SecretDigest,
    entrance: u16,
}

impl Echo {
    async fn run(mut self) {
        let mut running = JoinSet::new();
        let mut proofs = JoinSet::new();
        let mut key = None;
        loop {
            let came = tokio::select! {
                pipe = self.pipes_rx.recv() => match pipe {
                    Some((reader, writer, way)) => {
                        proofs.spawn(prove(reader, writer, way, self.digest.clone(), key.clone()));
                        continue;
                    }
                    None => return,
                },
                Some(proof) = proofs.join_next() => proof.unwrap(),
            };
            let Some((reader, mut writer, hello)) = came else {
                continue;
            };
            let id: SessionId = ID.parse().unwrap();
            key.get_or_insert_with(|| Key {
                session: id.clone(),
                link: hello.link,
                secret: hello.secret.clone(),
            });
            running.shutdown().await;
            let mut answer = hello.answer(id, Verdict::Accepted, self.link.progress().received);
            answer.entrance = self.entrance;
            if answer.write(&mut writer).await.is_ok() {
                let link = self.link.clone();
                running.spawn(async move { link.run(reader, writer, hello.received).await });
            }
        }
    }
}

/// What an agent does with a transport that comes by either way.
async fn prove(
    mut reader: Reader,
    mut writer: Writer,
    way: Way,
    digest: SecretDigest,
    key: Option<Key>,
) -> Option<(Reader, Writer, Hello)> {
    let hello = match way {
        Way::Exec => hello::accept(&mut reader, &mut writer, &ID.parse().unwrap(), &digest)
            .await
            .ok()?,
        Way::PortForward => entrance::admit(&mut reader, &mut writer, [4; 32], key)
            .await
            .ok()?,
    };
    Some((reader, writer, hello))
}

async fn echo(mut incoming: Incoming) {
    let mut streams = JoinSet::new();
    while let Some(mut accepted) = incoming.accept().await {
        streams.spawn(async move {
            accepted.stream.accept().await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(accepted.stream);
            drop(tokio::io::copy(&mut reader, &mut writer).await);
        });
    }
}

/// What happens to the next transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Works,
    /// There is none, and there may be one later.
    Refused,
    /// There is none, and there will be none.
    Gone,
    /// Each byte behind the hello comes back with a bit flipped.
    Altered,
}

#[derive(Debug, thiserror::Error)]
#[error("connection refused")]
struct Refused {
    is_final: bool,
}

impl TransportError for Refused {
    fn is_final(&self) -> bool {
        self.is_final
    }

    fn rules_out_second(&self) -> bool {
        self.is_final
    }
}

/// A line whose transports the test breaks.
#[derive(Clone)]
struct Line(Arc<LineState>);

struct LineState {
    pipes_tx: mpsc::Sender<(Reader, Writer, Way)>,
    fates: Mutex<VecDeque<Fate>>,
    /// The fate when none is left.
    otherwise: Mutex<Fate>,
    dialled: Mutex<Vec<Instant>>,
    /// What the newest transport does; the ones before keep their own.
    newest: Mutex<watch::Sender<Traffic>>,
    second: second::SecondLine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Traffic {
    Flows,
    Frozen,
    Cut,
}

impl Line {
    fn cut(&self) {
        self.0.newest.lock().unwrap().send_replace(Traffic::Cut);
    }

    fn freeze(&self) {
        self.0.newest.lock().unwrap().send_replace(Traffic::Frozen);
    }

    fn next_ones(&self, fates: &[Fate]) {
        self.0.fates.lock().unwrap().extend(fates);
    }

    fn later_ones(&self, fate: Fate) {
        *self.0.otherwise.lock().unwrap() = fate;
    }

    fn dialled(&self) -> Vec<Instant> {
        self.0.dialled.lock().unwrap().clone()
    }
}

impl Transports for Line {
    type Error = Refused;

    async fn next(&mut self, _: Duration) -> Result<Transport, Refused> {
        self.0.dialled.lock().unwrap().push(Instant::now());
        let fate = self.0.fates.lock().unwrap().pop_front();
        let fate = fate.unwrap_or_else(|| *self.0.otherwise.lock().unwrap());
        match fate {
            Fate::Refused => return Err(Refused { is_final: false }),
            Fate::Gone => return Err(Refused { is_final: true }),
            Fate::Works | Fate::Altered => {}
        }
        let (near, far) = duplex(1 << 16);
        let (traffic_tx, traffic_rx) = watch::channel(Traffic::Flows);
        *self.0.newest.lock().unwrap() = traffic_tx;
        let (far_reader, far_writer) = tokio::io::split(far);
        let far = (
            Box::new(Valve::new(far_reader, traffic_rx.clone(), false)) as Reader,
            Box::new(far_writer) as Writer,
            Way::Exec,
        );
        self.0.pipes_tx.send(far).await.unwrap();
        let (reader, writer) = tokio::io::split(near);
        Ok(Transport {
            reader: Box::new(Valve::new(reader, traffic_rx, fate == Fate::Altered)),
            writer: Box::new(writer),
        })
    }

    async fn second(&mut self, port: u16, _: Duration) -> Result<Transport, Refused> {
        assert_eq!(port, PORT);
        self.0.second.connect(&self.0.pipes_tx).await
    }

    fn attached(&mut self) {}

    async fn explain(&mut self, _: &HelloError) -> Option<Refused> {
        None
    }
}

/// A reader that stands still or ends when told to.
struct Valve<R> {
    reader: R,
    traffic_rx: watch::Receiver<Traffic>,
    changed: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    alters: bool,
    seen: usize,
}

impl<R> Valve<R> {
    fn new(reader: R, traffic_rx: watch::Receiver<Traffic>, alters: bool) -> Self {
        Self {
            reader,
            traffic_rx,
            changed: None,
            alters,
            seen: 0,
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Valve<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        loop {
            let mut traffic_rx = this.traffic_rx.clone();
            let changed = this.changed.get_or_insert_with(|| {
                traffic_rx.mark_unchanged();
                Box::pin(async move { drop(traffic_rx.changed().await) })
            });
            let moved = changed.as_mut().poll(cx).is_ready();
            if moved {
                this.changed = None;
            }
            match *this.traffic_rx.borrow() {
                Traffic::Cut => return Poll::Ready(Ok(())),
                Traffic::Frozen if moved => continue,
                Traffic::Frozen => return Poll::Pending,
                Traffic::Flows => {}
            }
            let before = buf.filled().len();
            let polled = Pin::new(&mut this.reader).poll_read(cx, buf);
            for byte in &mut buf.filled_mut()[before..] {
                this.seen += 1;
                // Behind the agent's hello.
                if this.alters && this.seen > 128 {
                    *byte ^= 1;
                }
            }
            return polled;
        }
    }
}

/// An agent, and a line to it.
struct Scene {
    line: Line,
    standing_tx: StandingTx,
    echo_link: LinkHandle,
    tasks: JoinSet<()>,
}

struct Stage {
    line: Line,
    running: Running<Refused>,
    standing_tx: StandingTx,
    echo_link: LinkHandle,
    _tasks: JoinSet<()>,
}

fn settings() -> Settings {
    Settings {
        reconnect_max: Duration::from_secs(300),
        transport_max_age: None,
        second: SecondWay::Off,
        clock: WallClock::default(),
    }
}

impl Scene {
    /// With an entrance at this port.
    fn set(entrance: u16) -> Self {
        let mut tasks = JoinSet::new();
        let (pipes_tx, pipes_rx) = mpsc::channel(8);
        let (echo_link, io) = link::channel();
        let (_session, incoming, driver) = tunnel_wire::session::start(End::Agent, echo_link.clone(), io);
        tasks.spawn(driver.run());
        tasks.spawn(echo(incoming));
        let digest = secret().digest();
        let link = echo_link.clone();
        tasks.spawn(
            Echo {
                link,
                pipes_rx,
                digest,
                entrance,
            }
            .run(),
        );
        let line = Line(Arc::new(LineState {
            pipes_tx,
            fates: Mutex::default(),
            otherwise: Mutex::new(Fate::Works),
            dialled: Mutex::default(),
            newest: Mutex::new(watch::Sender::new(Traffic::Flows)),
            second: second::SecondLine::default(),
        }));
        Self {
            line,
            standing_tx: StandingTx::default(),
            echo_link,
            tasks,
        }
    }

    async fn connect(self, settings: &Settings) -> Result<Stage, ConnectError<Refused>> {
        let id = ID.parse().unwrap();
        let connected = connect(self.line.clone(), &id, &secret(), settings, &self.standing_tx).await;
        let running = connected.map_err(|(_, error)| error)?;
        self.standing_tx.complete(Duration::ZERO);
        Ok(Stage {
            line: self.line,
            running,
            standing_tx: self.standing_tx,
            echo_link: self.echo_link,
            _tasks: self.tasks,
        })
    }
}

impl Stage {
    async fn start(settings: Settings) -> Self {
        let connected = Scene::set(PORT).connect(&settings).await;
        connected.expect("the first transport works")
    }

    async fn open(&self) -> Stream {
        let open = Open::Dial {
            protocol: Protocol::Tcp,
            patience_ms: 0,
            host: "echo".to_owned(),
            port: 7,
        };
        let mut stream = self.running.session.open(&open).await.unwrap();
        stream.opened().await.unwrap();
        stream
    }

    async fn until(&self, reached: impl Fn(&Phase) -> bool) -> Phase {
        let mut reader = self.standing_tx.reader();
        let standing = reader.wait_for(|standing| reached(&standing.phase)).await;
        standing.unwrap().phase.clone()
    }

    async fn until_transport(&self, number: u32) -> Duration {
        let phase = self
            .until(|phase| matches!(phase, Phase::Ready { transport, .. } if *transport >= number))
            .await;
        match phase {
            Phase::Ready { after, .. } => after,
            Phase::Idle { .. }
            | Phase::Connecting
            | Phase::Reconnecting { .. }
            | Phase::Draining
            | Phase::Closed => {
                panic!("{phase:?}")
            }
        }
    }
}

async fn exchange(stream: &mut Stream, text: &[u8]) {
    stream.write_all(text).await.unwrap();
    stream.flush().await.unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back, text);
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_over_the_next_transport() {
    let stage = Stage::start(settings()).await;
    let mut stream = stage.open().await;
    for round in 0..20 {
        stage.line.cut();
        exchange(&mut stream, b"still here").await;
        stage.until_transport(round + 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_are_told_and_tried_again() {
    let stage = Stage::start(settings()).await;
    let mut stream = stage.open().await;
    stage.line.next_ones(&[Fate::Refused; 4]);
    stage.line.cut();
    let phase = stage
        .until(|phase| matches!(phase, Phase::Reconnecting { attempt: 4, .. }))
        .await;
    assert!(matches!(phase, Phase::Reconnecting { reason, .. } if &*reason == "connection refused"));
    exchange(&mut stream, b"back").await;
    let after = stage.until_transport(2).await;
    assert!(after < Duration::from_secs(4), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_transport_is_replaced_long_before_it_is_dead() {
    let stage = Stage::start(settings()).await;
    let mut stream = stage.open().await;
    exchange(&mut stream, b"warm").await;
    stage.line.freeze();
    let frozen = Instant::now();
    exchange(&mut stream, b"thawed").await;
    let took = frozen.elapsed();
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(3)).contains(&took),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_loss_ends_when_its_time_is_over() {
    let mut stage = Stage::start(Settings {
        reconnect_max: Duration::from_secs(20),
        ..settings()
    })
    .await;
    stage.line.later_ones(Fate::Refused);
    let lost = Instant::now();
    stage.line.cut();
    let over = stage.running.over().await;
    assert!(
        matches!(&over, Over::GaveUp { reason, .. } if reason == "connection refused"),
        "{over}"
    );
    let took = lost.elapsed();
    assert!(
        (Duration::from_secs(19)..Duration::from_secs(23)).contains(&took),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_reconnects_the_first_loss_is_the_end() {
    let mut stage = Stage::start(Settings {
        reconnect_max: Duration::ZERO,
        ..settings()
    })
    .await;
    stage.line.cut();
    assert!(matches!(stage.running.over().await, Over::GaveUp { .. }));
    assert_eq!(stage.line.dialled().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_gone_is_not_tried_again() {
    let mut stage = Stage::start(settings()).await;
    let mut stream = stage.open().await;
    stage.line.later_ones(Fate::Gone);
    stage.line.cut();
    assert!(matches!(stage.running.over().await, Over::Transport(_)));
    assert!(stream.read_u8().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_evicted_plugin_does_not_come_back() {
    let mut stage = Stage::start(settings()).await;
    stage.echo_link.evict();
    assert!(matches!(stage.running.over().await, Over::Evicted));
    assert_eq!(stage.line.dialled().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_path_that_alters_bytes_is_named_after_three_transports() {
    let mut stage = Stage::start(settings()).await;
    stage.line.later_ones(Fate::Altered);
    stage.line.cut();
    let over = stage.running.over().await;
    assert!(
        matches!(&over, Over::BadPath(path) if path.to_string().contains("3 connections")),
        "{over}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_transport_is_replaced_before_its_age_without_a_pause() {
    let stage = Stage::start(Settings {
        transport_max_age: Some(Duration::from_secs(60)),
        ..settings()
    })
    .await;
    let start = Instant::now();
    let mut stream = stage.open().await;
    let mut longest = Duration::ZERO;
    while start.elapsed() < Duration::from_secs(200) {
        let before = Instant::now();
        exchange(&mut stream, b"tick").await;
        longest = longest.max(before.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(stage.line.dialled().len(), 4);
    assert!(longest < Duration::from_millis(100), "{longest:?}");
}
